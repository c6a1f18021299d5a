import builtins
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from kumiai.core.errors import ConfigError
from kumiai.privacy.events import (
    Adjacency,
    DiscreteGaussianEvent,
    Event,
    FixedSizeGaussianEvent,
    GaussianEvent,
    MatrixEvent,
    PoissonGaussianEvent,
    SkellamEvent,
    TreeEvent,
)
from kumiai.privacy.results import Method, PrivacyUnit
from kumiai.privacy.tight import EPSILON_MAX, tight_epsilon

ROWS = json.loads((Path(__file__).parent / "oracles.json").read_text(encoding="utf-8"))["poisson"]


def tight(name: str) -> float:
    row = ROWS[name]
    counts: dict[Event, int] = {PoissonGaussianEvent(q, z): n for q, z, n in row["parts"]}
    return tight_epsilon(counts, row["delta"]).epsilon


@pytest.mark.parametrize("name", ROWS)
def test_a_tight_epsilon_is_that_of_other_accountants_and_below_the_charged_one(name: str) -> None:
    row = ROWS[name]

    epsilon = tight(name)

    assert epsilon == pytest.approx(row["pld"], abs=5e-3)
    assert row["prv"][0] <= epsilon <= row["prv"][1]
    assert epsilon <= row["rdp"]


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if "exact" in row])
def test_without_sampling_a_tight_epsilon_is_exact(name: str) -> None:
    assert tight(name) == pytest.approx(ROWS[name]["exact"], abs=1e-3)


@pytest.mark.parametrize(
    ("event", "noise_multiplier"),
    [
        (PoissonGaussianEvent(1, 2), 2),
        (GaussianEvent(4, adjacency=Adjacency.REPLACE_ONE), 2),
        (MatrixEvent(10, (3, 4), 10, 10), 2),
        (TreeEvent(4, 8, 8), 2),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_what_comes_to_a_gaussian_release_is_told_as_one(
    event: Event, noise_multiplier: float
) -> None:
    expected = tight_epsilon({GaussianEvent(noise_multiplier): 5}, 1e-5)

    assert tight_epsilon({event: 5}, 1e-5).epsilon == pytest.approx(expected.epsilon, rel=1e-9)


def test_releases_of_all_kinds_add_up() -> None:
    counts: dict[Event, int] = {GaussianEvent(20): 10, PoissonGaussianEvent(0.01, 1.1): 1000}

    alone = [tight_epsilon({event: n}, 1e-5).epsilon for event, n in counts.items()]
    both = tight_epsilon(counts | {PoissonGaussianEvent(0, 1): 7}, 1e-5).epsilon

    assert max(alone) < both < sum(alone)


def test_a_result_says_how_it_was_computed_and_what_it_is_about() -> None:
    spent = tight_epsilon({GaussianEvent(5): 100}, 1e-5, unit=PrivacyUnit.CLIENT)

    assert (spent.method, spent.unit, spent.delta) == (Method.PLD, PrivacyUnit.CLIENT, 1e-5)
    assert (spent.order, spent.is_at_edge) == (None, False)


@pytest.mark.parametrize(
    "event",
    [
        FixedSizeGaussianEvent(10, 1000, 8),
        SkellamEvent(1e12, 2**16, 2**20),
        DiscreteGaussianEvent(1e6, 2**16),
    ],
    ids=lambda event: event.kind,
)
def test_without_a_known_distribution_the_charged_figure_is_told(event: Event) -> None:
    spent = tight_epsilon({event: 10}, 1e-5)

    assert spent.method is Method.RDP
    assert spent.epsilon > 0
    assert spent.order is not None


def test_one_release_without_a_known_distribution_is_enough_for_the_charged_figure() -> None:
    counts: dict[Event, int] = {GaussianEvent(20): 1, SkellamEvent(1e12, 2**16, 2**20): 1}

    assert tight_epsilon(counts, 1e-5).method is Method.RDP


def test_releases_beyond_what_is_composed_at_once_all_count() -> None:
    event = PoissonGaussianEvent(1e-3, 8)

    fewer, all_of_them = (tight_epsilon({event: n}, 1e-5).epsilon for n in (110_000, 150_000))

    assert all_of_them > 1.05 * fewer


def test_a_charged_figure_at_the_edge_of_its_orders_says_so() -> None:
    assert tight_epsilon({SkellamEvent(1e8, 1, 1): 1}, 1e-12).is_at_edge


def test_nothing_released_costs_nothing() -> None:
    assert tight_epsilon({}, 1e-5).epsilon == 0


@pytest.mark.parametrize(
    ("event", "count"),
    [
        (GaussianEvent(1), 10**9),
        (PoissonGaussianEvent(1, 1), 10**9),
        (PoissonGaussianEvent(0.5, 1e-3), 1),
        (GaussianEvent(1e-300), 1),
    ],
)
@pytest.mark.parametrize("delta", [1e-5, 0.99])
def test_an_absurd_loss_asks_for_no_grid(event: Event, count: int, delta: float) -> None:
    began = time.process_time()

    spent = tight_epsilon({event: count}, delta)

    assert time.process_time() - began < 5
    assert spent.method is Method.RDP
    assert spent.epsilon > EPSILON_MAX


def test_very_many_very_small_losses_are_told_in_good_time() -> None:
    began = time.process_time()

    spent = tight_epsilon({PoissonGaussianEvent(1e-6, 2): 10**9}, 1e-5)

    assert time.process_time() - began < 30
    assert spent.epsilon < EPSILON_MAX


def test_a_release_with_far_reaching_losses_gets_a_coarser_grid() -> None:
    began = time.process_time()

    spent = tight_epsilon({PoissonGaussianEvent(1e-250, 0.011): 3}, 1e-5)

    assert time.process_time() - began < 30
    assert math.isfinite(spent.epsilon)


@pytest.mark.parametrize("delta", [0, 1, float("nan"), True, "1e-5"])
def test_a_delta_must_be_between_0_and_1(delta: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^delta must be"):
        tight_epsilon({GaussianEvent(5): 1}, delta)


def test_without_the_extra_the_mend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("dp_accounting"):
            raise ModuleNotFoundError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)

    with pytest.raises(ConfigError, match=r"install kumiai\[privacy\]"):
        tight_epsilon({GaussianEvent(5): 1}, 1e-5)
