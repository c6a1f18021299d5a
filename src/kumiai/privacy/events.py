"""What has to be paid for: each kind of noisy release, as a value that says all of its price.

An event is one release. Its numbers are those of the release as it was made: ``noise_multiplier``
is the standard deviation of the noise divided by the clipping norm, which bounds the L2 norm of one
contribution. How far a neighbouring data set can move the sum follows from the adjacency and is
worked out here, never by the caller: once the bound when a contribution is left out, twice when it
is replaced by another one.

An event has one spelling as JSON, so that equal events are equal bytes under a hash.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar, Final

from kumiai.core.errors import IntegrityError
from kumiai.privacy.checking import finite, fraction, positive, whole

__all__ = [
    "COUNT_MAX",
    "Adjacency",
    "DiscreteGaussianEvent",
    "Event",
    "FixedSizeGaussianEvent",
    "GaussianEvent",
    "MatrixEvent",
    "PoissonDiscreteGaussianEvent",
    "PoissonGaussianEvent",
    "Sampling",
    "SkellamEvent",
    "TreeEvent",
    "event_from_json",
    "event_to_json",
    "l1_norm_max_of",
]

Check = Callable[[str, Any], Any]

COUNT_MAX: Final = 10**12
"""The most rounds, clients or records that are counted here."""
_COEFFICIENT_COUNT_MAX: Final = 4096


class Adjacency(StrEnum):
    """Which two data sets nobody shall tell apart."""

    ZERO_OUT = "zero-out"
    """One contribution counts as zero; who is there and the denominator are public."""
    ADD_OR_REMOVE = "add-or-remove"
    """One contribution is there or not."""
    REPLACE_ONE = "replace-one"
    """One contribution is another one: the sum moves by up to twice the clipping norm."""


class Sampling(StrEnum):
    """What is claimed about who takes part; a claim that does not hold voids the epsilon."""

    NONE = "none"
    """Every participation is charged in full; who takes part may be known to all."""
    POISSON = "poisson"
    """Each joins by an independent coin, and nobody but the one who adds learns who did."""
    FIXED_SIZE = "fixed-size"
    """A uniformly drawn set of known size, and nobody but the one who adds learns which."""
    SCHEDULE = "schedule"
    """A public schedule that keeps a minimum distance between two participations of the same."""


def _count(name: str, value: Any) -> int:
    return whole(name, value, at_least=1, at_most=COUNT_MAX)


def _coefficients(name: str, value: Any) -> tuple[float, ...]:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= _COEFFICIENT_COUNT_MAX:
        raise ValueError(f"{name} must be 1 to {_COEFFICIENT_COUNT_MAX} numbers, got {value!r:.80}")
    numbers = tuple(finite(f"{name}[{index}]", each) for index, each in enumerate(value))
    if numbers[0] == 0:
        raise ValueError(f"{name}[0] must not be 0, got {numbers[0]!r}")
    return numbers


@dataclass(frozen=True, slots=True)
class Event:
    """One release: the base of all kinds.

    Attributes:
        kind: the word for it in JSON.
        sampling: what is claimed about who takes part.
        adjacencies: those under which its price is proven.
    """

    kind: ClassVar[str]
    sampling: ClassVar[Sampling] = Sampling.NONE
    adjacencies: ClassVar[frozenset[Adjacency]] = frozenset(Adjacency)
    _checks: ClassVar[Mapping[str, Check]]

    adjacency: Adjacency = field(default=Adjacency.ZERO_OUT, kw_only=True)

    def __post_init__(self) -> None:
        """Bring each number to its own type; refuse what is wrong, with the field named."""
        for name, check in self._checks.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        if self.adjacency not in tuple(self.adjacencies):
            able = " or ".join(sorted(self.adjacencies))
            raise ValueError(f"adjacency must be {able} for {self.kind}, got {self.adjacency!r}")
        object.__setattr__(self, "adjacency", Adjacency(self.adjacency))

    @property
    def sensitivity_factor(self) -> int:
        """How many bounds of one contribution two neighbouring sums can be apart."""
        return 2 if self.adjacency is Adjacency.REPLACE_ONE else 1


@dataclass(frozen=True, slots=True)
class GaussianEvent(Event):
    """Gaussian noise on a sum of contributions, each of an L2 norm of at most the clipping norm.

    Raises:
        TypeError, ValueError: a field is not what it must be; so for all kinds.
    """

    noise_multiplier: float

    kind = "gaussian"
    _checks = MappingProxyType({"noise_multiplier": positive})


@dataclass(frozen=True, slots=True)
class PoissonGaussianEvent(Event):
    """Gaussian noise on the sum of those whom independent, secret coins have picked.

    Attributes:
        sampling_rate: the chance of each to take part, 0 to 1.
        noise_multiplier: standard deviation of the noise divided by the clipping norm.
    """

    sampling_rate: float
    noise_multiplier: float

    kind = "poisson-gaussian"
    sampling = Sampling.POISSON
    adjacencies = frozenset({Adjacency.ZERO_OUT, Adjacency.ADD_OR_REMOVE})
    _checks = MappingProxyType({"sampling_rate": fraction, "noise_multiplier": positive})


@dataclass(frozen=True, slots=True)
class PoissonDiscreteGaussianEvent(Event):
    """Discrete Gaussian noise on the sum of those vectors of integers that secret coins picked.

    Attributes:
        sampling_rate: the chance of each to take part, 0 to 1.
        noise_multiplier: scale of the noise divided by the bound of one vector's L2 norm.
    """

    sampling_rate: float
    noise_multiplier: float

    kind = "poisson-discrete-gaussian"
    sampling = Sampling.POISSON
    adjacencies = frozenset({Adjacency.ZERO_OUT, Adjacency.ADD_OR_REMOVE})
    _checks = MappingProxyType({"sampling_rate": fraction, "noise_multiplier": positive})


@dataclass(frozen=True, slots=True)
class FixedSizeGaussianEvent(Event):
    """Gaussian noise on the sum of a secret, uniformly drawn set of known size.

    Attributes:
        sample_size: how many are drawn, without replacement.
        population: out of how many; public.
        noise_multiplier: standard deviation of the noise divided by the clipping norm. The price is
            that of half of it, because a replaced contribution moves the sum by twice that norm.
    """

    sample_size: int
    population: int
    noise_multiplier: float
    adjacency: Adjacency = field(default=Adjacency.REPLACE_ONE, kw_only=True)

    kind = "fixed-size-gaussian"
    sampling = Sampling.FIXED_SIZE
    adjacencies = frozenset({Adjacency.REPLACE_ONE})
    _checks = MappingProxyType(
        {"sample_size": _count, "population": _count, "noise_multiplier": positive}
    )

    def __post_init__(self) -> None:
        """Check the fields."""
        Event.__post_init__(self)
        if self.sample_size > self.population:
            raise ValueError(
                f"sample_size must be at most the population of {self.population}, "
                f"got {self.sample_size}"
            )


@dataclass(frozen=True, slots=True)
class DiscreteGaussianEvent(Event):
    """Discrete Gaussian noise on a sum of vectors of integers.

    Attributes:
        scale: of the noise in each coordinate; its standard deviation, where that is not small.
        l2_norm_max: the bound of one contribution's L2 norm, in the same integers.
    """

    scale: float
    l2_norm_max: float

    kind = "discrete-gaussian"
    _checks = MappingProxyType({"scale": positive, "l2_norm_max": positive})


@dataclass(frozen=True, slots=True)
class SkellamEvent(Event):
    """Skellam noise on a sum of vectors of integers: sums of it are Skellam noise again.

    Attributes:
        variance: of all noise that surely is in a coordinate of the sum.
        l2_norm_max: the bound of one contribution's L2 norm, in the same integers.
        l1_norm_max: the bound of its L1 norm; `l1_norm_max_of` gives the one that always holds.
    """

    variance: float
    l2_norm_max: float
    l1_norm_max: float

    kind = "skellam"
    _checks = MappingProxyType(
        {"variance": positive, "l2_norm_max": positive, "l1_norm_max": positive}
    )

    def __post_init__(self) -> None:
        """Check the fields."""
        Event.__post_init__(self)
        if self.l1_norm_max < self.l2_norm_max:
            raise ValueError(
                f"l1_norm_max must be at least l2_norm_max of {self.l2_norm_max!r}, "
                f"got {self.l1_norm_max!r}"
            )


@dataclass(frozen=True, slots=True)
class MatrixEvent(Event):
    """All the rounds of a run with correlated noise: a banded matrix factorisation.

    The noise of the run is the inverse of a lower triangular Toeplitz matrix times independent
    Gaussian noise. Nobody takes part twice within ``separation`` rounds, which the one who picks
    the cohorts must enforce, by a schedule that does not look at data.

    Attributes:
        noise_multiplier: standard deviation of the independent noise divided by the clipping norm.
        coefficients: the matrix's first column down to its last entry that is not zero.
        rounds: how many the run has.
        separation: how many rounds later somebody takes part again at the earliest; at least as
            many as there are coefficients.
    """

    noise_multiplier: float
    coefficients: tuple[float, ...]
    rounds: int
    separation: int

    kind = "matrix"
    sampling = Sampling.SCHEDULE
    _checks = MappingProxyType(
        {
            "noise_multiplier": positive,
            "coefficients": _coefficients,
            "rounds": _count,
            "separation": _count,
        }
    )

    def __post_init__(self) -> None:
        """Check the fields."""
        Event.__post_init__(self)
        if len(self.coefficients) > self.separation:
            raise ValueError(
                f"separation must be at least the {len(self.coefficients)} coefficients, "
                f"got {self.separation}"
            )


@dataclass(frozen=True, slots=True)
class TreeEvent(Event):
    """All the rounds of a run with the noise of a binary tree over them.

    Each node releases the noisy sum of the rounds below it.

    Attributes:
        noise_multiplier: standard deviation of a node's noise divided by the clipping norm.
        rounds: how many leaves are used.
        separation: how many rounds later somebody takes part again at the earliest.
    """

    noise_multiplier: float
    rounds: int
    separation: int

    kind = "tree"
    sampling = Sampling.SCHEDULE
    _checks = MappingProxyType(
        {"noise_multiplier": positive, "rounds": _count, "separation": _count}
    )


_KINDS: Final[Mapping[str, type[Event]]] = MappingProxyType(
    {
        each.kind: each
        for each in (
            GaussianEvent,
            PoissonGaussianEvent,
            PoissonDiscreteGaussianEvent,
            FixedSizeGaussianEvent,
            DiscreteGaussianEvent,
            SkellamEvent,
            MatrixEvent,
            TreeEvent,
        )
    }
)


def l1_norm_max_of(l2_norm_max: float, dimension: int) -> float:
    """Return what the L1 norm of a vector of integers can be at most.

    Args:
        l2_norm_max: the bound of its L2 norm, > 0.
        dimension: how many integers it has.

    Returns:
        The lesser of l2 sqrt(dimension), by Cauchy and Schwarz, and of l2 squared, because no
        integer is greater than its square; no less than l2 itself.
    """
    l2 = positive("l2_norm_max", l2_norm_max)
    d = _count("dimension", dimension)
    return max(l2, min(l2 * math.sqrt(d), l2 * l2))


def event_to_json(event: Event) -> str:
    """Return the one spelling of an event: sorted keys, no spaces, shortest exact numbers."""
    content = {each.name: getattr(event, each.name) for each in fields(event)}
    return json.dumps({"kind": event.kind, **content}, sort_keys=True, separators=(",", ":"))


def event_from_json(text: str) -> Event:
    """Read an event that `event_to_json` wrote.

    Raises:
        IntegrityError: it is not the one spelling of an event.
    """
    try:
        content = json.loads(text)
        event = _KINDS[content.pop("kind")](**content)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"event must be the JSON of a known kind with its fields, got {len(text)} characters "
            f"that are not: {error}"
        ) from error
    if event_to_json(event) != text:
        raise IntegrityError(
            f"event must be in its one spelling, got {len(text)} characters of another one"
        )
    return event
