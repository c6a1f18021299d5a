"""The clients that were announced or ever attached, and which are attached now."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Select, bindparam, case, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningInsert

from kumiai.core.errors import ConfigError, ConflictError, NotFoundError
from kumiai.core.ids import verify_name
from kumiai.storage.bulk import insert_rows, now_of
from kumiai.storage.change_notes import CLIENTS, ChangeNotes, NoNotes
from kumiai.storage.database import DatabaseManager
from kumiai.storage.described import described_as
from kumiai.storage.descriptions import Changes, change_row, described_values
from kumiai.storage.filters import has_entry, in_period
from kumiai.storage.paging import Order, Page, bytewise, fetch_page, name_of_list
from kumiai.storage.records import ClientRecord, ClientState, NewClient
from kumiai.storage.rows import clean, columns_of, json_text, parsed, parsed_values, table_of
from kumiai.storage.search import Searchable, search_terms
from kumiai.storage.single_statements import SingleRead, SingleWrite
from kumiai.storage.tables import ClientRegistration, clock_sql

__all__ = ["ClientOrder", "ClientQuery", "ClientRegistryRepository"]

ClientOrder = Literal["name", "newest", "recent"]

_CLIENTS = table_of(ClientRegistration)
_COLUMNS = columns_of(ClientRegistration)
_SEARCHABLE = Searchable(_CLIENTS, _CLIENTS.c.client_id)
_DISPLAY_NAME_CHARS_MAX: Final = 200
_BULK_COLUMNS: Final = (
    "client_id", "instance_id", "software_version", "apps_json", "first_seen_at", "last_seen_at",
    "state", "address", "display_name", "description", "tags_json", "search_terms",
)  # fmt: skip


def _attaching(insert: postgresql.Insert | sqlite.Insert) -> ReturningInsert[Any]:
    told = ("instance_id", "software_version", "apps_json", "address")
    insert = insert.values(
        client_id=bindparam("client_id"),
        first_seen_at=clock_sql(),
        last_seen_at=clock_sql(),
        state="attached",
        search_terms=bindparam("search_terms"),
        **{name: bindparam(name) for name in told},
    )
    was_announced = _CLIENTS.c.state == "registered"
    return insert.on_conflict_do_update(
        index_elements=["client_id"],
        set_={
            # Who was only announced is first seen now.
            "first_seen_at": case((was_announced, clock_sql()), else_=_CLIENTS.c.first_seen_at),
            "last_seen_at": clock_sql(),
            "state": "attached",
            **{name: insert.excluded[name] for name in told},
        },
    ).returning(*_COLUMNS)


_ATTACH = SingleWrite(
    "attach",
    _attaching(postgresql.insert(_CLIENTS)),
    on_sqlite=_attaching(sqlite.insert(_CLIENTS)),
)
# Named unlike the columns: SQLAlchemy takes a value by a column's name for one to be written.
_DETACH = SingleWrite(
    "detach",
    update(_CLIENTS)
    .where(
        _CLIENTS.c.client_id == bindparam("this_client"),
        _CLIENTS.c.instance_id == bindparam("this_instance"),
        _CLIENTS.c.state == "attached",
    )
    .values(state="detached", last_seen_at=clock_sql())
    .returning(_CLIENTS.c.client_id),
)
_CLIENT = SingleRead(select(*_COLUMNS).where(_CLIENTS.c.client_id == bindparam("client_id")))
_ALL = SingleRead(select(*_COLUMNS))


@dataclass(frozen=True, slots=True)
class ClientQuery:
    """Which clients, and in which order; a filter that is left out lets everything through.

    Attributes:
        states: in one of these; an empty collection lets nothing through.
        app: that offer this study.
        tags: with all of these.
        search: words, each the beginning of one in identifier, name, description or a tag.
        seen_from, seen_before: when it was last seen, seconds since 1970 UTC.
        order: by identifier, or by when it was first (``newest``) or last (``recent``) seen.
    """

    states: Collection[ClientState] | None = None
    app: str | None = None
    tags: Collection[str] = ()
    search: str | None = None
    seen_from: float | None = None
    seen_before: float | None = None
    order: ClientOrder = "name"


class ClientRegistryRepository:
    """Who the clients are; written when one attaches or detaches, never by a heartbeat.

    Whether somebody is a client at all is said by its certificate, not here: registering one
    only gives it a name and tags before it comes.

    Args:
        database: connected, its schema at this version.
        notes: hears of what is changed.
    """

    def __init__(self, database: DatabaseManager, *, notes: ChangeNotes | None = None) -> None:
        self._database = database
        self._notes = notes or NoNotes()

    async def attach(
        self,
        *,
        client_id: str,
        instance_id: str,
        software_version: str,
        apps: Sequence[str],
        address: str,
    ) -> ClientRecord:
        """Note that a client is here; the newest instance stands.

        Args:
            client_id: who, by its certificate.
            instance_id: which process of it.
            software_version: what it runs.
            apps: the studies it offers.
            address: where it connects from.
        """
        rows = await self._write(
            _ATTACH,
            client_id=client_id,
            instance_id=instance_id,
            software_version=clean(software_version),
            apps_json=json_text(list(apps)),
            address=address,
            search_terms=search_terms(client_id),
        )
        return _record(_ATTACH, rows[0])

    async def detach(self, client_id: str, instance_id: str) -> bool:
        """Note that an instance has gone; ``False`` when another instance has come since."""
        rows = await self._write(_DETACH, this_client=client_id, this_instance=instance_id)
        return bool(rows)

    async def _write(self, write: SingleWrite, **values: Any) -> Sequence[Sequence[Any]]:
        if isinstance(self._notes, NoNotes):
            return await self._database.write(write, **values)
        async with self._database.transaction(write.name) as connection:
            statement = write.statement_for(connection.dialect)
            rows = (await connection.execute(statement, values)).all()
            if rows:
                await self._notes.note(connection, CLIENTS)  # not waited for: a list may be late
        return rows

    async def get(self, client_id: str) -> ClientRecord:
        """Return the client.

        Raises:
            NotFoundError: it never attached, and was not registered.
        """
        rows = await self._database.fetch(_CLIENT, client_id=clean(client_id))
        if not rows:
            raise _missing(client_id)
        return _record(_CLIENT, rows[0])

    async def list_clients(self) -> list[ClientRecord]:
        """Return every client that was registered or ever attached, sorted by identifier."""
        records = (_record(_ALL, row) for row in await self._database.fetch(_ALL))
        return sorted(records, key=lambda client: client.client_id)

    async def list_page(
        self, query: ClientQuery | None = None, *, limit: int = 50, cursor: str | None = None
    ) -> Page[ClientRecord]:
        """Return one page of the clients that the query lets through.

        Args:
            query: ``None`` for all, by identifier.
            limit: how many at most, 1 to 1000.
            cursor: ``next_cursor`` of the page before.

        Raises:
            ConfigError: the query or the cursor makes no sense.
        """
        query = query or ClientQuery()
        async with self._database.reading() as connection:
            return await fetch_page(
                connection,
                _filtered(connection, select(*_COLUMNS), query),
                ClientRecord,
                order=_order(connection, query.order),
                limit=limit,
                cursor=cursor,
                list_name=name_of_list("clients", query),
            )

    async def register(self, client: NewClient) -> ClientRecord:
        """Announce a client before it comes.

        Raises:
            ConflictError: it is known.
            ConfigError: the identifier is no name, a text is too long, or a tag is none.
        """
        await self.register_many([client])
        return await self.get(client.client_id)

    async def register_many(self, clients: Iterable[NewClient]) -> int:
        """Announce many clients in one transaction: all of them, or none.

        Returns:
            How many there were.

        Raises:
            ConflictError: one is known, or stands twice among them.
            ConfigError: an identifier is no name, a text is too long, or a tag is none.
        """
        async with self._database.transaction("register_clients") as connection:
            now = await now_of(connection)
            rows = (_values(client, now) for client in clients)
            count = await insert_rows(connection, _CLIENTS, _BULK_COLUMNS, rows)
            note = await self._notes.note(connection, CLIENTS)
        await self._notes.heard(note)
        return count

    async def update(
        self,
        client_id: str,
        changes: Changes,
        *,
        display_name: str | None = None,
        expected_version: int | None = None,
    ) -> ClientRecord:
        """Change what people wrote about a client.

        Args:
            client_id: exactly.
            changes: of description and tags.
            display_name: the new one; ``None`` keeps the old.
            expected_version: the ``row_version`` that the caller has read; ``None`` for any.

        Raises:
            NotFoundError: there is no such client.
            ConflictError: it is not of the expected version.
            ConfigError: a text is too long, or a tag is none.
        """
        others = {} if display_name is None else {"display_name": _verified_name(display_name)}
        async with self._database.transaction("update_client") as connection:
            row, _ = await change_row(
                connection,
                _CLIENTS,
                (_CLIENTS.c.client_id, clean(client_id)),
                changes,
                returning=_COLUMNS,
                name_columns=("client_id", "display_name"),
                others=others,
                expected_version=expected_version,
            )
            note = await self._notes.note(connection, CLIENTS)
        await self._notes.heard(note)
        return ClientRecord(**parsed(row))

    async def delete(self, client_id: str) -> None:
        """Forget a client; what it reported stays, and it is new when it comes again.

        Raises:
            NotFoundError: there is no such client.
            ConflictError: it is attached.
        """
        client_id = clean(client_id)
        of_this = _CLIENTS.c.client_id == client_id
        async with self._database.transaction("delete_client") as connection:
            gone = delete(_CLIENTS).where(of_this, _CLIENTS.c.state != "attached")
            if not (await connection.execute(gone)).rowcount:
                known = await connection.scalar(select(func.count()).where(of_this))
                if not known:
                    raise _missing(client_id)
                raise ConflictError(
                    f"client {client_id} must be detached before it is forgotten, got attached; "
                    "revoke its certificate if it must not come again"
                )
            note = await self._notes.note(connection, CLIENTS)
        await self._notes.heard(note)


def _values(client: NewClient, now: float) -> tuple[Any, ...]:
    client_id = verify_name("client", client.client_id)
    display_name = _verified_name(client.display_name)
    described = described_values(client.description, client.tags, client_id, display_name)
    return (
        client_id,
        "",
        "",
        "[]",
        now,
        now,
        "registered",
        "",
        display_name,
        described["description"],
        described["tags_json"],
        described["search_terms"],
    )


def _verified_name(display_name: str) -> str:
    if len(display_name) > _DISPLAY_NAME_CHARS_MAX:
        raise ConfigError(
            f"name of a client must be at most {_DISPLAY_NAME_CHARS_MAX} characters, got "
            f"{len(display_name)}"
        )
    return clean(display_name)


def _order(connection: AsyncConnection, order: ClientOrder) -> Order:
    identifier = _CLIENTS.c.client_id
    match order:
        case "name":
            by_bytes = bytewise(connection, identifier)
            return Order(by_bytes, by_bytes, str)
        case "newest":
            return Order(_CLIENTS.c.first_seen_at, identifier, float, is_descending=True)
        case "recent":
            return Order(_CLIENTS.c.last_seen_at, identifier, float, is_descending=True)


def _filtered(
    connection: AsyncConnection, statement: Select[Any], query: ClientQuery
) -> Select[Any]:
    conditions = described_as(connection, _SEARCHABLE, tags=query.tags, search=query.search)
    if query.states is not None:
        conditions.append(_CLIENTS.c.state.in_(sorted(query.states)))
    if query.app is not None:
        conditions.append(
            has_entry(connection, _CLIENTS.c.apps_json, verify_name("app", query.app))
        )
    conditions += in_period(_CLIENTS.c.last_seen_at, query.seen_from, query.seen_before)
    return statement.where(*conditions)


def _record(statement: SingleRead | SingleWrite, row: Sequence[Any]) -> ClientRecord:
    return ClientRecord(**parsed_values(statement.fields, row))


def _missing(client_id: str) -> NotFoundError:
    return NotFoundError(f"client must have attached once, got {client_id[:80]!r}")
