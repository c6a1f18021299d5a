"""Noise and price come from the same numbers, and the price is never below what was given."""

import math
import multiprocessing
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.privacy import rdp_of
from kumiai.privacy.events import GaussianEvent
from kumiai.privacy.keystream import Keystream
from kumiai.privacy.mechanisms import GaussianMechanism, SkellamShares, verified_integers
from kumiai.privacy.sampler import discrete_gaussian, skellam
from tests.alone import run_alone
from tests.privacy.statistics_of_noise import KEY

BOUND = 1 << 32
CENTRAL = GaussianMechanism(noise_multiplier=1.1, l2_norm_squared=BOUND)
SHARES = SkellamShares(noise_multiplier=1.1, l2_norm_squared=BOUND, dimension=1000, share_count=7)

multipliers = st.floats(1e-3, 4096)
bounds = st.integers(1, 1 << 52)


# ------------------------------------------------------------------------------------ central noise


def test_a_release_is_the_total_and_noise_of_exactly_the_variance_that_is_charged() -> None:
    total = np.arange(-500, 500) * 1000
    spy = Keystream(KEY)

    released = CENTRAL._release_with(Keystream(KEY), total)

    noise = discrete_gaussian(spy, 1000, Fraction(CENTRAL.variance))
    assert (released - total).tolist() == noise.tolist()
    assert released.dtype == np.int64


def test_the_noise_of_a_release_has_the_variance_that_was_asked_for() -> None:
    noise = CENTRAL._release_with(Keystream(KEY), np.zeros(200_000, np.int64))

    assert abs(float(noise.var()) / (1.1**2 * BOUND) - 1) < 5 * math.sqrt(2 / 200_000)


@given(noise_multiplier=multipliers, l2_norm_squared=bounds)
def test_a_central_release_is_never_charged_less_than_its_noise_is_worth(
    noise_multiplier: float, l2_norm_squared: int
) -> None:
    mechanism = GaussianMechanism(noise_multiplier, l2_norm_squared)

    event = mechanism.event

    assert mechanism.variance >= Fraction(noise_multiplier) ** 2 * l2_norm_squared
    assert Fraction(event.scale) ** 2 <= mechanism.variance
    assert Fraction(event.l2_norm_max) ** 2 >= l2_norm_squared


def test_what_is_charged_is_the_next_float_at_most() -> None:
    square = GaussianMechanism(3.0, 25)
    large = GaussianMechanism(1.0, (1 << 52) - 3)

    assert (square.event.scale, square.event.l2_norm_max) == (15.0, 5.0)
    below, above = large.event.scale, large.event.l2_norm_max
    assert Fraction(math.nextafter(below, math.inf)) ** 2 > (1 << 52) - 3
    assert Fraction(math.nextafter(above, 0)) ** 2 < (1 << 52) - 3


def test_a_central_release_costs_what_the_gaussian_mechanism_costs() -> None:
    assert rdp_of(CENTRAL.event) == pytest.approx(rdp_of(GaussianEvent(1.1)), rel=1e-8)


def test_a_total_keeps_its_shape_and_is_not_changed() -> None:
    total = np.zeros((3, 5), np.int64)

    released = CENTRAL.release(total)

    assert released.shape == (3, 5)
    assert not total.any()


def test_a_total_of_nobody_gets_noise_as_well() -> None:
    assert CENTRAL.release(np.zeros(100, np.int64)).any()


@pytest.mark.parametrize(
    ("total", "found"),
    [
        ([1, 2], "list"),
        (None, "NoneType"),
        (np.zeros(3), "float64"),
        (np.zeros(3, np.int32), "int32"),
    ],
)
def test_only_whole_numbers_get_noise(total: Any, found: str) -> None:
    with pytest.raises(TypeError, match=f"^total must be an array of int64, got {found}; quantize"):
        CENTRAL.release(total)


@pytest.mark.parametrize("number", [(1 << 62) + 1, -(1 << 62) - 1, -(1 << 63)])
def test_a_total_that_noise_might_carry_over_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="total must have numbers of at most 2\\^62"):
        CENTRAL.release(np.array([0, number]))


def test_the_largest_totals_get_noise() -> None:
    released = CENTRAL.release(np.array([1 << 62, -(1 << 62)]))

    assert abs(released[0] - (1 << 62)) < 1 << 40


def test_an_empty_array_is_one_of_whole_numbers() -> None:
    assert verified_integers("total", np.zeros(0, np.int64)).size == 0


def test_no_caller_can_choose_the_noise() -> None:
    with pytest.raises(TypeError):
        CENTRAL.release(np.zeros(3, np.int64), Keystream(KEY))  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        SHARES.share(Keystream(KEY))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("noise_multiplier", 0, ValueError),
        ("noise_multiplier", float("nan"), ValueError),
        ("noise_multiplier", True, TypeError),
        ("noise_multiplier", "1.1", TypeError),
        ("noise_multiplier", 4097, ValueError),
        ("l2_norm_squared", 0, ValueError),
        ("l2_norm_squared", 1.5, ValueError),
        ("l2_norm_squared", (1 << 52) + 1, ValueError),
    ],
)
def test_bad_numbers_are_refused_by_name(field: str, value: Any, error: type[Exception]) -> None:
    central: dict[str, Any] = {"noise_multiplier": 1.1, "l2_norm_squared": 4, field: value}

    with pytest.raises(error, match=f"^{field} must"):
        GaussianMechanism(**central)
    with pytest.raises(error, match=f"^{field} must"):
        SkellamShares(**central, dimension=3, share_count=2)


def test_numbers_of_other_types_are_the_same_numbers() -> None:
    shares = SkellamShares(2, 4, np.float64(3), np.int16(5))  # type: ignore[arg-type]

    assert [type(each) for each in (shares.dimension, shares.share_count)] == [int, int]
    assert shares == SkellamShares(2.0, 4, 3, 5)
    assert GaussianMechanism(np.float64(2), np.int64(4)) == GaussianMechanism(2, 4)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- shares


def test_a_share_is_skellam_noise_of_its_part_of_the_variance() -> None:
    share = SHARES._share_with(Keystream(KEY))

    assert share.tolist() == skellam(Keystream(KEY), 1000, SHARES.share_variance).tolist()
    assert SHARES.share_variance == 2 * math.ceil(Fraction(1.1) ** 2 * BOUND / 14)


def test_enough_shares_have_the_variance_that_is_charged() -> None:
    shares = SkellamShares(
        noise_multiplier=1.1, l2_norm_squared=BOUND, dimension=100_000, share_count=7
    )

    total = sum(shares._share_with(Keystream(bytes([n]) * 32)) for n in range(7))

    variance = float(np.asarray(total).var())
    assert abs(variance / shares.event.variance - 1) < 5 * math.sqrt(2 / 100_000)
    assert shares.deviation_in(7) ** 2 == pytest.approx(shares.event.variance)
    assert shares.deviation_in(7) == pytest.approx(1.1 * math.sqrt(BOUND), rel=1e-6)


def test_more_survivors_than_were_counted_on_only_add_noise() -> None:
    assert SHARES.deviation_in(10) / SHARES.deviation_in(7) == pytest.approx(1.195, abs=1e-3)


@given(
    noise_multiplier=st.floats(1e-3, 1000),
    l2_norm_squared=st.integers(1, 1 << 30),
    dimension=st.integers(1, 10**9),
    share_count=st.integers(1, 10**6),
)
def test_shares_are_never_charged_less_than_their_noise_is_worth(
    noise_multiplier: float, l2_norm_squared: int, dimension: int, share_count: int
) -> None:
    shares = SkellamShares(noise_multiplier, l2_norm_squared, dimension, share_count)

    event = shares.event

    assert event.variance >= noise_multiplier**2 * l2_norm_squared * (1 - 1e-15)
    assert event.variance <= shares.share_variance * share_count
    assert Fraction(event.l2_norm_max) ** 2 >= l2_norm_squared
    assert shares.share_variance % 2 == 0


def test_the_variance_of_few_shares_is_charged_as_it_is() -> None:
    assert SHARES.event.variance == SHARES.share_variance * 7


def test_the_variance_of_many_shares_is_rounded_down() -> None:
    shares = SkellamShares(1024, (1 << 50) - 3, dimension=3, share_count=999_001)
    exact = shares.share_variance * shares.share_count

    charged = shares.event.variance

    assert charged < exact < float(exact) == math.nextafter(charged, math.inf)


def test_shares_in_fine_steps_cost_what_the_gaussian_mechanism_costs() -> None:
    million = SkellamShares(1.1, BOUND, dimension=10**6, share_count=7)

    orders = [2, 4, 8, 16, 32]
    gaussian = rdp_of(GaussianEvent(1.1), orders)
    assert rdp_of(million.event, orders) == pytest.approx(gaussian, rel=1e-3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dimension", 0),
        ("dimension", 1.5),
        ("dimension", (1 << 40) + 1),
        ("share_count", 0),
        ("share_count", -1),
        ("share_count", 10**6 + 1),
    ],
)
def test_counts_of_shares_out_of_range_are_refused(field: str, value: Any) -> None:
    numbers: dict[str, Any] = {"dimension": 3, "share_count": 2, field: value}

    with pytest.raises(ValueError, match=f"^{field} must"):
        SkellamShares(1.1, 4, **numbers)


def test_counts_of_shares_at_their_limits_are_good() -> None:
    assert SkellamShares(1.1, 1 << 30, dimension=1 << 40, share_count=10**6).share_count == 10**6
    assert SkellamShares(1.1, 4, dimension=1, share_count=1).share_variance == 6


def test_a_share_that_cannot_be_drawn_is_refused_beforehand() -> None:
    SkellamShares(1, 1 << 51, dimension=3, share_count=1).share()
    with pytest.raises(ValueError, match=r"^variance of a share must be from 2"):
        SkellamShares(1, (1 << 51) + 1, dimension=3, share_count=1)


# ---------------------------------------------------------------------------------------- processes


def _releases() -> tuple[list[int], list[int]]:
    return CENTRAL.release(np.zeros(1000, np.int64)).tolist(), SHARES.share().tolist()


def _send(connection: Any) -> None:
    connection.send(_releases())


def test_neither_a_second_release_nor_a_forked_process_repeats_noise() -> None:
    run_alone(_compare_releases_of_forks)


def _compare_releases_of_forks() -> None:
    first = _releases()
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(4)]
    children = [context.Process(target=_send, args=(sender,)) for _, sender in pipes]

    for child in children:
        child.start()
    answers = [first, _releases(), *(receiver.recv() for receiver, _ in pipes)]
    for child in children:
        child.join()

    for kind in (0, 1):
        found = np.array([answer[kind] for answer in answers])
        for left in range(len(found)):
            for right in range(left):
                assert np.mean(found[left] == found[right]) < 0.01
