"""What the errors of the databases mean: which pass by themselves, and what mends the others.

Nothing here raises or retries. Only the driver's own words are shown: SQLAlchemy's message
carries the statement, and a server's detail may carry a row.
"""

import re
import sqlite3
from collections.abc import Iterator

from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from kumiai.storage.database_url import Dialect

__all__ = ["is_busy", "is_read_only_server", "is_retryable", "mend_of", "words_of"]

_RETRYABLE_STATES = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected
_RETRYABLE_CODES = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_READ_ONLY_STATE = "25006"
_CREDENTIALS = re.compile(r"://[^@\s]*@")

_POSTGRES_MENDS = {
    "28": "see that the URL's user and password are right and that pg_hba.conf lets them in",
    "3D000": "create the database, or correct its name in the URL",
    "42501": "grant the URL's user what it lacks; it is best made the owner of the database",
    "53100": "make room on the server's disk; nothing is lost, the next call goes on",
    "53300": "raise the server's max_connections or lower storage.pool_size",
    "55P03": "find the transaction that holds the lock in pg_stat_activity and pg_locks",
    "57014": "find what makes it slow, or raise the statement time-out",
    _READ_ONLY_STATE: (
        "name all hosts in the URL with target_session_attrs=read-write, so that the one that "
        "takes writes is found; the next call looks for it"
    ),
    "XX001": "restore the database from its backup: its files are damaged",
    "XX002": "rebuild the index with REINDEX, then look at the disk: its files are damaged",
}
_POSTGRES_MEND = "see that the server runs, and that the URL's user may connect"
_POOL_MEND = "raise storage.pool_size, or find what holds the connections so long"
_SQLITE_MENDS = {
    sqlite3.SQLITE_FULL: "make room on the disk; nothing is lost, the next call goes on",
    sqlite3.SQLITE_READONLY: "let this user write the file and its folder, and see that the file "
    "system is not mounted read-only",
    sqlite3.SQLITE_CORRUPT: "stop every program that uses the file, keep a copy of it and of the "
    "files beside it, and restore it from its backup",
    sqlite3.SQLITE_NOTADB: "give the path of a database file, or of one that does not exist yet",
    sqlite3.SQLITE_IOERR: "look at the disk: it failed, is full, or was taken away",
}
_SQLITE_MEND = (
    "see that the folder exists, is writable and has space, and that no other program holds the "
    "file"
)


def is_retryable(error: BaseException | None) -> bool:
    """Return whether the transaction was rolled back for the sake of another one.

    Then nothing was written, and the same work may well succeed when it is done again.
    """
    return any(
        _state_of(each) in _RETRYABLE_STATES or _sqlite_code(each) in _RETRYABLE_CODES
        for each in _causes(error)
    )


def is_busy(error: BaseException) -> bool:
    """Return whether another program holds SQLite's lock."""
    return any(_sqlite_code(each) in _RETRYABLE_CODES for each in _causes(error))


def is_read_only_server(error: BaseException) -> bool:
    """Return whether the server refused a write because it is, or has become, a standby."""
    return any(_state_of(each) == _READ_ONLY_STATE for each in _causes(error))


def words_of(error: BaseException) -> str:
    """Return what the driver said, on one line and without what follows an URL's scheme."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, TimeoutError) and not str(cause):
        return "no answer in time"
    words = (str(cause).strip() or type(cause).__name__).splitlines()[0]
    # SQLAlchemy puts the class of the driver's error before its message.
    words = words.partition(">: ")[2] or words if words.startswith("<class") else words
    return _CREDENTIALS.sub("://", words)


def mend_of(error: BaseException, dialect: Dialect) -> str:
    """Return what a person may do about it."""
    causes = tuple(_causes(error))
    if any(isinstance(each, PoolTimeoutError) for each in causes):
        return _POOL_MEND
    if dialect == "sqlite":
        codes = (_sqlite_code(each) for each in causes)
        return next((_SQLITE_MENDS[code] for code in codes if code in _SQLITE_MENDS), _SQLITE_MEND)
    states = [state for each in causes if (state := _state_of(each))]
    for state in states:
        for key in (state, state[:2]):
            if key in _POSTGRES_MENDS:
                return _POSTGRES_MENDS[key]
    return _POSTGRES_MEND


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error, then what it came from: SQLAlchemy wraps the driver's error twice."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, getattr(each, "orig", None)]


def _state_of(error: BaseException) -> str | None:
    state = getattr(error, "sqlstate", None)
    return state if isinstance(state, str) else None


def _sqlite_code(error: BaseException) -> int | None:
    if not isinstance(error, sqlite3.Error):
        return None
    code = getattr(error, "sqlite_errorcode", None)
    # The low byte is the kind, the rest says more about it.
    return code & 0xFF if isinstance(code, int) else None
