import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.privacy.conversion import (
    OrderGridWarning,
    delta_bound,
    delta_of,
    epsilon_bound,
    epsilon_of,
)
from kumiai.privacy.events import GaussianEvent
from kumiai.privacy.rdp import DEFAULT_ORDERS, rdp_of

ORDERS = np.array(DEFAULT_ORDERS)


def exact_gaussian_delta(noise_multiplier: float, epsilon: float) -> float:
    """Balle and Wang 2018, theorem 8: what the Gaussian mechanism really gives."""

    def normal(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    half, ratio = 1 / (2 * noise_multiplier), epsilon * noise_multiplier
    return normal(half - ratio) - math.exp(epsilon) * normal(-half - ratio)


@given(st.floats(0.3, 50), st.floats(1e-9, 0.5))
def test_an_epsilon_is_never_below_what_the_gaussian_mechanism_needs(
    noise_multiplier: float, delta: float
) -> None:
    epsilon = epsilon_bound(ORDERS, rdp_of(GaussianEvent(noise_multiplier)), delta).value

    assert exact_gaussian_delta(noise_multiplier, epsilon) <= delta * (1 + 1e-9)


@given(st.floats(0.3, 50), st.floats(0, 20))
def test_a_delta_is_never_below_that_of_the_gaussian_mechanism(
    noise_multiplier: float, epsilon: float
) -> None:
    delta = delta_bound(ORDERS, rdp_of(GaussianEvent(noise_multiplier)), epsilon).value

    assert exact_gaussian_delta(noise_multiplier, epsilon) <= delta + 1e-15


@given(st.floats(0.3, 50), st.floats(1e-9, 0.5))
def test_the_delta_of_an_epsilon_leads_back(noise_multiplier: float, delta: float) -> None:
    curve = rdp_of(GaussianEvent(noise_multiplier))
    epsilon = epsilon_bound(ORDERS, curve, delta).value

    assert delta_bound(ORDERS, curve, epsilon).value <= delta * (1 + 1e-9)


def test_the_formula_is_that_of_canonne_kamath_and_steinke() -> None:
    epsilon = epsilon_of([3.0, 4.0, 5.0], [9.0, 0.5, 9.0], 1e-5)

    assert epsilon == pytest.approx(0.5 + math.log(3 / 4) - (math.log(1e-5) + math.log(4)) / 3)


def test_no_loss_is_an_epsilon_of_0_and_needs_no_order() -> None:
    bound = epsilon_bound(ORDERS, np.zeros(len(ORDERS)), 1e-9)

    assert (bound.value, bound.order, bound.is_at_edge) == (0.0, None, False)
    assert delta_of(ORDERS, np.zeros(len(ORDERS)), 0) == 0


def test_a_large_delta_never_makes_an_epsilon_below_0() -> None:
    assert epsilon_of(ORDERS, rdp_of(GaussianEvent(10)), 0.999) == 0
    assert epsilon_of([2.0, 3.0, 4.0], [0.9, 0.9, 0.9], 0.7) == 0


def test_a_small_loss_is_told_by_the_distance_of_the_distributions() -> None:
    orders = [1.1, 2, 3, 4]
    curve = rdp_of(GaussianEvent(1000), orders)

    assert delta_of(orders, curve, 0) == pytest.approx(math.sqrt(-math.expm1(-curve[0])))
    assert epsilon_of(orders, curve, 2 * math.sqrt(curve[0])) == 0


def test_the_order_with_the_least_loss_tells_the_distance() -> None:
    assert epsilon_of([2, 3, 4], [0.03, 5, 5], 0.2) == 0
    assert delta_of([2, 3, 4], [0.03, 5, 5], 0) == pytest.approx(math.sqrt(-math.expm1(-0.03)))


def test_a_distance_of_exactly_delta_is_enough() -> None:
    loss = math.nextafter(-math.log1p(-0.25), 1)

    assert -math.expm1(-loss) == 0.25
    assert epsilon_of([1.1, 1.2, 1.3], [loss, 9, 9], 0.5) == 0


def test_no_bound_anywhere_is_an_infinite_epsilon_and_a_delta_of_1() -> None:
    nothing = np.full(len(ORDERS), np.inf)

    assert epsilon_of(ORDERS, nothing, 1e-5) == math.inf
    assert delta_of(ORDERS, nothing, 5) == 1


def test_orders_without_a_bound_are_passed_over() -> None:
    curve = np.where(ORDERS == 4, 0.5, np.inf)

    assert epsilon_bound(ORDERS, curve, 1e-5).order == 4
    assert delta_bound(ORDERS, curve, 5).order == 4


@pytest.mark.parametrize(
    ("orders", "curve"),
    [([2, 3, 4], [0.01, 5, 9]), ([2, 3, 4], [0.9, 0.6, 0.1]), ([8], [0.5])],
)
def test_a_best_order_at_the_edge_of_the_grid_is_warned_of(
    orders: list[int], curve: list[float]
) -> None:
    with pytest.warns(OrderGridWarning, match="at their edge") as caught:
        epsilon_of(orders, curve, 0.001)

    assert caught[0].filename == __file__
    with pytest.warns(OrderGridWarning, match="at their edge"):
        delta_of(orders, curve, 6)


def test_a_best_order_within_the_grid_is_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        assert epsilon_of([2, 3, 4], [5, 0.5, 5], 0.001) > 0


@pytest.mark.parametrize(
    "delta", [0, 1, -0.1, 1.5, float("nan"), float("inf"), True, "1e-5", None, 1j]
)
def test_a_delta_must_be_between_0_and_1(delta: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^delta must be"):
        epsilon_of(ORDERS, rdp_of(GaussianEvent(1)), delta)


@pytest.mark.parametrize("epsilon", [-1e-9, float("nan"), float("inf"), True, "1", None])
def test_an_epsilon_must_be_at_least_0(epsilon: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^epsilon must be"):
        delta_of(ORDERS, rdp_of(GaussianEvent(1)), epsilon)


@pytest.mark.parametrize(
    "curve",
    [
        [0.1, float("nan"), 0.1],
        [0.1, -0.1, 0.1],
        [0.1, 0.1],
        [[0.1, 0.1, 0.1]],
        0.1,
        ["0.1", "0.1", "0.1"],
        [True, True, True],
        [None, 0.1, 0.1],
        [0.1j, 0.1, 0.1],
    ],
)
def test_a_curve_must_be_a_number_for_each_order(curve: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="rdp must"):
        epsilon_of([2, 3, 4], curve, 1e-5)


@pytest.mark.parametrize("make", [list, tuple, np.array, lambda values: np.array(values, np.int32)])
def test_orders_and_curves_of_every_type_mean_the_same(make: Any) -> None:
    assert epsilon_of(make([2, 8, 64]), make([1, 2, 64]), 1e-5) == epsilon_of(
        [2.0, 8.0, 64.0], [1.0, 2.0, 64.0], np.float64(1e-5)
    )
