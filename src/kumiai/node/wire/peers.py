"""Who is at the other end of a call, judged again at every call.

gRPC has checked the chain during the handshake. What it can not check is done here: the
federation, the role, the dates (a connection may outlive its certificate) and revocation.
"""

from collections.abc import Collection

import grpc
import grpc.aio
import structlog

from kumiai.core.clock import Clock
from kumiai.core.errors import CertificateError
from kumiai.identity import Identity, RevocationWatcher, Role, verify_peer

__all__ = ["PeerAuthenticator"]


class PeerAuthenticator:
    """Turns a call's certificate into an identity, or ends the call."""

    def __init__(
        self, *, federation: str, clock: Clock, revocations: RevocationWatcher | None
    ) -> None:
        """Accept certificates of this federation that are not revoked."""
        self._federation = federation
        self._clock = clock
        self._revocations = revocations
        self._log = structlog.get_logger("kumiai.peers")

    def verify(self, certificate: bytes | None, roles: Collection[Role]) -> Identity:
        """Return who presents this certificate (PEM or DER).

        Raises:
            CertificateError: nobody whom these roles admit.
        """
        return verify_peer(
            certificate,
            federation=self._federation,
            roles=roles,
            revoked=self._revocations.current() if self._revocations else None,
            now=self._clock.now(),
        )

    def verify_again(self, identity: Identity) -> None:
        """Check that an identity that was verified earlier still holds.

        Raises:
            CertificateError: it was revoked since, or has expired.
        """
        revoked = self._revocations.current() if self._revocations else None
        if revoked is not None and revoked.is_revoked(identity.serial):
            raise CertificateError(
                f"the certificate of {identity.name!r} has been revoked; ask the federation's "
                "operator for a new one"
            )
        if identity.not_after < self._clock.now():
            raise CertificateError(
                f"the certificate of {identity.name!r} has expired; have a new one issued"
            )

    async def identify(
        self, context: "grpc.aio.ServicerContext[bytes, bytes]", roles: Collection[Role]
    ) -> Identity:
        """Return who makes this call; a call of anybody else ends here."""
        certificates = context.auth_context().get("x509_pem_cert", ())
        try:
            return self.verify(next(iter(certificates), None), roles)
        except CertificateError as error:
            # An attempt that somebody has to see: the certificate is one of our authority.
            self._log.warning("caller refused", address=context.peer(), reason=str(error))
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
            raise  # not reached: abort raises; for the type checker
