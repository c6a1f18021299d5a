"""A contribution is never longer than what is charged for, and the count goes with the sum."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kumiai.privacy.clipping_round import STEPS, ClippedSum, ClippingRound
from kumiai.privacy.keystream import Keystream
from tests.privacy.statistics_of_noise import KEY

ROUND = ClippingRound(clipping_norm=2.0, noise_multiplier=1.1, cohort_size=10)

floats = st.sampled_from([np.float16, np.float32, np.float64]).flatmap(
    lambda kind: arrays.arrays(
        kind,
        arrays.array_shapes(max_dims=2, max_side=40, min_side=0),
        # Of more, the norm might be beyond the floats.
        elements={"min_value": -6e4, "max_value": 6e4},
    )
)
updates = st.lists(floats, min_size=1, max_size=3)
norms = st.floats(1e-100, 1e100)


def tensors(*values: Any) -> dict[int, Any]:
    return dict(enumerate(np.asarray(value, np.float64) for value in values))


def squares(numbers: Any) -> int:
    return sum(number * number for number in numbers.tolist())


@given(update=updates, clipping_norm=norms)
def test_no_client_moves_the_sum_by_more_than_is_charged_for(
    update: list[Any], clipping_norm: float
) -> None:
    this = ClippingRound(clipping_norm=clipping_norm, noise_multiplier=1.1, cohort_size=10)

    contribution = this.contribution(dict(enumerate(update)))

    assert contribution.size == sum(each.size for each in update) + 1
    assert squares(contribution[:-1]) <= STEPS**2
    assert squares(contribution) <= this.mechanism.l2_norm_squared
    this.verify(contribution)


def test_an_update_within_the_norm_is_only_rounded() -> None:
    contribution = ROUND.contribution(tensors([1.0, -0.5], [[0.25]]))

    assert contribution.tolist() == [STEPS // 2, -STEPS // 4, STEPS // 8, ROUND.sign_steps]


def test_a_longer_update_is_clipped_over_all_of_its_tensors_at_once() -> None:
    contribution = ROUND.contribution(tensors([30.0], [0.0, -40.0]))

    whole = [round(0.6 * STEPS), 0, -round(0.8 * STEPS)]
    assert contribution[:-1].tolist() == pytest.approx(whole, abs=1)
    assert contribution[-1] == -ROUND.sign_steps


def test_an_update_exactly_at_the_norm_is_whole_and_counts_as_unclipped() -> None:
    assert ROUND.contribution(tensors([2.0])).tolist() == [65_536, ROUND.sign_steps]
    assert ROUND.contribution(tensors([math.nextafter(2.0, 3.0)]))[-1] == -ROUND.sign_steps


def test_an_update_of_zeros_is_a_contribution_of_zeros_that_was_not_clipped() -> None:
    assert ROUND.contribution(tensors([0.0, 0.0])).tolist() == [0, 0, ROUND.sign_steps]


def test_a_vector_that_rounding_makes_longer_is_shortened_by_no_more_than_needed() -> None:
    direction = np.random.default_rng(1).normal(size=200_000)

    contribution = ROUND.contribution({0: direction})

    length = math.sqrt(squares(contribution[:-1]))
    assert STEPS * (1 - 1e-5) < length <= STEPS
    cosine = float(contribution[:-1] @ direction) / length / float(np.linalg.norm(direction))
    assert cosine > 0.999


def test_a_vector_of_more_numbers_than_steps_squared_ends_within_the_bound() -> None:
    # Each number lies just above a half: rounding makes the vector longer until all are zeros.
    count = 100_000
    this = ClippingRound(clipping_norm=1.0, noise_multiplier=1.1, cohort_size=10)
    many = np.full(count, 0.6 / STEPS)
    many[0] = math.sqrt(1 - (count - 1) * many[1] ** 2)

    contribution = this.contribution({0: many})

    assert squares(contribution[:-1]) <= STEPS**2
    assert contribution[0] > 0.99 * STEPS


# ----------------------------------------------------------------------------------- the two noises


@pytest.mark.parametrize("noise_multiplier", [0.3, 1.1, 4.0, 30.0])
@pytest.mark.parametrize("cohort_size", [1, 10, 100, 10_000])
def test_sum_and_count_share_the_noise_as_the_paper_splits_it(
    noise_multiplier: float, cohort_size: int
) -> None:
    this = ClippingRound(
        clipping_norm=1.0, noise_multiplier=noise_multiplier, cohort_size=cohort_size
    )

    count_deviation = math.sqrt(this.mechanism.variance) / (2 * this.sign_steps)

    wanted = max(cohort_size / 20, 1.65 * noise_multiplier)
    assert count_deviation == pytest.approx(wanted, rel=0.02)
    for_sum = (noise_multiplier**-2 - (2 * count_deviation) ** -2) ** -0.5
    assert this.sum_deviation == pytest.approx(for_sum, rel=1e-4)
    assert this.sum_deviation <= 1.0501 * noise_multiplier


def test_the_price_of_a_round_is_that_of_its_noise_multiplier() -> None:
    event = ROUND.event

    assert event.scale / event.l2_norm_max == pytest.approx(1.1, rel=1e-8)
    assert event.scale / event.l2_norm_max >= 1.1


@pytest.mark.parametrize("deviation", [0.56, 0.55, 0.1])
def test_a_count_that_leaves_nothing_for_the_sum_is_refused(deviation: float) -> None:
    with pytest.raises(
        ValueError, match=r"^count_deviation must be at least 0\.51 of the noise_multiplier"
    ):
        ClippingRound(
            clipping_norm=1.0, noise_multiplier=1.1, cohort_size=10, count_deviation=deviation
        )


def test_of_a_huge_cohort_each_voice_is_one_step() -> None:
    this = ClippingRound(clipping_norm=1.0, noise_multiplier=0.05, cohort_size=10**6)

    assert this.sign_steps == 1


def test_numbers_of_other_types_are_the_same_numbers() -> None:
    this = ClippingRound(
        clipping_norm=1, noise_multiplier=np.float64(1), cohort_size=np.int64(9), count_deviation=2
    )

    found = (this.clipping_norm, this.noise_multiplier, this.cohort_size, this.count_deviation)
    assert [type(each) for each in found] == [float, float, int, float]
    assert found == (1, 1, 9, 2)


def test_a_count_with_the_least_noise_leaves_a_fifth_for_the_sum() -> None:
    this = ClippingRound(
        clipping_norm=1.0, noise_multiplier=1.0, cohort_size=10, count_deviation=0.51
    )

    assert this.sum_deviation == pytest.approx((1 - (2 * 0.51) ** -2) ** -0.5, rel=1e-4)
    assert this.sum_deviation < 5.1


def test_a_count_may_be_given_noise_of_its_own() -> None:
    this = ClippingRound(clipping_norm=1.0, noise_multiplier=1.1, cohort_size=10, count_deviation=5)

    assert math.sqrt(this.mechanism.variance) / (2 * this.sign_steps) == pytest.approx(5, rel=1e-3)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("clipping_norm", 0, ValueError),
        ("clipping_norm", 1e-101, ValueError),
        ("clipping_norm", 1e101, ValueError),
        ("clipping_norm", float("nan"), ValueError),
        ("clipping_norm", "1", TypeError),
        ("noise_multiplier", 0, ValueError),
        ("noise_multiplier", float("inf"), ValueError),
        ("noise_multiplier", 5000, ValueError),
        ("cohort_size", 0, ValueError),
        ("cohort_size", 2.5, ValueError),
        ("cohort_size", 10**6 + 1, ValueError),
        ("cohort_size", True, TypeError),
        ("count_deviation", -1, ValueError),
    ],
)
def test_bad_facts_are_refused_by_name(field: str, value: Any, error: type[Exception]) -> None:
    facts: dict[str, Any] = {"clipping_norm": 1.0, "noise_multiplier": 1.1, "cohort_size": 10}

    with pytest.raises(error, match=f"^{field} must"):
        ClippingRound(**{**facts, field: value})


# --------------------------------------------------------------------------------- what is released


def test_a_release_is_the_mean_over_the_expected_cohort() -> None:
    came = [tensors([1.0, -1.0]), tensors([0.5, 0.0]), tensors([30.0, 40.0])]
    total = np.sum([ROUND.contribution(each) for each in came], axis=0)

    release = ROUND.opened(total)

    # Three came, and ten were expected.
    assert release.mean == pytest.approx([(1 + 0.5 + 1.2) / 10, (-1 + 1.6) / 10], abs=1e-5)
    assert release.unclipped_fraction == pytest.approx(0.5 + (2 - 1) / 2 / 10)
    assert release.mean.dtype == np.float64


def test_a_release_has_the_noise_that_the_norm_of_the_round_asks_for() -> None:
    total = np.zeros(100_001, np.int64)

    release = ROUND.opened(ROUND.mechanism._release_with(Keystream(KEY), total))

    deviation = float(release.mean.std()) * ROUND.cohort_size
    assert deviation == pytest.approx(ROUND.sum_deviation, rel=5 / math.sqrt(2 * 100_000))
    assert ROUND.sum_deviation == pytest.approx(1.0493 * 1.1 * 2.0, rel=1e-3)


def test_the_fraction_never_leaves_its_range() -> None:
    far = 10 * ROUND.sign_steps * ROUND.cohort_size

    fractions = [ROUND.opened(np.array([0, end])).unclipped_fraction for end in (far, -far)]

    assert fractions == [1.0, 0.0]


def test_a_round_to_which_nobody_came_is_released_with_noise() -> None:
    release = ROUND.release(np.zeros(50, np.int64))

    assert np.count_nonzero(release.mean) > 40


@pytest.mark.parametrize("total", [np.zeros((2, 2), np.int64), np.zeros(0, np.int64)])
def test_a_total_that_is_no_vector_is_refused(total: Any) -> None:
    with pytest.raises(ValueError, match=r"^total must be a vector"):
        ROUND.release(total)
    with pytest.raises(ValueError, match=r"^total must be a vector"):
        ROUND.unclipped_fraction_of(total)


# ------------------------------------------------------------------------ what another one has sent


def bad_contributions() -> dict[str, Any]:
    good = ROUND.contribution(tensors([30.0], [0.0, -40.0]))
    sign = ROUND.sign_steps
    return {
        "a step too long": np.array([STEPS, 1, sign]),
        "so long that its square overflows": np.array([1 << 40, sign]),
        "a second number like that": np.array([0, 1 << 40, sign]),
        "far too long": np.array([1 << 40, 0, sign]),
        "each layer clipped to the norm": np.array([STEPS, STEPS, sign]),
        "more than one voice in the count": np.array([5, 5, 2 * sign]),
        "no voice in the count": np.append(good[:-1], 0),
        "the norm of another round": np.append(2 * good[:-1], good[-1]),
    }


@pytest.mark.parametrize("what", bad_contributions())
def test_a_contribution_beyond_the_bound_is_refused(what: str) -> None:
    with pytest.raises(ValueError, match=r"^contribution must"):
        ROUND.verify(bad_contributions()[what])


def test_a_contribution_at_the_bound_is_good() -> None:
    ROUND.verify(np.array([STEPS, 0, -ROUND.sign_steps]))
    ROUND.verify(np.array([ROUND.sign_steps]))


def test_a_voice_that_is_longer_than_the_update_may_be_is_good() -> None:
    this = ClippingRound(
        clipping_norm=1.0, noise_multiplier=1.0, cohort_size=10, count_deviation=0.51
    )

    this.verify(this.contribution(tensors([0.5])))

    assert this.sign_steps > STEPS


@pytest.mark.parametrize("norm", [1e-100, 1e100])
def test_the_least_and_the_greatest_norm_are_good(norm: float) -> None:
    this = ClippingRound(clipping_norm=norm, noise_multiplier=1.0, cohort_size=10)

    assert this.contribution(tensors([norm / 2])).tolist() == [STEPS // 2, this.sign_steps]


def test_a_contribution_of_floats_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^contribution must be an array of int64"):
        ROUND.verify(np.zeros(3))


@given(noise_multiplier=st.floats(0.05, 2000), cohort_size=st.integers(1, 10**6))
def test_whatever_the_split_the_charge_covers_both_parts(
    noise_multiplier: float, cohort_size: int
) -> None:
    this = ClippingRound(
        clipping_norm=1.0, noise_multiplier=noise_multiplier, cohort_size=cohort_size
    )

    longest = STEPS**2 + this.sign_steps**2

    assert this.mechanism.l2_norm_squared == longest
    assert this.mechanism.variance >= Fraction(noise_multiplier) ** 2 * longest


# ----------------------------------------------------------------------------- without any counting

FACTS: dict[str, Any] = {"clipping_norm": 2.0, "noise_multiplier": 1.1, "cohort_size": 10}
FIXED = ClippedSum(**FACTS)


@given(update=updates, clipping_norm=norms)
def test_where_nothing_is_counted_no_client_moves_the_sum_by_more_than_the_norm(
    update: list[Any], clipping_norm: float
) -> None:
    this = ClippedSum(clipping_norm=clipping_norm, noise_multiplier=1.1, cohort_size=10)

    contribution = this.contribution(dict(enumerate(update)))

    assert contribution.size == sum(each.size for each in update)
    assert squares(contribution) <= STEPS**2 == this.mechanism.l2_norm_squared


def test_where_nothing_is_counted_no_noise_goes_into_a_count() -> None:
    assert FIXED.sum_deviation == pytest.approx(1.1 * 2.0, rel=1e-9)
    assert FIXED.event.scale / FIXED.event.l2_norm_max >= 1.1
    assert FIXED.contribution(tensors([1.0, -0.5])).tolist() == [STEPS // 2, -STEPS // 4]
    assert FIXED.mean_of(np.array([STEPS, -STEPS])).tolist() == [0.2, -0.2]


@pytest.mark.parametrize("steps", [[STEPS + 1], [STEPS, 1], [-(2**61), 0], []])
def test_a_contribution_that_is_longer_than_its_clip_is_refused(steps: list[int]) -> None:
    with pytest.raises(ValueError, match=r"^contribution must"):
        FIXED.verify(np.array(steps, np.int64))


def test_a_contribution_that_is_not_in_whole_steps_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^contribution must be an array of int64"):
        FIXED.verify(np.array([0.5]))


@pytest.mark.parametrize("this", [FIXED, ROUND])
def test_a_total_that_is_not_in_whole_steps_stands_for_no_mean(this: ClippedSum) -> None:
    with pytest.raises(TypeError, match=r"^total must be an array of int64"):
        this.mean_of(np.array([0.5]))


def test_a_contribution_as_long_as_its_clip_is_taken() -> None:
    FIXED.verify(np.array([0, -STEPS]))


@pytest.mark.parametrize("field", FACTS)
def test_bad_facts_are_refused_where_nothing_is_counted_too(field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} must"):
        ClippedSum(**{**FACTS, field: -1})
