"""What the coordinator writes into the audit log by itself, and the signing of it.

`AuditRecorder` takes acts that are no database transaction of their own; they are on disk a
moment later, many in one transaction. `CheckpointKeeper` signs how the log stands, and signs
nothing that does not continue what it signed before: a database that was rewritten or put back
gets no signature from a coordinator that knows better.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import structlog

from kumiai.core.clock import Clock
from kumiai.core.errors import IntegrityError, KumiaiError
from kumiai.identity.audit import (
    Act,
    Actor,
    CheckpointSigner,
    Detail,
    LogHead,
    NewEntry,
    Outcome,
    verify_consistency,
)
from kumiai.node.auditing.evidence import AuditEvidence
from kumiai.node.auditing.kept import KEPT_FILE, KeptCheckpoint
from kumiai.storage import AuditLog

__all__ = ["AuditRecorder", "AuditTimes", "CheckpointKeeper", "RefusalCounter", "host_of"]

_WAITING_MAX: Final = 10_000
_AT_ONCE: Final = 500
_ADDRESSES_MAX: Final = 32
_KNOWN_MAX: Final = 256
_KNOWN_TOLD_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class AuditTimes:
    """How often the log is signed, and how patient its writer is."""

    checkpoint_seconds: float = 60.0
    checkpoint_entries: int = 1000
    look_seconds: float = 1.0
    refusals_seconds: float = 60.0
    retry_seconds: float = 1.0
    written_seconds: float = 2.0


def host_of(peer: str) -> str:
    """Return the address of a peer as gRPC or HTTP names it, without kind and port."""
    kind, separator, rest = peer.partition(":")
    host = rest if separator and kind in {"ipv4", "ipv6"} else peer
    if host.count(":") == 1 or "]:" in host or "%5D:" in host:
        host = host.rpartition(":")[0]
    return host.replace("%5B", "").replace("%5D", "").strip("[]")[:64]


@dataclass(slots=True)
class _Refused:
    """Refusals of one caller in a minute."""

    actor: Actor
    told_count: int = 0
    untold_count: int = 0


@dataclass(slots=True)
class RefusalCounter:
    """Lets the first refusals of a caller through, and counts the others of a minute.

    A flood must not fill the disk: in a minute at most so many callers are told apart, with so
    many entries each and one that counts, and all others share one.

    Attributes:
        window_seconds: how long a minute is.
        callers_max: how many are told apart.
        told_max: how many refusals of each are let through.
        callers: those of this minute; all whom there was no room for under "".
        began_at: on the monotonic clock.
    """

    window_seconds: float
    callers_max: int
    told_max: int
    callers: dict[str, _Refused] = field(default_factory=dict)
    began_at: float = float("-inf")

    def admits(self, caller: str, actor: Actor, now: float) -> bool:
        """Return whether the refusal is to be written as it is; else it is counted.

        Args:
            caller: by which it is counted.
            actor: whom its count is told of.
            now: on the monotonic clock.
        """
        if not self.callers:
            self.began_at = now
        found = self.callers.get(caller)
        if found is None and len(self.callers) < self.callers_max:
            found = self.callers[caller] = _Refused(actor)
        if found is None:
            found = self.callers.setdefault("", _Refused(Actor("nobody")))
        elif found.told_count < self.told_max:
            found.told_count += 1
            return True
        found.untold_count += 1
        return False

    def summaries(self, now: float, *, is_last: bool = False) -> list[NewEntry]:
        """Return what was counted once the minute is over, and begin anew."""
        if not is_last and now < self.began_at + self.window_seconds:
            return []
        callers, self.callers = self.callers, {}
        return [
            NewEntry(
                Act.AUTHENTICATION_REFUSED,
                each.actor,
                "",
                Outcome.REFUSED,
                {"repeated": each.untold_count, "seconds": round(self.window_seconds)},
            )
            for each in callers.values()
            if each.untold_count
        ]


class AuditRecorder:
    """An `AuditSink` over the log of a database."""

    def __init__(
        self, log: AuditLog, clock: Clock, coordinator_id: str, times: AuditTimes = AuditTimes()
    ) -> None:
        """Record into this log; `serve` writes."""
        self._log = log
        self._clock = clock
        self._me = Actor("coordinator", coordinator_id)
        self._times = times
        self._waiting: list[NewEntry] = []
        self._lost = 0
        self._strangers = RefusalCounter(times.refusals_seconds, _ADDRESSES_MAX, 1)
        self._known = RefusalCounter(times.refusals_seconds, _KNOWN_MAX, _KNOWN_TOLD_MAX)
        self._noted_count = 0
        self._written_count = 0
        self._progress = asyncio.Condition()
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()
        self._logger = structlog.get_logger("kumiai.audit")

    def record(
        self, act: Act, subject: str, outcome: Outcome, actor: Actor, detail: Detail
    ) -> None:
        """Take note; see `kumiai.identity.audit.AuditSink`."""
        actor = replace(actor, address=host_of(actor.address))
        self._add(NewEntry(act, actor, subject, outcome, detail))

    def record_refusal(
        self, act: Act, subject: str, actor: Actor, detail: Detail, *, caller: str = ""
    ) -> None:
        """Take note; see `kumiai.identity.audit.AuditSink`."""
        actor, now = replace(actor, address=host_of(actor.address)), self._clock.monotonic()
        entry = NewEntry(act, actor, subject, Outcome.REFUSED, detail)
        if caller:
            is_told = self._known.admits(caller, actor, now)
        else:
            # By address: whatever a stranger claims to be is another one each time.
            stranger = Actor("nobody", address=actor.address)
            is_told = self._strangers.admits(actor.address, stranger, now)
        if is_told:
            self._add(entry)

    async def written(self) -> None:
        """Return once what was noted so far is on disk.

        After two seconds in any case: a database that is away must not hold up answers. What
        was noted stays, and is written when it is back.
        """
        noted = self._noted_count
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._times.written_seconds), self._progress:
                await self._progress.wait_for(lambda: self._written_count >= noted)

    def record_own(self, act: Act, subject: str = "", detail: Detail | None = None) -> None:
        """Take note of something that this coordinator does by itself."""
        self.record(act, subject, Outcome.DONE, self._me, detail or {})

    def _add(self, entry: NewEntry) -> None:
        if len(self._waiting) >= _WAITING_MAX:
            self._lost += 1
        else:
            self._waiting.append(entry)
            self._noted_count += 1
        self._wake.set()

    async def serve(self) -> None:
        """Write what is recorded, until cancelled; a failing database is tried again."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._times.look_seconds):
                    await self._wake.wait()
            self._wake.clear()
            self._add_counts()
            try:
                await self.flush()
            except KumiaiError as error:
                self._logger.warning("audit log not written", error=str(error))
                await asyncio.sleep(self._times.retry_seconds)

    async def flush(self, *, is_last: bool = False) -> None:
        """Write what waits.

        Args:
            is_last: also what was counted in a minute that is not over.

        Raises:
            KumiaiError: the database failed; what waits stays.
        """
        if is_last:
            self._add_counts(is_last=True)
        async with self._writing:
            while self._waiting or self._lost:
                some, lost = self._waiting[:_AT_ONCE], self._lost
                await self._log.record(some + self._told_of_lost(lost))
                # Others may have come since, and are not written yet.
                del self._waiting[: len(some)]
                self._lost -= lost
                await self._note_progress(len(some))

    async def _note_progress(self, count: int) -> None:
        async with self._progress:
            self._written_count += count
            self._progress.notify_all()

    def _add_counts(self, *, is_last: bool = False) -> None:
        for counter in (self._strangers, self._known):
            for entry in counter.summaries(self._clock.monotonic(), is_last=is_last):
                self._add(entry)

    def _told_of_lost(self, count: int) -> list[NewEntry]:
        if not count:
            return []
        return [NewEntry(Act.AUDIT_ENTRIES_LOST, self._me, "", Outcome.FAILED, {"count": count})]


class CheckpointKeeper:
    """Signs how the log stands, now and then."""

    def __init__(
        self,
        log: AuditLog,
        signer: Callable[[], CheckpointSigner],
        clock: Clock,
        folder: Path,
        *,
        times: AuditTimes = AuditTimes(),
        on_checkpoint: Callable[[], None] = lambda: None,
    ) -> None:
        """Sign this log.

        Args:
            log: what is signed.
            signer: returns this coordinator's; asked each time, so that with a renewed
                certificate comes a new key.
            clock: dates checkpoints.
            folder: keeps the last one; the data directory, not the database.
            times: how often.
            on_checkpoint: called after each.
        """
        self._log = log
        self._evidence = AuditEvidence(log)
        self._signer = signer
        self._clock = clock
        self._folder = folder
        self._times = times
        self._on_checkpoint = on_checkpoint
        self._signed_at = clock.monotonic()
        self._signed_size = 0
        self._signing = asyncio.Lock()
        self._logger = structlog.get_logger("kumiai.audit")

    async def serve(self) -> None:
        """Sign every minute or thousand entries, until cancelled."""
        while True:
            await asyncio.sleep(self._times.look_seconds)
            try:
                await self._look()
            except KumiaiError as error:
                self._logger.critical("audit log not signed", error=str(error))
                await asyncio.sleep(self._times.checkpoint_seconds)

    async def _look(self) -> None:
        end = await self._log.end()
        if end is None:
            return
        is_time = self._clock.monotonic() - self._signed_at >= self._times.checkpoint_seconds
        if is_time or end.size - self._signed_size >= self._times.checkpoint_entries:
            await self.sign()

    async def sign(self) -> None:
        """Sign how the log stands now, unless that is signed already.

        Raises:
            IntegrityError: the log does not continue what this coordinator signed before.
            StorageError: the database or the file failed.
        """
        async with self._signing:
            end = await self._log.end()
            self._signed_at = self._clock.monotonic()
            newest = await self._log.find_newest_checkpoint()
            if end is None or (newest is not None and newest.size == end.size):
                return
            signer = await asyncio.to_thread(self._signer)
            now, key = self._clock.now(), signer.certified
            head = LogHead(end.size, end.chain, end.frontier)
            checkpoint = head.checkpoint(key.origin, int(now * 1e6))
            await self._verify_continuation(end.size, checkpoint.root)
            note = signer.sign(checkpoint)
            # Kept first: what is in the database may be lost, and then this one tells.
            kept = KeptCheckpoint(checkpoint, key, note)
            await asyncio.to_thread(kept.save, self._folder)
            await self._log.add_signer(key.key_id, key.to_json())
            await self._log.add_checkpoint(size=end.size, key_id=key.key_id, at=now, note=note)
            self._signed_size = end.size
        self._on_checkpoint()

    async def _verify_continuation(self, size: int, root: bytes) -> None:
        kept = await asyncio.to_thread(KeptCheckpoint.find, self._folder)
        if kept is None:
            return
        before = kept.checkpoint
        proof: tuple[bytes, ...] = ()
        try:
            if 0 < before.size <= size:
                proof = await self._evidence.consistency(before.size, size)
            verify_consistency(before.size, size, proof, before.root, root)
        except IntegrityError as error:
            raise IntegrityError(
                f"audit log must continue what was signed at {before.size} entries, got another "
                f"history: {error}; the database was rewritten, or put back from an older copy: "
                f"see `kumiai audit verify`, and delete {self._folder / KEPT_FILE} only if you "
                "know why"
            ) from error
