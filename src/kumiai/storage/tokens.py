"""Tokens for the HTTP API. Of a secret only its hash comes here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import bindparam, func, insert, select, update

from kumiai.core.errors import ConflictError, NotFoundError
from kumiai.core.ids import verify_name
from kumiai.storage.audit_trail import AuditTrail, NoTrail
from kumiai.storage.database import DatabaseManager
from kumiai.storage.rows import clean, columns_of, json_text, parsed, parsed_values, table_of
from kumiai.storage.single_statements import SingleRead, SingleWrite
from kumiai.storage.tables import APIToken, clock_sql

__all__ = ["APITokenRecord", "APITokenRepository", "NewAPIToken"]

LIVE_TOKENS_MAX: Final = 200
"""How many good tokens one maker may have at once."""
LISTED_MAX: Final = 1_000

_TOKENS = table_of(APIToken)
_COLUMNS = columns_of(APIToken)
_FIND = SingleRead(select(*_COLUMNS).where(_TOKENS.c.token_id == bindparam("token")))
_NOTE_USE = SingleWrite(
    "note_token_use",
    update(_TOKENS)
    .where(_TOKENS.c.token_id == bindparam("token"))
    .values(last_used_at=clock_sql())
    .returning(_TOKENS.c.token_id),
)


@dataclass(frozen=True, slots=True)
class NewAPIToken:
    """A token that is to be kept.

    Attributes:
        token_id: finds it; no secret.
        secret_hash: proves it.
        name: what it is for, chosen by its maker.
        role: its maker's.
        created_by: its maker's name.
        permissions: what it may do.
        lifetime_seconds: how long it is good, > 0.
    """

    token_id: str
    secret_hash: str = field(repr=False)
    name: str
    role: str
    created_by: str
    permissions: Sequence[str]
    lifetime_seconds: float


@dataclass(frozen=True, slots=True)
class APITokenRecord:
    """A token as it is kept; times are seconds since 1970 UTC by the database's clock."""

    token_id: str
    secret_hash: str = field(repr=False)
    name: str
    role: str
    created_by: str
    permissions: tuple[str, ...]
    created_at: float
    expires_at: float
    last_used_at: float | None
    revoked_at: float | None
    revoked_by: str | None


class APITokenRepository:
    """The tokens of all replicas.

    Args:
        database: connected, its schema at this version.
        trail: takes the entries of the audit log that some calls are given.
    """

    def __init__(self, database: DatabaseManager, *, trail: AuditTrail | None = None) -> None:
        self._database = database
        self._trail = trail or NoTrail()

    async def create(self, token: NewAPIToken, *, entry: Any = None) -> APITokenRecord:
        """Keep a new token.

        Args:
            token: which.
            entry: of the audit log, written with it; ``None``: none is kept.

        Raises:
            ConfigError: its name is none.
            ConflictError: its maker has too many that are good.
        """
        verify_name("token's name", token.name)
        mine = (_TOKENS.c.created_by == token.created_by) & (_TOKENS.c.role == token.role)
        is_good = _TOKENS.c.revoked_at.is_(None) & (_TOKENS.c.expires_at > clock_sql())
        async with self._database.transaction("create_token") as connection:
            counted = select(func.count()).select_from(_TOKENS).where(mine & is_good)
            if (await connection.execute(counted)).scalar_one() >= LIVE_TOKENS_MAX:
                raise ConflictError(
                    f"{token.created_by!r} must have at most {LIVE_TOKENS_MAX} tokens, got one "
                    "more; revoke some with `kumiai token revoke`"
                )
            kept = insert(_TOKENS).values(
                token_id=token.token_id,
                secret_hash=token.secret_hash,
                name=token.name,
                role=token.role,
                created_by=token.created_by,
                permissions_json=json_text(sorted(token.permissions)),
                created_at=clock_sql(),
                expires_at=clock_sql() + token.lifetime_seconds,
            )
            row = (await connection.execute(kept.returning(*_COLUMNS))).one()
            if entry is not None:
                await self._trail.append(connection, entry)
        return APITokenRecord(**parsed(row))

    async def find(self, token_id: str) -> APITokenRecord | None:
        """Return the token, also one that has ended."""
        rows = await self._database.fetch(_FIND, token=clean(token_id))
        return APITokenRecord(**parsed_values(_FIND.fields, rows[0])) if rows else None

    async def list_tokens(
        self, *, created_by: str | None = None, role: str | None = None
    ) -> list[APITokenRecord]:
        """Return the newest tokens first, also those that have ended.

        Args:
            created_by: only of this maker; ``None``: of everybody.
            role: only of makers with this role; ``None``: of any.
        """
        found = select(*_COLUMNS).order_by(_TOKENS.c.created_at.desc(), _TOKENS.c.token_id)
        if created_by is not None:
            found = found.where(_TOKENS.c.created_by == clean(created_by))
        if role is not None:
            found = found.where(_TOKENS.c.role == role)
        async with self._database.reading() as connection:
            rows = (await connection.execute(found.limit(LISTED_MAX))).all()
        return [APITokenRecord(**parsed(row)) for row in rows]

    async def revoke(self, token_id: str, *, by: str, entry: Any = None) -> APITokenRecord:
        """End a token; doing it again changes nothing.

        Args:
            token_id: which.
            by: who does it.
            entry: of the audit log, written with it; ``None``: none is kept.

        Raises:
            NotFoundError: there is no such token.
        """
        this = _TOKENS.c.token_id == clean(token_id)
        async with self._database.transaction("revoke_token") as connection:
            ended = await connection.execute(
                update(_TOKENS)
                .where(this & _TOKENS.c.revoked_at.is_(None))
                .values(revoked_at=clock_sql(), revoked_by=clean(by))
            )
            row = (await connection.execute(select(*_COLUMNS).where(this))).one_or_none()
            if row is None:
                raise NotFoundError(
                    f"token must exist, got {token_id[:40]!r}; list them with `kumiai token list`"
                )
            if ended.rowcount and entry is not None:
                await self._trail.append(connection, entry)
        return APITokenRecord(**parsed(row))

    async def revoke_all(
        self,
        created_by: str,
        *,
        role: str | None = None,
        by: str,
        entry: Callable[[str], Any] | None = None,
    ) -> list[APITokenRecord]:
        """End all tokens of a maker that have not ended by themselves; all of them or none.

        Args:
            created_by: the maker's name.
            role: only of the maker with this role; ``None``: of any.
            by: who does it.
            entry: makes the audit log's entry for a token's id; ``None``: none is kept.

        Returns:
            Those that were good until now, by id.
        """
        theirs = (_TOKENS.c.created_by == clean(created_by)) & _TOKENS.c.revoked_at.is_(None)
        if role is not None:
            theirs &= _TOKENS.c.role == role
        async with self._database.transaction("revoke_token") as connection:
            ended = (
                await connection.execute(
                    update(_TOKENS)
                    .where(theirs & (_TOKENS.c.expires_at > clock_sql()))
                    .values(revoked_at=clock_sql(), revoked_by=clean(by))
                    .returning(*_COLUMNS)
                )
            ).all()
            records = sorted(
                (APITokenRecord(**parsed(row)) for row in ended), key=lambda each: each.token_id
            )
            if entry is not None:
                for record in records:
                    await self._trail.append(connection, entry(record.token_id))
        return records

    async def note_use(self, token_id: str) -> None:
        """Note that a token was used just now."""
        await self._database.write(_NOTE_USE, token=clean(token_id))
