"""Real numbers become whole ones, by chance and without bias."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kumiai.core.errors import SecureAggregationError
from kumiai.crypto.masks import add_mask
from kumiai.secagg.descriptor import RoundDescriptor
from kumiai.secagg.quantizing import Numbers, cut_count, quantize, signed, words_dtype
from tests.secagg.rounds import describe, signers_of

SIGNERS = signers_of(4)
KEY = bytes(range(32))


def quantized(
    update: Numbers,
    descriptor: RoundDescriptor,
    weight: int = 1,
    key: bytes = KEY,
    noise_key: bytes = KEY,
) -> NDArray[np.int64]:
    words = np.empty(update.size + 1, words_dtype(descriptor.ring_bits))
    quantize(words, update, weight, key=key, noise_key=noise_key, descriptor=descriptor)
    return signed(words)


def described(dimension: int, **changes: object) -> RoundDescriptor:
    return describe(SIGNERS, **{"dimension": dimension, "norm_bound": 1e9, **changes})


@given(
    st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=30),
    st.integers(1, 8),
    st.sampled_from([32, 64]),
)
def test_a_number_becomes_one_of_its_two_neighbours(
    numbers: list[float], weight: int, ring_bits: int
) -> None:
    update = np.array(numbers, np.float32)
    descriptor = described(update.size, ring_bits=ring_bits)

    found = quantized(update, descriptor, weight)

    exact = np.clip(update.astype(np.float64), -1, 1) * descriptor.levels
    assert found[-1] == weight
    assert (found[:-1] % weight == 0).all()
    assert (abs(found[:-1] / weight - exact) < 1).all()


def test_how_many_numbers_a_round_cuts_is_known_but_not_where_it_adds_noise() -> None:
    update = np.array([1.5, -1.5, 1, -1, 0], np.float32)

    assert cut_count(update, described(5, clip=1.0)) == 2
    assert cut_count(update, described(5, clip=1.0, noise_variance=4, **NOISED)) == 0


def test_rounding_has_no_bias() -> None:
    descriptor = described(200_000, value_bits=4)
    update = np.full(200_000, 0.35, np.float32)

    found = quantized(update, descriptor)[:-1]

    exact = 0.35 * descriptor.levels
    deviation = np.sqrt(exact % 1 * (1 - exact % 1) / found.size)
    assert abs(found.mean() - exact) < 6 * deviation
    assert set(np.unique(found)) == {2, 3}


def test_the_same_key_rounds_alike_and_another_otherwise() -> None:
    descriptor = described(70_000)
    update = np.linspace(-1, 1, 70_000, dtype=np.float32)

    assert np.array_equal(quantized(update, descriptor), quantized(update, descriptor))
    assert not np.array_equal(
        quantized(update, descriptor), quantized(update, descriptor, key=bytes(32))
    )


def test_an_update_beyond_the_norm_bound_is_scaled_onto_it() -> None:
    descriptor = described(100, norm_bound=2.0)
    update = np.full(100, 0.5, np.float32)

    found = quantized(update, descriptor)[:-1]

    assert np.linalg.norm(found / descriptor.levels) == pytest.approx(2.0, rel=1e-3)
    assert found @ found <= descriptor.bound_squared


def test_where_chance_would_break_the_bound_numbers_are_rounded_towards_zero() -> None:
    loose = described(1, value_bits=3)
    tight = replace(loose, norm_bound=0.1 / loose.levels)
    keys = [bytes([key]) * 32 for key in range(60)]
    update = np.array([0.1 / loose.levels], np.float32)

    assert {int(quantized(update, loose, key=key)[0]) for key in keys} == {0, 1}
    assert tight.bound_squared == 0
    assert {int(quantized(update, tight, key=key)[0]) for key in keys} == {0}


def rounded(update: NDArray[np.float32], descriptor: RoundDescriptor) -> NDArray[np.int64]:
    """Return all numbers of a short update by the written formula, in one piece."""
    draws = np.zeros(update.size, np.uint32)
    add_mask(draws, KEY)
    exact = update.astype(np.float64) * descriptor.levels / descriptor.clip
    cut = np.clip(exact, -descriptor.levels, descriptor.levels)
    return np.floor(cut + draws * 2.0**-32).astype(np.int64)


def test_updates_of_many_blocks_follow_the_written_formula() -> None:
    # Two blocks and a bit; a power of two as the clip keeps both ways of computing exact.
    update = np.random.default_rng(3).normal(0, 3, 140_001).astype(np.float32)
    norm = float(np.linalg.norm(np.clip(update, -4, 4).astype(np.float64)))
    descriptor = described(update.size, clip=4.0, value_bits=20, norm_bound=4 * norm)

    assert np.array_equal(quantized(update, descriptor)[:-1], rounded(update, descriptor))


def test_updates_of_many_blocks_near_their_bound_are_not_cut() -> None:
    update = np.random.default_rng(4).uniform(-1, 1, 140_001).astype(np.float32)
    norm = float(np.linalg.norm(update.astype(np.float64)))
    descriptor = described(update.size, value_bits=20, norm_bound=1.01 * norm)

    assert np.array_equal(quantized(update, descriptor)[:-1], rounded(update, descriptor))


def test_the_bound_itself_is_within_it() -> None:
    descriptor = described(1, value_bits=3)
    tight = replace(descriptor, norm_bound=0.9 / descriptor.levels)
    keys = [bytes([key]) * 32 for key in range(60)]
    update = np.array([0.5 / descriptor.levels], np.float32)

    assert tight.bound_squared == 1
    assert {int(quantized(update, tight, key=key)[0]) for key in keys} == {0, 1}


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(number: float) -> None:
    with pytest.raises(SecureAggregationError, match="update must be finite, got NaN or infinity"):
        quantized(np.array([0, number, 0], np.float32), described(3))


def test_words_travel_with_the_least_significant_byte_first() -> None:
    assert words_dtype(32).str == "<u4"
    assert words_dtype(64).str == "<u8"


@pytest.mark.parametrize("edge", [1.0, -1.0])
def test_the_clip_is_the_largest_level(edge: float) -> None:
    descriptor = described(3)

    found = quantized(np.array([edge, 2 * edge, 0.0], np.float32), descriptor)

    assert found.tolist() == [edge * 32767, edge * 32767, 0, 1]


def test_numbers_too_small_for_a_step_are_mostly_zero_and_harmless() -> None:
    descriptor = described(3)

    found = quantized(np.array([1e-45, -1e-45, 0.0], np.float32), descriptor)

    assert found.tolist()[2] == 0
    assert set(found.tolist()[:2]) <= {-1, 0}


@pytest.mark.parametrize(
    "update", [np.zeros(4, np.float32), np.zeros(3, np.float64), np.zeros((3, 1), np.float32)]
)
def test_an_update_of_another_form_is_refused(update: NDArray[np.float32]) -> None:
    with pytest.raises(SecureAggregationError, match=r"must be float32 or int64 of shape \(3,\)"):
        quantized(update, described(3))


@pytest.mark.parametrize("ring_bits", [32, 64])
def test_steps_are_taken_as_they_are(ring_bits: int) -> None:
    descriptor = described(4, ring_bits=ring_bits)
    steps = np.array([0, -1, descriptor.levels, -descriptor.levels])

    assert quantized(steps, descriptor, 3).tolist() == [*(steps * 3).tolist(), 3]


def test_more_steps_than_the_round_has_levels_are_cut_as_real_numbers_are() -> None:
    descriptor = described(3)
    levels = descriptor.levels

    cut = quantized(np.array([5, levels + 1, -(1 << 62)]), descriptor)

    assert cut.tolist() == [5, levels, -levels, 1]


NOISED = {"weight_bound": 1, "value_bits": 8}


@pytest.mark.parametrize("ring_bits", [32, 64])
def test_a_client_adds_its_share_of_the_noise_to_every_number(ring_bits: int) -> None:
    descriptor = described(50_000, noise_variance=1_000, ring_bits=ring_bits, **NOISED)
    steps = np.full(50_000, -100)

    noise = quantized(steps, descriptor)[:-1] - steps

    assert abs(noise.mean()) < 6 * np.sqrt(1_000 / noise.size)
    # The deviation of a sample's variance: that of Skellam noise is 2 v^2 + v.
    assert abs(noise.var() - 1_000) < 6 * np.sqrt((2 * 1_000**2 + 1_000) / noise.size)


def test_the_noise_is_the_same_with_the_same_key_and_another_one_with_another() -> None:
    descriptor = described(1_000, noise_variance=1_000, **NOISED)
    steps = np.zeros(1_000, np.int64)

    once = quantized(steps, descriptor)

    assert (once == quantized(steps, descriptor)).all()
    assert (once != quantized(steps, descriptor, noise_key=bytes(32))).mean() > 0.9
    # What is rounded at random is noised with randomness of its own.
    real = quantized(np.zeros(1_000, np.float32), descriptor, key=bytes(32))
    assert (once == real).all()


def test_noise_beyond_what_happens_is_cut() -> None:
    descriptor = described(4, noise_variance=2, **NOISED)
    narrow = replace(descriptor, noise_variance=0)
    assert descriptor.noised_levels == narrow.levels + 17
    assert narrow.noised_levels == narrow.levels == 127
    assert (descriptor.noised_bits, narrow.noised_bits) == (9, 8)

    numbers = quantized(np.full(4, 127), descriptor)[:-1]

    assert abs(numbers).max() <= descriptor.noised_levels
