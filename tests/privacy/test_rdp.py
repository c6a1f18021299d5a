import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kumiai.privacy import rdp, subsampling
from kumiai.privacy.conversion import epsilon_bound
from kumiai.privacy.events import (
    Adjacency,
    DiscreteGaussianEvent,
    Event,
    FixedSizeGaussianEvent,
    GaussianEvent,
    MatrixEvent,
    PoissonDiscreteGaussianEvent,
    PoissonGaussianEvent,
    SkellamEvent,
    TreeEvent,
)
from kumiai.privacy.rdp import (
    DEFAULT_ORDERS,
    checked_orders,
    gaussian_noise_multiplier,
    rdp_of,
)
from tests.privacy.exact_losses import (
    discrete_gaussian_divergence,
    fixed_size_bound,
    fixed_size_divergence,
    sampled_discrete_gaussian_divergence,
    sampled_gaussian_divergence,
    skellam_divergence,
)

ORDERS = np.array(DEFAULT_ORDERS)
ORACLES = json.loads((Path(__file__).parent / "oracles.json").read_text(encoding="utf-8"))
NOISE = st.floats(0.3, 100)
RATE = st.floats(1e-6, 1)


@pytest.fixture(autouse=True)
def nothing_is_remembered() -> None:
    """Let each test compute its curves itself."""
    rdp._curve.cache_clear()


def at(event: Event, order: float) -> float:
    return float(rdp_of(event, [order])[0])


@pytest.mark.parametrize("name", ORACLES["poisson"])
def test_an_epsilon_is_that_of_other_accountants(name: str) -> None:
    row = ORACLES["poisson"][name]

    curve = sum(n * rdp_of(PoissonGaussianEvent(q, z)) for q, z, n in row["parts"])
    bound = epsilon_bound(ORDERS, curve, row["delta"])

    assert bound.value == pytest.approx(row["rdp"], abs=1e-3)
    assert bound.order == pytest.approx(row["order"])
    assert bound.is_at_edge == (name == "S14")
    assert bound.value > row["prv"][0]


@pytest.mark.parametrize("name", ORACLES["fixed_size"])
def test_the_epsilon_of_fixed_size_samples_is_that_of_other_accountants(name: str) -> None:
    row = ORACLES["fixed_size"][name]
    event = FixedSizeGaussianEvent(row["sample_size"], row["population"], row["noise_multiplier"])

    bound = epsilon_bound(ORDERS, row["count"] * rdp_of(event), row["delta"])

    assert bound.value == pytest.approx(row["rdp"], abs=1e-3)
    assert bound.order == row["order"]


@pytest.mark.parametrize(
    ("sampling_rate", "noise_multiplier", "order"),
    [
        (0.01, 1.1, 9.6),
        (0.01, 1.1, 1.1),
        (0.01, 1.1, 64),
        (0.01, 0.4, 1.6),
        (0.3, 0.3, 33.3),
        (0.5, 10, 1.3),
        (0.5, 1, 2.5),
        (0.99, 1.5, 3.4),
        (0.1, 50, 1.1),
        (0.1, 50, 22),
        (1e-6, 1, 27),
        (1e-6, 1, 1.01),
        (0.001, 2.7, 2),
        (0.9, 0.1, 1.5),
        # Where the integrand is near its line, far above it, or beyond what floats hold.
        (1e-9, 0.02, 1.01),
        (1e-6, 0.7, 16.5),
        (0.2, 20, 500.25),
        (0.999, 0.5, 1.01),
        (0.5, 5, 1.01),
        (0.999, 2, 12.5),
        (1e-9, 200, 1.01),
        (0.5, 1000, 1.01),
    ],
)
def test_a_sampled_loss_is_its_integral(
    sampling_rate: float, noise_multiplier: float, order: float
) -> None:
    exact = sampled_gaussian_divergence(sampling_rate, noise_multiplier, order)

    computed = at(PoissonGaussianEvent(sampling_rate, noise_multiplier), order)

    assert computed == pytest.approx(exact, rel=1e-11)


@pytest.mark.parametrize("order", [1.5, 4, 12.5])
@pytest.mark.parametrize("sampling_rate", [0.01, 0.5])
def test_leaving_costs_no_more_than_joining(sampling_rate: float, order: float) -> None:
    leaving = sampled_gaussian_divergence(sampling_rate, 1.1, order, removed=True)

    assert leaving <= at(PoissonGaussianEvent(sampling_rate, 1.1), order)


@pytest.mark.parametrize("order", [1.5, 2, 3, 8, 16])
@pytest.mark.parametrize(
    ("sample_size", "population", "noise_multiplier"),
    [(1, 100, 2), (10, 50, 8), (100, 100, 5), (1, 1000, 0.8)],
)
def test_a_fixed_size_loss_covers_a_replacement_by_the_opposite(
    sample_size: int, population: int, noise_multiplier: float, order: float
) -> None:
    exact = fixed_size_divergence(sample_size / population, noise_multiplier, order)

    charged = at(FixedSizeGaussianEvent(sample_size, population, noise_multiplier), order)

    assert exact <= charged * (1 + 1e-12)


@pytest.mark.parametrize(
    ("rate", "noise_multiplier", "order"),
    [(0.9, 60, 256), (1e-3, 5000, 256), (1e-3, 5000, 200), (0.01, 300, 257), (1e-9, 60, 257)],
)
def test_a_fixed_size_loss_is_that_of_its_theorem(
    rate: float, noise_multiplier: float, order: int
) -> None:
    (moment,) = subsampling.fixed_size_log_moments(np.array([order]), rate, noise_multiplier)

    expected = fixed_size_bound(rate, noise_multiplier, order, tight_order_max=256)

    assert moment == pytest.approx(expected, rel=1e-9)


def test_a_moment_between_two_orders_is_on_the_line_between_them() -> None:
    between = subsampling.by_lines(np.array([2.5, 7.25]), lambda order: order**3)

    assert between.tolist() == [(8 + 27) / 2, (3 * 343 + 512) / 4]


def test_drawing_everybody_costs_a_replacement_in_full() -> None:
    everybody = rdp_of(FixedSizeGaussianEvent(50, 50, 6))

    assert everybody == pytest.approx(rdp_of(GaussianEvent(6, adjacency=Adjacency.REPLACE_ONE)))


def test_a_fixed_size_loss_has_a_bound_for_all_orders_and_noises() -> None:
    little = rdp_of(FixedSizeGaussianEvent(1, 100, 0.01))
    much = rdp_of(FixedSizeGaussianEvent(1, 100, 1000))

    assert np.all(np.isfinite(little))
    assert np.all(little <= rdp_of(GaussianEvent(0.005)) * (1 + 1e-12))
    assert np.all(much <= rdp_of(GaussianEvent(500)) * (1 + 1e-12))
    assert at(FixedSizeGaussianEvent(1, 100, 1000), 300) > at(
        FixedSizeGaussianEvent(1, 100, 1000), 200
    )


@pytest.mark.parametrize("kind", [GaussianEvent, DiscreteGaussianEvent, SkellamEvent])
def test_a_replacement_costs_as_much_as_twice_the_norm(kind: type[Event]) -> None:
    numbers: dict[type[Event], Callable[[int], tuple[float, ...]]] = {
        GaussianEvent: lambda factor: (6 / factor,),
        DiscreteGaussianEvent: lambda factor: (6, 2 * factor),
        SkellamEvent: lambda factor: (36, 2 * factor, 4 * factor),
    }
    once, twice = kind(*numbers[kind](1)), kind(*numbers[kind](2))
    replaced = kind(*numbers[kind](1), adjacency=Adjacency.REPLACE_ONE)

    assert np.array_equal(rdp_of(replaced), rdp_of(twice))
    assert np.all(rdp_of(replaced) > 1.9 * rdp_of(once))


def test_who_is_left_out_or_counts_as_zero_costs_the_same() -> None:
    left_out = PoissonGaussianEvent(0.1, 2, adjacency=Adjacency.ADD_OR_REMOVE)

    assert np.array_equal(rdp_of(left_out), rdp_of(PoissonGaussianEvent(0.1, 2)))


@pytest.mark.parametrize("order", [1.25, 2, 3.5, 8])
@pytest.mark.parametrize(("variance", "shift"), [(1, 1), (4, 1), (4, 3), (30, 4), (100, 7)])
def test_a_skellam_loss_covers_the_true_one(variance: float, shift: int, order: float) -> None:
    exact = skellam_divergence(variance, shift, order)

    charged = at(SkellamEvent(variance, shift, shift), order)

    assert exact <= charged
    assert charged <= order * shift**2 / (2 * variance) * (1 + 8 * shift / variance) + 1


@pytest.mark.parametrize("order", [1.25, 2, 8])
@pytest.mark.parametrize(("scale", "shift"), [(0.6, 1), (1, 1), (3, 4), (10, 7)])
def test_a_discrete_gaussian_loss_covers_the_true_one(
    scale: float, shift: int, order: float
) -> None:
    exact = discrete_gaussian_divergence(scale, shift, order)

    charged = at(DiscreteGaussianEvent(scale, shift), order)

    assert exact <= charged * (1 + 1e-12)


@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize("order", [1.25, 2, 2.6, 8])
@pytest.mark.parametrize("sampling_rate", [0.01, 0.3, 0.9])
@pytest.mark.parametrize(("scale", "shift"), [(0.6, 1), (1, 1), (3, 4), (10, 7)])
def test_a_sampled_discrete_gaussian_loss_covers_the_true_one(
    scale: float, shift: int, sampling_rate: float, order: float, removed: bool
) -> None:
    exact = sampled_discrete_gaussian_divergence(
        sampling_rate, scale, shift, order, removed=removed
    )

    charged = at(PoissonDiscreteGaussianEvent(sampling_rate, scale / shift), order)

    assert exact <= charged * (1 + 1e-12)


@pytest.mark.parametrize("order", [2, 5, 12])
def test_a_sampled_discrete_gaussian_loss_is_the_true_one_at_whole_orders(order: int) -> None:
    exact = sampled_discrete_gaussian_divergence(0.2, 3, 4, order)

    charged = at(PoissonDiscreteGaussianEvent(0.2, 0.75), order)

    assert charged == pytest.approx(exact, rel=1e-11)
    assert charged == pytest.approx(at(PoissonGaussianEvent(0.2, 0.75), order), rel=1e-11)


def test_sampled_whole_noise_costs_hardly_more_than_sampled_floats() -> None:
    whole = epsilon_bound(ORDERS, 1000 * rdp_of(PoissonDiscreteGaussianEvent(0.01, 1.1)), 1e-5)
    floats = epsilon_bound(ORDERS, 1000 * rdp_of(PoissonGaussianEvent(0.01, 1.1)), 1e-5)

    assert floats.value < whole.value < 1.01 * floats.value


@pytest.mark.parametrize(("rate", "expected"), [(0, np.zeros(len(ORDERS))), (1, ORDERS / 18)])
def test_whole_noise_under_no_coin_or_a_sure_one(rate: float, expected: Any) -> None:
    assert rdp_of(PoissonDiscreteGaussianEvent(rate, 3)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("numbers", "order", "first", "excess"),
    [
        ((10, 2, 3), 2, 2 * 4 / 20, 30 / 400),
        ((10, 2, 7), 3, 3 * 4 / 20, 62 / 400),
        ((2, 3, 3), 10, 10 * 9 / 4, 9 / 4),
    ],
)
def test_a_skellam_loss_is_that_of_its_theorem(
    numbers: tuple[float, float, float], order: int, first: float, excess: float
) -> None:
    charged = at(SkellamEvent(*numbers), order)

    assert charged == pytest.approx(first + excess, rel=1e-12)


def test_skellam_noise_of_a_fine_scale_costs_what_gaussian_noise_costs() -> None:
    bound, noise_multiplier = 2**16, 2
    event = SkellamEvent((noise_multiplier * bound) ** 2, bound, bound * 1000)

    ratios = rdp_of(event) / rdp_of(GaussianEvent(noise_multiplier))

    is_whole = ~np.mod(ORDERS, 1).astype(bool)
    assert ratios[is_whole & (ORDERS <= 64)].max() < 1.001
    assert ratios[ORDERS > 10].max() < 1.02
    assert ratios.min() >= 1


def participations(rounds: int, separation: int) -> list[tuple[int, ...]]:
    """Return every choice of rounds that keeps its distance."""
    return [
        chosen
        for count in range(1, rounds + 1)
        for chosen in itertools.combinations(range(rounds), count)
        if all(b - a >= separation for a, b in itertools.pairwise(chosen))
    ]


@pytest.mark.parametrize(("rounds", "separation"), [(1, 3), (6, 3), (8, 2), (9, 4), (7, 9)])
def test_the_sensitivity_of_a_banded_matrix_is_that_of_the_worst_participant(
    rounds: int, separation: int
) -> None:
    coefficients = (1.0, -0.5)[: min(2, separation)]
    matrix = sum(
        (np.eye(rounds, k=-band) * each for band, each in enumerate(coefficients)),
        np.zeros((rounds, rounds)),
    )
    # The columns of one participant do not overlap, so the directions of its parts do not matter.
    worst = max(
        math.sqrt(sum(np.sum(matrix[:, i] ** 2) for i in chosen))
        for chosen in participations(rounds, separation)
    )
    event = MatrixEvent(3, coefficients, rounds, separation)

    charged = 3 / gaussian_noise_multiplier(event)

    assert worst <= charged * (1 + 1e-12)
    assert charged <= worst * math.sqrt(1.3)


@pytest.mark.parametrize(("rounds", "separation"), [(1, 1), (4, 1), (5, 2), (8, 3), (9, 4), (8, 8)])
def test_the_sensitivity_of_a_tree_covers_the_worst_participant(
    rounds: int, separation: int
) -> None:
    levels = (rounds - 1).bit_length() + 1
    worst = max(
        sum(
            sum(1 for i in chosen if i >> level == node) ** 2
            for level in range(levels)
            for node in range(rounds)
        )
        for chosen in participations(rounds, separation)
    )

    charged = 3 / gaussian_noise_multiplier(TreeEvent(3, rounds, separation))

    assert math.sqrt(worst) <= charged * (1 + 1e-12)
    assert charged <= math.sqrt(2 * worst)


def test_a_tree_with_one_participation_costs_one_release_for_each_level() -> None:
    assert rdp_of(TreeEvent(3, 1024, 1024)) == pytest.approx(11 * rdp_of(GaussianEvent(3)))


def test_nodes_over_many_rounds_hold_more_of_one_participant() -> None:
    # Three participations: at most 1, 1, 2 and 3 of them in nodes over 1, 2, 4 and 8 rounds.
    squares = 3 * (1 + 1 + 2 + 3)

    assert gaussian_noise_multiplier(TreeEvent(3, 8, 3)) == pytest.approx(3 / math.sqrt(squares))


def test_a_replacement_counts_twice_in_a_matrix_and_a_tree() -> None:
    replaced = {"adjacency": Adjacency.REPLACE_ONE}

    assert gaussian_noise_multiplier(MatrixEvent(4, (3, 4), 10, 10, **replaced)) == 0.4
    assert gaussian_noise_multiplier(TreeEvent(4, 8, 8, **replaced)) == 1


@pytest.mark.parametrize(
    "event",
    [PoissonGaussianEvent(0.1, 1), FixedSizeGaussianEvent(1, 9, 1), SkellamEvent(1, 1, 1)],
    ids=lambda event: event.kind,
)
def test_what_is_no_gaussian_release_is_not_taken_for_one(event: Event) -> None:
    with pytest.raises(TypeError, match=event.kind):
        gaussian_noise_multiplier(event)


@settings(max_examples=25, deadline=None)
@given(RATE, RATE, NOISE, NOISE)
def test_more_sampling_or_less_noise_never_costs_less(
    rate: float, other_rate: float, noise: float, other_noise: float
) -> None:
    cheap = rdp_of(PoissonGaussianEvent(min(rate, other_rate), max(noise, other_noise)))
    dear = rdp_of(PoissonGaussianEvent(max(rate, other_rate), min(noise, other_noise)))

    assert np.all(cheap <= dear * (1 + 1e-11))


@settings(max_examples=25, deadline=None)
@given(RATE, st.floats(0.05, 100))
def test_a_curve_rises_and_its_log_moment_is_convex(rate: float, noise: float) -> None:
    curve = rdp_of(PoissonGaussianEvent(rate, noise))
    slopes = np.diff((ORDERS - 1) * curve) / np.diff(ORDERS)

    assert np.all(np.diff(curve) >= -1e-11 * curve[1:])
    assert np.all(np.diff(slopes) >= -1e-8 * slopes[1:])


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 1000), st.integers(1000, 10**6), st.floats(0.5, 50))
def test_sampling_never_costs_more_than_no_sampling(
    sample_size: int, population: int, noise: float
) -> None:
    replaced = rdp_of(GaussianEvent(noise, adjacency=Adjacency.REPLACE_ONE))

    drawn = rdp_of(FixedSizeGaussianEvent(sample_size, population, noise))
    tossed = rdp_of(PoissonGaussianEvent(sample_size / population, noise))

    assert np.all(drawn <= replaced * (1 + 1e-12))
    assert np.all(tossed <= rdp_of(GaussianEvent(noise)) * (1 + 1e-12))


def test_sampling_everybody_costs_what_no_sampling_costs() -> None:
    assert np.array_equal(rdp_of(PoissonGaussianEvent(1, 3)), rdp_of(GaussianEvent(3)))
    assert rdp_of(GaussianEvent(3)) == pytest.approx(ORDERS / 18)


def test_sampling_nobody_costs_nothing() -> None:
    assert np.array_equal(rdp_of(PoissonGaussianEvent(0, 3)), np.zeros(len(ORDERS)))


@pytest.mark.parametrize(
    "event",
    [
        GaussianEvent(1e300),
        PoissonGaussianEvent(1e-300, 1e300),
        PoissonGaussianEvent(5e-324, 1),
        FixedSizeGaussianEvent(1, 10**12, 1e300),
        DiscreteGaussianEvent(1e300, 1e-300),
        SkellamEvent(1e300, 1e-300, 1e-300),
        TreeEvent(1e300, 1, 1),
    ],
    ids=lambda event: event.kind,
)
def test_no_release_is_free(event: Event) -> None:
    assert np.all(rdp_of(event) > 0)


@pytest.mark.parametrize(
    "event",
    [
        GaussianEvent(1e-300),
        PoissonGaussianEvent(0.5, 1e-300),
        PoissonGaussianEvent(0.5, 5e-324),
        FixedSizeGaussianEvent(1, 2, 1e-300),
        DiscreteGaussianEvent(1e-300, 1e300),
        SkellamEvent(1e-300, 1e300, 1e300),
        MatrixEvent(1e-300, (1e300, 1e300), 9, 2),
    ],
    ids=lambda event: event.kind,
)
def test_a_loss_beyond_all_numbers_is_no_bound(event: Event) -> None:
    assert np.all(rdp_of(event) == np.inf)


def test_a_fractional_order_is_bounded_also_where_its_integral_would_take_too_long() -> None:
    rare, frequent = PoissonGaussianEvent(1e-200, 0.01), PoissonGaussianEvent(0.1, 0.01)

    below, between, above = rdp_of(rare, [4.0, 4.5, 5.0])

    assert 3.5 * between == pytest.approx((3 * below + 4 * above) / 2)
    assert at(frequent, 4.5) == at(GaussianEvent(0.01), 4.5)


def test_large_orders_have_curves_as_well() -> None:
    curve = rdp_of(PoissonGaussianEvent(0.01, 20), [4096.5, 65_536])

    assert curve[0] < curve[1] <= at(GaussianEvent(20), 65_536)


def test_a_curve_is_remembered_and_nobody_can_change_it() -> None:
    event = PoissonGaussianEvent(0.01, 1.1)

    assert rdp_of(event) is rdp_of(PoissonGaussianEvent(0.01, np.float64(1.1)))
    with pytest.raises(ValueError, match="read-only"):
        rdp_of(event)[0] = 0


def test_the_order_of_the_grid_does_not_change_a_curve() -> None:
    event = PoissonGaussianEvent(0.01, 1.1)

    assert at(event, 9.6) == rdp_of(event)[np.searchsorted(ORDERS, 9.6)]


@pytest.mark.parametrize(
    "orders",
    [
        [],
        [1],
        [0.5, 2],
        [2, 2],
        [3, 2],
        [2, float("nan")],
        [2, float("inf")],
        [2, 65_537],
        [True, 2],
        ["2", "3"],
        [None],
        [[2, 3], [4, 5]],
        "23",
        list(range(2, 4099)),
    ],
)
def test_orders_must_be_rising_numbers_above_1(orders: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="orders"):
        checked_orders(orders)


def test_a_grid_has_as_many_orders_as_anybody_needs_and_no_more() -> None:
    assert len(checked_orders(range(2, 4098))) == 4096
    with pytest.raises(ValueError, match="orders must be 1 to 4096 numbers, got 4097"):
        checked_orders(range(2, 4099))


def test_nobody_changes_a_grid_that_was_checked() -> None:
    with pytest.raises(ValueError, match="read-only"):
        checked_orders([2, 3])[0] = 1


def test_the_order_that_is_wrong_is_named() -> None:
    with pytest.raises(ValueError, match=r"^orders\[1\] must be a finite number"):
        checked_orders([2, float("nan")])


def test_orders_may_be_numbers_of_any_type() -> None:
    assert checked_orders((2, np.float32(2.5), np.int64(7))).tolist() == [2, 2.5, 7]
