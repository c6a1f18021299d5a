"""One round of clipped contributions: what each client sends, and what is released of the sum.

A contribution is a vector of whole numbers: the update, clipped to the round's clipping norm over
all of its tensors at once and counted in steps. Where the norm is to follow those of the updates,
there is one number more, which says by its sign whether the update was within the norm without
clipping. That number is as long as makes the noise of the one mechanism right for both: the sum and
the count are one release with one price, and nobody but the one who adds noise to the sum of all
ever sees a client's sign.

Everything in `ClippedSum` and `ClippingRound` is public and settled before the round begins: its
clipping norm is the one that the clients are sent, that the noise is made for, and that is charged
for. The denominator is the cohort that was expected, whoever came.

Source: Andrew, Thakkar, McMahan, Ramaswamy 2021, "Differentially Private Learning with Adaptive
Clipping", algorithm 1 and theorem 1; with the count's deviation of at least 1.65 noise multipliers,
because the paper's twentieth of the cohort alone can be too little for any noise on the update.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kumiai.privacy.checking import positive, whole
from kumiai.privacy.events import DiscreteGaussianEvent
from kumiai.privacy.mechanisms import GaussianMechanism, verified_integers
from kumiai.privacy.sampler import Integers
from kumiai.privacy.tensors import flat_norm, quantized

__all__ = ["STEPS", "ClippedSum", "ClippingRelease", "ClippingRound", "checked_norm"]

STEPS: Final = 1 << 16
"""How many steps the clipping norm has. Rounding a million numbers to them moves the norm by less
than a ten-thousandth."""
_COHORT_SIZE_MAX: Final = 10**6
_DEVIATION_PER_MEMBER: Final = 1 / 20
_DEVIATION_PER_NOISE: Final = 1.65
# At a half nothing is left for the sum, and next to it nearly nothing.
_DEVIATION_LEAST: Final = 0.51
_KEPT: Final = 1 - 2.0**-20
_NORM_MIN: Final = 1e-100
_NORM_MAX: Final = 1e100


@dataclass(frozen=True, slots=True)
class ClippingRelease:
    """What comes out of a round, noise and all; it may be published.

    Attributes:
        mean: the noisy sum of the contributions divided by the expected cohort, float64.
        unclipped_fraction: a noisy estimate of how many updates were within the norm, 0 to 1.
    """

    mean: NDArray[np.float64]
    unclipped_fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippedSum:
    """The public facts of a round whose contributions are clipped, and nothing is counted.

    Attributes:
        clipping_norm: how long a contribution can be, 1e-100 to 1e100.
        noise_multiplier: of the sum.
        cohort_size: how many contributions are expected; the denominator.

    Raises:
        TypeError, ValueError: one of them is not what it must be.
    """

    clipping_norm: float
    noise_multiplier: float
    cohort_size: int

    def __post_init__(self) -> None:
        """Bring the numbers to their types; refuse what is wrong."""
        object.__setattr__(self, "clipping_norm", checked_norm("clipping_norm", self.clipping_norm))
        noise_multiplier = positive("noise_multiplier", self.noise_multiplier)
        object.__setattr__(self, "noise_multiplier", noise_multiplier)
        size = whole("cohort_size", self.cohort_size, at_least=1, at_most=_COHORT_SIZE_MAX)
        object.__setattr__(self, "cohort_size", size)
        self._verify_count()
        # What is too much for the mechanism is refused here, not amid the round.
        self.mechanism  # noqa: B018

    def _verify_count(self) -> None:
        """Check what is said of the count, where there is one."""

    @property
    def sign_steps(self) -> int:
        """The absolute value of each contribution's last number; 0: there is no such number."""
        return 0

    @property
    def mechanism(self) -> GaussianMechanism:
        """The noise for the sum of the contributions."""
        return GaussianMechanism(self.noise_multiplier, STEPS**2 + self.sign_steps**2)

    @property
    def event(self) -> DiscreteGaussianEvent:
        """What the round is charged with, all that it lets out together."""
        return self.mechanism.event

    @property
    def sum_deviation(self) -> float:
        """Standard deviation of the noise in each coordinate of the sum, in the update's units."""
        return math.sqrt(self.mechanism.variance) * self.clipping_norm / STEPS

    def contribution(self, tensors: Mapping[Any, Any]) -> Integers:
        """Return what a client sends: a vector of whole numbers.

        Args:
            tensors: the client's update; finite.

        Raises:
            ValueError: it is not finite.
        """
        return self.contribution_of(tensors, flat_norm(tensors))

    def contribution_of(self, tensors: Mapping[Any, Any], norm: float) -> Integers:
        """Return the same for an update whose norm is known already."""
        factor = STEPS / max(norm, self.clipping_norm)
        steps = quantized(tensors, factor)
        kept = _KEPT
        while (squares := _squares(steps)) > STEPS**2:
            # Rounding can make a vector longer. A little shorter before it, and more than a little
            # if that was not enough: it ends, at the latest with zeros.
            factor *= kept * STEPS / math.sqrt(squares)
            kept *= kept
            steps = quantized(tensors, factor)
        return steps

    def verify(self, contribution: NDArray[Any]) -> None:
        """Check that a contribution is within the bound that is charged for.

        Raises:
            TypeError, ValueError: it is not, or no vector of int64.
        """
        _verify_steps(_vector("contribution", contribution))

    def mean_of(self, noisy: NDArray[Any]) -> NDArray[np.float64]:
        """Return the mean that a noised total stands for.

        Raises:
            TypeError, ValueError: it is no vector of int64.
        """
        return _vector("total", noisy) * np.float64(self._unit)

    @property
    def _unit(self) -> float:
        return self.clipping_norm / (STEPS * self.cohort_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippingRound(ClippedSum):
    """The public facts of a round that counts besides how many updates were within the norm.

    Attributes:
        noise_multiplier: of sum and count together.
        count_deviation: standard deviation of the noise in the count of unclipped updates; at
            least 0.51 noise multipliers, because at a half nothing would be left for the sum.
            ``None``: a twentieth of the cohort, or 1.65 noise multipliers where that is more, so
            that the sum's noise grows by at most 5 %.

    Raises:
        TypeError, ValueError: one of them is not what it must be.
    """

    count_deviation: float | None = None

    def _verify_count(self) -> None:
        if self.count_deviation is None:
            return
        deviation = positive("count_deviation", self.count_deviation)
        object.__setattr__(self, "count_deviation", deviation)
        if deviation < _DEVIATION_LEAST * self.noise_multiplier:
            raise ValueError(
                f"count_deviation must be at least {_DEVIATION_LEAST} of the noise_multiplier "
                f"of {self.noise_multiplier!r}, got {deviation!r}; give more or leave it out"
            )

    @property
    def sign_steps(self) -> int:
        """The absolute value of each contribution's last number."""
        deviation = self.count_deviation or max(
            self.cohort_size * _DEVIATION_PER_MEMBER, self.noise_multiplier * _DEVIATION_PER_NOISE
        )
        ratio = 2 * deviation / self.noise_multiplier
        return max(1, round(STEPS / math.sqrt(ratio * ratio - 1)))

    def contribution_of(self, tensors: Mapping[Any, Any], norm: float) -> Integers:
        """Return what a client sends: a vector of one number more than the tensors have."""
        sign = self.sign_steps if norm <= self.clipping_norm else -self.sign_steps
        return np.append(ClippedSum.contribution_of(self, tensors, norm), sign)

    def verify(self, contribution: NDArray[Any]) -> None:
        """Check that a contribution is within the bound that is charged for.

        Raises:
            TypeError, ValueError: it is not, or no vector of int64.
        """
        numbers = _vector("contribution", contribution)
        if abs(int(numbers[-1])) != self.sign_steps:
            raise ValueError(
                f"contribution must end with {self.sign_steps} or its negative, got else"
            )
        _verify_steps(numbers[:-1])

    def release(self, total: NDArray[Any]) -> ClippingRelease:
        """Return what may be published of the sum of all contributions; charge `event` before.

        Args:
            total: the sum, a vector of int64; zeros if nobody came.

        Raises:
            TypeError, ValueError: the total is not that.
        """
        return self.opened(self.mechanism.release(total))

    def mean_of(self, noisy: NDArray[Any]) -> NDArray[np.float64]:
        """Return the mean that a noised total stands for.

        Raises:
            TypeError, ValueError: it is no vector of int64.
        """
        return _vector("total", noisy)[:-1] * np.float64(self._unit)

    def unclipped_fraction_of(self, noisy: NDArray[Any]) -> float:
        """Return how many updates were within the norm, noisy, 0 to 1.

        Raises:
            TypeError, ValueError: it is no vector of int64.
        """
        centred = int(_vector("total", noisy)[-1]) / (2 * self.sign_steps * self.cohort_size)
        return min(max(centred + 0.5, 0.0), 1.0)

    def opened(self, noisy: NDArray[Any]) -> ClippingRelease:
        """Return what a noised total says.

        Raises:
            TypeError, ValueError: it is no vector of int64.
        """
        return ClippingRelease(
            mean=self.mean_of(noisy), unclipped_fraction=self.unclipped_fraction_of(noisy)
        )


def checked_norm(name: str, value: Any) -> float:
    """Return a clipping norm with which no product leaves the floats.

    Raises:
        TypeError, ValueError: it is no number from 1e-100 to 1e100.
    """
    norm = positive(name, value)
    if not _NORM_MIN <= norm <= _NORM_MAX:
        raise ValueError(f"{name} must be from {_NORM_MIN} to {_NORM_MAX}, got {value!r}")
    return norm


def _vector(name: str, numbers: Any) -> Integers:
    vector = verified_integers(name, numbers)
    if vector.ndim != 1 or not vector.size:
        raise ValueError(f"{name} must be a vector of at least one number, got {vector.shape}")
    return vector


def _verify_steps(numbers: Integers) -> None:
    # The largest alone first: its square must not overflow.
    peak = int(abs(numbers).max(initial=0))
    if peak > STEPS or _squares(numbers) > STEPS**2:
        raise ValueError(f"contribution must have a norm of at most {STEPS}, got a longer one")


def _squares(numbers: Integers) -> int:
    # No number is above 2^17 or so, and their squares add up to less than 2^63.
    return int(np.einsum("i,i->", numbers, numbers))
