"""From a job and a cohort to the descriptor of a round."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from kumiai.core.errors import ConfigError, SecureAggregationError
from kumiai.node.job import JobSpec, SecureAggregationSpec
from kumiai.node.noised_rounds import NoisePlan, plan_of, sure_shares
from kumiai.secagg import (
    FRESH_SCALE,
    Adversary,
    Member,
    Proofs,
    RoundDescriptor,
    Scheme,
    smallest_graph,
)

__all__ = ["RoundNames", "members_least", "new_descriptor", "survivors_least"]

_COMPLETE_COUNT_MAX: Final = 200
_SURVIVORS_LEAST: Final = 3
_KEY_BITS: Final = 3072
_DECRYPTING_SECONDS: Final = {2048: 130e-6, 3072: 280e-6, 4096: 450e-6}
"""For each number, by the key's length: twice what an ordinary processor takes."""
_WEIGHT_MAX: Final = 2**31 - 1
_NO_NORM_BOUND: Final = 1e9


@dataclass(frozen=True, slots=True)
class RoundNames:
    """Which round a descriptor is for."""

    run_id: str
    round: int
    round_id: bytes


def new_descriptor(
    job: JobSpec,
    names: RoundNames,
    *,
    roster: Sequence[Member],
    coordinator: Member,
    dimension: int,
    min_reports: int,
    rerun_of: RoundDescriptor | None = None,
) -> RoundDescriptor:
    """Return the round that a job asks for with these clients.

    Args:
        job: with secure aggregation on.
        names: of the round.
        roster: who is asked.
        coordinator: who leads it.
        dimension: how many numbers the model has.
        min_reports: the quorum.
        rerun_of: the attempt whose sum was wrong, if this is to sum one of its groups.

    Raises:
        ConfigError: the job's settings and this cohort cannot keep what is promised; names the
            key of the job.
    """
    spec, count = job.secure_aggregation, len(roster)
    _verify_time(spec, dimension)
    try:
        descriptor = RoundDescriptor(
            run_id=names.run_id,
            round_number=names.round,
            round_id=names.round_id,
            coordinators=(coordinator,),
            roster=tuple(sorted(roster, key=lambda member: member.name.encode())),
            dimension=dimension,
            weight_bound=1,
            **_numbers(spec),
            **_scheme(spec),
            **_parts(job, count, min_reports, rerun_of),
        )
        return _with_what_is_summed(job, descriptor)
    except (SecureAggregationError, ValueError) as error:
        raise ConfigError(f"secure_aggregation must fit {count} clients: {error}") from error


def _parts(
    job: JobSpec, count: int, min_reports: int, rerun_of: RoundDescriptor | None
) -> dict[str, Any]:
    """Return how many of the clients are needed, and how many may be lost or lie."""
    spec = job.secure_aggregation
    colluders = _colluders(spec, count)
    if rerun_of is not None:
        # A group is summed whole or not at all: less would tell single updates.
        colluders, min_reports = rerun_of.colluders, count
    degree, threshold = _graph(spec, count, colluders, min_reports)
    threshold = threshold if rerun_of is None else min(threshold, count)
    return {
        "colluders": colluders,
        "degree": degree,
        "threshold": threshold,
        "minimum_survivors": min(
            count, max(survivors_least(spec, count), 0 if degree else threshold, min_reports)
        ),
        "rerun_size": _rerun_size(job, colluders) if rerun_of is None else rerun_of.rerun_size,
    }


def _with_what_is_summed(job: JobSpec, descriptor: RoundDescriptor) -> RoundDescriptor:
    """Return the round with its noise, or with the weights that updates may have."""
    if job.privacy is None:
        return replace(descriptor, weight_bound=_weight_bound(job, descriptor))
    if job.privacy.noise == "local":
        return descriptor
    return _noised(plan_of(job, job.privacy, descriptor.dimension), descriptor)


def _noised(plan: NoisePlan, descriptor: RoundDescriptor) -> RoundDescriptor:
    """Return the round with the noise that keeps the plan, in a ring that has room for it."""
    fields: dict[str, Any] = {
        "clip": plan.coordinate_clip,
        "norm_bound": plan.terms.clip if plan.terms.unit == "client" else _NO_NORM_BOUND,
        "value_bits": plan.value_bits,
        "noise_variance": plan.variance_of_each(sure_shares(descriptor)),
    }
    try:
        return replace(descriptor, ring_bits=32, **fields)
    except SecureAggregationError:
        return replace(descriptor, ring_bits=64, **fields)


def survivors_least(spec: SecureAggregationSpec, count: int) -> int:
    """Return how many updates a sum of so many clients has at least."""
    return max(_SURVIVORS_LEAST, _colluders(spec, count) + 2)


def members_least(spec: SecureAggregationSpec, count: int) -> int:
    """Return how many of so many clients a round cannot begin without.

    Where the job's threshold is beyond the count, no client that comes would help: then
    `new_descriptor` says what is wrong with the job.
    """
    return max(survivors_least(spec, count), min(spec.threshold or 0, count))


def _numbers(spec: SecureAggregationSpec) -> dict[str, Any]:
    return {
        "ring_bits": spec.ring_bits,
        "clip": spec.clip,
        "value_bits": spec.value_bits,
        "norm_bound": _NO_NORM_BOUND if spec.norm_bound is None else spec.norm_bound,
        "proofs": Proofs(spec.verification),
    }


def _scheme(spec: SecureAggregationSpec) -> dict[str, Any]:
    if spec.mode != "paillier":
        return {"scheme": Scheme.MASKING, "adversary": Adversary.MALICIOUS}
    return {
        "scheme": Scheme.PAILLIER,
        "adversary": Adversary.SEMI_HONEST,
        "key_bits": spec.key_bits or _KEY_BITS,
    }


def _verify_time(spec: SecureAggregationSpec, dimension: int) -> None:
    """Check that sites have the time to decrypt a sum: one that is late ends the round for all."""
    if spec.mode != "paillier":
        return
    key_bits = spec.key_bits or _KEY_BITS
    needed = math.ceil(_DECRYPTING_SECONDS[key_bits] * dimension)
    if spec.phase_seconds < needed:
        raise ConfigError(
            f"secure_aggregation.phase_seconds must be at least {needed} to decrypt {dimension} "
            f"numbers with a key of {key_bits} bits, got {spec.phase_seconds:g}; raise it, or use "
            'mode = "masking"'
        )


def _colluders(spec: SecureAggregationSpec, count: int) -> int:
    if spec.mode == "paillier":
        return 0
    return count // 5 if spec.colluders is None else spec.colluders


def _graph(
    spec: SecureAggregationSpec, count: int, colluders: int, min_reports: int
) -> tuple[int, int]:
    if count <= _COMPLETE_COUNT_MAX or spec.mode == "paillier":
        return 0, spec.threshold or (count + colluders) // 2 + 1
    # As parts, a little above, so that rounding gives the counts again.
    graph = smallest_graph(
        count,
        colluding=(colluders + 0.5) / count,
        dropping=(count - min_reports + 0.5) / count,
        adversary=Adversary.MALICIOUS,
    )
    return graph.degree, spec.threshold or graph.threshold


def _rerun_size(job: JobSpec, colluders: int) -> int:
    spec = job.secure_aggregation
    if spec.verification == "off" or spec.mode != "masking" or job.privacy is not None:
        return 0
    return max(_SURVIVORS_LEAST, colluders + 2) if spec.rerun_size is None else spec.rerun_size


def _weight_bound(job: JobSpec, descriptor: RoundDescriptor) -> int:
    """Return the largest weight that the ring has room for, and that can be proven."""
    if job.strategy.weighting == "uniform":
        return 1
    room = 1 << descriptor.ring_bits - descriptor.value_bits
    # The same in all rounds, however old the updates of one are.
    scale = 1 if job.asynchronous is None else FRESH_SCALE
    bounds = [_WEIGHT_MAX // scale, room // (scale * descriptor.client_count)]
    if descriptor.proofs is Proofs.NORM:
        bounds.append(descriptor.provable_weight // scale)
    return max(1, min(bounds))
