"""Masks never take the largest value, because they were drawn from a range that leaves it out.

A published implementation drew its masks with ``randint(0, range - 1)``, whose upper end is not
included: a masked value then excludes one plain value, and a count of sums tells more. Ours are
whole words of a keystream: every value occurs, the first and the last as often as any other.
"""

import math

import numpy as np
import pytest

from kumiai.crypto.masks import Words, add_mask

COUNT = 1 << 22
TOP = 0xFFFF
P_VALUE_MIN = 1e-6


def high_halves(key: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint32]]:
    buffer: Words = np.zeros(COUNT, np.uint32)
    add_mask(buffer, key)
    return np.asarray(buffer >> np.uint32(16), np.uint32)


def two_sided_p_value(count: int, expected: float) -> float:
    """Return how likely a count at least this far off is; Poisson's, as a normal's."""
    return math.erfc(abs(count - expected) / math.sqrt(2 * expected))


@pytest.mark.parametrize("value", [0, 1, TOP - 1, TOP])
@pytest.mark.parametrize("key", [bytes(32), bytes(range(32)), b"\xff" * 32])
def test_the_values_at_both_ends_occur_as_often_as_others(key: bytes, value: int) -> None:
    count = int((high_halves(key) == value).sum())

    assert two_sided_p_value(count, COUNT / (TOP + 1)) > P_VALUE_MIN


def test_every_high_half_occurs() -> None:
    # 4 million draws of 65 536: one that never comes has a probability of 65536 e^-64, 1e-23.
    assert len(np.unique(high_halves(bytes(range(32))))) == TOP + 1


def test_the_attacked_way_would_be_noticed() -> None:
    drawn = np.random.default_rng(1).integers(0, TOP, COUNT)  # the top value left out

    assert two_sided_p_value(int((drawn == TOP).sum()), COUNT / (TOP + 1)) < P_VALUE_MIN


@pytest.mark.parametrize("bits", [32, 64])
def test_the_largest_word_itself_can_occur(bits: int) -> None:
    kind = np.uint32 if bits == 32 else np.uint64
    buffer: Words = np.zeros(1, kind)
    add_mask(buffer, bytes(32))

    # What makes the largest word out of this one is a value like any other.
    needed: Words = np.array([2**bits - 1 - int(buffer[0])], kind)
    add_mask(needed, bytes(32))

    assert int(needed[0]) == 2**bits - 1
