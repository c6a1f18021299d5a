"""How a coordinator answers a client that wants to know whose certificate it talks to.

A call that brings a challenge in its metadata gets the proof in the answer's first metadata, before
the handler runs: so a client can wait for it before it sends anything that matters.
"""

from typing import Final

from kumiai.core.clock import Clock
from kumiai.core.errors import CertificateError
from kumiai.identity import WatchedFiles, files
from kumiai.identity.coordinator_proofs import new_proof
from kumiai.identity.keys import is_signed_by, signed_by, verify_strong
from kumiai.identity.trust import chain_of
from kumiai.node.wire.channel import TlsFiles

__all__ = ["CHALLENGE_KEY", "PROOF_KEY", "CoordinatorProver"]

CHALLENGE_KEY: Final = "kumiai-challenge-bin"
PROOF_KEY: Final = "kumiai-proof-bin"
_TRIAL: Final = b"kumiai/node/own-certificate-and-key/v1"


class CoordinatorProver:
    """Signs challenges with the key of the coordinator's newest certificate."""

    def __init__(self, tls: TlsFiles, clock: Clock) -> None:
        """Read the files; they are read again when they have changed.

        Raises:
            KumiaiError: certificate or key cannot be used.
        """
        self._files = WatchedFiles((tls.certificate, tls.key), lambda: _own(tls), clock)

    def prove(self, challenge: bytes, client_uri: str) -> bytes:
        """Return the proof for one call; blocking, for a fraction of a millisecond.

        Raises:
            CertificateError: the challenge is none.
        """
        certificate, key = self._files.current()
        return new_proof(challenge, client_uri, certificate, key)


def _own(tls: TlsFiles) -> tuple[bytes, bytes]:
    certificate = files.read_file(tls.certificate, "certificate")
    key = files.read_file(tls.key, "private key")
    public = verify_strong(chain_of(certificate)[0].public_key())
    # While the two are being replaced, one may already be the new one.
    if not is_signed_by(public, signed_by(key, _TRIAL), _TRIAL):
        raise CertificateError(
            f"private key must belong to the certificate, got another in {tls.key}"
        )
    return certificate, key
