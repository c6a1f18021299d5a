"""The clients that ever attached, and which are attached now."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, select, update

from kumiai.core.errors import NotFoundError
from kumiai.storage.database import DatabaseManager
from kumiai.storage.records import ClientRecord
from kumiai.storage.rows import clean, json_text, parsed, table_of, upsert
from kumiai.storage.tables import ClientRegistration, clock_sql

__all__ = ["ClientRegistryRepository"]

_CLIENTS = table_of(ClientRegistration)


class ClientRegistryRepository:
    """Who the clients are; written when one attaches or detaches, never by a heartbeat.

    Args:
        database: connected, its schema at this version.
    """

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database

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
        told = {
            "instance_id": instance_id,
            "software_version": clean(software_version),
            "apps_json": json_text(list(apps)),
            "last_seen_at": clock_sql(),
            "state": "attached",
            "address": address,
        }
        async with self._database.transaction("attach") as connection:
            row = (
                await connection.execute(
                    upsert(connection, _CLIENTS)
                    .values(client_id=client_id, first_seen_at=clock_sql(), **told)
                    .on_conflict_do_update(index_elements=["client_id"], set_=told)
                    .returning(*_CLIENTS.c)
                )
            ).one()
        return _record(row)

    async def detach(self, client_id: str, instance_id: str) -> bool:
        """Note that an instance has gone; ``False`` when another instance has come since."""
        async with self._database.transaction("detach") as connection:
            changed = await connection.execute(
                update(_CLIENTS)
                .where(
                    _CLIENTS.c.client_id == client_id,
                    _CLIENTS.c.instance_id == instance_id,
                    _CLIENTS.c.state == "attached",
                )
                .values(state="detached", last_seen_at=clock_sql())
            )
            return changed.rowcount > 0

    async def get(self, client_id: str) -> ClientRecord:
        """Return the client.

        Raises:
            NotFoundError: it never attached.
        """
        async with self._database.reading() as connection:
            row = (
                await connection.execute(select(_CLIENTS).where(_CLIENTS.c.client_id == client_id))
            ).one_or_none()
        if row is None:
            raise NotFoundError(f"client must have attached once, got {client_id!r}")
        return _record(row)

    async def list_clients(self) -> list[ClientRecord]:
        """Return every client that ever attached, sorted by identifier."""
        async with self._database.reading() as connection:
            rows = (await connection.execute(select(_CLIENTS))).all()
        return sorted((_record(row) for row in rows), key=lambda client: client.client_id)


def _record(row: Row[Any]) -> ClientRecord:
    values = parsed(row)
    return ClientRecord(**{**values, "apps": tuple(values["apps"])})
