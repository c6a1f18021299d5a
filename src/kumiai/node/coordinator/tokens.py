"""Whom a token speaks for: rows of SQL behind a short memory.

A token that was seen is believed for two seconds without a look at its row, so one that is
revoked at any replica is refused everywhere within that. Asking for tokens that nobody has seen is
limited by address before SQL is asked: a flood of bad tokens is turned away from memory.
"""

import contextlib
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from kumiai.core.clock import Clock
from kumiai.core.errors import KumiaiError
from kumiai.identity import (
    APITokenSecret,
    CallLimits,
    PeerRefusedError,
    Permission,
    Principal,
    Refusal,
    Role,
    parse_api_token,
    permissions_of,
)
from kumiai.storage import APITokenRecord, APITokenRepository

__all__ = ["TokenDesk"]

BELIEVED_SECONDS: Final = 2.0
USE_NOTED_SECONDS: Final = 300.0
REMEMBERED_MAX: Final = 1_024


@dataclass(slots=True)
class _Known:
    record: APITokenRecord
    read_at: float


class TokenDesk:
    """Reads tokens; a `kumiai.identity.TokenReader`."""

    def __init__(self, tokens: APITokenRepository, limits: CallLimits, clock: Clock) -> None:
        """Look tokens up here, no more often than these limits allow."""
        self._tokens = tokens
        self._limits = limits
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def principal_of_token(self, token: str, address: str) -> Principal:
        """Return whom a token speaks for.

        Raises:
            PeerRefusedError: it is none of ours, has ended, or its address must wait.
            StorageError: it can not be looked up now.
        """
        try:
            record = await self._proved(parse_api_token(token), address)
        except PeerRefusedError as error:
            self._limits.note_refusal(address, error)
            raise
        self._limits.admit_identity(f"token:{record.token_id}", address)
        await self._note_use(record)
        role = Role(record.role)
        # What the role lost since the token was made, the token has lost too.
        granted = frozenset(map(Permission, record.permissions)) & permissions_of(role)
        return Principal(record.created_by, role, granted, address, token_id=record.token_id)

    async def verify_token(self, token_id: str) -> None:
        """Check that a token still holds.

        Raises:
            PeerRefusedError: it has ended.
            StorageError: it can not be looked up now.
        """
        self._verify_in_force(token_id, await self._record(token_id))

    async def _proved(self, shown: APITokenSecret, address: str) -> APITokenRecord:
        if shown.token_id not in self._known:
            self._limits.admit_unknown(address)
        record = await self._record(shown.token_id)
        # The same words for an unknown one and a wrong secret: which of the two is nobody's news.
        if record is None or not shown.is_proved_by(record.secret_hash):
            raise _unknown(shown.token_id)
        return self._verify_in_force(shown.token_id, record)

    def _verify_in_force(self, token_id: str, record: APITokenRecord | None) -> APITokenRecord:
        if record is None:
            raise _unknown(token_id)
        if record.revoked_at is not None:
            raise PeerRefusedError(
                Refusal.BAD_TOKEN,
                f"token {token_id} must not be revoked, got one that {record.revoked_by} revoked; "
                "make a new one with `kumiai token create`",
                token_id=token_id,
            )
        if self._clock.now() >= record.expires_at:
            raise PeerRefusedError(
                Refusal.BAD_TOKEN,
                f"token {token_id} must be in force, got one that expired "
                f"{self._clock.now() - record.expires_at:.0f} s ago; "
                "make a new one with `kumiai token create`",
                token_id=token_id,
            )
        return record

    async def _record(self, token_id: str) -> APITokenRecord | None:
        known, now = self._known.get(token_id), self._clock.monotonic()
        if known is not None and now - known.read_at < BELIEVED_SECONDS:
            return known.record
        record = await self._tokens.find(token_id)
        if record is None:
            return None
        self._known[token_id] = _Known(record, now)
        self._known.move_to_end(token_id)
        if len(self._known) > REMEMBERED_MAX:
            self._known.popitem(last=False)
        return record

    async def _note_use(self, record: APITokenRecord) -> None:
        """Write down coarsely when a token was used: not a write for each request."""
        if record.last_used_at is not None and (
            self._clock.now() - record.last_used_at < USE_NOTED_SECONDS
        ):
            return
        with contextlib.suppress(KumiaiError):  # a note; the request is worth more
            await self._tokens.note_use(record.token_id)
        if record.token_id in self._known:
            self._known[record.token_id].record = replace(record, last_used_at=self._clock.now())


def _unknown(token_id: str) -> PeerRefusedError:
    return PeerRefusedError(
        Refusal.BAD_TOKEN,
        f"token must be one that this coordinator knows, got {token_id} with a secret that is "
        "not; make one with `kumiai token create`",
    )
