"""Which certificates a client knows to be revoked: those of coordinators are its concern.

The coordinator hands its list to every client that comes, and whenever it has a newer one; it may
also be brought to the site by hand. What was revoked stays revoked: a list that has expired still
counts for what it names, and none that is older takes the place of a newer one.
"""

from pathlib import Path
from typing import Final

import structlog

from kumiai.core.clock import Clock
from kumiai.core.errors import CertificateError, NotFoundError
from kumiai.identity import RevocationList, TrustBundle, WatchedFiles, files
from kumiai.identity.vault import PUBLIC
from kumiai.node.wire.channel import REVOCATIONS_BYTES_MAX

__all__ = ["KEPT_FILE", "KnownRevocations"]

KEPT_FILE: Final = "ca.crl"


class KnownRevocations:
    """The lists of one client."""

    def __init__(self, folder: Path, ca: Path, clock: Clock, *, brought: Path | None) -> None:
        """Go on with what is kept in the folder.

        Args:
            folder: of this client's own.
            ca: the federation's authorities.
            clock: judges new lists.
            brought: a list that somebody brings to this site by hand; ``None``: nobody does.

        Raises:
            KumiaiError: the list that was brought cannot be used.
        """
        self._kept = folder / KEPT_FILE
        self._ca = ca
        self._clock = clock
        self._brought = brought
        self._log = structlog.get_logger("kumiai.client")
        paths = (self._kept, ca, *([] if brought is None else [brought]))
        self._files = WatchedFiles(paths, self._load, clock)

    def current(self) -> RevocationList | None:
        """Return all that is known; ``None``: no list at all. Reads files that have changed."""
        return self._files.current()

    def take(self, offered: bytes) -> bool:
        """Keep a list that the coordinator hands over, if it is good and newer; blocking.

        Returns:
            Whether a certificate is known to be revoked that was not before.

        Raises:
            CertificateError: it is not to be used.
            StorageError: it cannot be kept.
        """
        if len(offered) > REVOCATIONS_BYTES_MAX:
            raise CertificateError(
                f"revocation list must be at most {REVOCATIONS_BYTES_MAX} bytes, got {len(offered)}"
            )
        now, trust, before = self._clock.now(), TrustBundle.load(self._ca), self._files.current()
        fresh, kept = RevocationList.load(offered, trust, now=now), self._find_kept()
        if kept is not None:
            fresh.verify_not_older(kept, roots=trust.serials, now=now)
            if fresh.lists == kept.lists:
                return False
        files.new_private_directory(self._kept.parent)
        files.write_atomic(self._kept, offered, mode=PUBLIC)
        return not fresh.serials <= (frozenset() if before is None else before.serials)

    def _load(self) -> RevocationList | None:
        found = [] if (kept := self._find_kept()) is None else [kept]
        if self._brought is not None:
            found.append(RevocationList.read(self._brought, self._ca))
        if not found:
            return None
        lists = tuple(one for each in found for one in each.lists)
        return RevocationList(lists, frozenset().union(*(each.serials for each in found)))

    def _find_kept(self) -> RevocationList | None:
        try:
            return RevocationList.read(self._kept, self._ca)
        except NotFoundError:
            return None
        except CertificateError as error:
            # Of a root that is no longer trusted, or damaged: the coordinator has a better one.
            self._log.warning("kept revocation list not used", error=str(error))
            return None
