"""Connections to PostgreSQL: to the first host that will do, and none that has gone stale.

Not a pool: SQLAlchemy's is used. Rules kept here:

- Of several hosts the one that served last is asked first, so that after a failover nobody waits
  for the machine that is gone. Each host has a time-out of its own: one that swallows packets
  would otherwise use up the time of all.
- A server that has become a standby keeps old connections open and refuses to write. The first
  refusal drops the whole pool; the next call finds the new primary.
- A server that falls silent is given up after the statement's time-out and a little more. Its
  own time-out can not be relied on then.
"""

from typing import Any

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from kumiai.core.errors import ConfigError, StorageError
from kumiai.storage.database_errors import is_read_only_server, mend_of, words_of
from kumiai.storage.database_url import DatabaseURL, Host

__all__ = ["ERRORS", "PostgresConnector", "new_postgres_engine"]

ERRORS: tuple[type[Exception], ...] = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""What the driver raises about the world, beside `OSError`."""

_HOST_ERRORS: tuple[type[Exception], ...] = (OSError, *ERRORS)
_SILENCE_SECONDS = 5.0


class PostgresConnector:
    """Opens connections for a pool.

    Args:
        url: of PostgreSQL.
        server_settings: for each session, as ``SET`` takes them.
        command_timeout_seconds: how long one answer may take; ``None``: as long as it likes.
    """

    def __init__(
        self,
        url: DatabaseURL,
        *,
        server_settings: dict[str, str],
        command_timeout_seconds: float | None,
    ) -> None:
        self._url = url
        self._settings = server_settings
        self._command_timeout_seconds = command_timeout_seconds
        self._last_good = 0

    async def connect(self) -> Any:
        """Return a connection of the driver's.

        Raises:
            StorageError: no host will do; the message tells what each said.
            ConfigError: the driver can not use the URL's options.
        """
        hosts = self._url.hosts
        problems: list[tuple[Host, Exception]] = []
        for step in range(len(hosts)):
            index = (self._last_good + step) % len(hosts)
            try:
                connection = await self._connect_to(hosts[index])
            except asyncpg.exceptions.ClientConfigurationError as error:
                raise ConfigError(
                    f"database.url must have options that the driver takes, got {words_of(error)!r}"
                ) from error
            except _HOST_ERRORS as error:
                problems.append((hosts[index], error))
                continue
            self._last_good = index
            return connection
        raise self._refusal(problems)

    async def _connect_to(self, host: Host) -> Any:
        return await asyncpg.connect(
            self._url.driver_options,
            host=host.name,
            port=host.port,
            user=self._url.user,
            password=self._url.password,
            database=self._url.database,
            timeout=self._url.connect_seconds,
            command_timeout=self._command_timeout_seconds,
            server_settings=self._settings,
            target_session_attrs=self._url.target,
        )

    def _refusal(self, problems: list[tuple[Host, Exception]]) -> StorageError:
        # A server that answers says more than one that does not.
        _, told = next(
            (each for each in problems if isinstance(each[1], asyncpg.PostgresError)), problems[-1]
        )
        words = words_of(told)
        if len(problems) > 1:
            words = "; ".join(f"{host}: {words_of(error)}" for host, error in problems)
        refusal = StorageError(
            f"database {self._url} must answer, got {words!r}; {mend_of(told, 'postgresql')}"
        )
        refusal.__cause__ = told
        return refusal


def new_postgres_engine(
    url: DatabaseURL,
    *,
    statement_timeout_seconds: float,
    lock_timeout_seconds: float,
    idle_in_transaction_timeout_seconds: float,
    pool: dict[str, Any],
) -> AsyncEngine:
    """Return an engine whose sessions have these time-outs, 0 for none.

    Args:
        url: of PostgreSQL.
        statement_timeout_seconds: the server ends a statement after this long.
        lock_timeout_seconds: and one that waits this long for a lock.
        idle_in_transaction_timeout_seconds: and a transaction in which nothing happens.
        pool: arguments of `create_async_engine` about the pool.
    """
    connector = PostgresConnector(
        url,
        server_settings={
            "application_name": url.options.get("application_name", "kumiai"),
            "jit": "off",
            # What a transaction is must not depend on how the server was set up.
            "default_transaction_isolation": "read committed",
            "statement_timeout": _milliseconds(statement_timeout_seconds),
            "lock_timeout": _milliseconds(lock_timeout_seconds),
            "idle_in_transaction_session_timeout": _milliseconds(
                idle_in_transaction_timeout_seconds
            ),
        },
        command_timeout_seconds=(
            statement_timeout_seconds + _SILENCE_SECONDS if statement_timeout_seconds else None
        ),
    )
    engine = create_async_engine(
        url.engine, hide_parameters=True, async_creator=connector.connect, **pool
    )
    _replace_closed_connections(engine)
    _drop_stale_connections(engine)
    return engine


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


def _replace_closed_connections(engine: AsyncEngine) -> None:
    # asyncpg knows at once when a socket has closed, so this costs no round trip, as a ping would.
    @event.listens_for(engine.sync_engine, "checkout")
    def _on_checkout(connection: Any, _record: object, _proxy: object) -> None:
        if connection.driver_connection.is_closed():
            raise DisconnectionError


def _drop_stale_connections(engine: AsyncEngine) -> None:
    @event.listens_for(engine.sync_engine, "handle_error")
    def _on_error(context: ExceptionContext) -> Exception | None:
        error = context.original_exception
        if isinstance(error, TimeoutError):
            # The driver's own: the server says nothing. What it still says must reach nobody.
            # In the driver's words, so that it is told from a time-out of the caller's.
            context.is_disconnect = True
            return asyncpg.InterfaceError("no answer in time")  # type: ignore[no-any-return]
        if is_read_only_server(error) and context.connection is not None:
            # In a transaction that we ask for as read-only this is the body's mistake.
            options = context.connection.get_execution_options()
            context.is_disconnect = not options.get("postgresql_readonly", False)
        return None
