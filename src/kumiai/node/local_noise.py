"""Runs whose sites add the noise themselves, to each step of their training: terms and price.

What leaves a site is noised already, whoever sees it: nobody else has to be trusted. In return each
site carries all of its noise alone. Sites share no records, so that a run costs what its dearest
site pays, and all pay alike: sampling rate, noise and steps stand in the job and follow no data.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from kumiai.core.errors import ConfigError
from kumiai.node.job import JobSpec, PrivacySpec
from kumiai.privacy import (
    DEFAULT_ORDERS,
    PoissonDiscreteGaussianEvent,
    TrainingTerms,
    calibrate_noise,
    epsilon_of,
    rdp_of,
)
from kumiai.privacy.budget import payable

__all__ = ["LocalPlan", "local_plan_of", "training_terms_of"]

_LEARNING_RATE: Final = 0.1
_CLIP_STEPS: Final = float(1 << 20)


@dataclass(frozen=True, slots=True)
class LocalPlan:
    """What a run with noise at its sites comes to.

    Attributes:
        terms: by which every site trains in a round.
        dimension: how many numbers a model has.
        rounds: how many a run has.
        delta: at which the epsilon is stated.
        site_records: how many records a site has, about.
    """

    terms: TrainingTerms
    dimension: int
    rounds: int
    delta: float
    site_records: int

    def event(self) -> PoissonDiscreteGaussianEvent:
        """Return what a step costs a site."""
        return self.terms.event

    def releases(self, rounds: int) -> int:
        """Return in how many steps a site's records may be after so many rounds."""
        return rounds * self.terms.steps

    def epsilon(self) -> float:
        """Return what all steps of all rounds cost a site, each round released once."""
        curve = self.releases(self.rounds) * rdp_of(self.event())
        return epsilon_of(DEFAULT_ORDERS, curve, self.delta)

    @property
    def deviation(self) -> float:
        """Of the noise in each number of a step, over the clip."""
        bound = math.sqrt(self.terms.mechanism(self.dimension).l2_norm_squared)
        return self.terms.noise_multiplier * bound / _CLIP_STEPS

    @property
    def clip_in_steps(self) -> float:
        """How finely one record is counted."""
        return _CLIP_STEPS

    @property
    def schedule(self) -> str:
        """How often noise is added, in words."""
        rate = self.terms.sampling_rate
        return (
            f"over {self.rounds} rounds of {self.terms.steps} steps at each site, each of them "
            f"with a secret {rate:.3g} of its records"
        )

    def signal_to_noise(self, units: int) -> float:
        """Return how a round's largest possible gradients compare with its noise, as norms.

        Args:
            units: how many records all sites have.
        """
        sums = self.terms.steps * max(1.0, units / self.site_records)
        noise = self.deviation * math.sqrt(self.dimension)
        return math.sqrt(sums) * self.terms.batch / noise


def local_plan_of(job: JobSpec, privacy: PrivacySpec, dimension: int) -> LocalPlan:
    """Return the plan of a job.

    Args:
        job: the job.
        privacy: its table.
        dimension: how many numbers the model has.

    Raises:
        ConfigError: no noise can keep the epsilon.
    """
    return LocalPlan(
        terms=_terms_of(privacy, job.run.rounds),
        dimension=dimension,
        rounds=job.run.rounds,
        delta=privacy.delta,
        site_records=privacy.records_per_site or 1,
    )


def training_terms_of(job: JobSpec) -> TrainingTerms | None:
    """Return by which terms sites train; ``None``: it is not they who add the noise.

    Raises:
        ConfigError: no noise can keep the epsilon.
    """
    if job.privacy is None or job.privacy.noise != "local":
        return None
    return _terms_of(job.privacy, job.run.rounds)


@lru_cache(maxsize=64)
def _terms_of(privacy: PrivacySpec, rounds: int) -> TrainingTerms:
    rate, steps = privacy.sampling_rate or 1.0, privacy.steps or 1
    multiplier = privacy.noise_multiplier or 1.0
    try:
        if privacy.epsilon is not None:
            multiplier = calibrate_noise(
                lambda z: PoissonDiscreteGaussianEvent(rate, z),
                steps=rounds * steps,
                target_epsilon=payable(privacy.epsilon),
                target_delta=privacy.delta,
            )
        return TrainingTerms(
            clip=privacy.clip,
            noise_multiplier=multiplier,
            sampling_rate=rate,
            steps=steps,
            batch=rate * (privacy.records_per_site or 1),
            learning_rate=privacy.learning_rate or _LEARNING_RATE,
        )
    except ValueError as error:
        raise ConfigError(f"privacy cannot be kept: {error}") from error
