"""Whether whoever answers is a coordinator whose certificate is good, and not revoked.

TLS has checked names and signatures by then, and nothing else. The proof is asked for with each
session and, where a revocation list is known, with each upload, because that is another connection:
nothing of an update is sent before. A client that knows no list does not insist on a proof.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

import grpc.aio
import structlog

from kumiai.core.clock import Clock
from kumiai.core.errors import CertificateError
from kumiai.identity import NoDenials, TrustBundle, files, identity_of
from kumiai.identity.check import PeerCertificate, PeerRules, verify_peer
from kumiai.identity.coordinator_proofs import new_challenge, verify_proof
from kumiai.node.client.revocations import KnownRevocations
from kumiai.node.wire.channel import TlsFiles
from kumiai.node.wire.proving import CHALLENGE_KEY, PROOF_KEY

__all__ = ["CoordinatorCheck", "Question"]

_MEND: Final = "update the coordinator, or ask the federation's operator who answers in its place"


class Question:
    """One call's challenge."""

    def __init__(self) -> None:
        """Draw a challenge."""
        self.challenge = new_challenge()

    @property
    def metadata(self) -> tuple[tuple[str, bytes], ...]:
        """What the call brings along."""
        return ((CHALLENGE_KEY, self.challenge),)


class CoordinatorCheck:
    """Judges who answers this client's calls."""

    def __init__(self, revocations: KnownRevocations, tls: TlsFiles, clock: Clock) -> None:
        """Prepare.

        Args:
            revocations: what is known to be revoked.
            tls: this client's certificate and the federation's authorities; read at each use.
            clock: says what is in force.
        """
        self._revocations = revocations
        self._tls = tls
        self._clock = clock
        self._log = structlog.get_logger("kumiai.client")

    async def insists(self) -> bool:
        """Whether a proof is asked for before anything is sent."""
        return await asyncio.to_thread(self._revocations.current) is not None

    async def verify(self, call: "grpc.aio.Call", question: Question) -> PeerCertificate | None:
        """Check who answers a call.

        Args:
            call: made with the question's metadata.
            question: this call's alone.

        Returns:
            The certificate that was proved; ``None`` if none is asked for here and there was no
            proof, and if the call has failed, which it tells itself.

        Raises:
            CertificateError: nobody who may, or there is no proof although a list is known.
        """
        shown = dict(await call.initial_metadata() or ()).get(PROOF_KEY)
        if shown is None and call.done() and await call.code() is not grpc.StatusCode.OK:
            return None
        with self._told():
            return await asyncio.to_thread(self._verified, shown, question.challenge)

    async def verify_again(self, peer: PeerCertificate | None) -> None:
        """Check who answered, by what is known now.

        Raises:
            CertificateError: it is revoked by now.
        """
        if peer is not None:
            with self._told():
                await asyncio.to_thread(self._judged, peer)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except CertificateError as error:
            self._log.error("coordinator refused", error=str(error))
            raise

    def _verified(self, proof: bytes | None, challenge: bytes) -> PeerCertificate | None:
        if proof is None:
            if self._revocations.current() is not None:
                raise CertificateError(
                    "coordinator must prove which certificate it holds, because a revocation list "
                    f"is known here, got no proof; {_MEND}"
                )
            return None
        rules, own = self._rules()
        trust, now = TrustBundle.load(self._tls.ca), self._clock.now()
        return verify_proof(proof, challenge, own, trust=trust, rules=rules, now=now)

    def _judged(self, peer: PeerCertificate) -> None:
        verify_peer(peer, self._rules()[0], self._clock.now())

    def _rules(self) -> tuple[PeerRules, str]:
        own = identity_of(files.read_file(self._tls.certificate, "certificate"))
        revoked = self._revocations.current()
        return PeerRules(own.federation, revoked, NoDenials()), own.uri
