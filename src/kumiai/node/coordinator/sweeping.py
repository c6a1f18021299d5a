"""Sweeps the blob store in the background: soon after the start, and a few times a day.

A clean-up that fails or is cut off by a kill is made good here; nothing waits for it. Replicas
sweep the same store beside each other: that costs some questions and harms nothing.
"""

import asyncio

import structlog

from kumiai.core.errors import KumiaiError
from kumiai.storage import BlobSweeper

__all__ = ["BackgroundSweep"]


class BackgroundSweep:
    """Sweeps until it is stopped.

    Args:
        sweeper: of connected stores.
        grace_seconds: nothing younger is touched.
        every_seconds: from the end of a sweep to the next.
    """

    def __init__(
        self, sweeper: BlobSweeper, *, grace_seconds: float, every_seconds: float = 6 * 3600.0
    ) -> None:
        self._sweeper = sweeper
        self._grace_seconds = grace_seconds
        self._every_seconds = every_seconds
        self._task: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("kumiai.storage")

    def start(self) -> None:
        """Begin at once, in the background."""
        self._task = asyncio.create_task(self._serve(), name="blob-sweep")

    async def stop(self) -> None:
        """End it; a sweep that is cut off is done by the next."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _serve(self) -> None:
        while True:
            try:
                report = await self._sweeper.sweep(grace_seconds=self._grace_seconds)
            except KumiaiError as error:
                self._log.warning("blobs not swept", error=str(error))
            except Exception:  # noqa: BLE001 - the outermost loop
                # A mistake of ours must not stop what keeps the disk from filling.
                self._log.exception("blobs not swept")
            else:
                if report.count:
                    self._log.info(
                        "blobs swept",
                        count=report.count,
                        size_bytes=report.size_bytes,
                        **{f"in_{root}": count for root, count in sorted(report.by_root.items())},
                    )
            await asyncio.sleep(self._every_seconds)
