"""What noise a private run needs, and what a round of it costs: the same for both ends.

The coordinator plans with it; a site checks with it what it is asked to take part in. Noise counts
only as far as it surely is in the sum: that of the fewest survivors a round may have, less those
who may work for a lying coordinator, who know their own shares. Nor does a site that is curious
by itself count for the others: it takes its own share off what is published.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kumiai.core.errors import ConfigError
from kumiai.node.central_rounds import CentralPlan, central_plan_of
from kumiai.node.job import JobSpec, PrivacySpec
from kumiai.node.local_noise import LocalPlan, local_plan_of
from kumiai.privacy import (
    DEFAULT_ORDERS,
    SkellamEvent,
    calibrate_noise,
    epsilon_of,
    l1_norm_max_of,
    l2_norm_max_in_steps,
    rdp_of,
)
from kumiai.privacy.budget import payable
from kumiai.privacy.mechanisms import float_below
from kumiai.secagg import Outcome, RoundDescriptor

__all__ = [
    "NoisePlan",
    "PrivatePlan",
    "PrivateTerms",
    "event_of_round",
    "mean_of",
    "outlook_of",
    "plan_of",
    "private_plan_of",
    "sure_shares",
    "terms_of",
]

_RECORD_VALUE_BITS: Final = 24
_VARIANCE_MAX: Final = 1 << 51
_SIGNAL_LEAST: Final = 1.0


@dataclass(frozen=True, slots=True)
class PrivateTerms:
    """How a contribution is clipped and counted.

    Attributes:
        unit: whose contribution it is, ``record`` or ``client``.
        clip: its largest L2 norm.
        step: what one whole number stands for.
    """

    unit: str
    clip: float
    step: float


@dataclass(frozen=True, slots=True)
class NoisePlan:
    """How a private run counts and hides.

    Attributes:
        terms: of each contribution.
        coordinate_clip: the largest magnitude of a number that a site sends.
        value_bits: how finely such a number is counted.
        dimension: how many numbers a model has.
        rounds: how many a run has.
        noise_multiplier: the standard deviation of all noise, over the L2 norm of a contribution.
        delta: at which the epsilon is stated.
    """

    terms: PrivateTerms
    coordinate_clip: float
    value_bits: int
    dimension: int
    rounds: int
    noise_multiplier: float
    delta: float

    @property
    def l2_norm_max(self) -> float:
        """The bound of one contribution's L2 norm, in steps."""
        return l2_norm_max_in_steps(self.terms.clip, self.terms.step, self.dimension)

    @property
    def variance(self) -> float:
        """Of the noise in each number of the sum, in squared steps."""
        return (self.noise_multiplier * self.l2_norm_max) ** 2

    def variance_of_each(self, share_count: int) -> int:
        """Return the noise of each site, so that so many of them add up to all: an even number.

        Raises:
            ConfigError: it is too much to count.
        """
        each = 2 * math.ceil(self.variance / share_count / 2)
        if each > _VARIANCE_MAX:
            raise ConfigError(
                f"privacy.noise_multiplier must be less, got {self.noise_multiplier:g}: its noise "
                "is too large to count; lower secure_aggregation.value_bits"
            )
        return each

    def event(self) -> SkellamEvent:
        """Return what a round costs at least that much noise."""
        return _event(float(math.ceil(self.variance)), self.l2_norm_max, self.dimension)

    def releases(self, rounds: int) -> int:
        """Return in how many such releases anybody is after so many rounds, at most."""
        return rounds

    def epsilon(self) -> float:
        """Return what all rounds cost, each released once."""
        curve = self.releases(self.rounds) * rdp_of(self.event())
        return epsilon_of(DEFAULT_ORDERS, curve, self.delta)

    @property
    def deviation(self) -> float:
        """Of the noise in each number of the sum, over the clip: with what rounding adds to it."""
        return self.noise_multiplier * self.l2_norm_max / self.clip_in_steps

    @property
    def clip_in_steps(self) -> float:
        """How finely one contribution is counted."""
        return self.terms.clip / self.terms.step

    def signal_to_noise(self, units: int) -> float:
        """Return how the largest possible sum of contributions compares with the noise, as norms.

        Args:
            units: how many contributions there are.
        """
        return units / (self.deviation * math.sqrt(self.dimension))


PrivatePlan = NoisePlan | CentralPlan | LocalPlan


def plan_of(job: JobSpec, privacy: PrivacySpec, dimension: int) -> NoisePlan:
    """Return the plan of a job.

    Args:
        job: the job.
        privacy: its table.
        dimension: how many numbers the model has.

    Raises:
        ConfigError: no noise can keep the epsilon.
    """
    largest, value_bits = _counting_of(job, privacy)
    plan = NoisePlan(
        terms=terms_of(job, privacy),
        coordinate_clip=largest,
        value_bits=value_bits,
        dimension=dimension,
        rounds=job.run.rounds,
        noise_multiplier=privacy.noise_multiplier or 1.0,
        delta=privacy.delta,
    )
    return plan if privacy.epsilon is None else _calibrated(plan, privacy.epsilon)


def private_plan_of(job: JobSpec, privacy: PrivacySpec, dimension: int) -> PrivatePlan:
    """Return the plan of a private job, wherever its noise is added; see `plan_of`.

    Raises:
        ConfigError: no noise can keep the epsilon.
    """
    return _PLANNERS[privacy.noise](job, privacy, dimension)


def outlook_of(job: JobSpec, dimension: int) -> list[str]:
    """Return what a job promises, and warnings of what will come of it, in words; none without.

    Args:
        job: the job.
        dimension: how many numbers the model has.

    Raises:
        ConfigError: no noise can keep the epsilon.
    """
    privacy = job.privacy
    if privacy is None:
        return []
    plan = private_plan_of(job, privacy, dimension)
    schedule = f"over {plan.rounds} rounds" if isinstance(plan, NoisePlan) else plan.schedule
    promise = (
        f"privacy: epsilon {plan.epsilon():.3g} at delta {plan.delta:g} for each {privacy.unit}, "
        f"{schedule}; the noise is {plan.deviation:.3g} times the clip"
    )
    told = [promise]
    if plan.clip_in_steps < math.sqrt(dimension):
        told.append(
            f"warning: the clip is counted in {plan.clip_in_steps:.3g} steps, so that a "
            f"contribution that spreads over {dimension} numbers is rounded to nothing; "
            + (
                "lower privacy.records_per_site, or take a smaller model"
                if privacy.unit == "record"
                else "raise secure_aggregation.value_bits, or take a smaller model"
            )
        )
    units = privacy.records or job.cohort.size
    if units is None:
        return told
    if plan.delta * units >= 1:
        told.append(
            f"warning: privacy.delta must lie below one over the {units} units to mean much, got "
            f"{plan.delta:g}"
        )
    if (signal := plan.signal_to_noise(units)) < _SIGNAL_LEAST:
        told.append(
            f"warning: the noise is {1 / signal:.1f} times what {units} {privacy.unit}s can add up "
            "to, and the model will learn next to nothing; ask for fewer rounds, a larger epsilon, "
            "more of them or a smaller model"
            + ('; or hide each record: unit = "record"' if privacy.unit == "client" else "")
        )
    return told


_PLANNERS: Final[Mapping[str, Callable[[JobSpec, PrivacySpec, int], PrivatePlan]]] = (
    MappingProxyType({"distributed": plan_of, "central": central_plan_of, "local": local_plan_of})
)


def terms_of(job: JobSpec, privacy: PrivacySpec) -> PrivateTerms:
    """Return how sites clip and count their contributions."""
    largest, value_bits = _counting_of(job, privacy)
    return PrivateTerms(privacy.unit, privacy.clip, largest / ((1 << (value_bits - 1)) - 1))


def _counting_of(job: JobSpec, privacy: PrivacySpec) -> tuple[float, int]:
    """Return the largest number that a site sends, and how many bits count it."""
    if privacy.unit == "client":
        return privacy.clip, job.secure_aggregation.value_bits
    return privacy.clip * (privacy.records_per_site or privacy.records or 1), _RECORD_VALUE_BITS


@lru_cache(maxsize=64)
def _calibrated(plan: NoisePlan, epsilon: float) -> NoisePlan:
    bound = plan.l2_norm_max
    try:
        multiplier = calibrate_noise(
            lambda z: _event(math.ceil((z * bound) ** 2), bound, plan.dimension),
            steps=plan.rounds,
            target_epsilon=payable(epsilon),
            target_delta=plan.delta,
        )
    except ValueError as error:
        raise ConfigError(f"privacy.epsilon cannot be kept: {error}") from error
    return replace(plan, noise_multiplier=multiplier)


def _event(variance: float, l2_norm_max: float, dimension: int) -> SkellamEvent:
    return SkellamEvent(
        variance=variance,
        l2_norm_max=l2_norm_max,
        l1_norm_max=l1_norm_max_of(l2_norm_max, dimension),
    )


def event_of_round(descriptor: RoundDescriptor, terms: PrivateTerms) -> SkellamEvent:
    """Return what a round costs, as whoever takes part in it can work out.

    Args:
        descriptor: the round.
        terms: by which this site clipped and counted.

    Raises:
        ConfigError: the round counts otherwise, or has no noise.
    """
    step = descriptor.clip / descriptor.levels
    if step != terms.step:
        raise ConfigError(
            f"step of the round must be that of the task, {terms.step!r}, got {step!r}; this site "
            "takes no part in it"
        )
    if terms.unit == "client" and descriptor.norm_bound > terms.clip:
        raise ConfigError(
            f"norm_bound of the round must be at most the task's clip {terms.clip!r}, got "
            f"{descriptor.norm_bound!r}; this site takes no part in it"
        )
    if descriptor.noise_variance == 0:
        raise ConfigError("round must have noise, got none; this site takes no part in it")
    bound = l2_norm_max_in_steps(terms.clip, step, descriptor.dimension)
    variance = float_below(sure_shares(descriptor) * descriptor.noise_variance)
    return _event(variance, bound, descriptor.dimension)


def sure_shares(descriptor: RoundDescriptor) -> int:
    """Return how many shares of noise hide a contribution from whoever takes part: one or more.

    Of the fewest survivors, those do not count who tell theirs to others; and one at least, which
    whoever looks has added itself.
    """
    return descriptor.minimum_survivors - max(1, descriptor.colluders)


def mean_of(outcome: Outcome, privacy: PrivacySpec | None, *, invited: int) -> NDArray[np.float32]:
    """Return what a sum moves the model by, shape (dimension,), float32.

    With privacy the sum is divided by a number that everybody knows, never by how many came: that
    would tell of those who did not. A sum of gradients points uphill, so that it is taken off.
    Updates that their sites have noised are none of that: they hide their records by themselves.

    Args:
        outcome: the sum.
        privacy: the job's table, if it has one.
        invited: how many clients were asked.
    """
    if privacy is None or privacy.noise == "local":
        return outcome.mean()
    divisor = invited if privacy.records is None else -privacy.records
    return (outcome.total * (outcome.step / divisor)).astype(np.float32)
