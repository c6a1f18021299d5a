"""Who is at the other end: one decision, for programs with an event loop and without.

`Admission` decides from what it holds in memory and touches no file. The two authenticators look
at the files (authorities, revocation list) at most once a second, the asynchronous one in a
thread, and then let it decide. Nothing here knows gRPC or HTTP.

A good certificate always passes, whatever else comes from its address: many sites may share one
address behind a translation, and the misbehaviour of one must not lock out the others. Being
locked out means that a caller *without* a good certificate is turned away without another word.
"""

import asyncio
import threading
from collections.abc import Sequence
from typing import Final

from kumiai.core.clock import Clock
from kumiai.identity.check import (
    PeerCertificate,
    PeerRefusedError,
    PeerRules,
    read_peer,
    verify_peer,
)
from kumiai.identity.denials import Denials, NoDenials
from kumiai.identity.names import Identity
from kumiai.identity.rate_limits import CallLimits
from kumiai.identity.revocation import RevocationWatcher
from kumiai.identity.trust import TrustBundle
from kumiai.identity.watching import WatchedFiles

__all__ = ["Admission", "AsyncMTLSAuthenticator", "MTLSAuthenticator"]

REFRESH_SECONDS: Final = 1.0
"""How old what is known of the files may be."""
REMEMBERED_MAX: Final = 4096


class Admission:
    """What peers are judged by, and the decision."""

    def __init__(
        self,
        *,
        federation: str,
        trust: WatchedFiles[TrustBundle],
        clock: Clock,
        revocations: RevocationWatcher | None = None,
        denials: Denials | None = None,
        limits: CallLimits | None = None,
        clock_skew_seconds: float = 60.0,
    ) -> None:
        """Judge by these.

        Args:
            federation: ours.
            trust: the authorities.
            clock: judges dates and paces the looks at files.
            revocations: the revocation list; ``None`` where none is kept.
            denials: who is refused for now; ``None``: nobody.
            limits: how often who may call; ``None``: the defaults.
            clock_skew_seconds: as for `PeerRules`.
        """
        self._federation = federation
        self._trust = trust
        self._clock = clock
        self._revocations = revocations
        self._denials = denials or NoDenials()
        self._clock_skew_seconds = clock_skew_seconds
        self._revoked = revocations.current() if revocations else None
        self._read: dict[tuple[int, tuple[bytes, ...]], PeerCertificate] = {}
        self._refreshed_at = clock.monotonic()
        self._limits = limits or CallLimits(clock)

    def is_stale(self) -> bool:
        """Whether the files should be looked at before the next decision."""
        return self._clock.monotonic() - self._refreshed_at >= REFRESH_SECONDS

    def refresh(self) -> None:
        """Look at the files; blocking."""
        began = self._clock.monotonic()
        self._trust.current()
        if self._revocations is not None:
            self._revoked = self._revocations.current()
        self._refreshed_at = began

    def judge(self, chain: Sequence[bytes]) -> Identity:
        """Return whom these certificates speak for, if it may enter now.

        Raises:
            PeerRefusedError: as for `read_peer` and `verify_peer`.
        """
        rules = PeerRules(self._federation, self._revoked, self._denials, self._clock_skew_seconds)
        return verify_peer(self._known(tuple(chain)), rules, self._clock.now())

    def admit(self, chain: Sequence[bytes], address: str) -> Identity:
        """Return who calls, if it may enter now and does not call too often.

        Args:
            chain: the certificates that the handshake has proved.
            address: where the call comes from, without a port.

        Raises:
            PeerRefusedError: as for `judge`; or it calls too often, or has failed too often.
        """
        try:
            identity = self.judge(chain)
        except PeerRefusedError as error:
            self._limits.note_refusal(address, error)
            raise
        self._limits.admit_identity(identity.uri, address)
        return identity

    def admit_unknown(self, address: str) -> None:
        """Count a call of nobody in particular.

        Raises:
            PeerRefusedError: too many come from this address, or it is locked out.
        """
        self._limits.admit_unknown(address)

    def admit_handshake(self, address: str) -> float:
        """Return how many seconds a new connection must wait before its handshake may begin.

        Raises:
            PeerRefusedError: too many from this address wait already.
        """
        return self._limits.admit_handshake(address)

    def _known(self, chain: tuple[bytes, ...]) -> PeerCertificate:
        key = (self._trust.version, chain)
        known = self._read.get(key)
        if known is None:
            known = read_peer(chain, self._trust.value)
            if len(self._read) >= REMEMBERED_MAX:
                # Of many the oldest goes; who comes back is read again.
                del self._read[next(iter(self._read))]
            self._read[key] = known
        return known


class MTLSAuthenticator:
    """Tells who a peer is; for programs without an event loop, from any thread."""

    def __init__(self, admission: Admission) -> None:
        """Let this decide."""
        self._admission = admission
        self._lock = threading.Lock()

    def authenticate(self, chain: Sequence[bytes], address: str) -> Identity:
        """Return who calls.

        Args:
            chain: the peer's certificates, PEM or DER, its own first; empty if it showed none.
            address: where it calls from, without a port.

        Raises:
            PeerRefusedError: nobody who may enter; ``refusal`` tells why.
        """
        with self._lock:
            if self._admission.is_stale():
                self._admission.refresh()
            return self._admission.admit(chain, address)

    def authenticate_again(self, chain: Sequence[bytes]) -> Identity:
        """Return who calls if it still may, while a call lasts; limits nothing.

        Raises:
            PeerRefusedError: it may no longer.
        """
        with self._lock:
            if self._admission.is_stale():
                self._admission.refresh()
            return self._admission.judge(chain)


class AsyncMTLSAuthenticator:
    """Tells who a peer is; for programs with an event loop."""

    def __init__(self, admission: Admission) -> None:
        """Let this decide."""
        self._admission = admission
        self._lock = asyncio.Lock()

    async def authenticate(self, chain: Sequence[bytes], address: str) -> Identity:
        """Return who calls; as for `MTLSAuthenticator.authenticate`.

        Raises:
            PeerRefusedError: nobody who may enter; ``refusal`` tells why.
        """
        await self._refreshed()
        return self._admission.admit(chain, address)

    def admit_unknown(self, address: str) -> None:
        """Count a call that everybody may make and that costs us something.

        Raises:
            PeerRefusedError: too many come from this address, or it is locked out.
        """
        self._admission.admit_unknown(address)

    def admit_handshake(self, address: str) -> float:
        """Return how many seconds a new connection must wait before its handshake may begin.

        Raises:
            PeerRefusedError: too many from this address wait already.
        """
        return self._admission.admit_handshake(address)

    async def authenticate_again(self, chain: Sequence[bytes]) -> Identity:
        """Return who calls if it still may, while a call lasts; limits nothing.

        Raises:
            PeerRefusedError: it may no longer.
        """
        await self._refreshed()
        return self._admission.judge(chain)

    async def _refreshed(self) -> None:
        if not self._admission.is_stale():
            return
        async with self._lock:
            if not self._admission.is_stale():
                return  # somebody has looked while this one waited
            await asyncio.to_thread(self._admission.refresh)
