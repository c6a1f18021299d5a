"""Who is denied, from memory: a snapshot of the tables of sites that is never old.

It is read anew every second; what a replica changes itself it reads at once. When the database
cannot be read the last snapshot stays: nobody who was denied gets in by cutting the coordinator
off, and nothing new is acknowledged meanwhile anyway.
"""

import asyncio
import contextlib
from dataclasses import dataclass

from sqlalchemy import select

from kumiai.core.errors import KumiaiError
from kumiai.storage.bulk import now_of
from kumiai.storage.database import DatabaseManager
from kumiai.storage.enrolment_tables import SiteCertificateRow, SiteRow
from kumiai.storage.rows import table_of

__all__ = ["DeniedSites", "SiteDenials"]

_SITES = table_of(SiteRow)
_CERTIFICATES = table_of(SiteCertificateRow)


@dataclass(frozen=True, slots=True)
class DeniedSites:
    """Who was denied when the tables were last read.

    Attributes:
        suspended: names of sites that are refused for now.
        removed: names of sites that are refused for good.
        only_enrolled: names of sites that were removed and invited anew: what they were issued
            before, elsewhere too, is not good any more.
        serials: revoked certificates that a coordinator signed.
        issuers: serial numbers of the issuers that coordinators sign with.
    """

    suspended: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    only_enrolled: frozenset[str] = frozenset()
    serials: frozenset[int] = frozenset()
    issuers: frozenset[int] = frozenset()


class SiteDenials:
    """Keeps a snapshot of who is denied.

    Args:
        database: connected before `start`.
        every_seconds: how old the snapshot may grow, > 0.
    """

    def __init__(self, database: DatabaseManager, *, every_seconds: float = 1.0) -> None:
        self._database = database
        self._every_seconds = every_seconds
        self._task: asyncio.Task[None] | None = None
        self.snapshot = DeniedSites()

    async def start(self) -> None:
        """Read the tables, and go on doing so in the background.

        Raises:
            StorageError: they cannot be read.
        """
        await self.refresh()
        self._task = asyncio.create_task(self._serve(), name="site-denials")

    async def stop(self) -> None:
        """End it; the last snapshot stays."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def refresh(self) -> None:
        """Read the tables now.

        Raises:
            StorageError: they cannot be read; the last snapshot stays.
        """
        async with self._database.reading() as connection:
            now = await now_of(connection)
            marked = select(_SITES.c.name, _SITES.c.state, _SITES.c.only_enrolled).where(
                (_SITES.c.state != "active") | _SITES.c.only_enrolled
            )
            sites = (await connection.execute(marked)).all()
            revoked = select(_CERTIFICATES.c.serial).where(
                _CERTIFICATES.c.revoked_at.is_not(None), _CERTIFICATES.c.not_after > now
            )
            serials = (await connection.execute(revoked)).scalars().all()
            signed_by = select(_CERTIFICATES.c.issuer).distinct()
            issuers = (await connection.execute(signed_by)).scalars().all()
        self.snapshot = DeniedSites(
            suspended=frozenset(site.name for site in sites if site.state == "suspended"),
            removed=frozenset(site.name for site in sites if site.state == "removed"),
            only_enrolled=frozenset(site.name for site in sites if site.only_enrolled),
            serials=frozenset(int(serial, 16) for serial in serials),
            issuers=frozenset(int(issuer, 16) for issuer in issuers),
        )

    async def _serve(self) -> None:
        while True:
            await asyncio.sleep(self._every_seconds)
            with contextlib.suppress(KumiaiError):
                await self.refresh()
