"""The ledger of privacy budgets in SQL: its end, its entries, and what is counted from them.

Rules kept here: whoever writes holds the lock of the one row of ``budget_head`` until the
transaction ends, after the run's row and before the audit log's head; an entry is never changed;
limits and counts follow from the entries, and are written with them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, bindparam, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import ConflictError, IntegrityError
from kumiai.privacy.budget import BudgetLimit, Paid
from kumiai.privacy.ledger import (
    CHAIN_START,
    BudgetScope,
    Charge,
    ChargeKey,
    EntryKind,
    Guarantee,
    LedgerEntry,
    LedgerHead,
)
from kumiai.storage.budget_tables import (
    BudgetCountRow,
    BudgetEntryRow,
    BudgetHeadRow,
    BudgetLimitRow,
)
from kumiai.storage.rows import is_one_of, table_of, upsert
from kumiai.storage.tables import clock_sql

__all__ = [
    "BudgetLedger",
    "SealedCharge",
    "counts_of",
    "limit_of",
    "locked_ledger",
    "release_charge",
    "verify_no_charge_is_owed",
]

_ENTRIES = table_of(BudgetEntryRow)
_HEAD = table_of(BudgetHeadRow)
_LIMITS = table_of(BudgetLimitRow)
_COUNTS = table_of(BudgetCountRow)
_NAME: Final = "ledger"

_LOCKED_HEAD = select(_HEAD.c.size, _HEAD.c.chain, _HEAD.c.frozen).with_for_update()
_NOW = select(clock_sql())
_ONE = select(literal(1).label("one")).subquery()
# The clock in every row, and one row at least: under the lock, and in one trip to the database.
_OF_KEY = select(clock_sql().label("now"), _ENTRIES.c.body).select_from(
    _ONE.outerjoin(_ENTRIES, _ENTRIES.c.charge_key == bindparam("of_key"))
)


def _added(insert: Any) -> Any:
    return insert.on_conflict_do_update(
        index_elements=["scope", "guarantee", "event", "day"],
        set_={"times": _COUNTS.c.times + insert.excluded.times},
    )


# Built once: it is asked for with every charge.
_ADDED: Final = {
    "postgresql": _added(postgresql.insert(_COUNTS)),
    "sqlite": _added(sqlite.insert(_COUNTS)),
}


@dataclass(frozen=True, slots=True)
class SealedCharge:
    """A release that is paid for and fixed: what a model may be published with.

    Attributes:
        key: of the charge.
        digest: of the noised bytes, which are what was paid for.
    """

    key: ChargeKey
    digest: str


class BudgetLedger:
    """The ledger within one transaction that holds the lock of its end."""

    def __init__(self, connection: AsyncConnection, head: LedgerHead, frozen: str | None) -> None:
        """Write behind this end; `locked_ledger` makes one."""
        self._connection = connection
        self.head = head
        self.frozen = frozen
        """Why nothing may be charged, if so."""
        self._rows: list[dict[str, Any]] = []

    async def now_us(self) -> int:
        """Return the time by the database's clock, microseconds since 1970 UTC."""
        # Under the lock, so that times follow the order of the entries.
        return int(float((await self._connection.execute(_NOW)).scalar_one()) * 1e6)

    def verify_open(self) -> None:
        """Check that the ledger may be charged.

        Raises:
            ConflictError: it is frozen.
        """
        if self.frozen is not None:
            raise ConflictError(
                f"budget ledger must not be frozen, got one that is: {self.frozen}; bring it in "
                "line with the sites' ledgers with `kumiai privacy budget reconcile`"
            )

    async def entries_of(self, key: ChargeKey) -> tuple[dict[EntryKind, LedgerEntry], int]:
        """Return what the ledger says about a charge, by kind, and the time as `now_us`."""
        rows = (await self._connection.execute(_OF_KEY, {"of_key": str(key)})).all()
        entries = [LedgerEntry.from_body(row.body) for row in rows if row.body is not None]
        return {entry.kind: entry for entry in entries}, int(rows[0].now * 1e6)

    def append(
        self, at_us: int, kind: EntryKind, content: Mapping[str, Any], key: ChargeKey | None = None
    ) -> LedgerEntry:
        """Put an entry behind the end; `write` brings it to the database."""
        self.head, entry, body = self.head.appended(at_us, kind, str(key or ""), content)
        self._rows.append(
            {
                "sequence": entry.sequence,
                "kind": kind.value,
                "charge_key": None if key is None else str(key),
                "run_id": None if key is None else key.run_id,
                "body": body,
                "chain": self.head.chain,
            }
        )
        return entry

    async def write(self) -> None:
        """Write what was appended, and the new end."""
        await self._connection.execute(_ENTRIES.insert(), self._rows)
        self._rows = []
        await self._connection.execute(
            update(_HEAD).values(size=self.head.size, chain=self.head.chain, frozen=self.frozen)
        )

    async def limits_of(
        self, scopes: Iterable[BudgetScope]
    ) -> dict[BudgetScope, list[BudgetLimit]]:
        """Return the limits of those scopes that have some, each scope's in order."""
        statement = select(_LIMITS).where(
            is_one_of(self._connection, _LIMITS.c.scope, sorted(map(str, scopes)))
        )
        found: dict[BudgetScope, list[BudgetLimit]] = {}
        ordered = statement.order_by(_LIMITS.c.scope, _LIMITS.c.window_days)
        for row in await self._connection.execute(ordered):
            limit = limit_of(row)
            found.setdefault(limit.scope, []).append(limit)
        return found

    async def counts_of(self, scopes: Iterable[BudgetScope]) -> dict[BudgetScope, list[Paid]]:
        """Return what each scope has paid for; who has not is left out."""
        return await counts_of(self._connection, scopes)

    async def count(self, day: int, charges: Iterable[Charge]) -> None:
        """Add charges of one day to the counts; at least one."""
        times = Counter[tuple[str, str, str]]()
        for charge in charges:
            for scope, events in charge.events_of().items():
                for event, count in events.items():
                    times[str(scope), str(charge.guarantee), event] += count
        # In order, as every lock on several rows is taken.
        rows = [
            {
                "scope": place[0],
                "guarantee": place[1],
                "event": place[2],
                "day": day,
                "times": count,
            }
            for place, count in sorted(times.items())
        ]
        await self._connection.execute(_ADDED[self._connection.dialect.name], rows)

    async def set_limit(self, limit: BudgetLimit) -> None:
        """Let this limit be in force, in place of the scope's other one of the same window."""
        statement = upsert(self._connection, _LIMITS).values(
            scope=str(limit.scope),
            window_days=limit.window_days,
            guarantee=str(limit.guarantee),
            epsilon=limit.epsilon,
            delta=limit.delta,
        )
        changed = {
            name: getattr(statement.excluded, name) for name in ("guarantee", "epsilon", "delta")
        }
        await self._connection.execute(
            statement.on_conflict_do_update(index_elements=["scope", "window_days"], set_=changed)
        )

    async def drop_limit(self, scope: BudgetScope, window_days: int) -> bool:
        """Take a limit away; return whether there was one."""
        gone = await self._connection.execute(
            _LIMITS.delete().where(
                _LIMITS.c.scope == str(scope), _LIMITS.c.window_days == window_days
            )
        )
        return bool(gone.rowcount)


async def locked_ledger(connection: AsyncConnection) -> BudgetLedger:
    """Lock the ledger's end until the transaction ends, and return it.

    Raises:
        IntegrityError: there are entries and no end.
    """
    row = (await connection.execute(_LOCKED_HEAD)).one_or_none()
    if row is None:
        first = upsert(connection, _HEAD).values(name=_NAME, size=0, chain=CHAIN_START, frozen=None)
        await connection.execute(first.on_conflict_do_nothing())
        row = (await connection.execute(_LOCKED_HEAD)).one()
    return BudgetLedger(connection, LedgerHead(row.size, bytes(row.chain)), row.frozen)


async def release_charge(
    connection: AsyncConnection,
    sealed: SealedCharge,
    *,
    run_id: str,
    round: int,  # noqa: A002 - the glossary's word
    model_digest: str,
) -> None:
    """Note that a model made of sealed bytes is published, in the transaction that does it.

    Raises:
        ConflictError: the charge is another round's, is not sealed with these bytes, or has been
            released; the transaction must not commit.
    """
    key = sealed.key
    if (key.run_id, key.round) != (run_id, round):
        raise ConflictError(
            f"charge of round {round} of run {run_id} must be of that round, got {key}"
        )
    ledger = await locked_ledger(connection)
    ledger.verify_open()
    entries, at_us = await ledger.entries_of(key)
    seal = entries.get(EntryKind.SEALED)
    if seal is None or seal.content["digest"] != sealed.digest:
        told = "none" if seal is None else "one with others"
        raise ConflictError(f"charge {key} must be sealed with the released bytes, got {told}")
    if EntryKind.RELEASED in entries:
        raise ConflictError(f"charge {key} must be released once, got a second release")
    ledger.append(at_us, EntryKind.RELEASED, {"model": model_digest}, key)
    await ledger.write()


async def verify_no_charge_is_owed(connection: AsyncConnection, run_id: str) -> None:
    """Check that a run which is published without a charge has never paid for a release.

    Raises:
        ConflictError: it has: its models are private, and this one was not paid for.
    """
    statement = select(_ENTRIES.c.sequence).where(_ENTRIES.c.run_id == run_id).limit(1)
    if (await connection.execute(statement)).one_or_none() is not None:
        raise ConflictError(
            f"run {run_id} must publish with a charge, got none; it has paid for a release before"
        )


async def counts_of(
    connection: AsyncConnection, scopes: Iterable[BudgetScope]
) -> dict[BudgetScope, list[Paid]]:
    """Return what each scope has paid for; who has not is left out."""
    statement = select(_COUNTS).where(
        is_one_of(connection, _COUNTS.c.scope, sorted(map(str, scopes)))
    )
    found: dict[BudgetScope, list[Paid]] = {}
    for row in await connection.execute(statement):
        scope, guarantee = BudgetScope.parse(row.scope), Guarantee.parse(row.guarantee)
        found.setdefault(scope, []).append(Paid(guarantee, row.day, row.event, row.times))
    return found


def limit_of(row: Row[Any]) -> BudgetLimit:
    """Return the limit that a row stands for.

    Raises:
        IntegrityError: it stands for none.
    """
    try:
        return BudgetLimit(
            BudgetScope.parse(row.scope),
            Guarantee.parse(row.guarantee),
            epsilon=row.epsilon,
            delta=row.delta,
            window_days=row.window_days,
        )
    except (TypeError, ValueError) as error:
        raise IntegrityError(f"limit of {row.scope} must be one, got another row") from error
