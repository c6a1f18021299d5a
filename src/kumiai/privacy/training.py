"""Private training where the data is: descent whose every step is clipped and noised (DP-SGD).

In each step every record joins by a coin of its own, what it adds is cut to a norm over all numbers
of the model, and the sum leaves the step with exact integer noise, divided by a number that
everybody knows. Nobody learns which records the coins picked, and so a step costs less than its
noise alone would.

A step is made once and lets its sum out once: its price is paid for one release.

Source: Abadi et al. 2016, "Deep Learning with Differential Privacy".
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kumiai.privacy.checking import fraction, positive, whole
from kumiai.privacy.events import PoissonDiscreteGaussianEvent
from kumiai.privacy.keystream import Keystream
from kumiai.privacy.mechanisms import GaussianMechanism
from kumiai.privacy.records import RecordSum

__all__ = ["NOISE_MULTIPLIER_MAX", "PrivateTraining", "TrainingStep", "TrainingTerms"]

NOISE_MULTIPLIER_MAX: Final = 1 << 12
_CLIP_STEPS: Final = 1 << 20
"""How finely a clip is counted: even a model of 10^8 numbers loses but a hundredth of it."""
_SLACK: Final = 2.0**-7
"""How far beyond the clip a gradient may be that was clipped by floats of 32 bits."""
_WORDS: Final = 1 << 64
_STEPS_MAX: Final = 10**6
_DIMENSION_MAX: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class TrainingTerms:
    """How a site trains privately: the same for all sites, and nothing of their data.

    Attributes:
        clip: the largest L2 norm of what a record adds to a step.
        noise_multiplier: scale of the noise divided by the clip, up to 4096.
        sampling_rate: the chance of each record to join a step, more than 0, at most 1.
        steps: how many there are at most, up to 10^6.
        batch: by what sums are divided: how many records a step has at about a site of a size that
            everybody knows.
        learning_rate: of plain descent; a study that descends by itself has its own.

    Raises:
        TypeError, ValueError: a number is not what it must be.
    """

    clip: float
    noise_multiplier: float
    sampling_rate: float
    steps: int
    batch: float
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        """Bring the numbers to their types; refuse what is wrong, with the field named."""
        for name in ("clip", "noise_multiplier", "batch", "learning_rate"):
            object.__setattr__(self, name, positive(name, getattr(self, name)))
        if self.noise_multiplier > NOISE_MULTIPLIER_MAX:
            raise ValueError(
                f"noise_multiplier must be at most {NOISE_MULTIPLIER_MAX}, "
                f"got {self.noise_multiplier!r}"
            )
        rate = positive("sampling_rate", fraction("sampling_rate", self.sampling_rate))
        object.__setattr__(self, "sampling_rate", rate)
        steps = whole("steps", self.steps, at_least=1, at_most=_STEPS_MAX)
        object.__setattr__(self, "steps", steps)

    @property
    def event(self) -> PoissonDiscreteGaussianEvent:
        """What each of the steps costs."""
        return PoissonDiscreteGaussianEvent(self.sampling_rate, self.noise_multiplier)

    def mechanism(self, dimension: int) -> GaussianMechanism:
        """Return what noises a step's sum, for a model of so many numbers."""
        # Rounding a sum can move each of its numbers by one more than it was moved.
        bound = _CLIP_STEPS * (1 + _SLACK) + math.sqrt(dimension)
        return GaussianMechanism(self.noise_multiplier, math.ceil(bound * bound))

    @property
    def step_size(self) -> float:
        """What one whole number of a sum stands for."""
        return self.clip / _CLIP_STEPS


class TrainingStep:
    """One step: picks records, adds up what they say, and lets out the noised mean, once."""

    def __init__(self, terms: TrainingTerms, dimension: int) -> None:
        """Begin with nothing; `PrivateTraining.steps` makes steps."""
        self._terms = terms
        self._mechanism = terms.mechanism(dimension)
        self._sum = RecordSum(dimension, clip=terms.clip, step=terms.step_size)
        self._clipped: NDArray[np.float64] = np.zeros(dimension)
        self._left = 0
        self._is_over = False

    @property
    def dropped(self) -> int:
        """How many records counted as zero, because theirs was not finite; private."""
        return self._sum.dropped

    def picked(self, count: int) -> NDArray[np.intp]:
        """Toss a coin for each of so many records; return which of them join, in their order.

        May be called again for further records, never twice for one. Which they are is secret, and
        so is how many.
        """
        return self._picked_with(Keystream.fresh(), count)

    def add(self, gradients: NDArray[Any]) -> None:
        """Add the gradients of records that were picked; each is clipped here.

        Args:
            gradients: shape (records, dimension), floats; one that is not finite counts as zero.

        Raises:
            ValueError: the shape is another one, or more records are added than were picked.
            RuntimeError: the step is over.
        """
        self._count(len(gradients))
        self._sum.add(gradients)

    def add_clipped(self, total: NDArray[Any], count: int) -> None:
        """Add the sum of gradients that were clipped already, each to `TrainingTerms.clip`.

        That each of them was is for the caller to see to; floats of 32 bits may be off by a
        hundredth, which the noise makes up for.

        Args:
            total: shape (dimension,), finite floats.
            count: of how many picked records.

        Raises:
            ValueError: the shape is another one, a number is not finite, the sum is longer than so
                many clipped gradients can make it, or more records are added than were picked.
            RuntimeError: the step is over.
        """
        if total.shape != self._clipped.shape:
            raise ValueError(f"total must have shape {self._clipped.shape}, got {total.shape}")
        norm = float(np.linalg.norm(total.astype(np.float64)))
        if not norm <= count * self._terms.clip * (1 + _SLACK):
            raise ValueError(
                "total must be no longer than its clipped gradients can make it, got a longer one; "
                "cut each record's gradient to the clip before the sum"
            )
        self._count(count)
        # Rounded once, all together: each rounding could move by as much as this one record.
        self._clipped += total.astype(np.float64) / self._terms.step_size

    def mean(self) -> NDArray[np.float64]:
        """Return the noised mean gradient and end the step: shape (dimension,), float64.

        Raises:
            RuntimeError: the step is over: another noise on its sum would be another release.
        """
        self._verify_open()
        self._is_over = True
        clipped = np.rint(self._clipped).astype(np.int64)
        noised = self._mechanism.release(self._sum.total() + clipped)
        return noised.astype(np.float64) * (self._terms.step_size / self._terms.batch)

    def _picked_with(self, keystream: Keystream, count: int) -> NDArray[np.intp]:
        self._verify_open()
        words = np.empty(count, "<u8")
        keystream.fill(words)
        # Rounded down: nobody joins more often than is charged for.
        below = int(Fraction(self._terms.sampling_rate) * _WORDS)
        joins = words < np.uint64(below) if below < _WORDS else np.ones(count, np.bool_)
        rows = np.flatnonzero(joins)
        self._left += rows.size
        return rows

    def _count(self, count: int) -> None:
        self._verify_open()
        if count > self._left:
            raise ValueError(
                "gradients must be of the records that the step has picked, got more of them; call "
                "picked(count) and compute those rows alone"
            )
        self._left -= count

    def _verify_open(self) -> None:
        if self._is_over:
            raise RuntimeError("step must be used once, got a call after its mean; begin another")


class PrivateTraining:
    """The steps of one task, counted."""

    def __init__(self, terms: TrainingTerms) -> None:
        """Train by these terms."""
        self._terms = terms
        self._taken = 0

    @property
    def terms(self) -> TrainingTerms:
        """By what to train."""
        return self._terms

    @property
    def taken(self) -> int:
        """How many steps were begun."""
        return self._taken

    def steps(self, dimension: int) -> Iterator[TrainingStep]:
        """Yield the steps that are left; none once all were taken.

        Args:
            dimension: how many numbers a gradient has.

        Raises:
            TypeError, ValueError: it is none.
        """
        size = whole("dimension", dimension, at_least=1, at_most=_DIMENSION_MAX)
        while self._taken < self._terms.steps:
            self._taken += 1
            yield TrainingStep(self._terms, size)
