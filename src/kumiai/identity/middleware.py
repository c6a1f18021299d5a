"""Who may make which call: one gate, which every call passes before its handler sees it.

`CallGate` decides; `MTLSAuthenticationMiddleware` is the gate in front of an ASGI application, and
the coordinator's gRPC interceptor is the same gate in front of remote calls. Handlers are given
who calls and have nothing to ask, so none of them can forget to. What nobody has listed is denied.
"""

import ssl
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from kumiai.core.errors import CertificateError
from kumiai.identity.authenticator import AsyncMTLSAuthenticator
from kumiai.identity.check import PeerRefusedError, Refusal
from kumiai.identity.names import Identity, identity_of
from kumiai.identity.permissions import (
    Permission,
    Principal,
    principal_of,
    verify_permission,
)
from kumiai.identity.refused_handshakes import refusal_of_handshake

__all__ = [
    "CallGate",
    "MTLSAuthenticationMiddleware",
    "RefusedCall",
    "Requirement",
    "TokenReader",
]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_BEARER: Final = "bearer "
_HANDSHAKE: Final = "TLS handshake"
_OF_PROVED: Final = frozenset(
    {
        Refusal.NOT_YET_VALID,
        Refusal.EXPIRED,
        Refusal.REVOKED,
        Refusal.SUSPENDED,
        Refusal.REMOVED,
    }
)
"""What a caller is only refused for after its certificate has led to an authority of ours."""
_CHEAP_METHODS: Final = frozenset({"GET", "HEAD"})
"""Probes ask open routes by these as often as they like."""


class TokenReader(Protocol):
    """Tells whom a token speaks for."""

    async def principal_of_token(self, token: str, address: str) -> Principal:
        """Return who presents this token.

        Raises:
            PeerRefusedError: it is none of ours, has expired or was revoked.
        """
        ...

    async def verify_token(self, token_id: str) -> None:
        """Check that a token still holds.

        Raises:
            PeerRefusedError: it has expired or was revoked.
        """
        ...


@dataclass(frozen=True, slots=True)
class RefusedCall:
    """A call that did not get in, for logs and the audit.

    Attributes:
        error: why.
        address: where it came from.
        act: what was called: a route, a remote method, or the handshake before any call.
        claimed: whom its certificate names; ``None`` where there is none that can be read. Not
            proved: the certificate may be another authority's.
        caller: who was let in, and then refused this one thing.
    """

    error: PeerRefusedError
    address: str
    act: str
    claimed: Identity | None
    caller: Principal | None = None

    @property
    def is_of_known(self) -> bool:
        """Whether it is proved who called: somebody who is or was a member."""
        is_proved = self.claimed is not None and self.error.refusal in _OF_PROVED
        return self.caller is not None or is_proved or bool(self.error.token_id)


async def _without_waiting(_call: RefusedCall) -> None:
    """Let the answer go at once."""


class CallGate:
    """Lets in who may make a call, and tells who may not."""

    def __init__(
        self,
        authenticator: AsyncMTLSAuthenticator,
        *,
        tokens: TokenReader | None = None,
        on_refused: Callable[[RefusedCall], None] = lambda _: None,
        before_answer: Callable[[RefusedCall], Awaitable[None]] = _without_waiting,
    ) -> None:
        """Ask these.

        Args:
            authenticator: for certificates.
            tokens: for tokens; ``None``: no token is good.
            on_refused: told of every refusal; must not wait.
            before_answer: told next of refusals of those who are known; their answer waits for
                it, so that it can be on disk before.
        """
        self._authenticator = authenticator
        self._tokens = tokens
        self._on_refused = on_refused
        self._before_answer = before_answer

    async def admit(
        self,
        permission: Permission,
        *,
        act: str,
        chain: Sequence[bytes],
        address: str,
        token: str | None = None,
    ) -> Principal:
        """Return who calls, if it may do this now.

        Args:
            permission: what the call needs.
            act: what is called, for logs.
            chain: the certificates that the handshake has proved; empty if there are none.
            address: where the call comes from, without a port.
            token: what the call brings in place of a certificate, and then counts alone.

        Raises:
            PeerRefusedError: it is nobody, or somebody who may not.
        """
        principal = None
        try:
            principal = await self._identified(chain, address, token)
            verify_permission(principal, permission)
        except PeerRefusedError as error:
            await self.tell(RefusedCall(error, address, act, _claimed(chain), principal))
            raise
        return principal

    async def tell(self, call: RefusedCall) -> None:
        """Tell of a call that was refused, here or by its handler; its answer may go after."""
        self._on_refused(call)
        if call.is_of_known:
            await self._before_answer(call)

    def admit_anybody(self, *, act: str, address: str) -> None:
        """Let in whoever calls, unless too many such calls come from its address.

        Raises:
            PeerRefusedError: they do.
        """
        try:
            self._authenticator.admit_unknown(address)
        except PeerRefusedError as error:
            self._on_refused(RefusedCall(error, address, act, None))
            raise

    def admit_handshake(self, address: str) -> float:
        """Return how many seconds a new connection must wait before its handshake may begin.

        Raises:
            PeerRefusedError: too many from this address wait already.
        """
        try:
            return self._authenticator.admit_handshake(address)
        except PeerRefusedError as error:
            self._on_refused(RefusedCall(error, address, _HANDSHAKE, None))
            raise

    def note_failed_handshake(self, error: ssl.SSLError, address: str) -> None:
        """Tell whom the TLS library has refused."""
        refusal = refusal_of_handshake(error)
        if refusal is not None:
            self._on_refused(RefusedCall(refusal, address, _HANDSHAKE, None))

    def note_unused_connections(self, count: int, act: str) -> None:
        """Tell of connections whose handshake nobody else tells of, and from which no call came.

        Args:
            count: how many, >= 1.
            act: where and when, for logs.
        """
        error = PeerRefusedError(
            Refusal.NO_CALL,
            f"connections must make a call, got {count} that made none: most likely the TLS "
            "library did not accept their certificates; look into the logs of the clients that "
            "are missing",
        )
        self._on_refused(RefusedCall(error, "", f"{count} {act}", None))

    async def admit_again(self, principal: Principal, *, act: str) -> None:
        """Check that who was let in may go on.

        Raises:
            PeerRefusedError: it may not: its certificate or token has ended meanwhile.
        """
        try:
            if principal.token_id is not None and self._tokens is not None:
                await self._tokens.verify_token(principal.token_id)
            else:
                await self._authenticator.authenticate_again(principal.chain)
        except PeerRefusedError as error:
            # Without waiting: whoever watches many calls must get to all of them.
            refused = RefusedCall(error, principal.address, act, principal.identity, principal)
            self._on_refused(refused)
            raise

    async def _identified(
        self, chain: Sequence[bytes], address: str, token: str | None
    ) -> Principal:
        if token is not None and self._tokens is not None:
            return await self._tokens.principal_of_token(token, address)
        identity = await self._authenticator.authenticate(chain, address)
        return principal_of(identity, address, tuple(chain))


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a listed call needs.

    Attributes:
        permission: ``None``: everybody may make it, without a certificate too.
    """

    permission: Permission | None


class MTLSAuthenticationMiddleware:
    """The gate in front of an ASGI application.

    The peer's certificates are taken from the TLS extension of the ASGI scope
    (``extensions.tls.client_cert_chain``, PEM). Who calls stands in ``scope["state"]["caller"]``
    as a `Principal`, and what the call needed in ``scope["state"]["requirement"]``.
    """

    def __init__(
        self,
        app: Application,
        *,
        gate: CallGate,
        required: Callable[[str, str], Requirement | None],
        refuse: Callable[[PeerRefusedError], Application],
        unlisted: Callable[[str, str], Application],
    ) -> None:
        """Stand in front of an application.

        Args:
            app: what is behind.
            gate: decides.
            required: what a method and a path need; ``None``: nobody has listed them.
            refuse: makes the answer to a refusal.
            unlisted: makes the answer to a method and path that nobody has listed.
        """
        self._app = app
        self._gate = gate
        self._required = required
        self._refuse = refuse
        self._unlisted = unlisted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        method, path = scope.get("method", ""), scope.get("path", "")
        requirement = self._required(method, path) if scope["type"] == "http" else None
        if requirement is None:
            await self._unlisted(method, path)(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["requirement"] = requirement
        try:
            await self._admit(requirement, scope)
        except PeerRefusedError as error:
            await self._refuse(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _admit(self, requirement: Requirement, scope: Scope) -> None:
        act, address = f"{scope['method']} {scope['path']}", _address_of(scope)
        if requirement.permission is not None:
            scope["state"]["caller"] = await self._gate.admit(
                requirement.permission,
                act=act,
                chain=_chain_of(scope),
                address=address,
                token=_token_of(scope),
            )
        elif scope["method"] not in _CHEAP_METHODS:
            self._gate.admit_anybody(act=act, address=address)


def _chain_of(scope: Scope) -> tuple[bytes, ...]:
    chain = scope.get("extensions", {}).get("tls", {}).get("client_cert_chain", ())
    return tuple(pem.encode() for pem in chain)


def _address_of(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def _token_of(scope: Scope) -> str | None:
    for name, value in scope.get("headers", ()):
        text = value.decode("latin-1")
        if name == b"authorization" and text.lower().startswith(_BEARER):
            return str(text[len(_BEARER) :].strip())
    return None


def _claimed(chain: Sequence[bytes]) -> Identity | None:
    if not chain:
        return None
    try:
        return identity_of(chain[0])
    except CertificateError:
        return None
