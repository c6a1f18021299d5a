"""Mechanisms: noise on sums of whole numbers, and what each release has to be charged with.

The noise and its price come from the same two numbers, the noise multiplier and the bound that
every contribution was verified against, so that neither can be changed without the other. What is
charged is never below what was given: variances are rounded up, scales down and bounds up.

A total that has been noised twice has been released twice. Whoever has to send again keeps what was
sent.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kumiai.privacy.checking import positive, whole
from kumiai.privacy.events import DiscreteGaussianEvent, SkellamEvent, l1_norm_max_of
from kumiai.privacy.keystream import Keystream
from kumiai.privacy.sampler import Integers, discrete_gaussian, skellam

__all__ = ["GaussianMechanism", "SkellamShares", "float_below", "verified_integers"]

_NOISE_MULTIPLIER_MAX: Final = 1 << 12
_L2_NORM_SQUARED_MAX: Final = 1 << 52
_TOTAL_MAX: Final = 1 << 62
_COUNT_MAX: Final = 10**6
_DIMENSION_MAX: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class GaussianMechanism:
    """Central noise: whoever has the sum of all contributions adds discrete Gaussian noise.

    Attributes:
        noise_multiplier: standard deviation of the noise divided by the bound, up to 4096.
        l2_norm_squared: the bound of one contribution's L2 norm, squared; 1 to 2^52.

    Raises:
        TypeError, ValueError: one of them is not what it must be.

    Source: Canonne, Kamath, Steinke 2020, theorem 14.
    """

    noise_multiplier: float
    l2_norm_squared: int

    def __post_init__(self) -> None:
        """Bring the numbers to their types; refuse what is wrong."""
        object.__setattr__(self, "noise_multiplier", _noise_multiplier(self.noise_multiplier))
        object.__setattr__(self, "l2_norm_squared", _l2_norm_squared(self.l2_norm_squared))

    @property
    def variance(self) -> int:
        """The variance of the noise in each coordinate, rounded up to a whole number."""
        return math.ceil(Fraction(self.noise_multiplier) ** 2 * self.l2_norm_squared)

    @property
    def event(self) -> DiscreteGaussianEvent:
        """What each release is charged with."""
        return DiscreteGaussianEvent(
            scale=_root_below(self.variance), l2_norm_max=_root_above(self.l2_norm_squared)
        )

    def release(self, total: NDArray[Any]) -> Integers:
        """Return a total with fresh noise in each coordinate.

        Args:
            total: of int64, any shape: the sum of contributions within the bound; kept as it is.

        Raises:
            TypeError, ValueError: the total is of another type, or beyond 2^62.
        """
        return self._release_with(Keystream.fresh(), total)

    def _release_with(self, keystream: Keystream, total: NDArray[Any]) -> Integers:
        numbers = verified_integers("total", total)
        noise = discrete_gaussian(keystream, numbers.size, Fraction(self.variance))
        return numbers + noise.reshape(numbers.shape)


@dataclass(frozen=True, slots=True)
class SkellamShares:
    """Distributed noise: each client adds a share, and enough shares are as good as central noise.

    Sums of Skellam numbers are Skellam numbers, so whoever drops out leaves exact noise behind,
    only less of it; and more shares than were counted on give more noise than was charged for.

    Attributes:
        noise_multiplier: standard deviation of the noise in the sum divided by the bound, up to
            4096, when no more shares are in it than were counted on.
        l2_norm_squared: the bound of one contribution's L2 norm, squared; 1 to 2^52.
        dimension: coordinates of a contribution.
        share_count: how many shares are surely in a sum that whoever looks does not know: the
            fewest survivors with which a round is completed, less those of them who might tell
            their noise to others, and less one where a client looks, who knows its own.

    Raises:
        TypeError, ValueError: one of them is not what it must be.

    Source: Agarwal, Kairouz, Liu 2021, theorem 3.5 and section 4.
    """

    noise_multiplier: float
    l2_norm_squared: int
    dimension: int
    share_count: int

    def __post_init__(self) -> None:
        """Bring the numbers to their types; refuse what is wrong."""
        object.__setattr__(self, "noise_multiplier", _noise_multiplier(self.noise_multiplier))
        object.__setattr__(self, "l2_norm_squared", _l2_norm_squared(self.l2_norm_squared))
        for name, most in (("dimension", _DIMENSION_MAX), ("share_count", _COUNT_MAX)):
            value = whole(name, getattr(self, name), at_least=1, at_most=most)
            object.__setattr__(self, name, value)
        # The sampler refuses more, and shall not do so amid a round.
        whole("variance of a share", self.share_variance, at_least=2, at_most=1 << 51)

    @property
    def share_variance(self) -> int:
        """The variance of one share in each coordinate: the next even number."""
        total = Fraction(self.noise_multiplier) ** 2 * self.l2_norm_squared
        return 2 * math.ceil(total / (2 * self.share_count))

    @property
    def event(self) -> SkellamEvent:
        """What each release of a sum with enough shares is charged with."""
        l2_norm_max = _root_above(self.l2_norm_squared)
        return SkellamEvent(
            variance=float_below(self.share_variance * self.share_count),
            l2_norm_max=l2_norm_max,
            l1_norm_max=l1_norm_max_of(l2_norm_max, self.dimension),
        )

    def deviation_in(self, survivor_count: int) -> float:
        """Return the standard deviation of the noise in a sum with so many shares."""
        return math.sqrt(self.share_variance * survivor_count)

    def share(self) -> Integers:
        """Return a client's share of the noise, fresh, one number for each coordinate."""
        return self._share_with(Keystream.fresh())

    def _share_with(self, keystream: Keystream) -> Integers:
        return skellam(keystream, self.dimension, self.share_variance)


def verified_integers(name: str, numbers: Any) -> Integers:
    """Return an array of int64 that noise may be added to.

    Raises:
        TypeError: it is something else.
        ValueError: a number is beyond 2^62.
    """
    if not isinstance(numbers, np.ndarray) or numbers.dtype != np.int64:
        found = numbers.dtype if isinstance(numbers, np.ndarray) else type(numbers).__name__
        raise TypeError(f"{name} must be an array of int64, got {found}; quantize first")
    if numbers.size and max(int(numbers.max()), -int(numbers.min())) > _TOTAL_MAX:
        raise ValueError(f"{name} must have numbers of at most 2^62, got larger ones")
    return numbers


def _noise_multiplier(value: Any) -> float:
    number = positive("noise_multiplier", value)
    if number > _NOISE_MULTIPLIER_MAX:
        raise ValueError(f"noise_multiplier must be at most {_NOISE_MULTIPLIER_MAX}, got {value!r}")
    return number


def _l2_norm_squared(value: Any) -> int:
    return whole("l2_norm_squared", value, at_least=1, at_most=_L2_NORM_SQUARED_MAX)


def float_below(number: int) -> float:
    """Return a float that is not above the number."""
    value = float(number)
    return value if value <= number else math.nextafter(value, 0)


def _root_below(number: int) -> float:
    """Return a float that is not above the square root."""
    root = math.sqrt(number)
    return root if Fraction(root) ** 2 <= number else math.nextafter(root, 0)


def _root_above(number: int) -> float:
    """Return a float that is not below the square root."""
    root = math.sqrt(number)
    return root if Fraction(root) ** 2 >= number else math.nextafter(root, math.inf)
