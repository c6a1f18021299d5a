import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kumiai.privacy import RDPAccountant
from kumiai.privacy.conversion import OrderGridWarning
from kumiai.privacy.events import (
    Adjacency,
    Event,
    FixedSizeGaussianEvent,
    GaussianEvent,
    PoissonGaussianEvent,
    Sampling,
    SkellamEvent,
    TreeEvent,
)
from kumiai.privacy.history import PrivacyHistory
from kumiai.privacy.rdp import DEFAULT_ORDERS
from kumiai.privacy.results import Method, PrivacyUnit

EVENTS: list[Event] = [
    GaussianEvent(8),
    PoissonGaussianEvent(0.01, 1.1),
    PoissonGaussianEvent(0.02, 1.4),
    SkellamEvent(1e12, 2**16, 2**20),
    TreeEvent(20, 64, 8),
]
RELEASES = st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(1, 500)), max_size=8)


def accountant_of(releases: list[tuple[Event, int]]) -> RDPAccountant:
    accountant = RDPAccountant()
    for event, count in releases:
        accountant.compose(event, count)
    return accountant


def test_the_epsilon_of_a_schedule_is_that_of_other_accountants() -> None:
    accountant = RDPAccountant()
    rdp = accountant.compute_rdp(q=0.01, noise_multiplier=1.1, steps=1000)
    epsilon = accountant.get_privacy_spent(accountant.orders, rdp, target_delta=1e-5)

    assert type(epsilon) is float
    assert epsilon == pytest.approx(1.7118, abs=1e-3)
    assert len(accountant.history) == 0


def test_a_schedule_composed_round_by_round_costs_the_same() -> None:
    accountant = RDPAccountant()
    for _ in range(1000):
        accountant.compose(PoissonGaussianEvent(0.01, 1.1))

    by_hand = accountant.compute_rdp(q=0.01, noise_multiplier=1.1, steps=1000)

    assert np.array_equal(accountant.rdp, by_hand)
    assert accountant.epsilon(1e-5).epsilon == pytest.approx(1.7118, abs=1e-3)


@settings(deadline=None)
@given(RELEASES, st.randoms())
def test_the_order_of_releases_does_not_matter(
    releases: list[tuple[Event, int]], chance: Any
) -> None:
    others = list(releases)
    chance.shuffle(others)

    assert accountant_of(others).rdp == pytest.approx(accountant_of(releases).rdp, rel=1e-12)


@settings(deadline=None)
@given(st.sampled_from(EVENTS), st.integers(2, 50))
def test_many_rounds_at_once_cost_what_they_cost_one_by_one(event: Event, count: int) -> None:
    assert np.array_equal(
        accountant_of([(event, 1)] * count).rdp, accountant_of([(event, count)]).rdp
    )


@settings(deadline=None)
@given(RELEASES, st.sampled_from(EVENTS), st.floats(1e-9, 0.1), st.floats(1e-9, 0.1))
def test_more_rounds_or_a_smaller_delta_never_cost_less(
    releases: list[tuple[Event, int]], event: Event, delta: float, other_delta: float
) -> None:
    accountant = accountant_of(releases)
    before = accountant.epsilon(max(delta, other_delta)).epsilon

    accountant.compose(event)

    assert accountant.epsilon(max(delta, other_delta)).epsilon >= before
    assert accountant.epsilon(min(delta, other_delta)).epsilon >= before
    assert accountant.delta(1).delta >= accountant.delta(2).delta


def test_a_result_names_unit_adjacency_and_claims() -> None:
    accountant = RDPAccountant(unit=PrivacyUnit.CLIENT)
    accountant.compose(PoissonGaussianEvent(0.01, 1.1), 500)
    accountant.compose(GaussianEvent(20), 3)

    spent = accountant.epsilon(1e-5)

    assert (spent.unit, spent.adjacency, spent.method) == ("client", "zero-out", "rdp")
    assert spent.sampling == (Sampling.NONE, Sampling.POISSON)
    assert spent.order in DEFAULT_ORDERS
    assert str(spent) == (
        f"epsilon {spent.epsilon:.4g} at delta 1e-05 "
        "(rdp; unit client, adjacency zero-out, sampling none and poisson)"
    )


def test_units_and_methods_are_plain_words() -> None:
    assert list(PrivacyUnit) == ["unstated", "client", "record"]
    assert list(Method) == ["rdp", "pld"]


def test_a_delta_is_told_for_an_epsilon() -> None:
    accountant = accountant_of([(PoissonGaussianEvent(0.01, 1.1), 1000)])

    spent = accountant.delta(accountant.epsilon(1e-5).epsilon)

    assert spent.delta == pytest.approx(1e-5)
    assert spent.unit is PrivacyUnit.UNSTATED


def test_nothing_released_is_an_epsilon_of_0() -> None:
    spent = RDPAccountant().epsilon(1e-5)

    assert (spent.epsilon, spent.adjacency, spent.sampling) == (0, None, ())
    assert str(spent) == (
        "epsilon 0 at delta 1e-05 (rdp; unit unstated, adjacency any, sampling nothing released)"
    )


def test_a_history_takes_the_accountant_where_it_was() -> None:
    first = accountant_of([(EVENTS[0], 3), (EVENTS[1], 100)])

    again = RDPAccountant(history=PrivacyHistory.from_text(first.history.to_text()))
    again.compose(EVENTS[2])
    first.compose(EVENTS[2])

    assert again.epsilon(1e-5) == first.epsilon(1e-5)
    assert again.history.head == first.history.head


def test_a_refused_release_costs_nothing() -> None:
    accountant = accountant_of([(EVENTS[0], 3)])
    before = accountant.rdp

    with pytest.raises(ValueError, match="adjacency"):
        accountant.compose(FixedSizeGaussianEvent(1, 9, 8))

    assert accountant.rdp is before


def test_noise_and_rounds_are_told_for_what_is_left() -> None:
    accountant = accountant_of([(PoissonGaussianEvent(0.01, 1.1), 1000)])
    budget: dict[str, Any] = {"target_epsilon": 3, "target_delta": 1e-5}

    noise = accountant.calibrate_noise(
        lambda z: PoissonGaussianEvent(0.01, z), steps=1000, **budget
    )
    event = PoissonGaussianEvent(0.01, noise)

    assert accountant.rounds_left(event, **budget) == 1000
    accountant.compose(event, 1000)
    assert 2.999 < accountant.epsilon(1e-5).epsilon <= 3
    assert accountant.rounds_left(event, **budget) == 0


def test_a_tight_figure_stands_beside_the_charged_one() -> None:
    accountant = RDPAccountant(unit=PrivacyUnit.RECORD)
    accountant.compose(PoissonGaussianEvent(0.01, 1.1), 1000)

    tight = accountant.tight_epsilon(1e-5)

    assert tight.epsilon == pytest.approx(1.5154, abs=5e-3)
    assert (tight.method, tight.unit) == (Method.PLD, PrivacyUnit.RECORD)
    assert (tight.order, tight.is_at_edge) == (None, False)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), True, "1", None, -1, 1j, [1], np.array([1.0])], ids=str
)
@pytest.mark.parametrize("name", ["q", "noise_multiplier", "steps"])
def test_an_argument_that_makes_no_sense_is_refused_by_its_name(name: str, value: Any) -> None:
    arguments = {"q": 0.01, "noise_multiplier": 1.1, "steps": 1000} | {name: value}

    with pytest.raises((TypeError, ValueError), match=f"^{name} must be"):
        RDPAccountant().compute_rdp(**arguments)


@pytest.mark.parametrize(
    ("name", "value"), [("q", 1.001), ("noise_multiplier", 0), ("steps", 0.5), ("steps", 1e13)]
)
def test_an_argument_out_of_range_is_refused_by_its_name(name: str, value: Any) -> None:
    arguments = {"q": 0.01, "noise_multiplier": 1.1, "steps": 1000} | {name: value}

    with pytest.raises(ValueError, match=f"^{name} must be"):
        RDPAccountant().compute_rdp(**arguments)


@pytest.mark.parametrize("make", [int, float, np.int64, np.int32, np.float64, np.float32])
def test_numbers_of_every_type_give_equal_curves(make: Any) -> None:
    accountant = RDPAccountant()

    curve = accountant.compute_rdp(q=make(1), noise_multiplier=make(2), steps=make(10))

    assert np.array_equal(curve, accountant.compute_rdp(q=1, noise_multiplier=2, steps=10))


def test_no_rounds_cost_nothing_even_where_one_has_no_bound() -> None:
    accountant = RDPAccountant()

    nothing = accountant.compute_rdp(q=1, noise_multiplier=1e-300, steps=0)

    assert np.array_equal(nothing, np.zeros(len(DEFAULT_ORDERS)))
    assert np.all(accountant.compute_rdp(q=1, noise_multiplier=1e-300, steps=1) == np.inf)


def test_a_narrow_grid_is_warned_of() -> None:
    accountant = RDPAccountant([2, 3, 4])
    rdp = accountant.compute_rdp(q=0.01, noise_multiplier=1.1, steps=10)

    with pytest.warns(OrderGridWarning):
        accountant.get_privacy_spent(accountant.orders, rdp, target_delta=1e-5)
    accountant.compose(EVENTS[1])
    assert accountant.epsilon(1e-5).is_at_edge


def test_a_budget_is_planned_on_the_grid_of_the_accountant() -> None:
    accountant = RDPAccountant([4, 8, 16])
    accountant.compose(GaussianEvent(30), 10)
    budget: dict[str, Any] = {"target_epsilon": 3, "target_delta": 1e-5}

    noise = accountant.calibrate_noise(GaussianEvent, steps=10, **budget)

    assert accountant.rounds_left(GaussianEvent(noise), **budget) == 10


def test_nobody_changes_the_curve_of_the_history() -> None:
    accountant = accountant_of([(EVENTS[0], 3)])

    with pytest.raises(ValueError, match="read-only"):
        accountant.rdp[0] = 0


def test_an_unknown_unit_is_refused() -> None:
    unit: Any = "person"

    with pytest.raises(ValueError, match="person"):
        RDPAccountant(unit=unit)


def test_replacements_are_accounted_apart() -> None:
    accountant = RDPAccountant()
    accountant.compose(GaussianEvent(10, adjacency=Adjacency.REPLACE_ONE), 100)

    spent = accountant.epsilon(1e-5)

    assert spent.adjacency is Adjacency.REPLACE_ONE
    assert spent.epsilon == accountant_of([(GaussianEvent(5), 100)]).epsilon(1e-5).epsilon


def test_accounting_loads_none_of_the_heavy_packages() -> None:
    program = (
        "import sys; from kumiai.privacy import RDPAccountant; a = RDPAccountant(); "
        "a.compute_rdp(0.01, 1.1, 10); "
        "print([m for m in ('scipy', 'dp_accounting', 'torch', 'mpmath') if m in sys.modules])"
    )

    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert shown.stdout.strip() == "[]"
