"""The client follows from one root to the next, without anybody carrying files to its site.

What the coordinator offers is believed as far as a root that this client trusts has named the
new one. The old one stays until the coordinator's own list leaves it out: until then either may
vouch for whoever is at the other end. The file of roots is replaced in one piece, and whoever
watches it takes it up.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from kumiai.core.clock import Clock
from kumiai.core.errors import CertificateError, KumiaiError
from kumiai.identity import TrustBundle, files
from kumiai.identity.succession import follow, successions_of
from kumiai.identity.trust import chain_of
from kumiai.identity.vault import PUBLIC, pem_of
from kumiai.node.wire import kumiai_pb2 as pb

__all__ = ["TrustFollower"]

_ROOTS_SIZE_BYTES_MAX: Final = 64 * 1024


class TrustFollower:
    """Keeps one client's file of roots up to date."""

    def __init__(
        self,
        *,
        ca: Path,
        certificate: Path,
        clock: Clock,
        send: Callable[[pb.ClientMessage], None],
    ) -> None:
        """Prepare; `take` follows.

        Args:
            ca: the file of roots.
            certificate: this client's own, which must stay good.
            clock: says what is in force.
            send: queues a message for the session.
        """
        self._ca = ca
        self._certificate = certificate
        self._clock = clock
        self._send = send
        self._refused: bytes | None = None
        self._log = structlog.get_logger("kumiai.client")

    async def take(self, offer: pb.TrustOffer) -> None:
        """Check what the coordinator offers; keep it if it holds, and tell what became of it.

        One that does not hold is told of once and changes nothing.
        """
        told = offer.SerializeToString()
        if told == self._refused:
            return
        try:
            followed = await asyncio.to_thread(self._follow, offer)
        except KumiaiError as error:
            self._refused = told
            self._log.error("new root not taken up", error=str(error))
            self._send(pb.ClientMessage(trust=pb.TrustAnswer(reason=str(error))))
            return
        if followed is not None:
            roots = [f"{root.serial_number:x}" for root in followed.authorities]
            self._log.info("other roots are trusted now", roots=roots)
            self._send(pb.ClientMessage(trust=pb.TrustAnswer(roots=roots)))

    def _follow(self, offer: pb.TrustOffer) -> TrustBundle | None:
        kept = TrustBundle.load(self._ca)
        offered = offer.roots.encode()
        if len(offered) > _ROOTS_SIZE_BYTES_MAX:
            raise CertificateError(
                f"roots must be at most {_ROOTS_SIZE_BYTES_MAX} bytes, got {len(offered)}"
            )
        after = follow(
            kept,
            TrustBundle.load(offered),
            successions_of(offer.successions.encode()),
            now=self._clock.now(),
        )
        if set(after.authorities) == set(kept.authorities):
            return None
        after = self._with_own(after, kept)
        if set(after.authorities) == set(kept.authorities):
            return None
        files.write_atomic(self._ca, b"".join(map(pem_of, after.authorities)), mode=PUBLIC)
        return after

    def _with_own(self, after: TrustBundle, kept: TrustBundle) -> TrustBundle:
        """Keep the root that vouches for this client's own certificate until that is renewed."""
        chain = chain_of(files.read_file(self._certificate, "certificate"))
        own = kept.root_of(chain)
        try:
            after.root_of(chain)
        except CertificateError:
            return TrustBundle((*after.authorities, own))
        return after
