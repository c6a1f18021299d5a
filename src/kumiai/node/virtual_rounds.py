"""Secure rounds of virtual clients: the protocol's real machines, without certificates and disks.

Each virtual client signs, shares and masks as a site does. What a simulation leaves out is what
guards against crashes and impostors: records, counters, vouchers, remembered keys.
"""

import asyncio
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kumiai.core.errors import SecureAggregationError
from kumiai.crypto.signatures import Ed25519Signer, Ed25519Verifier
from kumiai.node.coordinator.namespaces import sum_namespace
from kumiai.node.coordinator.secure.mailbox import Letter, SecureMailbox
from kumiai.node.coordinator.secure.sums import VouchedMember
from kumiai.node.secure_proofs import proofs_of
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.secure_parts import RoundKey
from kumiai.secagg import (
    Action,
    AskUpdate,
    ClientRound,
    Numbers,
    RoundDescriptor,
    Send,
    Stop,
    client_machine,
    cut_count,
)
from kumiai.storage import BlobStore, SecureRoundRecord

__all__ = ["VirtualRounds"]

_T = TypeVar("_T")


@dataclass(eq=False, slots=True)
class _Member:
    """One virtual client in one attempt."""

    machine: ClientRound
    descriptor: RoundDescriptor
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: str | None = None


class VirtualRounds:
    """All virtual clients in all secure rounds of a simulation."""

    def __init__(self, mailbox: SecureMailbox, blobs: BlobStore, pool: Executor) -> None:
        """Put letters into a mailbox, read sums from a store, compute in a pool."""
        self._mailbox = mailbox
        self._blobs = blobs
        self._pool = pool
        self._signers: dict[str, Ed25519Signer] = {}
        self._members: dict[tuple[str, RoundKey], _Member] = {}
        self._opened = asyncio.Event()
        self._has_warned = False
        self._letters: asyncio.Queue[tuple[str, RoundKey, pb.SecureContent]] = asyncio.Queue()

    def vouched(self, clients: Collection[str]) -> Mapping[str, VouchedMember]:
        """Return all of the clients, each with a key of its own."""
        return {name: VouchedMember(name, self._signer(name).public) for name in clients}

    def carry(
        self, clients: Collection[str], attempt: SecureRoundRecord, content: pb.SecureContent
    ) -> None:
        """Take the coordinator's message to these clients."""
        key = (attempt.run_id, attempt.round, attempt.attempt)
        for name in clients:
            self._letters.put_nowait((name, key, content))

    async def serve(self) -> None:
        """Answer the coordinator until cancelled."""
        while True:
            name, key, content = await self._letters.get()
            match content.WhichOneof("body"):
                case "opening":
                    await self._open(name, key, content.opening)
                case "message":
                    await self._hear(name, key, content.message)
                case _:
                    pass  # a receipt: nobody here keeps any

    async def mask(
        self,
        name: str,
        key: RoundKey,
        update: Numbers,
        weight: Callable[[RoundDescriptor], int],
    ) -> NDArray[np.uint8]:
        """Hide a client's update once its round asks for it; return the masked vector.

        Raises:
            SecureAggregationError: the round is over, or the update does not fit.
        """
        while (member := self._members.get((name, key))) is None:
            await self._opened.wait()
        await member.asked.wait()
        if member.stopped is not None:
            raise SecureAggregationError(f"round {key[1]} has ended: {member.stopped}")
        await self._warn_of_clip(update, member.descriptor)
        async with member.turn:
            actions = await self._in_pool(member.machine.submit, update, weight(member.descriptor))
            self._do(name, key, member, actions)
        vectors = [each.vector for each in actions if isinstance(each, Send)]
        return np.frombuffer(vectors[0] or b"", np.uint8)

    async def _warn_of_clip(self, update: Numbers, descriptor: RoundDescriptor) -> None:
        """Say once that numbers are cut: a study may not learn then, and here no site logs it."""
        if self._has_warned:
            return
        count = await self._in_pool(cut_count, update, descriptor)
        if count and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"secure_aggregation.clip must be larger for this study, got {descriptor.clip:g}: "
                f"round {descriptor.round_number} cut {count} of {update.size} numbers of an "
                "update to it",
                stacklevel=1,
            )

    async def _open(self, name: str, key: RoundKey, opening: pb.SecureOpening) -> None:
        if (name, key) in self._members:
            return
        descriptor = RoundDescriptor.decode(opening.descriptor)
        machine = client_machine(descriptor)(
            descriptor,
            name,
            signer=self._signer(name),
            verifier=Ed25519Verifier(),
            proofs=proofs_of(descriptor),
        )
        member = _Member(machine, descriptor)
        self._forget(key)
        self._members[name, key] = member
        opened, self._opened = self._opened, asyncio.Event()
        opened.set()
        self._do(name, key, member, await self._in_pool(machine.begin))

    async def _hear(self, name: str, key: RoundKey, message: pb.SecureMessage) -> None:
        member = self._members.get((name, key))
        if member is None or member.stopped is not None:
            return
        vector = b""
        if message.vector_digest:
            with self._blobs.open_buffer(
                sum_namespace(key[0], key[1]), message.vector_digest
            ) as content:
                vector = bytes(content)
        async with member.turn:
            actions = await self._in_pool(member.machine.receive, message.envelope, vector)
            self._do(name, key, member, actions)

    def _do(self, name: str, key: RoundKey, member: _Member, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send():
                    self._mailbox.put(Letter(key, name, action.message, action.attachment))
                case AskUpdate():
                    member.asked.set()
                case Stop(reason):
                    member.stopped = reason
                    member.asked.set()
                case _:
                    pass

    def _forget(self, key: RoundKey) -> None:
        """Drop the machines of earlier rounds, and of earlier attempts of this one."""
        for name, old in [each for each in self._members if each[1][1:] < key[1:]]:
            member = self._members.pop((name, old))
            member.stopped = member.stopped or "the next has begun"
            member.asked.set()

    def _signer(self, name: str) -> Ed25519Signer:
        if name not in self._signers:
            self._signers[name] = Ed25519Signer.generate()
        return self._signers[name]

    async def _in_pool(self, call: Callable[..., _T], *arguments: object) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: call(*arguments))
