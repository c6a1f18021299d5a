"""A law's envelope: steps above its weights, from which candidates are drawn, nearly all good ones.

The middle of a law is cut into at most 1020 steps, each as wide as the same power of two. A step's
mass is a whole number, not less than the weights below it; both tails and what is refused anyway
fill up to 2^63 in all, so that an alias table picks a step with one word and no error at all. A
candidate within a step is uniform, and is accepted with the probability weight / height.

A tail is covered by further steps, wide enough that each need only be half as high as the one
before; they are so unlikely that they are drawn number by number.

Source: Walker 1977, Vose 1991 (alias tables); Devroye 1986, section VII (discrete rejection).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kumiai.privacy.laws import Floats, Law

__all__ = ["SLOT_BITS", "Envelope", "Tail", "envelope_of"]

SLOT_BITS: Final = 10
_SLOT_COUNT: Final = 1 << SLOT_BITS
_STEPS_PER_SIDE: Final = 510
_REACH_DEVIATIONS: Final = 6.5
# Steps whose highest weight is below exp(-98) < 2^-141 are left to the tails.
_STEP_COST_MAX: Final = 98.0
_MARGIN: Final = 1 + 2.0**-40
_MASS_BITS: Final = 63
_SLOT_MASS: Final = 1 << (_MASS_BITS - SLOT_BITS)


@dataclass(frozen=True, slots=True)
class Tail:
    """What lies beyond the steps on one side.

    Attributes:
        first: the offset next to the last step.
        sign: 1 if it goes on upwards, -1 downwards.
        width_bits: each further step has 2^width_bits offsets.
    """

    first: int
    sign: int
    width_bits: int


@dataclass(frozen=True, slots=True)
class Envelope:
    """The steps, as the alias table that picks one.

    A word's upper ten bits choose a slot, the others below ``thresholds[slot]`` its first entry or
    else its second: entry 2 slot or 2 slot + 1 of the arrays.

    Attributes:
        width_bits: a step has 2^width_bits offsets.
        unit: the mass that a step of weight 1 has to have.
        thresholds: one for each slot, 0 to 2^53.
        starts: of each entry's step, the least offset.
        ratios: of each entry, unit / mass; NaN for a tail, 0 for what is refused.
        steps: of each entry, the number of its step.
        masses: of each step; the tails follow the steps, and the refused come last.
        tails: upwards and downwards.
        error: by how much a float of the acceptance probability is off at most.
    """

    width_bits: int
    unit: int
    thresholds: NDArray[np.uint64] = field(repr=False)
    starts: NDArray[np.int64] = field(repr=False)
    ratios: Floats = field(repr=False)
    steps: NDArray[np.int64] = field(repr=False)
    masses: Sequence[int] = field(repr=False)
    tails: tuple[Tail, Tail]
    error: float

    @property
    def step_count(self) -> int:
        """How many steps there are between the tails."""
        return len(self.masses) - 3


@lru_cache(maxsize=32)
def envelope_of(law: Law) -> Envelope:
    """Return the envelope of a law; the same one when it is asked for again."""
    width_bits = _width_bits(law)
    width = 1 << width_bits
    reach = float(_STEPS_PER_SIDE << width_bits)
    error = law.error(reach)
    grid = np.arange(_STEPS_PER_SIDE, dtype=np.float64) * width
    above, below = law.costs(grid), law.costs(-grid - 1)
    up = int(np.count_nonzero(above <= _STEP_COST_MAX))
    down = int(np.count_nonzero(below <= _STEP_COST_MAX))
    tails = (
        _tail(law, up * width, 1, width_bits, error),
        _tail(law, -down * width - 1, -1, width_bits, error),
    )
    costs = np.concatenate([above[:up], below[:down], [_cost(law, tail.first) for tail in tails]])
    heights = np.exp(error - costs) * _MARGIN
    # The further steps of a tail weigh as much as two of the first.
    heights[-2:] *= [2.0 ** (1 + tail.width_bits - width_bits) for tail in tails]
    unit = int(((1 << _MASS_BITS) - 2 * _SLOT_COUNT) / (float(heights.sum()) * _MARGIN))
    masses = [int(unit * height) + 1 for height in heights.tolist()]
    masses.append((1 << _MASS_BITS) - sum(masses))
    starts = np.concatenate([grid[:up], -grid[:down] - width, np.zeros(3)]).astype(np.int64)
    ratios = [unit / mass for mass in masses[:-3]] + [math.nan, math.nan, 0.0]
    thresholds, steps = _alias_table(masses)
    return Envelope(
        width_bits=width_bits,
        unit=unit,
        thresholds=thresholds,
        starts=starts[steps],
        ratios=np.array(ratios)[steps],
        steps=steps,
        masses=tuple(masses),
        tails=tails,
        # The cost's, then those of exp and of the products, none of which is above 1.
        error=error + 2.0**-48,
    )


def _width_bits(law: Law) -> int:
    """Return the width of the steps, such that they reach over the middle of the law."""
    least = _REACH_DEVIATIONS * law.deviation / _STEPS_PER_SIDE
    return max(0, math.ceil(math.log2(least)))


def _cost(law: Law, offset: int) -> float:
    return float(law.costs(np.array([float(offset)]))[0])


def _tail(law: Law, first: int, sign: int, width_bits: int, error: float) -> Tail:
    """Return a tail with the least width over which the weight falls to its half or below."""
    least = _cost(law, first) + math.log(2) * _MARGIN + 4 * error
    # A log-concave weight that has fallen to its half over one step does so over each further one.
    while _cost(law, first + (sign << width_bits)) < least:
        width_bits += 1
    return Tail(first, sign, width_bits)


def _alias_table(masses: Sequence[int]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Share masses that sum up to 2^63 out among the slots, at most two to each.

    Returns:
        The thresholds of the slots, and the numbers of the two masses of each.
    """
    left = [*masses, *[0] * (_SLOT_COUNT - len(masses))]
    first = list(range(_SLOT_COUNT))
    second = list(first)
    small = [slot for slot in first if left[slot] < _SLOT_MASS]
    large = [slot for slot in first if left[slot] > _SLOT_MASS]
    thresholds = [_SLOT_MASS] * _SLOT_COUNT
    while small:
        slot, giver = small.pop(), large[-1]
        thresholds[slot] = left[slot]
        second[slot] = giver
        left[giver] -= _SLOT_MASS - left[slot]
        if left[giver] <= _SLOT_MASS:
            large.pop()
            if left[giver] < _SLOT_MASS:
                small.append(giver)
    entries = np.array([first, second]).T.ravel()
    # An empty slot's own entry is never chosen, and has to be one that exists.
    entries[entries >= len(masses)] = len(masses) - 1
    return np.array(thresholds, np.uint64), entries
