"""The client's memory of the coordinator's audit log: whoever rewrites it loses this client.

With each welcome, and whenever there is a new one, the coordinator sends its newest signed
checkpoint and the proof that it continues the one that this client knows. The first is taken on
trust, as far as a certificate of the federation vouches for it; each later one must follow.
"""

import asyncio
from pathlib import Path
from typing import Final

import structlog

from kumiai.core.errors import CertificateError, IntegrityError
from kumiai.identity import TrustBundle, files, identity_of
from kumiai.identity.audit import CertifiedKey, origin_of, verify_consistency
from kumiai.node.auditing.kept import KEPT_FILE, KeptCheckpoint
from kumiai.node.wire import kumiai_pb2 as pb

__all__ = ["CheckpointGuard"]

_MEND: Final = (
    "do not work for this coordinator until its operator has explained it with `kumiai audit "
    "verify`; if the database was put back on purpose, move {path} away"
)


class CheckpointGuard:
    """Keeps the newest checkpoint, and refuses one that does not follow."""

    def __init__(self, folder: Path, *, ca: Path, certificate: Path) -> None:
        """Go on with what is kept in the folder.

        Args:
            folder: of this client's own.
            ca: the federation's authorities; read at each use, so that a new one is taken up.
            certificate: this client's, which says which federation it is.

        Raises:
            IntegrityError: the kept file is damaged.
            NotFoundError, StorageError, CertificateError: a file cannot be used.
        """
        self._folder = folder
        self._ca = ca
        federation = identity_of(files.read_file(certificate, "certificate")).federation
        self._origin = origin_of(federation)
        self._kept = KeptCheckpoint.find(folder)
        self._taking = asyncio.Lock()
        self._log = structlog.get_logger("kumiai.client")

    @property
    def known_size(self) -> int:
        """How many entries the newest known checkpoint is about; 0: none is known."""
        return 0 if self._kept is None else self._kept.checkpoint.size

    async def take(self, offered: pb.AuditCheckpoint | None) -> None:
        """Check what the coordinator offers, and keep it.

        Args:
            offered: its newest checkpoint; ``None``: it has none.

        Raises:
            IntegrityError: the log was rewritten, or the checkpoint is not signed as it must be.
            CertificateError: it was signed by nobody of the federation.
        """
        async with self._taking:
            try:
                await asyncio.to_thread(self._take, offered)
            except (IntegrityError, CertificateError) as error:
                self._log.error("audit log refused", error=str(error))
                mend = _MEND.format(path=self._folder / KEPT_FILE)
                raise type(error)(
                    f"coordinator's audit log must continue what this client has seen of it: "
                    f"{error}; {mend}"
                ) from error

    def _take(self, offered: pb.AuditCheckpoint | None) -> None:
        before = self._kept
        if offered is None:
            if before is not None:
                raise IntegrityError(
                    f"log must have at least {before.checkpoint.size} signed entries, got none"
                )
            return
        new = KeptCheckpoint.of(offered.note, CertifiedKey.from_json(offered.key))
        if new.checkpoint.origin != self._origin:
            raise IntegrityError(f"log must be {self._origin}, got {new.checkpoint.origin}")
        new.key.verify(TrustBundle.load(self._ca), at=new.checkpoint.at_us / 1e6)
        if before is not None:
            known = before.checkpoint
            path = [bytes(each) for each in offered.path]
            if new.checkpoint.size == known.size:
                path = []
            verify_consistency(
                known.size, new.checkpoint.size, path, known.root, new.checkpoint.root
            )
            if new.checkpoint.size == known.size:
                return
        new.save(self._folder)
        self._kept = new
