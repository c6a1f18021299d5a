"""Begins the attempts of rounds, and finds those again that were under way before a restart."""

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np

from kumiai.core import failpoints
from kumiai.core.errors import NotFoundError, SecureAggregationError
from kumiai.identity import Role
from kumiai.identity.audit import Act, Actor, NewEntry
from kumiai.identity.audit import Outcome as AuditOutcome
from kumiai.learning import dimension_of
from kumiai.node.auditing.actors import subject_of
from kumiai.node.coordinator.namespaces import sum_namespace
from kumiai.node.coordinator.run_facts import RunFactsCache
from kumiai.node.coordinator.secure.mailbox import SecureMailbox
from kumiai.node.coordinator.secure.planning import RoundNames, new_descriptor
from kumiai.node.coordinator.secure.receipts import find_kept
from kumiai.node.coordinator.secure.reruns import Ended, Rerun, decode_wrong, rerun_of
from kumiai.node.coordinator.secure.summing import SecureSum, SumParts
from kumiai.node.job import JobSpec
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.secagg import (
    KeptSum,
    Member,
    Outcome,
    RoundDescriptor,
    ServerRound,
    Signer,
    UpdateProofs,
    Verifier,
    server_machine,
    suspects,
)
from kumiai.storage import Lease, RoundRecord, SecureRoundRecord, Suspicion

__all__ = ["OwnKey", "SecureSums", "VouchedMember", "VouchedMembers"]

ROUND_ID_BYTES = 16
_EVEN: Final[Mapping[str, int]] = MappingProxyType({})


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
        """Return the sum of a round, of all its parts; ``None``: it goes on, or has none.

        Raises:
            StorageError: the sum cannot be read.
        """
        ended = await self._ended(current.run_id, current.round)
        if not ended or ended[-1].attempt.attempt < current.attempt:
            return None
        rerun = rerun_of(ended)
        done = ended[-1:] if rerun is None else rerun.done
        if rerun is not None and rerun.pending:
            return None
        outcomes = [
            await self._outcome_of(each.attempt, each.kept)
            for each in done
            if each.kept is not None
        ]
        return _added(outcomes) if outcomes else None

    async def rerun(self, run_id: str, round_number: int) -> Rerun | None:
        """Return how far a round is that goes again in parts; ``None``: it does not.

        Raises:
            StorageError: its attempts cannot be read.
        """
        return rerun_of(await self._ended(run_id, round_number))

    async def blame(
        self, lease: Lease, current: RoundRecord, groups: Sequence[tuple[str, ...]]
    ) -> None:
        """Tell once which groups are left out of a round's sum, since one of each must have lied.

        Whoever must have lied in the run's wrong sums so far is left out of it from now on.

        Raises:
            FencedError: another leads.
            StorageError: nothing was told.
        """
        entries = {
            group: NewEntry(
                Act.SUM_REFUSED,
                Actor(Role.COORDINATOR.value, lease.leader),
                subject_of("run", current.run_id),
                AuditOutcome.REFUSED,
                {"round": current.round, "clients": len(group)},
            )
            for group in groups
        }
        known = await self._parts.repository.wrong_groups(current.run_id)
        before = await self._parts.in_worker(suspects, known)
        after = await self._parts.in_worker(suspects, [*known, *groups])
        suspicions = [
            _suspicion(current, name, is_suspect=name in after) for name in sorted(before ^ after)
        ]
        await self._parts.repository.blame(lease, current.round, entries, suspicions=suspicions)

    async def suspects(self, run_id: str) -> frozenset[str]:
        """Return whom the wrong sums of a run point to; they are left out of its rounds.

        Raises:
            StorageError: the sums cannot be read.
        """
        groups = await self._parts.repository.wrong_groups(run_id)
        return await self._parts.in_worker(suspects, groups)

    async def skip(self, lease: Lease, current: RoundRecord, reason: str) -> None:
        """End the present attempt before it begins.

        Raises:
            FencedError: another leads.
            StorageError: nothing has changed.
        """
        repository = self._parts.repository
        attempt = await repository.open(lease, current.round, current.attempt, b"")
        await repository.end(lease, attempt, "aborted", reason)

    async def descriptor(self, run_id: str, round_number: int) -> RoundDescriptor:
        """Return what the newest attempt of a round agreed on.

        Raises:
            NotFoundError: there is none.
            StorageError: it cannot be read.
        """
        for attempt in reversed(await self._parts.repository.attempts(run_id, round_number)):
            if attempt.opening:
                return _descriptor_of(attempt)
        raise NotFoundError(f"round {round_number} of run {run_id} has no secure round")

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
        needed: int,
        rerun: Rerun | None = None,
        scales: Mapping[str, int] = _EVEN,
    ) -> SecureRoundRecord:
        """Begin the present attempt of a round.

        Args:
            lease: held.
            job: the run's.
            current: the round, collecting.
            clients: who was asked.
            needed: how many of them must be attached now.
            rerun: of which this attempt is a part.
            scales: what each client's update counts by its age; none: all count the same.

        Raises:
            ConfigError: the job does not fit these clients.
            SecureAggregationError: fewer than needed are attached.
            FencedError: another leads.
            StorageError: nothing has begun.
        """
        own = (await self._parts.in_worker(self._own_key)).member
        members = self._attached(clients, needed)
        descriptor = new_descriptor(
            job,
            RoundNames(lease.run_id, current.round, secrets.token_bytes(ROUND_ID_BYTES)),
            roster=[
                Member(each.name, each.verification_key, scales.get(each.name, 1))
                for each in members.values()
            ],
            coordinator=Member(own.name, own.verification_key),
            dimension=dimension_of((await self._facts.get(lease.run_id)).layout),
            min_reports=min(current.min_reports, len(members)),
            rerun_of=None if rerun is None else _descriptor_of(rerun.first),
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

    def _attached(self, clients: Collection[str], needed: int) -> Mapping[str, VouchedMember]:
        """Return who is there now; counted once, as whoever leaves later must not change it."""
        members = self._members.vouched(clients)
        if len(members) < needed:
            raise SecureAggregationError(
                f"only {len(members)} of {needed} clients came to sum with"
            )
        return members

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

    async def _ended(self, run_id: str, round_number: int) -> list[Ended]:
        repository, found = self._parts.repository, []
        for attempt in await repository.attempts(run_id, round_number):
            match attempt.state:
                case "open":
                    break
                case "wrong":
                    result = await repository.result(attempt)
                    wrong = None if result is None else decode_wrong(result)
                    found.append(Ended(attempt, wrong=wrong))
                case _:
                    found.append(Ended(attempt, kept=await find_kept(repository, attempt)))
        return found

    async def _outcome_of(self, attempt: SecureRoundRecord, kept: KeptSum) -> Outcome:
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


def _descriptor_of(attempt: SecureRoundRecord) -> RoundDescriptor:
    return RoundDescriptor.decode(pb.SecureOpening.FromString(attempt.opening).descriptor)


def _suspicion(current: RoundRecord, client: str, *, is_suspect: bool) -> Suspicion:
    reason = "in wrong sums, whoever else was in them" if is_suspect else "sums were wrong without"
    entry = NewEntry(
        Act.CLIENT_EXCLUDED if is_suspect else Act.CLIENT_READMITTED,
        Actor(Role.CLIENT.value, client),
        subject_of("run", current.run_id),
        AuditOutcome.REFUSED if is_suspect else AuditOutcome.DONE,
        {"round": current.round, "reason": reason},
    )
    return Suspicion(client, is_suspect, entry)


def _added(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the sum of a round's parts; one step for all, since the job is one."""
    return Outcome(
        np.sum([each.total for each in outcomes], axis=0, dtype=np.int64),
        sum(each.weight for each in outcomes),
        outcomes[0].step,
        tuple(sorted(name for each in outcomes for name in each.survivors)),
    )
