"""Tells clients whom to trust from now on, while one root follows another, and whom no longer.

A client believes none of it: it checks for itself that a root which it trusts has named the new
one (`kumiai.identity.succession`), and that the federation's authorities have signed the revocation
list. So an operator brings new roots and lists to the coordinators alone.
"""

import asyncio
from pathlib import Path
from typing import Final

import structlog

from kumiai.core.clock import Clock
from kumiai.core.errors import CertificateError, KumiaiError, NotFoundError
from kumiai.identity import RevocationList, TrustBundle, WatchedFiles
from kumiai.identity.audit import Act, Actor, AuditSink, Outcome
from kumiai.identity.files import read_file
from kumiai.identity.succession import successions_of
from kumiai.node.auditing.actors import said_by_stranger
from kumiai.node.coordinator.sessions import ClientSession, SessionHub
from kumiai.node.coordinator.supervision import SupervisedWork
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import REVOCATIONS_BYTES_MAX

__all__ = ["SUCCESSION_FILE", "TrustOffers"]

SUCCESSION_FILE: Final = "succession.crt"
"""Beside the coordinator's ``ca.crt``; without it clients are offered nothing."""
_LOOK_SECONDS: Final = 1.0
_ROOTS_TOLD: Final = 4


class TrustOffers:
    """Offers roots, when a client comes and when the files have changed."""

    def __init__(
        self,
        ca: Path,
        *,
        hub: SessionHub,
        clock: Clock,
        audit: AuditSink,
        coordinator_id: str,
        crl: Path | None = None,
        look_seconds: float = _LOOK_SECONDS,
    ) -> None:
        """Offer what is in the file of roots, and beside it.

        Args:
            ca: the roots.
            hub: the clients that are attached.
            clock: paces looks at the files.
            audit: hears of changes, here and at clients.
            coordinator_id: who this is.
            crl: the revocation list; ``None``: none is kept.
            look_seconds: how often the files are looked at.

        Raises:
            KumiaiError: the files cannot be used.
        """
        self._hub = hub
        self._audit = audit
        self._me = Actor("coordinator", coordinator_id)
        self._look_seconds = look_seconds
        succession = ca.with_name(SUCCESSION_FILE)
        paths = (ca, succession, *([] if crl is None else [crl]))
        self._files = WatchedFiles(paths, lambda: _offer_in(ca, succession, crl), clock)
        self._told = self._files.value
        self._work = SupervisedWork("watch over the roots", self.serve, clock)
        self._log = structlog.get_logger("kumiai.coordinator")

    def start(self) -> None:
        """Begin to look at the files."""
        self._work.start()

    async def stop(self) -> None:
        """Look no more."""
        await self._work.stop()

    def unwell(self) -> list[str]:
        """Return what has ended by an error and does not go on again for sure."""
        return [] if self._work.is_well else [self._work.name]

    def offer_to(self, session: ClientSession) -> pb.TrustOffer | None:
        """Return what a client is offered; ``None`` if that is nothing."""
        offer = pb.TrustOffer(revocations=self._files.value.revocations)
        if self._files.value.successions:
            offer.MergeFrom(self._files.value)
            session.open_trust_offers += 1
        return offer if offer.ByteSize() else None

    def take(self, session: ClientSession, answer: pb.TrustAnswer, *, by: Actor) -> None:
        """Write down what a client did; one that was not asked is not heard."""
        if session.open_trust_offers == 0:
            return
        session.open_trust_offers = 0
        log = self._log.bind(client=session.client_id)
        if answer.reason:
            log.warning("client does not follow to the new root", reason=answer.reason[:500])
            detail = {"reason": said_by_stranger(answer.reason)}
            caller = f"{by.role}/{by.name}"
            self._audit.record_refusal(Act.TRUST_FOLLOWED, "", by, detail, caller=caller)
            return
        roots = said_by_stranger(" ".join(answer.roots[:_ROOTS_TOLD]))
        log.info("client trusts other roots now", roots=roots)
        self._audit.record(Act.TRUST_FOLLOWED, "", Outcome.DONE, by, {"roots": roots})

    async def serve(self) -> None:
        """Offer what has changed to all who are attached, until cancelled."""
        while True:
            await asyncio.to_thread(self._files.current)
            if self._files.value != self._told:
                self._tell()
            await asyncio.sleep(self._look_seconds)

    def _tell(self) -> None:
        before, self._told = self._told, self._files.value
        if (before.roots, before.successions) != (self._told.roots, self._told.successions):
            serials = TrustBundle.load(self._told.roots.encode()).serials
            roots = " ".join(f"{serial:x}" for serial in sorted(serials))
            self._log.info("other roots are trusted now", roots=roots)
            detail = {"roots": said_by_stranger(roots)}
            self._audit.record(Act.TRUST_CHANGED, "", Outcome.DONE, self._me, detail)
        for session in self._hub.sessions():
            offer = self.offer_to(session)
            if offer is not None:
                session.send(pb.ServerMessage(trust=offer))


def _offer_in(ca: Path, succession: Path, crl: Path | None) -> pb.TrustOffer:
    roots = read_file(ca, "ca certificate")
    trust = TrustBundle.load(roots)
    try:
        successions = read_file(succession, "succession of roots")
    except NotFoundError:
        successions = b""
    successions_of(successions)
    return pb.TrustOffer(
        roots=roots.decode("ascii"),
        successions=successions.decode("ascii"),
        revocations="" if crl is None else _revocations_in(crl, trust),
    )


def _revocations_in(crl: Path, trust: TrustBundle) -> str:
    """Return the list's text, or nothing: roots do not wait for a list that fits to them."""
    try:
        content = read_file(crl, "revocation list")
        RevocationList.read(content, trust)
        if len(content) > REVOCATIONS_BYTES_MAX:
            raise CertificateError(
                f"revocation list must be at most {REVOCATIONS_BYTES_MAX} bytes, got {len(content)}"
            )
    except KumiaiError as error:
        log = structlog.get_logger("kumiai.coordinator")
        log.warning("revocation list not handed to clients", error=str(error))
        return ""
    return content.decode("ascii")
