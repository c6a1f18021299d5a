"""The audit log in SQL: appended to in the transaction of the act, read in pages and in order.

Rules kept here: an append locks the one row of ``audit_head`` until its transaction ends, so that
no two replicas ever write the same place, and it is the last lock that a transaction takes: what
takes another one behind it could wait for somebody who waits for the head. Entries, hashes and
keys are made by an `AuditScribe`, of which this room knows only how it is called.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from sqlalchemy import Row, Select, bindparam, delete, func, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import NotFoundError
from kumiai.storage.audit_tables import (
    AuditCheckpointRow,
    AuditEntryRow,
    AuditHeadRow,
    AuditNodeRow,
    AuditPersonRow,
    AuditSignerRow,
)
from kumiai.storage.database import DatabaseManager
from kumiai.storage.paging import Order, Page, fetch_page, name_of_list
from kumiai.storage.rows import columns_of, is_one_of, parsed, table_of, upsert
from kumiai.storage.tables import clock_sql

__all__ = [
    "AuditEnd",
    "AuditLog",
    "AuditQuery",
    "AuditRecord",
    "AuditScribe",
    "CheckpointRecord",
    "WrittenEntry",
]

_ENTRIES = table_of(AuditEntryRow)
_HEAD = table_of(AuditHeadRow)
_NODES = table_of(AuditNodeRow)
_PERSONS = table_of(AuditPersonRow)
_CHECKPOINTS = table_of(AuditCheckpointRow)
_SIGNERS = table_of(AuditSignerRow)
_COLUMNS = columns_of(AuditEntryRow)
_NAME: Final = "log"
_BATCH_ROWS: Final = 2000
_CHECKPOINTS_AT_ONCE: Final = 500

_LOCKED_HEAD = select(_HEAD.c.size, _HEAD.c.chain, _HEAD.c.frontier).with_for_update()
_UNLOCKED_HEAD = select(_HEAD.c.size, _HEAD.c.chain, _HEAD.c.frontier)
_NOW = select(clock_sql())
_SECRET = select(_PERSONS.c.secret).where(
    _PERSONS.c.kind == bindparam("of_kind"), _PERSONS.c.name == bindparam("of_name")
)


class WrittenEntry(Protocol):
    """An entry as a row, and where the log ends behind it."""

    @property
    def sequence(self) -> int: ...  # noqa: D102 - the columns of the tables
    @property
    def at_us(self) -> int: ...  # noqa: D102
    @property
    def act(self) -> str: ...  # noqa: D102
    @property
    def outcome(self) -> str: ...  # noqa: D102
    @property
    def subject(self) -> str: ...  # noqa: D102
    @property
    def person(self) -> str | None: ...  # noqa: D102
    @property
    def body(self) -> str: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def chain(self) -> bytes: ...  # noqa: D102
    @property
    def frontier(self) -> bytes: ...  # noqa: D102
    @property
    def nodes(self) -> Sequence[tuple[int, int, bytes]]: ...  # noqa: D102


class AuditScribe(Protocol):
    """Makes entries out of acts; `kumiai.identity.audit` has the one there is."""

    @property
    def start(self) -> bytes:
        """The chain's value of a log without entries."""
        ...

    def person_of(self, new: Any, /) -> tuple[str, str] | None:
        """Return whose key the entry needs: kind and name."""
        ...

    def new_person(self) -> tuple[str, bytes]:
        """Return a new key, after its pseudonym."""
        ...

    def write(
        self,
        new: Any,
        /,
        *,
        size: int,
        chain: bytes,
        frontier: bytes,
        at_us: int,
        secret: bytes | None,
    ) -> WrittenEntry:
        """Return the entry behind the present end."""
        ...


@dataclass(frozen=True, slots=True)
class AuditEnd:
    """Where the log ends.

    Attributes:
        size: how many entries there are.
        chain: the chain's value after the last.
        frontier: the roots of the tree's perfect subtrees.
    """

    size: int
    chain: bytes
    frontier: bytes


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """An entry as it is stored.

    Attributes:
        sequence: its place, from 0.
        at: seconds since 1970 UTC.
        person: the actor's pseudonym, if they are a person.
        body: the text that was hashed; the other fields repeat what it says.
        chain: the chain's value behind it.
    """

    sequence: int
    at: float
    act: str
    outcome: str
    subject: str
    person: str | None
    body: str
    chain: bytes


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which entries; a filter that is left out lets everything through.

    Attributes:
        acts: one of these.
        outcome: exactly this.
        subject: exactly this.
        persons: of one of these pseudonyms.
        at_from, at_before: seconds since 1970 UTC; the first is included.
        is_newest_first: the order.
    """

    acts: Collection[str] | None = None
    outcome: str | None = None
    subject: str | None = None
    persons: Collection[str] | None = None
    at_from: float | None = None
    at_before: float | None = None
    is_newest_first: bool = True


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A signed note, with what it is found by."""

    size: int
    key_id: str
    at: float
    note: str


class AuditLog:
    """The one log of a database.

    Args:
        database: where it is kept.
        scribe: makes the entries.
    """

    def __init__(self, database: DatabaseManager, scribe: AuditScribe) -> None:
        self._database = database
        self._scribe = scribe

    async def append(self, connection: AsyncConnection, entry: Any) -> int:
        """Write an entry in the caller's transaction, as the last thing that it does.

        Args:
            connection: in a read-write transaction; the log's end is locked until it ends.
            entry: as the scribe takes it.

        Returns:
            The entry's place.

        Raises:
            ValueError: the scribe refuses the entry.
            IntegrityError: the log's end is damaged.
        """
        return await self.append_many(connection, [entry])

    async def append_many(self, connection: AsyncConnection, entries: Sequence[Any]) -> int:
        """Write entries in their order; return the place of the last one."""
        end = await self._locked_end(connection)
        # Both are asked under the lock: times follow the order, and nobody makes a second key.
        at = float((await connection.execute(_NOW)).scalar_one())
        secrets: dict[tuple[str, str], bytes] = {}
        rows: list[dict[str, Any]] = []
        nodes: list[tuple[int, int, bytes]] = []
        for entry in entries:
            person, secret = self._scribe.person_of(entry), None
            if person is not None:
                secret = secrets.get(person)
                if secret is None:
                    secret = secrets[person] = await self._secret(connection, *person)
            written = self._scribe.write(
                entry,
                size=end.size,
                chain=end.chain,
                frontier=end.frontier,
                at_us=int(at * 1e6),
                secret=secret,
            )
            rows.append(_row_of(written))
            nodes += written.nodes
            end = AuditEnd(written.size, written.chain, written.frontier)
        await connection.execute(_ENTRIES.insert(), rows)
        if nodes:
            columns = ("level", "position", "hash")
            await connection.execute(
                _NODES.insert(), [dict(zip(columns, node, strict=True)) for node in nodes]
            )
        await connection.execute(
            update(_HEAD).values(size=end.size, chain=end.chain, frontier=end.frontier)
        )
        return end.size - 1

    async def record(self, entries: Sequence[Any]) -> int:
        """Write entries in a transaction of their own; return the place of the last one.

        Raises:
            StorageError: the database failed.
        """
        async with self._database.transaction("audit_record") as connection:
            return await self.append_many(connection, entries)

    async def _locked_end(self, connection: AsyncConnection) -> AuditEnd:
        row = (await connection.execute(_LOCKED_HEAD)).one_or_none()
        if row is None:
            first = upsert(connection, _HEAD).values(
                name=_NAME, size=0, chain=self._scribe.start, frontier=b""
            )
            await connection.execute(first.on_conflict_do_nothing())
            row = (await connection.execute(_LOCKED_HEAD)).one()
        return AuditEnd(*row)

    async def _secret(self, connection: AsyncConnection, kind: str, name: str) -> bytes:
        """Return the key to a person; make one for a person without."""
        found = await connection.execute(_SECRET, {"of_kind": kind, "of_name": name})
        secret = found.scalar_one_or_none()
        if secret is None:
            pseudonym, secret = self._scribe.new_person()
            await connection.execute(
                _PERSONS.insert().values(person=pseudonym, kind=kind, name=name, secret=secret)
            )
        return bytes(secret)

    async def redact(self, kind: str, name: str, entry: Any) -> str:
        """Delete the key to a person, so that nobody reads their name and addresses again.

        Args:
            kind: the person's role, or ``address``.
            name: theirs.
            entry: makes the entry about it out of the pseudonym.

        Returns:
            The pseudonym that remains.

        Raises:
            NotFoundError: there is no key to such a person: they are not in the log, or no more.
        """
        async with self._database.transaction("audit_redact") as connection:
            if connection.dialect.name == "sqlite":
                # Else the key stays in the file until its place is taken by something else.
                await connection.execute(text("PRAGMA secure_delete = ON"))
            found = await connection.execute(
                delete(_PERSONS)
                .where(_PERSONS.c.kind == kind, _PERSONS.c.name == name)
                .returning(_PERSONS.c.person)
            )
            person = found.scalar_one_or_none()
            if person is None:
                raise NotFoundError(
                    f"person {kind}/{name} must have a key in the audit log, got none: they are "
                    "not in it, or were redacted"
                )
            await self.append(connection, entry(person))
        return str(person)

    async def end(self) -> AuditEnd | None:
        """Return where the log ends, ``None`` before its first entry."""
        async with self._database.reading() as connection:
            row = (await connection.execute(_UNLOCKED_HEAD)).one_or_none()
        return None if row is None else AuditEnd(*row)

    async def get(self, sequence: int) -> AuditRecord:
        """Return an entry.

        Raises:
            NotFoundError: there is none at that place.
        """
        found = [record async for record in self.read(sequence, sequence + 1)]
        if not found:
            raise NotFoundError(f"entry of the audit log must exist, got {sequence}")
        return found[0]

    async def list_entries(
        self, query: AuditQuery = AuditQuery(), *, limit: int = 50, cursor: str | None = None
    ) -> Page[AuditRecord]:
        """Return one page of the entries that pass all filters.

        Raises:
            ValueError: ``limit`` is out of its range.
            ConfigError: the cursor is that of another list.
        """
        async with self._database.reading() as connection:
            return await fetch_page(
                connection,
                _filtered(connection, query),
                AuditRecord,
                order=Order(_ENTRIES.c.sequence, _ENTRIES.c.act, int, query.is_newest_first),
                limit=limit,
                cursor=cursor,
                list_name=name_of_list("audit", query),
            )

    async def read(self, start: int, end: int) -> AsyncIterator[AuditRecord]:
        """Yield the entries from place ``start`` up to and without ``end``, in order.

        However many, a few thousand are in memory at once; each batch is a snapshot of its own.
        """
        while start < end:
            statement = (
                select(*_COLUMNS)
                .where(_ENTRIES.c.sequence >= start, _ENTRIES.c.sequence < end)
                .order_by(_ENTRIES.c.sequence)
                .limit(_BATCH_ROWS)
            )
            async with self._database.reading() as connection:
                rows = (await connection.execute(statement)).all()
            for row in rows:
                yield AuditRecord(*row)
            if len(rows) < _BATCH_ROWS:
                return
            start = int(rows[-1].sequence) + 1

    async def nodes(self, level: int, start: int, end: int) -> list[bytes]:
        """Return the kept nodes of a level, from position ``start`` up to and without ``end``."""
        statement = (
            select(_NODES.c.hash)
            .where(_NODES.c.level == level, _NODES.c.position >= start, _NODES.c.position < end)
            .order_by(_NODES.c.position)
        )
        return [bytes(row.hash) for row in await self._rows(statement)]

    async def secrets_of(self, persons: Collection[str]) -> dict[str, tuple[str, str, bytes]]:
        """Return kind, name and key of each of these persons, by their pseudonyms.

        Who was redacted is left out.
        """
        if not persons:
            return {}
        async with self._database.reading() as connection:
            statement = select(_PERSONS).where(
                is_one_of(connection, _PERSONS.c.person, sorted(persons))
            )
            rows = (await connection.execute(statement)).all()
        return {row.person: (row.kind, row.name, bytes(row.secret)) for row in rows}

    async def persons_named(self, name: str, kind: str | None = None) -> list[str]:
        """Return the pseudonyms of the persons of a name; of all kinds, unless one is given."""
        statement = select(_PERSONS.c.person).where(_PERSONS.c.name == name)
        if kind is not None:
            statement = statement.where(_PERSONS.c.kind == kind)
        return [str(row.person) for row in await self._rows(statement)]

    async def add_checkpoint(self, *, size: int, key_id: str, at: float, note: str) -> None:
        """Store a signed note; the same place and key again change nothing."""
        async with self._database.transaction("audit_checkpoint") as connection:
            statement = upsert(connection, _CHECKPOINTS).values(
                size=size, key_id=key_id, at=at, note=note
            )
            await connection.execute(statement.on_conflict_do_nothing())

    async def checkpoints(self, *, above: int = 0) -> AsyncIterator[CheckpointRecord]:
        """Yield the checkpoints of more than ``above`` entries, the smallest first."""
        place = (above + 1, "")
        while True:
            statement = (
                select(_CHECKPOINTS)
                .where(tuple_(_CHECKPOINTS.c.size, _CHECKPOINTS.c.key_id) > place)
                .order_by(_CHECKPOINTS.c.size, _CHECKPOINTS.c.key_id)
                .limit(_CHECKPOINTS_AT_ONCE)
            )
            rows = await self._rows(statement)
            for row in rows:
                yield CheckpointRecord(**parsed(row))
            if len(rows) < _CHECKPOINTS_AT_ONCE:
                return
            place = (rows[-1].size, rows[-1].key_id)

    async def find_newest_checkpoint(self) -> CheckpointRecord | None:
        """Return the checkpoint of the most entries."""
        newest = select(func.max(_CHECKPOINTS.c.size)).scalar_subquery()
        rows = await self._rows(select(_CHECKPOINTS).where(_CHECKPOINTS.c.size == newest).limit(1))
        return CheckpointRecord(**parsed(rows[0])) if rows else None

    async def add_signer(self, key_id: str, document: str) -> None:
        """Store a certified key; the same again changes nothing."""
        async with self._database.transaction("audit_signer") as connection:
            statement = upsert(connection, _SIGNERS).values(
                key_id=key_id, document=document, created_at=clock_sql()
            )
            await connection.execute(statement.on_conflict_do_nothing())

    async def signers(self) -> list[str]:
        """Return the certified keys, the oldest first."""
        statement = select(_SIGNERS.c.document).order_by(_SIGNERS.c.created_at, _SIGNERS.c.key_id)
        return [str(row.document) for row in await self._rows(statement)]

    async def _rows(self, statement: Select[Any]) -> Sequence[Row[Any]]:
        async with self._database.reading() as connection:
            rows: Sequence[Row[Any]] = (await connection.execute(statement)).all()
        return rows


def _row_of(written: WrittenEntry) -> dict[str, Any]:
    return {
        "sequence": written.sequence,
        "at": written.at_us / 1e6,
        "act": written.act,
        "outcome": written.outcome,
        "subject": written.subject,
        "person": written.person,
        "body": written.body,
        "chain": written.chain,
    }


def _filtered(connection: AsyncConnection, query: AuditQuery) -> Select[Any]:
    statement = select(*_COLUMNS)
    for column, values in ((_ENTRIES.c.act, query.acts), (_ENTRIES.c.person, query.persons)):
        if values is not None:
            statement = statement.where(is_one_of(connection, column, sorted(values)))
    for column, value in (
        (_ENTRIES.c.outcome, query.outcome),
        (_ENTRIES.c.subject, query.subject),
    ):
        if value is not None:
            statement = statement.where(column == value)
    if query.at_from is not None:
        statement = statement.where(_ENTRIES.c.at >= query.at_from)
    if query.at_before is not None:
        statement = statement.where(_ENTRIES.c.at < query.at_before)
    return statement
