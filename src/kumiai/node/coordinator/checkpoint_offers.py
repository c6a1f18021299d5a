"""The newest checkpoint for each client, with the proof that it continues what that one knows."""

import asyncio
from collections import OrderedDict
from typing import Final

import structlog

from kumiai.core.errors import KumiaiError
from kumiai.identity.audit import CertifiedKey
from kumiai.node.auditing.evidence import AuditEvidence
from kumiai.node.coordinator.sessions import SessionHub
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.storage import AuditLog

__all__ = ["CheckpointOffers"]

_PROOFS_MAX: Final = 256


class CheckpointOffers:
    """Offers checkpoints, when a client comes and when there is a new one."""

    def __init__(self, log: AuditLog, hub: SessionHub) -> None:
        """Offer what this log has to the clients of this hub."""
        self._log = log
        self._hub = hub
        self._evidence = AuditEvidence(log)
        self._keys: dict[str, str] = {}
        # A thousand clients that come back at once know the same few checkpoints.
        self._proofs: OrderedDict[tuple[int, int], tuple[bytes, ...]] = OrderedDict()
        self._is_new = asyncio.Event()
        self._logger = structlog.get_logger("kumiai.audit")

    async def offer(self, known_size: int) -> pb.AuditCheckpoint | None:
        """Return the newest checkpoint, ``None`` before the first.

        Args:
            known_size: how many entries the client knows to be signed, 0 for none. One that is
                more than there are gets no proof: there is none.

        Raises:
            StorageError: the database failed.
            IntegrityError: the log in the database is damaged.
        """
        newest = await self._log.find_newest_checkpoint()
        if newest is None:
            return None
        key = await self._key(newest.key_id)
        path: tuple[bytes, ...] = ()
        if 0 < known_size <= newest.size:
            path = await self._proof(known_size, newest.size)
        return pb.AuditCheckpoint(note=newest.note, key=key, from_size=known_size, path=path)

    def announce(self) -> None:
        """Let `serve` tell all attached clients."""
        self._is_new.set()

    async def serve(self) -> None:
        """Send each new checkpoint to all attached clients, until cancelled."""
        while True:
            await self._is_new.wait()
            self._is_new.clear()
            try:
                await self._tell_all()
            except KumiaiError as error:
                # Who has not got it gets the next one, with the proof from where it stands.
                self._logger.warning("checkpoint not sent to all clients", error=str(error))

    async def _tell_all(self) -> None:
        for session in self._hub.sessions():
            if session.audit_size is None:
                continue
            offered = await self.offer(session.audit_size)
            if offered is not None:
                session.audit_size = size_of(offered)
                session.send(pb.ServerMessage(audit=offered))

    async def _key(self, key_id: str) -> str:
        if key_id not in self._keys:
            documents = await self._log.signers()
            self._keys = {CertifiedKey.from_json(each).key_id: each for each in documents}
        return self._keys.get(key_id, "")

    async def _proof(self, first: int, second: int) -> tuple[bytes, ...]:
        found = self._proofs.get((first, second))
        if found is None:
            found = self._proofs[first, second] = await self._evidence.consistency(first, second)
            if len(self._proofs) > _PROOFS_MAX:
                self._proofs.popitem(last=False)
        return found


def size_of(offered: pb.AuditCheckpoint) -> int:
    """Return how many entries an offered checkpoint is about."""
    return int(offered.note.split("\n", 2)[1])
