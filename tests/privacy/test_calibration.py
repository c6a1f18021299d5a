from typing import Any

import pytest

from kumiai.privacy.calibration import calibrate_noise, rounds_left
from kumiai.privacy.conversion import epsilon_bound
from kumiai.privacy.events import (
    COUNT_MAX,
    Event,
    FixedSizeGaussianEvent,
    GaussianEvent,
    PoissonGaussianEvent,
    SkellamEvent,
)
from kumiai.privacy.rdp import DEFAULT_ORDERS, rdp_of

MAKERS = {
    "gaussian": GaussianEvent,
    "poisson": lambda z: PoissonGaussianEvent(0.01, z),
    "fixed-size": lambda z: FixedSizeGaussianEvent(10, 1000, z),
    "skellam": lambda z: SkellamEvent((z * 2**16) ** 2, 2**16, 2**20),
}
BUDGET: dict[str, Any] = {"target_epsilon": 3, "target_delta": 1e-5}


def epsilon(event: Event, count: int, before: Any = 0.0) -> float:
    return epsilon_bound(DEFAULT_ORDERS, before + count * rdp_of(event), 1e-5).value


@pytest.mark.parametrize("name", MAKERS)
def test_calibrated_noise_is_the_least_that_stays_within_the_budget(name: str) -> None:
    event_of: Any = MAKERS[name]

    noise = calibrate_noise(event_of, steps=100, **BUDGET)

    assert epsilon(event_of(noise), 100) <= 3
    assert epsilon(event_of(noise * 0.99999), 100) > 3


def test_noise_that_costs_exactly_the_budget_is_enough() -> None:
    floor = 2**-6
    budget = {"target_epsilon": epsilon(GaussianEvent(floor), 1), "target_delta": 1e-5}

    assert calibrate_noise(GaussianEvent, steps=1, **budget) == floor
    assert rounds_left(GaussianEvent(floor), **budget) == 1


def test_calibrated_noise_is_that_of_other_accountants() -> None:
    noise = calibrate_noise(MAKERS["poisson"], steps=1000, **BUDGET)

    assert noise == pytest.approx(0.8646, abs=1e-4)


def test_what_is_spent_leaves_less_for_the_rest() -> None:
    spent = 50 * rdp_of(GaussianEvent(30))

    noise = calibrate_noise(GaussianEvent, steps=100, spent=spent, **BUDGET)

    assert epsilon(GaussianEvent(noise), 100, spent) <= 3
    assert noise > calibrate_noise(GaussianEvent, steps=100, **BUDGET)
    assert rounds_left(GaussianEvent(noise), spent=spent, **BUDGET) == 100


def test_where_hardly_any_noise_is_needed_the_answer_has_a_floor() -> None:
    free = calibrate_noise(lambda z: PoissonGaussianEvent(0, z), steps=9, **BUDGET)

    assert free == 2**-6


def test_a_budget_that_no_noise_can_keep_is_refused() -> None:
    with pytest.raises(ValueError, match="target_epsilon must be more than what is spent"):
        calibrate_noise(GaussianEvent, steps=5, target_epsilon=1e-9, target_delta=1e-12)


def test_a_spent_budget_has_neither_noise_nor_rounds_left() -> None:
    spent = rdp_of(GaussianEvent(0.5))

    with pytest.raises(ValueError, match="target_epsilon"):
        calibrate_noise(GaussianEvent, steps=1, spent=spent, **BUDGET)
    assert rounds_left(GaussianEvent(100), spent=spent, **BUDGET) == 0


@pytest.mark.parametrize("name", MAKERS)
def test_the_rounds_left_are_the_last_that_fit(name: str) -> None:
    event = MAKERS[name](20)

    count = rounds_left(event, **BUDGET)

    assert count > 0
    assert epsilon(event, count) <= 3
    assert epsilon(event, count + 1) > 3


def test_a_round_that_costs_next_to_nothing_has_rounds_without_end() -> None:
    assert rounds_left(PoissonGaussianEvent(0, 1), **BUDGET) == COUNT_MAX


@pytest.mark.parametrize("value", [0, 2.5, True, "5", float("nan"), COUNT_MAX + 1])
def test_steps_must_be_a_whole_number(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^steps must be"):
        calibrate_noise(GaussianEvent, steps=value, **BUDGET)


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("target_epsilon", -1, "target_epsilon"),
        ("target_epsilon", float("nan"), "target_epsilon"),
        ("target_epsilon", "3", "target_epsilon"),
        ("target_delta", 0, "target_delta"),
        ("target_delta", 1, "target_delta"),
        ("orders", [1, 2], "orders"),
        ("spent", [1, 2], "rdp"),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(name: str, value: Any, word: str) -> None:
    arguments = BUDGET | {name: value}

    with pytest.raises((TypeError, ValueError), match=f"^{word} must"):
        calibrate_noise(GaussianEvent, steps=5, **arguments)
    with pytest.raises((TypeError, ValueError), match=f"^{word} must"):
        rounds_left(GaussianEvent(1), **arguments)
