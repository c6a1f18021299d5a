"""Tokens over HTTP: making, listing, revoking.

A token may do what its maker may, or less, and never makes another: a chain of tokens would
outlive the certificate at its beginning. Its text is in the answer to its making and nowhere else.
"""

from typing import Annotated, Final, Self

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from kumiai.core.errors import ConfigError, DeniedError, NotFoundError
from kumiai.identity import Permission, Principal, Role, new_api_token, verify_permission
from kumiai.identity.audit import Act, Detail, NewEntry
from kumiai.node.auditing.actors import actor_of, subject_of
from kumiai.node.http.access import Caller, GuardedRouter
from kumiai.node.http.dependencies import Parts
from kumiai.storage import APITokenRecord, NewAPIToken

__all__ = ["new_router"]

_DAY_SECONDS: Final = 86_400.0


class TokenBody(BaseModel):
    """A token that is wanted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=63)]
    permissions: Annotated[list[Permission], Field(min_length=1, max_length=64)]
    days: Annotated[int, Field(ge=1)] = 30


class TokenView(BaseModel):
    """A token; never its secret."""

    model_config = ConfigDict(frozen=True)

    token_id: str
    name: str
    role: str
    created_by: str
    permissions: list[str]
    created_at: float
    expires_at: float
    last_used_at: float | None
    revoked_at: float | None
    revoked_by: str | None

    @classmethod
    def of(cls, record: APITokenRecord) -> Self:
        """Return the view of a record."""
        return cls(
            **{name: getattr(record, name) for name in cls.model_fields if name != "permissions"},
            permissions=list(record.permissions),
        )


class NewTokenView(BaseModel):
    """A token that was made, with its text, which is shown this once."""

    model_config = ConfigDict(frozen=True)

    token: str
    made: TokenView


class TokensView(BaseModel):
    """Tokens, the newest first."""

    model_config = ConfigDict(frozen=True)

    tokens: list[TokenView]


def new_router() -> APIRouter:
    """Return the routes."""
    router = GuardedRouter("tokens")
    router.post("/api/v1/tokens", status_code=201)(create)
    router.get("/api/v1/tokens")(list_tokens)
    router.delete("/api/v1/tokens")(revoke_all)
    router.delete("/api/v1/tokens/{token_id}")(revoke)
    return router


async def create(body: TokenBody, parts: Parts, caller: Caller) -> NewTokenView:
    """Make a token that may do some of what its maker may."""
    if caller.token_id is not None:
        raise DeniedError(
            "tokens must be made with a certificate, got a token; a token makes no others"
        )
    for permission in body.permissions:
        verify_permission(caller, permission)
    if body.days > parts.token_days_max:
        raise ConfigError(f"days must be at most {parts.token_days_max}, got {body.days}")
    token = new_api_token()
    subject = subject_of("token", token.token_id)
    permissions = sorted(set(body.permissions))
    detail: Detail = {"name": body.name, "permissions": " ".join(permissions), "days": body.days}
    record = await parts.tokens.create(
        NewAPIToken(
            token_id=token.token_id,
            secret_hash=token.secret_hash,
            name=body.name,
            role=caller.role.value,
            created_by=caller.name,
            permissions=permissions,
            lifetime_seconds=body.days * _DAY_SECONDS,
        ),
        entry=NewEntry(Act.TOKEN_CREATED, actor_of(caller), subject, detail=detail),
    )
    return NewTokenView(token=token.text, made=TokenView.of(record))


async def list_tokens(parts: Parts, caller: Caller) -> TokensView:
    """List one's own tokens, or everybody's for who may manage them."""
    if Permission.TOKENS_MANAGE in caller.permissions:
        records = await parts.tokens.list_tokens()
    else:
        records = await parts.tokens.list_tokens(created_by=caller.name, role=caller.role.value)
    return TokensView(tokens=[TokenView.of(record) for record in records])


async def revoke(token_id: str, parts: Parts, caller: Caller) -> TokenView:
    """Revoke a token of one's own, or anybody's for who may manage them."""
    record = await parts.tokens.find(token_id)
    if record is None or not _may_revoke(caller, record):
        raise NotFoundError(
            f"token must be one of yours, got {token_id[:40]!r}; list them with `kumiai token list`"
        )
    subject = subject_of("token", token_id)
    entry = NewEntry(Act.TOKEN_REVOKED, actor_of(caller), subject)
    return TokenView.of(await parts.tokens.revoke(token_id, by=caller.name, entry=entry))


async def revoke_all(
    parts: Parts,
    caller: Caller,
    made_by: Annotated[str, Query(min_length=1, max_length=63)],
    role: Role | None = None,
) -> TokensView:
    """Revoke all good tokens of one maker: one's own, or anybody's for who may manage them."""
    if Permission.TOKENS_MANAGE not in caller.permissions:
        if made_by != caller.name or role not in {None, caller.role}:
            verify_permission(caller, Permission.TOKENS_MANAGE)
        role = caller.role
    records = await parts.tokens.revoke_all(
        made_by,
        role=None if role is None else role.value,
        by=caller.name,
        entry=lambda token_id: NewEntry(
            Act.TOKEN_REVOKED, actor_of(caller), subject_of("token", token_id)
        ),
    )
    return TokensView(tokens=[TokenView.of(record) for record in records])


def _may_revoke(caller: Principal, record: APITokenRecord) -> bool:
    is_own = (record.created_by, record.role) == (caller.name, caller.role.value)
    return is_own or Permission.TOKENS_MANAGE in caller.permissions
