"""Rounds to whose sum the coordinator adds the noise: what they cost, and what clients are told.

The coordinator sees each update, whole numbers of a bounded length, and is trusted with them; what
it publishes hides each client. Clip, noise and denominator of a round are settled before it begins:
they follow from the job and from what rounds before it have published, noise and all.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from kumiai.core.digest import digest_of
from kumiai.core.errors import ConfigError
from kumiai.node.job import JobSpec, PrivacySpec
from kumiai.privacy import (
    DEFAULT_ORDERS,
    ClippedSum,
    ClippingRound,
    DiscreteGaussianEvent,
    ScheduledSum,
    calibrate_noise,
    epsilon_of,
    next_clipping_norm,
    rdp_of,
)
from kumiai.privacy.budget import payable
from kumiai.privacy.clipping_round import STEPS

__all__ = [
    "CLIP_METRIC",
    "UNCLIPPED_METRIC",
    "CentralPlan",
    "CentralTerms",
    "central_plan_of",
    "central_round_of",
    "clip_after",
    "new_central_round",
    "opening_of",
]

CLIP_METRIC: Final = "privacy.clip"
UNCLIPPED_METRIC: Final = "privacy.unclipped"
"""Under these names a round's clip, and the noisy part of the updates within it, are published."""
# A variance is rounded up and a scale down, so that the price moves in the last digits.
_ABOVE: Final = 1 + 2.0**-40


@dataclass(frozen=True, slots=True)
class CentralTerms:
    """What a client is told of a round.

    Attributes:
        round: how its contribution is clipped and counted, and with which noise the sum goes out.
        opening: tells this opening of the round from every other one.
    """

    round: ClippedSum
    opening: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CentralPlan:
    """How a run counts and hides.

    Attributes:
        round: the first one; the others cost the same.
        dimension: how many numbers a model has.
        rounds: how many a run has.
        delta: at which the epsilon is stated.
    """

    round: ClippedSum
    dimension: int
    rounds: int
    delta: float

    def event(self) -> DiscreteGaussianEvent:
        """Return what a round costs who takes part in it."""
        return self.round.event

    def releases(self, rounds: int) -> int:
        """Return in how many such releases a client is after so many rounds, at most."""
        return math.ceil(rounds / self._separation)

    def epsilon(self) -> float:
        """Return what all rounds cost a client, each released once."""
        curve = self.releases(self.rounds) * rdp_of(self.event())
        return epsilon_of(DEFAULT_ORDERS, curve, self.delta)

    @property
    def _separation(self) -> int:
        return self.round.separation if isinstance(self.round, ScheduledSum) else 1

    @property
    def schedule(self) -> str:
        """How often a client takes part, in words."""
        rounds = f"over {self.rounds} rounds"
        if self._separation == 1:
            return rounds
        most, needed = self.releases(self.rounds), self._separation * self.round.cohort_size
        return f"{rounds}, at most {most} of them each, for {needed} clients or more"

    @property
    def deviation(self) -> float:
        """Of the noise in each number of the sum, over the clip."""
        return self.round.sum_deviation / self.round.clipping_norm

    @property
    def clip_in_steps(self) -> float:
        """How finely one contribution is counted."""
        return STEPS

    def signal_to_noise(self, units: int) -> float:
        """Return how the largest possible sum of contributions compares with the noise, as norms.

        Args:
            units: how many contributions there are.
        """
        return units / (self.deviation * math.sqrt(self.dimension))


def central_plan_of(job: JobSpec, privacy: PrivacySpec, dimension: int) -> CentralPlan:
    """Return the plan of a job.

    Args:
        job: the job.
        privacy: its table, with ``noise = "central"``.
        dimension: how many numbers the model has.

    Raises:
        ConfigError: no noise can keep the epsilon, or none so strong can be drawn.
    """
    this = central_round_of(job, privacy, privacy.clip)
    return CentralPlan(this, dimension, job.run.rounds, privacy.delta)


def central_round_of(job: JobSpec, privacy: PrivacySpec, clip: float) -> ClippedSum:
    """Return a round of a job.

    Args:
        job: the job.
        privacy: its table, with ``noise = "central"``.
        clip: the round's.

    Raises:
        ConfigError: no noise can keep the epsilon, or none so strong can be drawn.
    """
    multiplier = privacy.noise_multiplier
    if multiplier is None:
        participations = _participations(job, privacy)
        multiplier = _multiplier_for(privacy.epsilon or 0.0, privacy.delta, participations)
    return new_central_round(
        clip=clip,
        noise_multiplier=multiplier,
        cohort_size=job.cohort.size or 0,
        counts_unclipped=privacy.adaptive is not None,
        separation=privacy.separation or 1,
    )


def _participations(job: JobSpec, privacy: PrivacySpec) -> int:
    return math.ceil(job.run.rounds / (privacy.separation or 1))


def new_central_round(
    *,
    clip: float,
    noise_multiplier: float,
    cohort_size: int,
    counts_unclipped: bool,
    separation: int = 1,
) -> ClippedSum:
    """Return a round with these public facts: the same at both ends.

    Raises:
        ConfigError: one of them is not what it must be.
    """
    facts: dict[str, Any] = {
        "clipping_norm": clip,
        "noise_multiplier": noise_multiplier,
        "cohort_size": cohort_size,
    }
    try:
        if separation > 1:
            return ScheduledSum(separation=separation, **facts)
        return ClippingRound(**facts) if counts_unclipped else ClippedSum(**facts)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"privacy must describe noise that can be drawn: {error}") from error


def clip_after(privacy: PrivacySpec, metrics: Mapping[str, float] | None) -> float:
    """Return the clip of a round.

    Args:
        privacy: the job's table.
        metrics: what the round before it has published; ``None``: there was none.

    Source: Andrew et al. 2021, algorithm 1.
    """
    adaptive = privacy.adaptive
    if adaptive is None or not metrics:
        return privacy.clip
    following = next_clipping_norm(
        metrics[CLIP_METRIC],
        metrics[UNCLIPPED_METRIC],
        learning_rate=adaptive.learning_rate,
        target_quantile=adaptive.quantile,
    )
    return min(max(following, adaptive.clip_min), adaptive.clip_max)


def opening_of(run_id: str, round_number: int, opened_at: float, lost: int = 0) -> bytes:
    """Return what tells an opening of a round from another one of the same round.

    A database that came back from a backup opens rounds again, at another time.

    Args:
        run_id: of the run.
        round_number: of the round.
        opened_at: when it was opened.
        lost: how many charges of it only sites know of: a round that was open in the backup may
            have been let out before the database came back.
    """
    text = f"kumiai.v1.central-opening\n{run_id}\n{round_number}\n{opened_at!r}\n{lost}"
    return bytes.fromhex(digest_of([text.encode()]))


@lru_cache(maxsize=64)
def _multiplier_for(epsilon: float, delta: float, rounds: int) -> float:
    try:
        multiplier = calibrate_noise(
            lambda z: DiscreteGaussianEvent(scale=z, l2_norm_max=1.0),
            steps=rounds,
            target_epsilon=payable(epsilon),
            target_delta=delta,
        )
    except ValueError as error:
        raise ConfigError(f"privacy.epsilon cannot be kept: {error}") from error
    return multiplier * _ABOVE
