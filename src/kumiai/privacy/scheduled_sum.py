"""Rounds on a schedule, whose noise takes back a part of that of the rounds before it.

What matters of a run is the sum of its rounds so far, the model, and independent noise adds up
there. Here each round lets out, with fresh noise, a blend of its own sum and of those of the rounds
before it; what is worked out from that for the round alone carries noise that partly undoes the
earlier one. Blends are a banded matrix with the first numbers of the square root of the matrix that
sums up, in whole numbers, so that noise is added to integers exactly, as everywhere.

Nobody takes part twice within so many rounds as a blend has. So each participation stands in each
blend at most once, with one of the coefficients, and costs one release whose bound is their norm
times that of a contribution. It is paid for in full when it happens; nothing is claimed about who
takes part. By adaptive composition of each blend's own noise that holds however rounds follow from
what was released before, and for blends that lack earlier rounds.

Source: McKenna et al. 2023, "(Amplified) Banded Matrix Factorization"; Fichtenberger, Henzinger,
Upadhyay 2023 for the square root.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kumiai.privacy.checking import whole
from kumiai.privacy.clipping_round import STEPS, ClippedSum
from kumiai.privacy.events import DiscreteGaussianEvent
from kumiai.privacy.mechanisms import GaussianMechanism
from kumiai.privacy.sampler import Integers

__all__ = ["SEPARATION_MAX", "EarlierRound", "ScheduledSum"]

SEPARATION_MAX: Final = 64
_SCALE_BITS: Final = 8
"""A coefficient of 1 is so many bits: coarser ones are further from the best ones, and finer ones
leave no room for contributions."""


@dataclass(frozen=True, slots=True)
class EarlierRound:
    """A round that may be blended into later ones.

    Attributes:
        total: the sum of its contributions, without any noise.
        released: what was let out of it, float64, in steps.
    """

    total: Integers
    released: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledSum(ClippedSum):
    """The public facts of a round on a schedule.

    Attributes:
        separation: how many rounds later somebody takes part again at the earliest, 2 to 64.

    Raises:
        TypeError, ValueError: one of them is not what it must be.
    """

    separation: int

    def _verify_count(self) -> None:
        separation = whole("separation", self.separation, at_least=2, at_most=SEPARATION_MAX)
        object.__setattr__(self, "separation", separation)

    @property
    def coefficients(self) -> tuple[int, ...]:
        """What the round itself and those before it count in a blend."""
        exact, found = 1.0, []
        for index in range(self.separation):
            # Of 1 / sqrt(1 - x): (2k choose k) / 4^k.
            exact *= (2 * index - 1) / (2 * index) if index else 1.0
            found.append(round(exact * (1 << _SCALE_BITS)))
        return tuple(found)

    @property
    def mechanism(self) -> GaussianMechanism:
        """The noise for a blend; its bound is that of all that one participation adds to blends."""
        squared = sum(each * each for each in self.coefficients)
        return GaussianMechanism(self.noise_multiplier, STEPS**2 * squared)

    def event_at(self, place: int) -> DiscreteGaussianEvent:
        """Return what a round at most costs anybody, counted from 0 at the run's begin.

        Nobody is worse off than who takes part in the first round, and again as soon as may be.
        """
        this = self.coefficients[place % self.separation]
        return DiscreteGaussianEvent(
            scale=self.mechanism.event.scale, l2_norm_max=float(this * STEPS)
        )

    @property
    def sum_deviation(self) -> float:
        """Standard deviation of a first round's noise in each coordinate, in the update's units."""
        in_steps = math.sqrt(self.mechanism.variance) / self.coefficients[0]
        return in_steps * self.clipping_norm / STEPS

    def released(self, total: Integers, before: Sequence[EarlierRound]) -> NDArray[np.float64]:
        """Return what may be let out of a round; charge `event` for all who took part before.

        Args:
            total: the sum of its contributions, a vector of int64.
            before: the rounds before it, the last first; fewer where earlier ones are lost.

        Returns:
            The noised sum in steps, for `mean_of`.
        """
        first, *others = self.coefficients
        earlier = list(zip(others, before, strict=False))
        blend = first * total
        for coefficient, round_ in earlier:
            blend = blend + coefficient * round_.total
        noised = self.mechanism.release(blend).astype(np.float64)
        for coefficient, round_ in earlier:
            noised -= coefficient * round_.released
        return noised / first

    def mean_of(self, noisy: NDArray[Any]) -> NDArray[np.float64]:
        """Return the mean that a released sum stands for."""
        return np.asarray(noisy, np.float64) * self._unit
