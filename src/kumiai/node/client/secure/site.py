"""This site in all its secure rounds: hears the coordinator, and hides each update.

Messages of one round are taken in their order, one at a time, in a thread. What a round's machine
asks for is done in its order: a record is on disk before its message leaves.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol, TypeVar

import structlog
from google.protobuf.message import DecodeError

from kumiai.core import failpoints
from kumiai.core.digest import Buffer, digest_of
from kumiai.core.errors import DeadlineError, IntegrityError, KumiaiError, SecureAggregationError
from kumiai.crypto.signatures import Ed25519Signer, Ed25519Verifier
from kumiai.node.client.secure.hidden_runs import HiddenRuns
from kumiai.node.client.secure.journal import JournalFolder, RoundJournal
from kumiai.node.client.secure.opening import RoundTerms, read_opening
from kumiai.node.client.secure.receipt_folder import ReceiptFolder
from kumiai.node.client.secure.revealed import RevealedAttempt
from kumiai.node.secure_proofs import proofs_of
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.secure_parts import PartCollector, RoundKey, parts_of
from kumiai.secagg import (
    Action,
    Advance,
    AskUpdate,
    ClientPhase,
    ClientRound,
    Numbers,
    Persist,
    RoundDescriptor,
    Send,
    Stop,
    client_machine,
    cut_count,
)

__all__ = ["MaskedUpload", "SecureSite", "SumFetcher"]

_T = TypeVar("_T")
_MESSAGE_SIZE_BYTES_MAX: Final = 1 << 28
_ROUNDS_MAX: Final = 8
_SUM_SECONDS: Final = 600.0


class SumFetcher(Protocol):
    """Fetches sums from the coordinator."""

    async def fetch_sum(
        self, run_id: str, round_number: int, digest: str, size_bytes: int, *, until: float
    ) -> bytes:
        """Return the bytes of a round's sum, checked against the digest."""
        ...


@dataclass(frozen=True, slots=True)
class MaskedUpload:
    """A masked vector, ready to be sent from any offset."""

    digest: str
    size_bytes: int
    vector: memoryview = field(repr=False)

    def chunks(self, offset: int, chunk_bytes: int) -> Iterator[bytes]:
        """Yield the bytes from ``offset`` on, in pieces of at most ``chunk_bytes``."""
        for start in range(offset, self.size_bytes, chunk_bytes):
            yield bytes(self.vector[start : start + chunk_bytes])


@dataclass(eq=False, slots=True)
class _Round:
    """One attempt of one round."""

    key: RoundKey
    descriptor: RoundDescriptor
    machine: ClientRound
    journal: RoundJournal
    record_count: int
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """The update is wanted, or the attempt is over."""
    stopped: str | None = None
    sent_input: Send | None = None
    """What named the masked vector, to be said again to a coordinator that has lost it."""


class SecureSite:
    """All secure rounds of this site."""

    def __init__(
        self,
        folder: Path,
        counters: Path,
        *,
        terms: RoundTerms,
        signer: Ed25519Signer,
        send: Callable[[pb.ClientMessage], None],
        sums: SumFetcher,
    ) -> None:
        """Take part with this signing key; touches files.

        Args:
            folder: private, for records and receipts.
            counters: for the rounds' counters.
            terms: what an opening is judged by.
            signer: this site's key.
            send: gives a message to the session; called on the event loop, may drop it.
            sums: fetches the sums to check.

        Raises:
            KumiaiError: the folders cannot be used.
        """
        self._journals = JournalFolder(folder / "rounds", counters)
        self._folder = folder / "receipts"
        self._receipts = ReceiptFolder(self._folder, terms.name, terms.peers)
        self._hidden_runs = HiddenRuns(folder / "hidden-runs")
        self._terms = terms
        self._signer = signer
        self._send = send
        self._sums = sums
        self._collector = PartCollector(size_bytes_max=_MESSAGE_SIZE_BYTES_MAX)
        self._rounds: dict[RoundKey, _Round] = {}
        self._opened = asyncio.Event()
        self._refused: dict[RoundKey, str] = {}
        self._letters: asyncio.Queue[tuple[RoundKey, pb.SecureContent] | None] = asyncio.Queue(256)
        self._log = structlog.get_logger("kumiai.client").bind(client=terms.name)

    def take(self, part: pb.SecurePart) -> None:
        """Take a part of the coordinator's message; what does not parse or fit is dropped."""
        try:
            ended = self._collector.take(part)
        except (IntegrityError, DecodeError) as error:
            self._log.warning("message of a secure round dropped", reason=str(error))
            return
        if ended is not None:
            self._put(ended)

    def note_attached(self) -> None:
        """Ask in a session that has just begun for the receipts that went out without us."""
        self._put(None)

    def _put(self, letter: tuple[RoundKey, pb.SecureContent] | None) -> None:
        try:
            self._letters.put_nowait(letter)
        except asyncio.QueueFull:
            self._log.warning("message of a secure round dropped", reason="too many wait")

    async def _ask_receipts(self) -> None:
        for key in await _in_thread(self._receipts.awaited):
            for part in parts_of(key, pb.SecureContent(ask_receipt=True)):
                self._send(pb.ClientMessage(secure=part))

    async def serve(self) -> None:
        """Answer the coordinator until cancelled."""
        while True:
            letter = await self._letters.get()
            run_id, number, attempt = ("", 0, 0) if letter is None else letter[0]
            try:
                await (self._ask_receipts() if letter is None else self._hear(*letter))
            except KumiaiError as error:
                self._log.warning(
                    "message of a secure round refused",
                    run=run_id,
                    round=number,
                    attempt=attempt,
                    reason=str(error),
                )

    async def has_hidden(self, run_id: str) -> bool:
        """Return whether this site has hidden an update in a run, now or before a restart.

        Raises:
            ConfigError: no run can be called so.
        """
        return await _in_thread(self._hidden_runs.has, run_id)

    async def mask(
        self,
        key: RoundKey,
        update: Numbers,
        weight: Callable[[RoundDescriptor], int],
        *,
        until: Callable[[], float],
    ) -> MaskedUpload:
        """Hide an update for a round, once the round asks for it.

        Args:
            key: of the round.
            update: shape (dimension,); float32, or int64 in whole steps of the round.
            weight: what it counts, given the round; called in a thread, may block and refuse.
            until: the event loop's time at which to give up; it may move.

        Raises:
            DeadlineError: the round did not ask in time.
            SecureAggregationError: the round is over, or the update does not fit.
            StorageError: records cannot be written.
        """
        found = await self._ready(key, until)
        async with found.turn:
            counted = await _in_thread(weight, found.descriptor)
            await self._tell_clipped(found.descriptor, update)
            actions = await _in_thread(found.machine.submit, update, counted)
            sent = next(action for action in actions if isinstance(action, Send))
            vector = sent.vector or memoryview(b"")
            found.sent_input = replace(sent, vector=None)
            await _in_thread(self._hidden_runs.add, key[0])
            await _in_thread(self._receipts.await_one, key)
            await self._do(found, actions)
        return MaskedUpload(await _in_thread(_digest_of, vector), vector.nbytes, vector)

    async def _tell_clipped(self, descriptor: RoundDescriptor, update: Numbers) -> None:
        count = await _in_thread(cut_count, update, descriptor)
        if count:
            self._log.warning(
                "update clipped: raise secure_aggregation.clip in the job",
                round=descriptor.round_number,
                run=descriptor.run_id,
                numbers=count,
                of=update.size,
                clip=descriptor.clip,
            )

    # -------------------------------------------------------------------------------- what is heard

    async def _hear(self, key: RoundKey, content: pb.SecureContent) -> None:
        if content.WhichOneof("body") == "opening":
            await self._open(key, content.opening)
            return
        if content.WhichOneof("body") == "receipt":
            await self._take_receipt(key, content.receipt)
            return
        found = self._rounds.get(key)
        if found is None:
            return  # the opening that it follows was refused
        message, vector = content.message, b""
        if message.vector_digest:
            _verify_size(message.vector_size_bytes, found.machine.sum_size_bytes)
            vector = await self._sums.fetch_sum(
                key[0],
                key[1],
                message.vector_digest,
                message.vector_size_bytes,
                until=asyncio.get_running_loop().time() + _SUM_SECONDS,
            )
        async with found.turn:
            actions = await _in_thread(found.machine.receive, message.envelope, vector)
            await self._do(found, actions)

    async def _open(self, key: RoundKey, opening: pb.SecureOpening) -> None:
        known = self._rounds.get(key)
        if known is not None:
            async with known.turn:
                await self._do(known, await _in_thread(known.machine.resend))
                if known.machine.phase is ClientPhase.SUBMITTED and known.sent_input is not None:
                    await self._say(known, known.sent_input)
            return
        try:
            found, actions = await _in_thread(self._joined, key, opening)
        except KumiaiError as error:
            self._refuse(key, str(error))
            raise
        for old in [each for each in self._rounds if each[:2] == key[:2]]:
            self._stop(self._rounds.pop(old), "the round was begun anew")
        while len(self._rounds) >= _ROUNDS_MAX:
            oldest = next(iter(self._rounds))
            self._stop(self._rounds.pop(oldest), "too many rounds are open")
        self._rounds[key] = found
        self._notify()
        async with found.turn:
            await self._do(found, actions)

    def _joined(self, key: RoundKey, opening: pb.SecureOpening) -> tuple[_Round, Sequence[Action]]:
        """Return the round with what is to be done first; blocking."""
        descriptor = read_opening(key, opening, self._terms)
        revealed = RevealedAttempt.find(self._revealed_file(key))
        journal = self._journals.journal(descriptor.round_id)
        records = journal.read()
        if revealed is not None:
            revealed.verify(descriptor)
        verifier, proofs = Ed25519Verifier(), proofs_of(descriptor)
        if not records and not journal.counter:
            machine = client_machine(descriptor)(
                descriptor, self._terms.name, signer=self._signer, verifier=verifier, proofs=proofs
            )
            return _Round(key, descriptor, machine, journal, 0), machine.begin()
        machine = client_machine(descriptor).restore(
            descriptor,
            self._terms.name,
            records,
            counter=journal.counter,
            signer=self._signer,
            verifier=verifier,
            proofs=proofs,
        )
        if journal.counter < len(records):  # a crash came between the record and the counter
            journal.advance(len(records))
        return _Round(key, descriptor, machine, journal, len(records)), machine.resend()

    # -------------------------------------------------------------------------------- what is done

    async def _do(self, found: _Round, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Persist(record):
                    await _in_thread(found.journal.append, record, found.record_count)
                    found.record_count += 1
                case Advance(counter):
                    await _in_thread(found.journal.advance, counter)
                case Send():
                    await self._say(found, action)
                case AskUpdate():
                    found.asked.set()
                case Stop(reason):
                    self._stop(found, reason)
                case _:
                    pass

    async def _say(self, found: _Round, send: Send) -> None:
        if found.machine.phase >= ClientPhase.UNMASKED:
            await _in_thread(self._note_revealed, found)
        failpoints.reach("client.secure.before_send")
        content = pb.SecureContent(
            message=pb.SecureMessage(envelope=send.message, attachment=send.attachment)
        )
        for part in parts_of(found.key, content):
            self._send(pb.ClientMessage(secure=part))

    def _note_revealed(self, found: _Round) -> None:
        path = self._revealed_file(found.key)
        revealed = RevealedAttempt.of(found.descriptor, found.machine.rerun_groups)
        if RevealedAttempt.find(path) != revealed:
            revealed.write(path)

    def _revealed_file(self, key: RoundKey) -> Path:
        return self._folder / f"{key[0]}.{key[1]}.revealed"

    async def _take_receipt(self, key: RoundKey, receipt: bytes) -> None:
        path = await _in_thread(self._receipts.take, key, receipt)
        if path is not None:
            self._log.info("receipt kept", run=key[0], round=key[1], path=str(path))

    def _stop(self, found: _Round, reason: str) -> None:
        if found.stopped is None:
            found.stopped = reason
            found.asked.set()

    def _refuse(self, key: RoundKey, reason: str) -> None:
        self._refused[key] = reason
        while len(self._refused) > _ROUNDS_MAX:
            self._refused.pop(next(iter(self._refused)))
        self._notify()

    def _notify(self) -> None:
        opened, self._opened = self._opened, asyncio.Event()
        opened.set()

    async def _ready(self, key: RoundKey, until: Callable[[], float]) -> _Round:
        """Return the round once it asks for the update."""
        loop = asyncio.get_running_loop()
        while (left := until() - loop.time()) > 0:
            opened = self._opened
            if key in self._refused:
                raise SecureAggregationError(self._refused[key])
            found = self._rounds.get(key)
            waiting = opened.wait() if found is None else found.asked.wait()
            try:
                async with asyncio.timeout(min(left, 1.0)):
                    await waiting
            except TimeoutError:
                continue
            if found is not None and found.stopped is not None:
                raise SecureAggregationError(f"round {key[1]} has ended: {found.stopped}")
            if found is not None:
                return found
        raise DeadlineError(f"round {key[1]} did not ask for the update in time")


def _verify_size(size_bytes: int, most: int) -> None:
    """Check that a sum may be as long as the coordinator says."""
    if size_bytes > most:
        raise SecureAggregationError(
            f"sum of the round must be at most {most} bytes, got {size_bytes}"
        )


async def _in_thread(call: Callable[..., _T], *arguments: object) -> _T:
    return await asyncio.to_thread(lambda: call(*arguments))


def _digest_of(vector: Buffer) -> str:
    return digest_of([vector])
