"""What a budget allows: never more than it says, and what is counted is never less than it was."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kumiai.core.errors import BudgetExhaustedError, ConfigError
from kumiai.privacy import (
    DEFAULT_ORDERS,
    GaussianEvent,
    PoissonGaussianEvent,
    PrivacyUnit,
    calibrate_noise,
    event_to_json,
    rdp_of,
)
from kumiai.privacy import epsilon_of as converted
from kumiai.privacy.budget import (
    ROUNDS_MAX,
    BudgetLimit,
    Paid,
    Standing,
    epsilon_spent,
    in_force,
    merged,
    payable,
    releases_left,
    standing,
    verify_affordable,
    verify_charge,
)
from kumiai.privacy.events import Adjacency
from kumiai.privacy.ledger import BudgetScope, Charge, Guarantee

SITE = BudgetScope.parse("client/a")
CLIENT = Guarantee(PrivacyUnit.CLIENT, Adjacency.ZERO_OUT)
RECORD = Guarantee(PrivacyUnit.RECORD, Adjacency.ZERO_OUT)
PLAIN = event_to_json(GaussianEvent(4.0))
SAMPLED = event_to_json(PoissonGaussianEvent(0.01, 1.1))
TINY = event_to_json(GaussianEvent(1e7))
DELTA = 1e-5
EVENTS = st.dictionaries(st.sampled_from([PLAIN, SAMPLED, TINY]), st.integers(1, 10_000))


def limit_of(epsilon: float, *, window_days: int = 0, guarantee: Guarantee = CLIENT) -> BudgetLimit:
    return BudgetLimit(SITE, guarantee, epsilon, DELTA, window_days)


def paid(count: int, *, day: int = 100, event: str = PLAIN, guarantee: Guarantee = CLIENT) -> Paid:
    return Paid(guarantee, day, event, count)


@given(EVENTS)
def test_the_epsilon_is_that_of_the_summed_curves_and_not_below(events: dict[str, int]) -> None:
    exact = [Fraction(0)] * len(DEFAULT_ORDERS)
    for text, count in events.items():
        event = (
            GaussianEvent(4.0)
            if text == PLAIN
            else PoissonGaussianEvent(0.01, 1.1)
            if text == SAMPLED
            else GaussianEvent(1e7)
        )
        exact = [
            so_far + count * Fraction(float(price))
            for so_far, price in zip(exact, rdp_of(event), strict=True)
        ]
    below = np.array([np.nextafter(float(each), 0) for each in exact])

    found = epsilon_spent(events, DELTA)

    assert found >= (converted(DEFAULT_ORDERS, below, DELTA) if events else 0.0)
    assert found == pytest.approx(converted(DEFAULT_ORDERS, below, DELTA), rel=1e-9, abs=1e-12)


def test_a_charge_that_is_tiny_against_the_sum_is_not_lost() -> None:
    before = epsilon_spent({PLAIN: 10**6}, DELTA)

    after = epsilon_spent({PLAIN: 10**6, TINY: 10**12}, DELTA)

    assert after > before


def test_a_count_beyond_what_a_float_holds_is_rounded_up() -> None:
    assert epsilon_spent({TINY: 2**53 + 1}, DELTA) >= epsilon_spent({TINY: 2**53}, DELTA)
    assert epsilon_spent({TINY: 2**53 + 1}, DELTA) == epsilon_spent({TINY: 2**53 + 2}, DELTA)


def test_nothing_costs_nothing() -> None:
    assert epsilon_spent({}, DELTA) == 0.0


@given(EVENTS, EVENTS)
def test_the_order_of_charges_does_not_matter_and_more_of_them_never_cost_less(
    first: dict[str, int], second: dict[str, int]
) -> None:
    one, other = merged([first, second]), merged([second, first])

    assert epsilon_spent(one, DELTA) == epsilon_spent(other, DELTA)
    assert epsilon_spent(one, DELTA) >= max(
        epsilon_spent(first, DELTA), epsilon_spent(second, DELTA)
    )


def test_what_was_paid_counts_within_the_time_of_a_limit_and_a_day_more() -> None:
    all_paid = [paid(1, day=day) for day in (60, 69, 70, 71, 100)]

    assert [each.day for each in in_force(limit_of(1, window_days=30), all_paid, 100)] == [
        70,
        71,
        100,
    ]
    assert in_force(limit_of(1), all_paid, 100) == all_paid


def test_a_budget_stands_where_its_payments_brought_it() -> None:
    now = standing(limit_of(3.0), [paid(2), paid(3, day=4)], 100)

    assert now.events == {PLAIN: 5}
    assert now.spent == epsilon_spent({PLAIN: 5}, DELTA)
    assert now.left == 3.0 - now.spent
    assert standing(limit_of(0.1), [paid(5)], 100).left == 0.0


def test_releases_that_hide_records_alone_leave_nothing_of_a_budget_of_clients() -> None:
    assert standing(limit_of(9.0), [paid(1, guarantee=RECORD)], 100).spent == math.inf
    assert standing(limit_of(9.0, guarantee=RECORD), [paid(1)], 100).spent < 9


def test_the_last_release_that_fits_is_allowed_and_the_next_is_not() -> None:
    limit = limit_of(epsilon_spent({PLAIN: 3}, DELTA))
    charge = Charge.alike(CLIENT, [SITE], {PLAIN: 1})

    verify_affordable(charge, {SITE: [limit]}, {SITE: [paid(2)]}, 100)
    with pytest.raises(BudgetExhaustedError, match=r"budget of client/a \(lifetime\)"):
        verify_affordable(charge, {SITE: [limit]}, {SITE: [paid(3)]}, 100)


def test_who_has_no_budget_may_spend() -> None:
    verify_affordable(Charge.alike(CLIENT, [SITE], {PLAIN: 10**9}), {}, {}, 100)


def test_a_weaker_guarantee_than_the_budget_asks_for_is_refused() -> None:
    charge = Charge.alike(RECORD, [SITE], {PLAIN: 1})

    with pytest.raises(BudgetExhaustedError, match="must protect client/zero-out"):
        verify_affordable(charge, {SITE: [limit_of(100)]}, {}, 100)


@pytest.mark.parametrize("text", ["", "{}", PLAIN + " ", '{"kind":"gaussian"}'])
def test_a_charge_of_what_is_no_event_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="event of a charge is none"):
        verify_charge(Charge.alike(CLIENT, [SITE], {text: 1}))


def test_a_charge_is_of_one_adjacency() -> None:
    replaced = event_to_json(GaussianEvent(4.0, adjacency=Adjacency.REPLACE_ONE))

    verify_charge(Charge.alike(CLIENT, [SITE], {PLAIN: 1, SAMPLED: 2}))
    with pytest.raises(ConfigError, match="must be of adjacency zero-out"):
        verify_charge(Charge.alike(CLIENT, [SITE], {replaced: 1}))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 100, 1000])
def test_as_many_rounds_are_left_as_fit(count: int) -> None:
    epsilon = epsilon_spent({PLAIN: 50 + count}, DELTA)
    now = standing(limit_of(epsilon), [paid(50)], 100)

    assert releases_left(now, {PLAIN: 1}) == count


def test_no_round_is_left_of_a_budget_that_is_overspent() -> None:
    now = Standing(limit_of(9.0), math.inf, {})

    assert releases_left(now, {PLAIN: 1}) == 0


def test_a_forecast_ends_somewhere() -> None:
    free = event_to_json(PoissonGaussianEvent(0.0, 1.0))

    assert releases_left(Standing(limit_of(1.0), 0.0, {}), {free: 1}) == ROUNDS_MAX


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epsilon", 0.0),
        ("epsilon", math.nan),
        ("epsilon", math.inf),
        ("epsilon", True),
        ("epsilon", "1"),
        ("delta", 0.0),
        ("delta", 1.0),
        ("delta", math.nan),
        ("window_days", -1),
        ("window_days", 1.5),
        ("window_days", 36_501),
    ],
)
def test_a_budget_that_can_not_be_is_refused_with_its_field(name: str, value: object) -> None:
    fields = {"epsilon": 1.0, "delta": 1e-5, "window_days": 0} | {name: value}

    with pytest.raises((TypeError, ValueError), match=f"^{name} must"):
        BudgetLimit(SITE, CLIENT, **fields)  # type: ignore[arg-type]


def test_a_number_of_another_type_is_the_same_budget() -> None:
    odd = BudgetLimit(SITE, CLIENT, np.float32(3), np.float64(DELTA), 30.0)  # type: ignore[arg-type]

    assert odd == BudgetLimit(SITE, CLIENT, 3.0, DELTA, 30)
    assert [type(odd.epsilon), type(odd.delta), type(odd.window_days)] == [float, float, int]


def test_what_is_older_than_a_window_does_not_count() -> None:
    limit = limit_of(epsilon_spent({PLAIN: 3}, DELTA), window_days=30)
    charge = Charge.alike(CLIENT, [SITE], {PLAIN: 1})
    earlier = paid(9, day=69)

    assert standing(limit, [earlier, paid(2)], 100).events == {PLAIN: 2}
    verify_affordable(charge, {SITE: [limit]}, {SITE: [earlier, paid(2)]}, 100)
    with pytest.raises(BudgetExhaustedError, match=f"with {limit.epsilon:.4g} spent") as caught:
        verify_affordable(charge, {SITE: [limit]}, {SITE: [earlier, paid(3)]}, 100)
    assert f"{epsilon_spent({PLAIN: 4}, DELTA):.4g} after it" in str(caught.value)


@pytest.mark.parametrize("guarantees", [(RECORD,), (CLIENT, RECORD), (RECORD, CLIENT)])
def test_after_a_release_that_hid_records_alone_no_epsilon_of_clients_is_enough(
    guarantees: tuple[Guarantee, ...],
) -> None:
    before = [paid(1, guarantee=guarantee) for guarantee in guarantees]

    assert standing(limit_of(1e9), before, 100).spent == math.inf
    with pytest.raises(BudgetExhaustedError, match="with inf spent, and inf after it"):
        verify_affordable(
            Charge.alike(CLIENT, [SITE], {PLAIN: 1}), {SITE: [limit_of(1e9)]}, {SITE: before}, 100
        )


def test_a_budget_says_its_time() -> None:
    assert (limit_of(1).period, limit_of(1, window_days=30).period) == ("lifetime", "30 days")
    assert limit_of(1, window_days=30).to_content() == {
        "scope": "client/a",
        "guarantee": "client/zero-out",
        "epsilon": 1.0,
        "delta": DELTA,
        "window_days": 30,
    }


@given(count=st.integers(1, 10_000), epsilon=st.floats(0.1, 10))
@settings(max_examples=20)
def test_what_is_planned_to_the_last_bit_is_charged_within_its_epsilon(
    count: int, epsilon: float
) -> None:
    noise = calibrate_noise(
        GaussianEvent, steps=count, target_epsilon=payable(epsilon), target_delta=DELTA
    )

    assert epsilon_spent({event_to_json(GaussianEvent(noise)): count}, DELTA) <= epsilon


def test_a_run_that_has_spent_its_epsilon_is_told_what_has_cost_it() -> None:
    scope = BudgetScope.parse("model/net/run-a")
    limit = BudgetLimit(scope, CLIENT, epsilon_spent({PLAIN: 1}, DELTA), DELTA)
    charge = Charge.alike(CLIENT, [scope], {PLAIN: 2})

    assert scope.is_of_run
    with pytest.raises(BudgetExhaustedError, match=r"attempts that were lost .* another run, or"):
        verify_affordable(charge, {scope: [limit]}, {}, 0)
