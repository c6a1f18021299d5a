"""Begins the attempts of rounds, and finds those again that were under way before a restart."""

import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kumiai.core import failpoints
from kumiai.core.errors import NotFoundError, SecureAggregationError, StorageError
from kumiai.learning import dimension_of
from kumiai.node.coordinator.namespaces import sum_namespace
from kumiai.node.coordinator.run_facts import RunFactsCache
from kumiai.node.coordinator.secure.mailbox import SecureMailbox
from kumiai.node.coordinator.secure.planning import RoundNames, new_descriptor
from kumiai.node.coordinator.secure.receipts import find_kept
from kumiai.node.coordinator.secure.summing import SecureSum, SumParts
from kumiai.node.job import JobSpec
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.secagg import (
    Member,
    Outcome,
    RoundDescriptor,
    ServerRound,
    Signer,
    UpdateProofs,
    Verifier,
    server_machine,
)
from kumiai.storage import Lease, RoundRecord, SecureRoundRecord

__all__ = ["OwnKey", "SecureSums", "VouchedMember", "VouchedMembers"]

ROUND_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class VouchedMember:
    """A member's signing key and what vouches for it; empty in a simulation."""

    name: str
    verification_key: bytes
    voucher: bytes = b""


class VouchedMembers(Protocol):
    """Who can take part in secure rounds."""

    def vouched(self, clients: Collection[str]) -> Mapping[str, VouchedMember]:
        """Return those of the clients that are attached with a signing key, by name."""
        ...


@dataclass(frozen=True, slots=True)
class OwnKey:
    """The coordinator's signing key."""

    member: VouchedMember
    signer: Signer


class SecureSums:
    """Makes the sums that drivers work with."""

    def __init__(
        self,
        parts: SumParts,
        *,
        members: VouchedMembers,
        mailbox: SecureMailbox,
        own_key: Callable[[], OwnKey],
        verifier: Verifier,
        proofs: Callable[[RoundDescriptor], UpdateProofs | None],
        facts: RunFactsCache,
    ) -> None:
        """Work with these.

        Args:
            parts: shared by all sums.
            members: who is there.
            mailbox: where the clients' messages come in.
            own_key: this coordinator's, with a voucher of its present certificate; blocking.
            verifier: checks the members' signatures.
            proofs: what a round is proven with.
            facts: the models' layouts.
        """
        self._parts = parts
        self._members = members
        self._own_key = own_key
        self._verifier = verifier
        self._proofs = proofs
        self._facts = facts
        self.mailbox = mailbox

    def able(self, clients: Collection[str]) -> list[str]:
        """Return those of the clients that can take part, sorted."""
        return sorted(self._members.vouched(clients))

    async def find(self, run_id: str, round_number: int) -> SecureRoundRecord | None:
        """Return the newest attempt of a round."""
        return await self._parts.repository.find(run_id, round_number)

    async def exclusions(self, run_id: str, round_number: int) -> Mapping[str, str]:
        """Return who was left out of any attempt of a round for what it did, with the reason."""
        return await self._parts.repository.exclusions(run_id, round_number)

    async def summed(self, current: RoundRecord) -> Outcome | None:
        """Return the sum of the present attempt of a round; ``None``: it goes on, or has none.

        Raises:
            StorageError: the sum cannot be read.
        """
        attempt = await self.find(current.run_id, current.round)
        if attempt is None or attempt.attempt < current.attempt or attempt.state != "done":
            return None
        return await self._outcome_of(attempt)

    async def descriptor(self, run_id: str, round_number: int) -> RoundDescriptor:
        """Return what the newest attempt of a round agreed on.

        Raises:
            NotFoundError: there is none.
            StorageError: it cannot be read.
        """
        attempt = await self.find(run_id, round_number)
        if attempt is None:
            raise NotFoundError(f"round {round_number} of run {run_id} has no secure round")
        return RoundDescriptor.decode(pb.SecureOpening.FromString(attempt.opening).descriptor)

    async def hand_out(self, run_id: str, round_number: int) -> None:
        """Send the receipts of a published round to those who are there; the others will ask.

        Raises:
            StorageError: what they are made of cannot be read.
        """
        for attempt in await self._parts.repository.attempts(run_id, round_number):
            kept = await find_kept(self._parts.repository, attempt)
            for name in () if kept is None else kept.survivors:
                content = pb.SecureContent(receipt=kept.find_receipt(name) if kept else None)
                self._parts.carrier.carry([name], attempt, content)

    async def begin(
        self,
        lease: Lease,
        job: JobSpec,
        current: RoundRecord,
        *,
        clients: Collection[str],
    ) -> SecureRoundRecord:
        """Begin the present attempt of a round.

        Args:
            lease: held.
            job: the run's.
            current: the round, collecting.
            clients: who was asked, and is attached.

        Raises:
            ConfigError: these clients are too few, or the job does not fit them.
            FencedError: another leads.
            StorageError: nothing has begun.
        """
        own = (await self._parts.in_worker(self._own_key)).member
        members = self._members.vouched(clients)
        descriptor = new_descriptor(
            job,
            RoundNames(lease.run_id, current.round, secrets.token_bytes(ROUND_ID_BYTES)),
            roster=[Member(each.name, each.verification_key) for each in members.values()],
            coordinator=Member(own.name, own.verification_key),
            dimension=dimension_of((await self._facts.get(lease.run_id)).layout),
            min_reports=min(current.min_reports, len(members)),
        )
        opening = pb.SecureOpening(
            descriptor=descriptor.encode(),
            vouchers=[each.voucher for each in (own, *members.values()) if each.voucher],
        )
        record = await self._parts.repository.open(
            lease, current.round, current.attempt, opening.SerializeToString()
        )
        failpoints.reach("coordinator.secure.opened")
        return record

    async def resume(self, lease: Lease, attempt: SecureRoundRecord) -> SecureSum:
        """Return an attempt as its records tell it.

        Raises:
            SecureAggregationError: this coordinator may not go on with it.
            StorageError: the records cannot be read.
        """
        records = await self._parts.repository.records(attempt)

        def restored() -> ServerRound:
            own = self._own_key()
            opening = pb.SecureOpening.FromString(attempt.opening)
            descriptor = RoundDescriptor.decode(opening.descriptor)
            own_member = Member(own.member.name, own.member.verification_key)
            if own_member not in descriptor.coordinators:
                raise SecureAggregationError(
                    f"round must be led on with the key that began it, got another of "
                    f"{own.member.name!r}"
                )
            return server_machine(descriptor).restore(
                descriptor,
                own.member.name,
                records,
                signer=own.signer,
                verifier=self._verifier,
                proofs=self._proofs(descriptor),
            )

        server = await self._parts.in_worker(restored)
        found = SecureSum(self._parts, lease, attempt, server, record_count=len(records))
        self.mailbox.open(lease.run_id, found.roster)
        return found

    async def _outcome_of(self, attempt: SecureRoundRecord) -> Outcome:
        kept = await find_kept(self._parts.repository, attempt)
        if kept is None:
            raise StorageError(f"sum of round {attempt.round} must be kept, got none")
        namespace = sum_namespace(attempt.run_id, attempt.round)

        def outcome() -> Outcome:
            with self._parts.blobs.open_buffer(namespace, kept.total_digest.hex()) as buffer:
                return kept.outcome(np.frombuffer(buffer, np.int64).copy())

        return await self._parts.in_worker(outcome)

    async def end(self, lease: Lease, attempt: SecureRoundRecord, reason: str) -> None:
        """End an attempt that nobody can go on with.

        Raises:
            FencedError: another leads.
            StorageError: it is open still.
        """
        await self._parts.repository.end(lease, attempt, "aborted", reason)
