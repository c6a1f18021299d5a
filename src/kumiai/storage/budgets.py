"""Privacy budgets: what every client, data set and model may spend, and what it has spent.

A release is charged before its noise is drawn, sealed once its noised bytes are durable, and
released in the transaction that publishes the model (`RunRepository.publish_round`). All scopes
of a charge pay in one transaction, or none does; what is charged is never given back.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import ConfigError, ConflictError, IntegrityError, NotFoundError
from kumiai.privacy.budget import (
    BudgetLimit,
    Paid,
    Standing,
    standing,
    verify_affordable,
    verify_charge,
)
from kumiai.privacy.ledger import (
    BudgetScope,
    Charge,
    ChargeKey,
    EntryKind,
    LedgerEntry,
    LedgerHead,
)
from kumiai.privacy.reconciling import (
    KeyedCharge,
    SiteCopy,
    assumed_charges,
    charges_in,
    missing_charges,
    unaccounted,
)
from kumiai.storage.audit_trail import AuditTrail, NoTrail
from kumiai.storage.budget_caches import CountRows, FoldedRows, LimitRows, day_of
from kumiai.storage.budget_ledger import (
    BudgetLedger,
    SealedCharge,
    counts_of,
    locked_ledger,
)
from kumiai.storage.budget_tables import (
    BudgetCountRow,
    BudgetEntryRow,
    BudgetHeadRow,
    BudgetLimitRow,
)
from kumiai.storage.database import DatabaseManager
from kumiai.storage.fencing import fence
from kumiai.storage.records import Lease
from kumiai.storage.rows import clean, table_of

__all__ = ["BudgetRepository", "ChargeRecord", "LedgerCheck", "LedgerState", "ScopeRecord"]

_ENTRIES = table_of(BudgetEntryRow)
_HEAD = table_of(BudgetHeadRow)
_LIMITS = table_of(BudgetLimitRow)
_COUNTS = table_of(BudgetCountRow)
_BATCH_ROWS: Final = 2000
_CHARGES_MAX: Final = 100_000


@dataclass(frozen=True, slots=True)
class ChargeRecord:
    """A charge as the ledger knows it.

    Attributes:
        key: which release it pays for.
        charge: who pays what.
        at: when, seconds since 1970 UTC by the database's clock.
        is_adopted: a site told of it; its release was made elsewhere, and there is no other.
        digest: of the noised bytes, once it is sealed.
        model: of the published model, once it is released.
    """

    key: ChargeKey
    charge: Charge
    at: float
    is_adopted: bool
    digest: str | None
    model: str | None

    @property
    def sealed(self) -> SealedCharge | None:
        """What to publish with; ``None`` before the seal."""
        return None if self.digest is None else SealedCharge(self.key, self.digest)


@dataclass(frozen=True, slots=True)
class ScopeRecord:
    """How a scope stands.

    Attributes:
        scope: which.
        paid: what it has paid for, by day.
        standings: one for each of its budgets.
    """

    scope: BudgetScope
    paid: Sequence[Paid]
    standings: Sequence[Standing]


@dataclass(frozen=True, slots=True)
class LedgerState:
    """Where the ledger ends.

    Attributes:
        head: size and chain.
        frozen: why nothing may be charged, if so.
    """

    head: LedgerHead
    frozen: str | None


@dataclass(frozen=True, slots=True)
class LedgerCheck:
    """What reading the whole ledger found.

    Attributes:
        head: where it ends; every entry up to there is as it was written.
        mended: which of the caches said something else, and was rebuilt.
    """

    head: LedgerHead
    mended: Sequence[str]


class BudgetRepository:
    """The ledger of a database.

    Args:
        database: connected, its schema at this version.
        trail: takes the entries of the audit log that some calls are given.

    Every method raises ``StorageError`` when the database fails.
    """

    def __init__(self, database: DatabaseManager, *, trail: AuditTrail | None = None) -> None:
        self._database = database
        self._trail = trail or NoTrail()
        self._seen = LedgerHead()

    # ------------------------------------------------------------------ charge, seal

    async def charge(
        self, lease: Lease, key: ChargeKey, charge: Charge, *, entry: Any = None
    ) -> ChargeRecord:
        """Let all scopes of a release pay, or none; the same charge again changes nothing.

        Args:
            lease: held, of the key's run.
            key: of the release.
            charge: who pays what.
            entry: of the audit log, written with it; ``None``: none is kept.

        Raises:
            BudgetExhaustedError: a budget does not allow it; nothing was written.
            ConfigError: an event is none.
            ConflictError: the ledger is frozen, or the key stands for another charge or one that
                a site told of.
            FencedError: another leads.
            IntegrityError: the database was put back to an older state under our feet.
        """
        _verify_own(lease, key)
        verify_charge(charge)
        async with self._database.transaction("charge_budget") as connection:
            await fence(connection, lease)
            ledger = await self._ledger(connection)
            entries, at_us = await ledger.entries_of(key)
            if entries:
                return _same_charge(key, charge, entries)
            limits = await ledger.limits_of(charge.scopes)
            paid = await ledger.counts_of(limits) if limits else {}
            verify_affordable(charge, limits, paid, day_of(at_us))
            written = ledger.append(at_us, EntryKind.CHARGED, charge.to_content(), key)
            await ledger.count(day_of(at_us), [charge])
            await self._write(connection, ledger, entry)
        self._seen = ledger.head
        return _record_of({EntryKind.CHARGED: written})

    async def verify_affordable(self, charge: Charge) -> None:
        """Check that a charge would be accepted now; nothing is written.

        Raises:
            BudgetExhaustedError: a budget does not allow it.
            ConfigError: an event is none.
            ConflictError: the ledger is frozen.
        """
        verify_charge(charge)
        async with self._database.reading() as connection:
            ledger = BudgetLedger(connection, *await _end(connection))
            ledger.verify_open()
            limits = await ledger.limits_of(charge.scopes)
            paid = await ledger.counts_of(limits)
            verify_affordable(charge, limits, paid, day_of(await ledger.now_us()))

    async def seal(self, lease: Lease, key: ChargeKey, digest: str) -> SealedCharge:
        """Fix the noised bytes of a release; the same again changes nothing.

        Args:
            lease: held, of the key's run.
            key: of a charge.
            digest: of the bytes, which are durable.

        Raises:
            ConflictError: it is sealed with other bytes: these were made twice for one price.
                Or the ledger is frozen, or a site told of the charge.
            FencedError: another leads.
            NotFoundError: nothing was charged.
        """
        _verify_own(lease, key)
        async with self._database.transaction("seal_budget") as connection:
            await fence(connection, lease)
            ledger = await self._ledger(connection)
            entries, at_us = await ledger.entries_of(key)
            if EntryKind.CHARGED not in entries:
                raise NotFoundError(f"charge must be made before it is sealed, got none for {key}")
            found = entries.get(EntryKind.SEALED)
            if found is None:
                ledger.append(at_us, EntryKind.SEALED, {"digest": clean(digest)}, key)
                await ledger.write()
            elif found.content["digest"] != digest:
                raise ConflictError(
                    f"charge {key} must be sealed once, got other bytes after "
                    f"{found.content['digest']}; publish those"
                )
        self._seen = ledger.head
        return SealedCharge(key, digest)

    @property
    def seen(self) -> LedgerHead:
        """Where the ledger ended when this process last charged, sealed, opened or reconciled."""
        return self._seen

    async def adopted_attempts(self, run_id: str, round: int) -> int:  # noqa: A002
        """Return the last attempt at a round's release that only a site told of; 0: there is none.

        A key up to there pays for nothing that is made here.
        """
        statement = select(_ENTRIES.c.charge_key).where(
            _ENTRIES.c.run_id == run_id, _ENTRIES.c.kind == EntryKind.ADOPTED.value
        )
        async with self._database.reading() as connection:
            keys = [ChargeKey.parse(row.charge_key) for row in await connection.execute(statement)]
        return max((key.attempt for key in keys if key.round == round), default=0)

    # ------------------------------------------------------------------ budgets

    async def set_limit(self, limit: BudgetLimit, *, by: str, entry: Any = None) -> None:
        """Set a budget, in place of the scope's other one of the same window.

        Args:
            limit: the budget.
            by: who does it.
            entry: of the audit log, written with it; ``None``: none is kept.
        """
        async with self._database.transaction("set_budget") as connection:
            ledger = await self._ledger(connection, even_frozen=True)
            content = {**limit.to_content(), "by": clean(by)}
            ledger.append(await ledger.now_us(), EntryKind.LIMITED, content)
            await ledger.set_limit(limit)
            await self._write(connection, ledger, entry)

    async def drop_limit(
        self, scope: BudgetScope, window_days: int, *, by: str, entry: Any = None
    ) -> None:
        """Take a budget away: the scope may spend what it likes, and it is counted.

        Args:
            scope: whose.
            window_days: of which of its budgets; 0: of its lifetime.
            by: who does it.
            entry: of the audit log, written with it; ``None``: none is kept.

        Raises:
            NotFoundError: there is no such budget.
        """
        async with self._database.transaction("set_budget") as connection:
            ledger = await self._ledger(connection, even_frozen=True)
            if not await ledger.drop_limit(scope, window_days):
                raise NotFoundError(
                    f"budget of {scope} over {window_days} days must exist, got none; list them "
                    "with `kumiai privacy budget list`"
                )
            content = {"scope": str(scope), "window_days": window_days, "by": clean(by)}
            ledger.append(await ledger.now_us(), EntryKind.LIMITED, content)
            await self._write(connection, ledger, entry)

    async def scopes(self, only: Collection[BudgetScope] | None = None) -> list[ScopeRecord]:
        """Return how scopes stand, in their order: all that have paid or have a budget.

        Args:
            only: of these; ``None``: of all.
        """
        async with self._database.reading() as connection:
            if only is None:
                names = select(_COUNTS.c.scope).union(select(_LIMITS.c.scope))
                only = [BudgetScope.parse(row.scope) for row in await connection.execute(names)]
            ledger = BudgetLedger(connection, LedgerHead(), None)
            limits, paid = await ledger.limits_of(only), await counts_of(connection, only)
            day = day_of(await ledger.now_us())
        return [
            ScopeRecord(
                scope,
                tuple(paid.get(scope, ())),
                tuple(standing(limit, paid.get(scope, ()), day) for limit in limits.get(scope, ())),
            )
            for scope in sorted(only)
        ]

    # ------------------------------------------------------------------ the ledger as a whole

    async def state(self) -> LedgerState:
        """Return where the ledger ends, and whether it is frozen."""
        async with self._database.reading() as connection:
            return LedgerState(*await _end(connection))

    async def entries(self, start: int = 0) -> list[LedgerEntry]:
        """Return the entries from a place on, a few thousand at most, in order."""
        statement = select(_ENTRIES.c.body).where(_ENTRIES.c.sequence >= start)
        return await self._entries(statement.order_by(_ENTRIES.c.sequence).limit(_BATCH_ROWS))

    async def charges_of(self, scope: BudgetScope) -> list[LedgerEntry]:
        """Return the entries of the newest charges that a scope pays, at most 100,000, in order."""
        paid = (EntryKind.CHARGED.value, EntryKind.ADOPTED.value)
        statement = (
            select(_ENTRIES.c.body)
            # Found by the text, which names the scope in quotes; no other name can hold any.
            .where(
                _ENTRIES.c.kind.in_(paid), _ENTRIES.c.body.contains(f'"{scope}"', autoescape=True)
            )
            .order_by(_ENTRIES.c.sequence.desc())
            .limit(_CHARGES_MAX)
        )
        return (await self._entries(statement))[::-1]

    async def freeze(self, reason: str, *, by: str, entry: Any = None) -> None:
        """Let nothing be charged until the ledger is reconciled.

        Args:
            reason: why, in words.
            by: who does it.
            entry: of the audit log, written with it; ``None``: none is kept.
        """
        async with self._database.transaction("freeze_budgets") as connection:
            ledger = await self._ledger(connection, even_frozen=True)
            await self._freeze(connection, ledger, {"reason": reason, "by": by}, entry)

    async def freeze_unless_continued(
        self, witness: LedgerHead | None, *, by: str, entry: Any = None
    ) -> str | None:
        """Freeze the ledger if it does not continue what was seen of it.

        That is what a database looks like that came back from a backup. A ledger with entries of
        which nothing was ever seen here does, too: this may be the first start after a disaster.
        What was reconciled once counts as continued.

        Args:
            witness: what the caller kept; ``None``: nothing.
            by: who the caller is.
            entry: of the audit log, written with it; ``None``: none is kept.

        Returns:
            Why it is frozen, if it is.
        """
        async with self._database.transaction("freeze_budgets") as connection:
            ledger = await self._ledger(connection, even_frozen=True)
            if ledger.frozen is None and not await _continues(connection, ledger, witness):
                content = {"reason": _why(witness, ledger.head), "by": by, **_told(witness)}
                await self._freeze(connection, ledger, content, entry)
        self._seen = ledger.head
        return ledger.frozen

    async def reconcile(
        self,
        copies: Sequence[SiteCopy],
        assumed: Mapping[BudgetScope, int],
        *,
        by: str,
        entry: Any = None,
    ) -> list[KeyedCharge]:
        """Charge what the sites know and this ledger does not, and let it charge again.

        Args:
            copies: the sites' ledgers.
            assumed: for scopes of sites that can not be asked, how many rounds there may have
                been since; 0 if there can have been none.
            by: who does it.
            entry: of the audit log, written with it; ``None``: none is kept.

        Returns:
            What was charged.

        Raises:
            ConfigError: a scope is in no copy and in no assumption, or its rounds have no price.
        """
        async with self._database.transaction("reconcile_budgets") as connection:
            ledger = await self._ledger(connection, even_frozen=True)
            known = charges_in(await _all_entries(connection))
            if lost := unaccounted(known, copies, assumed):
                raise ConfigError(
                    f"ledgers of all sites must be given, got none of {_shown(lost)}; export "
                    "them at the sites, or give --assume SCOPE=ROUNDS for each"
                )
            added = await asyncio.to_thread(missing_charges, known, copies)
            added += assumed_charges([*known, *added], assumed)
            at_us = await ledger.now_us()
            for each in added:
                verify_charge(each.charge)
                ledger.append(at_us, EntryKind.ADOPTED, each.charge.to_content(), each.key)
            if added:
                await ledger.count(day_of(at_us), [each.charge for each in added])
            content = {
                "by": clean(by),
                "copies": sorted(copy.site for copy in copies),
                "assumed": {str(scope): rounds for scope, rounds in sorted(assumed.items())},
            }
            ledger.append(at_us, EntryKind.RECONCILED, content)
            ledger.frozen = None
            await self._write(connection, ledger, entry)
        self._seen = ledger.head
        return added

    async def check(self) -> LedgerCheck:
        """Read the whole ledger, verify every hash, and rebuild the caches from it.

        Raises:
            IntegrityError: an entry was changed, deleted, moved or put in, or cut off at the end.
        """
        async with self._database.transaction("rebuild_budgets") as connection:
            ledger = await self._ledger(connection, even_frozen=True)
            head = LedgerHead()
            caches: tuple[FoldedRows, ...] = (CountRows(), LimitRows())
            while batch := await _batch(connection, head.size):
                for row in batch:
                    head, found = head.verified(row.body, bytes(row.chain))
                    for cache in caches:
                        cache.add(found)
            if head != ledger.head:
                raise IntegrityError(
                    f"budget ledger must end with entry {ledger.head.size - 1}, got "
                    f"{head.size} entries: some were cut off"
                )
            mended = [cache.name for cache in caches if await cache.mend(connection)]
        return LedgerCheck(head, mended)

    # ------------------------------------------------------------------ inside

    async def _ledger(
        self, connection: AsyncConnection, *, even_frozen: bool = False
    ) -> BudgetLedger:
        ledger = await locked_ledger(connection)
        if not even_frozen:
            ledger.verify_open()
            seen, head = self._seen, ledger.head
            if head.size < seen.size or (head.size == seen.size and head.chain != seen.chain):
                raise IntegrityError(
                    f"budget ledger must continue {seen.size} entries that were seen, got "
                    f"another one of {head.size}: the database was put back; freeze it with "
                    "`kumiai privacy budget freeze`, and reconcile it"
                )
        return ledger

    async def _write(self, connection: AsyncConnection, ledger: BudgetLedger, entry: Any) -> None:
        await ledger.write()
        if entry is not None:
            await self._trail.append(connection, entry)

    async def _freeze(
        self,
        connection: AsyncConnection,
        ledger: BudgetLedger,
        content: Mapping[str, Any],
        entry: Any,
    ) -> None:
        ledger.frozen = clean(str(content["reason"]))
        ledger.append(await ledger.now_us(), EntryKind.FROZEN, content)
        await self._write(connection, ledger, entry)

    async def _entries(self, statement: Select[Any]) -> list[LedgerEntry]:
        async with self._database.reading() as connection:
            rows = (await connection.execute(statement)).all()
        return [LedgerEntry.from_body(row.body) for row in rows]


def _verify_own(lease: Lease, key: ChargeKey) -> None:
    if key.run_id != lease.run_id:
        raise ValueError(f"charge must be of the led run {lease.run_id}, got {key}")


def _same_charge(
    key: ChargeKey, charge: Charge, entries: Mapping[EntryKind, LedgerEntry]
) -> ChargeRecord:
    record = _record_of(entries)
    if record.is_adopted:
        raise ConflictError(
            f"charge's key must be fresh, got {key}, of which a site told; take another attempt"
        )
    if record.charge != charge:
        raise ConflictError(f"charge {key} must stay what it is, got another one")
    return record


def _record_of(entries: Mapping[EntryKind, LedgerEntry]) -> ChargeRecord:
    paid = entries.get(EntryKind.CHARGED) or entries[EntryKind.ADOPTED]
    seal, release = entries.get(EntryKind.SEALED), entries.get(EntryKind.RELEASED)
    return ChargeRecord(
        key=ChargeKey.parse(paid.key),
        charge=Charge.from_content(paid.content),
        at=paid.at,
        is_adopted=paid.kind is EntryKind.ADOPTED,
        digest=None if seal is None else seal.content["digest"],
        model=None if release is None else release.content["model"],
    )


async def _end(connection: AsyncConnection) -> tuple[LedgerHead, str | None]:
    row = (await connection.execute(select(_HEAD))).one_or_none()
    if row is None:
        return LedgerHead(), None
    return LedgerHead(row.size, bytes(row.chain)), row.frozen


async def _batch(connection: AsyncConnection, start: int) -> Sequence[Row[Any, Any]]:
    statement = (
        select(_ENTRIES.c.body, _ENTRIES.c.chain)
        .where(_ENTRIES.c.sequence >= start)
        .order_by(_ENTRIES.c.sequence)
        .limit(_BATCH_ROWS)
    )
    return (await connection.execute(statement)).all()


async def _all_entries(connection: AsyncConnection) -> list[LedgerEntry]:
    statement = select(_ENTRIES.c.body).order_by(_ENTRIES.c.sequence)
    return [LedgerEntry.from_body(row.body) for row in await connection.execute(statement)]


async def _continues(
    connection: AsyncConnection, ledger: BudgetLedger, witness: LedgerHead | None
) -> bool:
    if witness is None:
        return ledger.head.size == 0
    if witness.size == 0:
        return True
    statement = select(_ENTRIES.c.chain).where(_ENTRIES.c.sequence == witness.size - 1)
    chain = (await connection.execute(statement)).scalar_one_or_none()
    if chain is not None and bytes(chain) == witness.chain:
        return True
    return await _was_reconciled(connection, witness)


async def _was_reconciled(connection: AsyncConnection, witness: LedgerHead) -> bool:
    """Return whether the ledger was frozen for the sake of this witness, and reconciled since.

    It is not frozen now, or nobody would ask: so it was reconciled since.
    """
    kinds = select(_ENTRIES.c.body).where(_ENTRIES.c.kind == EntryKind.FROZEN.value)
    bodies = await connection.execute(kinds)
    told = _told(witness)["witness"]
    return any(LedgerEntry.from_body(row.body).content.get("witness") == told for row in bodies)


def _told(witness: LedgerHead | None) -> dict[str, Any]:
    told = None if witness is None else {"size": witness.size, "chain": witness.chain.hex()}
    return {"witness": told}


def _why(witness: LedgerHead | None, head: LedgerHead) -> str:
    if witness is None:
        return f"it has {head.size} entries, of which this coordinator has seen none"
    return (
        f"it has {head.size} entries that do not continue the {witness.size} which this "
        "coordinator has seen: the database was put back to an older state"
    )


def _shown(scopes: Sequence[BudgetScope]) -> str:
    some = ", ".join(map(str, scopes[:5]))
    return some if len(scopes) <= 5 else f"{some} and {len(scopes) - 5} more"
