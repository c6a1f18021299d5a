"""The rounds to whose sum this coordinator adds the noise: checked, paid for, noised once.

    closed ─► charge ─► sum, noise ─► seal ─► publish

What clients send lies open in the spool. Noise is drawn once for each round: the noised sum is kept
before it is sealed, whoever leads the round again publishes those bytes, and no others can be
sealed at the same price. A noised sum that was not sealed has never left, and is drawn anew.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kumiai.core import failpoints
from kumiai.core.arrays import layout_of
from kumiai.core.codec import decode
from kumiai.core.digest import Buffer
from kumiai.core.errors import ConfigError, UpdateRejectedError
from kumiai.learning import dimension_of
from kumiai.node.central_rounds import (
    CLIP_METRIC,
    UNCLIPPED_METRIC,
    central_round_of,
    clip_after,
)
from kumiai.node.contributions import CONTRIBUTION
from kumiai.node.coordinator.budgets import charge_of_round
from kumiai.node.coordinator.engine import RoundEngine
from kumiai.node.coordinator.namespaces import model_namespace, sum_namespace, update_namespace
from kumiai.node.job import JobSpec
from kumiai.privacy import ClippedSum, ClippingRound
from kumiai.privacy.ledger import Charge
from kumiai.storage import ChargeRecord, Lease, RoundRecord, RunRecord, SealedCharge, UpdateRecord

__all__ = ["CentralRounds", "NoisedMean", "contribution_in", "new_central_rounds"]

_WIRE: Final = np.dtype("<i8")


@dataclass(frozen=True, slots=True)
class NoisedMean:
    """What a round lets out.

    Attributes:
        mean: what the sum moves the model by, shape (dimension,), float32.
        charge: what it was paid with.
        metrics: of the clip, noisy like the mean; none where the clip stays.
    """

    mean: NDArray[np.float32]
    charge: SealedCharge
    metrics: Mapping[str, float]


def contribution_in(content: Buffer, this: ClippedSum, dimension: int) -> NDArray[np.int64]:
    """Return the whole steps that a client has sent, checked to be no longer than is paid for.

    Args:
        content: the encoded arrays.
        this: the round.
        dimension: how many numbers the model has.

    Raises:
        UpdateRejectedError: they are not what the round allows; says why.
        CodecError: these are no arrays.
    """
    arrays = decode(content).arrays
    wanted = (dimension + (this.sign_steps > 0),)
    steps = arrays.get(CONTRIBUTION)
    if steps is None or len(arrays) != 1 or steps.dtype != np.int32 or steps.shape != wanted:
        raise UpdateRejectedError(
            f"update of a private round must be {CONTRIBUTION!r} alone, int32 of shape {wanted}, "
            f"got {len(arrays)} other arrays; clients and coordinator must be of one release"
        )
    whole = steps.astype(np.int64)
    try:
        this.verify(whole)
    except ValueError as error:
        raise UpdateRejectedError(f"update breaks the clip that its round pays for: {error}") from (
            error
        )
    return whole


class CentralRounds:
    """The private rounds of one run while its lease holds."""

    def __init__(self, engine: RoundEngine, lease: Lease, job: JobSpec) -> None:
        """Work for the run of this lease; `new_central_rounds` makes one.

        Raises:
            ConfigError: the job is not of this kind, or this coordinator keeps no ledger.
        """
        if job.privacy is None or engine.budgets is None:
            raise ConfigError("privacy must be left out here: this coordinator keeps no ledger")
        self._engine = engine
        self._desk = engine.budgets
        self._lease = lease
        self._job = job
        self._privacy = job.privacy

    async def verify_affordable(self, run: RunRecord, clients: Iterable[str]) -> None:
        """Check that all who are to be asked can pay, before anybody works.

        Raises:
            BudgetExhaustedError: somebody cannot.
            ConflictError: the ledger is frozen.
        """
        this = central_round_of(self._job, self._privacy, self._privacy.clip)
        await self._desk.verify_affordable(_charge(run, this, clients))

    async def noised(
        self, run: RunRecord, current: RoundRecord, updates: Sequence[UpdateRecord]
    ) -> NoisedMean:
        """Return the noised mean of a closed round: the same one, however often it is asked for.

        Args:
            run: the run.
            current: its closed round.
            updates: all that count.

        Raises:
            BudgetExhaustedError: a privacy budget does not allow it; nothing was charged.
            ConflictError: the ledger is frozen.
            FencedError: another leads.
            StorageError: the database or the blobs failed; calling again is safe.
        """
        previous = await self._engine.runs.round(run.run_id, current.round - 1)
        clip = clip_after(self._privacy, previous.metrics)
        this = central_round_of(self._job, self._privacy, clip)
        paid = await self._desk.charge(
            self._lease,
            round=current.round,
            attempt=1,
            charge=_charge(run, this, [each.client_id for each in updates]),
        )
        sealed = paid.sealed or await self._sealed(paid, this, current, updates)
        total = await asyncio.to_thread(self._kept, current, sealed.digest)
        metrics = {}
        if isinstance(this, ClippingRound):
            metrics = {CLIP_METRIC: clip, UNCLIPPED_METRIC: this.unclipped_fraction_of(total)}
        return NoisedMean(this.mean_of(total).astype(np.float32), sealed, metrics)

    async def _sealed(
        self,
        paid: ChargeRecord,
        this: ClippedSum,
        current: RoundRecord,
        updates: Sequence[UpdateRecord],
    ) -> SealedCharge:
        noised = await asyncio.to_thread(self._noised_sum, this, current, updates)
        content = noised.astype(_WIRE, copy=False).data.cast("B")
        await self._engine.blobs.put(sum_namespace(current.run_id, current.round), [content])
        failpoints.reach("coordinator.central.noised")
        return await self._desk.seal(self._lease, paid.key, content)

    def _noised_sum(
        self, this: ClippedSum, current: RoundRecord, updates: Sequence[UpdateRecord]
    ) -> NDArray[np.int64]:
        blobs, dimension = self._engine.blobs, self._dimension(current)
        total = np.zeros(dimension + (this.sign_steps > 0), np.int64)
        for update in updates:
            namespace = update_namespace(current.run_id, current.round, update.client_id)
            with blobs.open_buffer(namespace, update.digest) as buffer:
                # Checked when it came; what is charged for rests on it, and disks change bytes.
                total += contribution_in(buffer, this, dimension)
        return this.mechanism.release(total)

    def _dimension(self, current: RoundRecord) -> int:
        namespace = model_namespace(current.run_id)
        with self._engine.blobs.open_buffer(namespace, current.base_digest) as buffer:
            return dimension_of(layout_of(decode(buffer).arrays))

    def _kept(self, current: RoundRecord, digest: str) -> NDArray[np.int64]:
        namespace = sum_namespace(current.run_id, current.round)
        with self._engine.blobs.open_buffer(namespace, digest) as buffer:
            return np.frombuffer(bytes(buffer), _WIRE).astype(np.int64)


def _charge(run: RunRecord, this: ClippedSum, clients: Iterable[str]) -> Charge:
    return charge_of_round(run, "client", this.event, clients)


def new_central_rounds(engine: RoundEngine, lease: Lease, job: JobSpec) -> CentralRounds | None:
    """Return who adds the noise to a run's sums; ``None`` where it is not for us to do.

    Raises:
        ConfigError: it is, and this coordinator keeps no ledger.
    """
    if job.privacy is None or job.privacy.noise != "central":
        return None
    return CentralRounds(engine, lease, job)
