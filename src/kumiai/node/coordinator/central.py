"""The rounds to whose sum this coordinator adds the noise: checked, paid for, noised once.

    closed ─► charge ─► sum, noise ─► seal ─► publish

What clients send lies open in the spool. Noise is drawn once for each round: the noised sum is kept
before it is sealed, whoever leads the round again publishes those bytes, and no others can be
sealed at the same price. A noised sum that was not sealed has never left, and is drawn anew. What
a crash leaves of it goes with the updates that it is of, so that it is never all that is left.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from kumiai.core import failpoints
from kumiai.core.arrays import NamedArrays, layout_of
from kumiai.core.codec import decode
from kumiai.core.digest import Buffer
from kumiai.core.errors import (
    ConfigError,
    ConflictError,
    FencedError,
    IntegrityError,
    NotFoundError,
    UpdateRejectedError,
)
from kumiai.learning import dimension_of
from kumiai.node.central_rounds import (
    CLIP_METRIC,
    UNCLIPPED_METRIC,
    central_round_of,
    clip_after,
)
from kumiai.node.contributions import CONTRIBUTION
from kumiai.node.coordinator.aggregation import CARRIED_PREFIX
from kumiai.node.coordinator.budgets import charge_of_round
from kumiai.node.coordinator.engine import RoundEngine
from kumiai.node.coordinator.namespaces import (
    model_namespace,
    state_namespace,
    sum_namespace,
    update_namespace,
)
from kumiai.node.job import JobSpec
from kumiai.privacy import ClippedSum, ClippingRound, EarlierRound, ScheduledSum
from kumiai.privacy.ledger import Charge
from kumiai.storage import ChargeRecord, Lease, RoundRecord, RunRecord, SealedCharge, UpdateRecord

__all__ = ["CentralRounds", "NoisedMean", "contribution_in", "new_central_rounds"]

_TOTALS: Final = f"{CARRIED_PREFIX}totals"
_RELEASED: Final = f"{CARRIED_PREFIX}released"


@dataclass(frozen=True, slots=True)
class NoisedMean:
    """What a round lets out.

    Attributes:
        mean: what the sum moves the model by, shape (dimension,), float32.
        charge: what it was paid with.
        metrics: of the clip, noisy like the mean; none where the clip stays.
        carried: what the next rounds are blended with; nothing where there is no schedule.
    """

    mean: NDArray[np.float32]
    charge: SealedCharge
    metrics: Mapping[str, float]
    carried: NamedArrays = field(default_factory=dict)


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
        self._log = structlog.get_logger("kumiai.rounds").bind(run=lease.run_id)

    async def resting(self, number: int) -> frozenset[str]:
        """Return who is not asked in a round, because it is in the sum of one shortly before."""
        first = max(1, number - (self._privacy.separation or 1) + 1)
        return frozenset(
            [
                each.client_id
                for before in range(first, number)
                for each in await self._engine.runs.updates(self._lease.run_id, before)
            ]
        )

    async def _verify_rested(self, number: int, updates: Sequence[UpdateRecord]) -> None:
        # What a participation costs rests on it, so that it is looked at once more.
        if early := (await self.resting(number)).intersection(each.client_id for each in updates):
            raise IntegrityError(
                f"round {number} must be of clients that are in none of the sums shortly before, "
                f"got {len(early)} that are; privacy.separation is {self._privacy.separation}"
            )

    async def verify_affordable(self, run: RunRecord, number: int, clients: Iterable[str]) -> None:
        """Check that all who are to be asked in a round can pay, before anybody works.

        Raises:
            BudgetExhaustedError: somebody cannot.
            ConflictError: the ledger is frozen.
        """
        this = central_round_of(self._job, self._privacy, self._privacy.clip)
        await self._desk.verify_affordable(_charge(run, number, this, clients))

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
            IntegrityError: somebody took part who had to rest.
        """
        await self._verify_rested(current.round, updates)
        previous = await self._engine.runs.round(run.run_id, current.round - 1)
        clip = clip_after(self._privacy, previous.metrics)
        this = central_round_of(self._job, self._privacy, clip)
        paid = await self._desk.charge(
            self._lease,
            round=current.round,
            attempt=1,
            charge=_charge(run, current.round, this, [each.client_id for each in updates]),
        )
        total = await asyncio.to_thread(self._total, this, current, updates)
        # A round that only sites have paid for was let out before a restore, earlier ones in it:
        # whoever took part in these has not paid for being blended once more.
        is_first = paid.key.attempt == 1
        before = await asyncio.to_thread(self._before, run, current) if is_first else []
        sealed = paid.sealed
        if sealed is None:
            noised = await asyncio.to_thread(_noised, this, total, before)
            sealed = await self._sealed(paid, current, noised)
        released = await asyncio.to_thread(self._kept, this, current, sealed.digest)
        metrics: Mapping[str, float] = {}
        carried: NamedArrays = {}
        if isinstance(this, ClippingRound):
            metrics = {CLIP_METRIC: clip, UNCLIPPED_METRIC: this.unclipped_fraction_of(released)}
        if isinstance(this, ScheduledSum):
            carried = _carried([EarlierRound(total, released), *before][: this.separation - 1])
        mean = this.mean_of(released).astype(np.float32)
        return NoisedMean(mean, sealed, metrics, carried)

    async def forget(self, number: int) -> None:
        """Delete what was drawn for a published round, whether it was sealed or not.

        Raises:
            StorageError: the blobs failed; calling again is safe.
        """
        await self._engine.blobs.delete_namespace(sum_namespace(self._lease.run_id, number))

    async def _sealed(
        self, paid: ChargeRecord, current: RoundRecord, noised: NDArray[Any]
    ) -> SealedCharge:
        content, namespace = noised.data.cast("B"), sum_namespace(current.run_id, current.round)
        digest = await self._engine.blobs.put(namespace, [content])
        failpoints.reach("coordinator.central.noised")
        try:
            return await self._desk.seal(self._lease, paid.key, content)
        except (ConflictError, FencedError):
            # Another draw is sealed, or will be: of one sum there are to be no two.
            await self._engine.blobs.delete(namespace, digest)
            raise

    def _total(
        self, this: ClippedSum, current: RoundRecord, updates: Sequence[UpdateRecord]
    ) -> NDArray[np.int64]:
        blobs, dimension = self._engine.blobs, self._dimension(current)
        total = np.zeros(dimension + (this.sign_steps > 0), np.int64)
        for update in updates:
            namespace = update_namespace(current.run_id, current.round, update.client_id)
            with blobs.open_buffer(namespace, update.digest) as buffer:
                # Checked when it came; what is charged for rests on it, and disks change bytes.
                total += contribution_in(buffer, this, dimension)
        return total

    def _before(self, run: RunRecord, current: RoundRecord) -> list[EarlierRound]:
        """Return the rounds that this one is blended with, the last first; none if they are lost.

        Without them the round is as private as with them, and its noise takes nothing back.
        """
        if self._privacy.separation is None or run.state_digest is None:
            return []
        namespace = state_namespace(run.run_id, current.round - 1)
        try:
            with self._engine.blobs.open_buffer(namespace, run.state_digest) as buffer:
                arrays = {name: np.array(each) for name, each in decode(buffer).arrays.items()}
        except NotFoundError:
            self._log.warning("earlier rounds are lost; noise begins anew", round=current.round)
            return []
        return [
            EarlierRound(total, released)
            for total, released in zip(arrays[_TOTALS], arrays[_RELEASED], strict=True)
        ]

    def _dimension(self, current: RoundRecord) -> int:
        namespace = model_namespace(current.run_id)
        with self._engine.blobs.open_buffer(namespace, current.base_digest) as buffer:
            return dimension_of(layout_of(decode(buffer).arrays))

    def _kept(self, this: ClippedSum, current: RoundRecord, digest: str) -> NDArray[Any]:
        namespace = sum_namespace(current.run_id, current.round)
        with self._engine.blobs.open_buffer(namespace, digest) as buffer:
            return np.frombuffer(bytes(buffer), _stored_as(this))


def _noised(
    this: ClippedSum, total: NDArray[np.int64], before: Sequence[EarlierRound]
) -> NDArray[Any]:
    noised: NDArray[Any] = (
        this.released(total, before)
        if isinstance(this, ScheduledSum)
        else this.mechanism.release(total)
    )
    return noised.astype(_stored_as(this), copy=False)


def _stored_as(this: ClippedSum) -> np.dtype[Any]:
    # What is worked out from a blend is noised whole numbers, divided.
    return np.dtype("<f8" if isinstance(this, ScheduledSum) else "<i8")


def _carried(rounds: Sequence[EarlierRound]) -> NamedArrays:
    return {
        _TOTALS: np.stack([each.total for each in rounds]),
        _RELEASED: np.stack([each.released for each in rounds]),
    }


def _charge(run: RunRecord, number: int, this: ClippedSum, clients: Iterable[str]) -> Charge:
    of_model = this.event_at(number - 1) if isinstance(this, ScheduledSum) else None
    return charge_of_round(run, "client", this.event, clients, model_event=of_model)


def new_central_rounds(engine: RoundEngine, lease: Lease, job: JobSpec) -> CentralRounds | None:
    """Return who adds the noise to a run's sums; ``None`` where it is not for us to do.

    Raises:
        ConfigError: it is, and this coordinator keeps no ledger.
    """
    if job.privacy is None or job.privacy.noise != "central":
        return None
    return CentralRounds(engine, lease, job)
