"""The one sampler: exact discrete Gaussian and Skellam noise, as integers, at millions a second.

A candidate is drawn from the law's envelope and accepted by comparing a uniform number with the
probability weight / height. Floats decide that wherever they can: the uniform number is known to
some forty bits and the probability up to a proven error. The few draws that fall in between, about
one in 2^30, are decided exactly: the same uniform number gets more bits, and the probability is
enclosed between closer rationals, until one is below the other. So what comes out has the law to
the last bit, and no float is in it.

How long a draw takes depends on it, and which entry of a table is read does, too: neither Python
nor numpy can promise constant time or wiped memory.

Source: Canonne, Kamath, Steinke 2020; Karney 2016 (lazy uniform numbers).
"""

from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kumiai.privacy.envelope import SLOT_BITS, Envelope, envelope_of
from kumiai.privacy.keystream import Keystream
from kumiai.privacy.laws import DiscreteGaussian, Law, Poisson

__all__ = ["Integers", "discrete_gaussian", "skellam", "skellam_again"]

Integers = NDArray[np.int64]

_BLOCK_COUNT: Final = 1 << 14
"""Candidates at once: what belongs to them stays in the processor's cache."""
_WORD_BITS: Final = 64
_SLOT_SHIFT: Final = np.uint64(_WORD_BITS - SLOT_BITS)
_COIN_MASK: Final = np.uint64((1 << (_WORD_BITS - 1 - SLOT_BITS)) - 1)


def discrete_gaussian(keystream: Keystream, size: int, variance: Fraction) -> Integers:
    """Return independent discrete Gaussian numbers.

    Args:
        keystream: in production a fresh one, used for nothing else.
        size: how many.
        variance: the parameter, 1/4 to 2^80.

    Raises:
        ValueError: an argument is out of its range.
    """
    return _draw(keystream, DiscreteGaussian(variance), size)


def skellam(keystream: Keystream, size: int, variance: int) -> Integers:
    """Return independent Skellam numbers of mean 0.

    Sums of them are Skellam numbers whose variance is the sum of the variances.

    Args:
        keystream: in production a fresh one, used for nothing else.
        size: how many.
        variance: an even number, 2 to 2^51: each number is the difference of two Poisson numbers.

    Raises:
        ValueError: an argument is out of its range.
    """
    if variance % 2:
        raise ValueError(f"variance must be an even number, got {variance}")
    law = Poisson(variance // 2)
    difference = _draw(keystream, law, size)
    difference -= _draw(keystream, law, size)
    return difference


def skellam_again(key: bytes, size: int, variance: int) -> Integers:
    """Return the same Skellam numbers each time: for noise that must be sent again as it was.

    Args:
        key: 32 bytes that came from the operating system for this one release, kept as secret as
            what the noise hides.
        size: how many.
        variance: as for `skellam`.

    Raises:
        ValueError: an argument is out of its range.
    """
    return skellam(Keystream(key), size, variance)


def _draw(keystream: Keystream, law: Law, size: int) -> Integers:
    """Return independent offsets from the law's mode."""
    if size < 0:
        raise ValueError(f"size must be at least 0, got {size}")
    candidates = _Candidates(keystream, law)
    drawn = np.empty(size, np.int64)
    done = 0
    while done < size:
        left = size - done
        accepted = candidates.accepted(min(left + (left >> 5) + 4, _BLOCK_COUNT))[:left]
        drawn[done : done + accepted.size] = accepted
        done += accepted.size
    return drawn


class _Candidates:
    """Draws candidates in blocks and keeps those that are accepted."""

    def __init__(self, keystream: Keystream, law: Law) -> None:
        self._keystream = keystream
        self._law = law
        self._envelope: Envelope = envelope_of(law)
        self._uniform_bits = _WORD_BITS - self._envelope.width_bits
        # What floats leave open: the errors of the probability, the bits to come, one rounding.
        self._band = self._envelope.error + 2.0**-self._uniform_bits + 2.0**-52

    def accepted(self, count: int) -> Integers:
        """Return the accepted ones among so many candidates."""
        envelope = self._envelope
        words = np.empty((2, count), "<u8")
        self._keystream.fill(words.reshape(-1))
        first, second = words
        entries = (first >> _SLOT_SHIFT).astype(np.int64)
        first &= _COIN_MASK
        is_second = first >= envelope.thresholds[entries]
        entries <<= 1
        entries += is_second
        offsets = envelope.starts[entries]
        width_bits = np.uint64(envelope.width_bits)
        offsets += (second & ((np.uint64(1) << width_bits) - np.uint64(1))).view(np.int64)
        second >>= width_bits
        probabilities = np.exp(-self._law.costs(offsets.astype(np.float64)))
        probabilities *= envelope.ratios[entries]
        # How far the uniform numbers are above the probabilities.
        gaps = second * 2.0**-self._uniform_bits
        gaps -= probabilities
        is_accepted = gaps < -self._band
        # Those of the tails are no numbers, and not beyond the band either.
        is_open = ~(np.abs(gaps) > self._band)
        if is_open.any():
            for place in np.flatnonzero(is_open).tolist():
                step = int(envelope.steps[entries[place]])
                decided = self._decided(step, int(offsets[place]), int(second[place]))
                is_accepted[place] = decided is not None
                offsets[place] = 0 if decided is None else decided
        return offsets[is_accepted]

    def _decided(self, step: int, offset: int, uniform: int) -> int | None:
        """Return what becomes of a candidate that floats can not decide, or None if it goes."""
        side = step - self._envelope.step_count
        if side < 0:
            good = self._is_below(offset, step, 0, uniform, self._uniform_bits)
            return offset if good else None
        return None if side == 2 else self._from_tail(side)

    def _from_tail(self, side: int) -> int | None:
        """Return a candidate of a tail if it is accepted, or else None."""
        tail = self._envelope.tails[side]
        halvings = 0
        while self._bits(1):
            halvings += 1
        distance = (halvings << tail.width_bits) + self._bits(tail.width_bits)
        offset = tail.first + tail.sign * distance
        # Each further step was drawn half as often, over 2^width_bits offsets.
        shift = halvings + 1 + tail.width_bits - self._envelope.width_bits
        step = self._envelope.step_count + side
        return offset if self._is_below(offset, step, shift, 0, 0) else None

    def _is_below(self, offset: int, step: int, shift: int, uniform: int, bits: int) -> bool:
        """Decide exactly whether a uniform number is below a probability.

        Args:
            offset: whose weight, times unit 2^shift / mass, is the probability.
            step: whose mass.
            shift: see there.
            uniform: the bits of the uniform number that are known; the others are drawn here.
            bits: how many these are.
        """
        mass = self._envelope.masses[step]
        factor = self._envelope.unit << shift
        while True:
            uniform = (uniform << _WORD_BITS) | self._keystream.draw_word()
            bits += _WORD_BITS
            low, high = self._law.weight_bounds(offset, bits + shift)
            # Both sides times mass 2^(bits + shift).
            if (uniform + 1) * mass << shift <= low * factor:
                return True
            if uniform * mass << shift >= high * factor:
                return False

    def _bits(self, count: int) -> int:
        """Return so many random bits."""
        drawn = 0
        for _ in range(0, count, _WORD_BITS):
            drawn = (drawn << _WORD_BITS) | self._keystream.draw_word()
        return drawn & ((1 << count) - 1)
