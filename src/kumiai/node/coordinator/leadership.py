"""Finds runs that nobody leads, leads them, and stops at once when somebody else does.

A run is led by whoever holds its lease row. The lease is renewed at a third of its life; a
leader that can not renew it loses its drivers before the lease runs out, and should it sleep
through that, each of its writes still carries the old epoch and changes nothing.
"""

import asyncio
import contextlib

import structlog

from kumiai.core.errors import FencedError, KumiaiError, StorageError
from kumiai.node.coordinator.engine import RoundEngine
from kumiai.node.coordinator.rounds import RunDriver
from kumiai.storage import Lease

__all__ = ["RunSupervisor"]

_PAUSE_SECONDS_MAX = 8.0


class RunSupervisor:
    """Leads runs, as many as there are."""

    def __init__(
        self,
        engine: RoundEngine,
        *,
        leader: str,
        lease_seconds: float = 5.0,
        poll_seconds: float = 1.0,
    ) -> None:
        """Lead runs under this name.

        Args:
            engine: what the drivers work with.
            leader: this replica's lasting name; its own old leases can be taken at once.
            lease_seconds: life of a lease; a takeover by another replica waits so long.
            poll_seconds: how often to look for runs without being woken.
        """
        self._engine = engine
        self._leader = leader
        self._lease_seconds = lease_seconds
        self._poll_seconds = poll_seconds
        self._drivers: dict[str, asyncio.Task[None]] = {}
        self._pauses: dict[str, float] = {}
        self._has_news = asyncio.Event()
        self._log = structlog.get_logger("kumiai.leadership")

    def wake(self) -> None:
        """Look for runs now: one was submitted."""
        self._has_news.set()

    @property
    def led_runs(self) -> list[str]:
        """The runs that this replica leads."""
        return sorted(self._drivers)

    async def serve(self) -> None:
        """Lead runs until cancelled."""
        try:
            while True:
                try:
                    await self._claim_all()
                except StorageError as error:
                    self._log.error("can not look for runs", error=str(error))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_seconds):
                        await self._has_news.wait()
                self._has_news.clear()
        finally:
            await self._stop_all()

    async def _claim_all(self) -> None:
        for run_id in await self._engine.runs.claimable(self._leader):
            if run_id in self._drivers:
                continue
            lease = await self._engine.runs.acquire_lease(run_id, self._leader, self._lease_seconds)
            if lease is not None:
                self._log.info("leading run", run=run_id, epoch=lease.epoch)
                self._drivers[run_id] = asyncio.create_task(self._lead(lease))

    async def _lead(self, lease: Lease) -> None:
        driver = RunDriver(self._engine, lease)
        driving = asyncio.create_task(driver.drive())
        renewing = asyncio.create_task(self._renew(lease))
        began = asyncio.get_running_loop().time()
        try:
            await asyncio.wait({driving, renewing}, return_when=asyncio.FIRST_COMPLETED)
            if asyncio.get_running_loop().time() - began > _PAUSE_SECONDS_MAX:
                self._pauses.pop(lease.run_id, None)  # this was another trouble than the last
            if driving.done():
                await self._after(lease, driver, driving)
            else:
                self._log.warning("no longer leading", run=lease.run_id)
        finally:
            for task in (driving, renewing):
                task.cancel()
            await asyncio.gather(driving, renewing, return_exceptions=True)
            self._drivers.pop(lease.run_id, None)
            self._engine.signals.forget(lease.run_id)

    async def _after(self, lease: Lease, driver: RunDriver, driving: "asyncio.Task[None]") -> None:
        """Deal with a driver that has ended: done, fenced, to be tried again, or broken."""
        error = driving.exception()
        if not isinstance(error, StorageError):
            self._pauses.pop(lease.run_id, None)
        if error is None:
            return
        if isinstance(error, FencedError):
            self._log.warning("another coordinator leads now", run=lease.run_id)
        elif isinstance(error, StorageError):
            await self._pause(lease, error)
        else:
            self._log.error("run failed", run=lease.run_id, exc_info=error)
            with contextlib.suppress(KumiaiError):
                reason = f"internal error: {type(error).__name__}: {error}"
                await driver.fail(reason, error)

    async def _pause(self, lease: Lease, error: StorageError) -> None:
        """Leave the run to others for a while: ever longer, for each new leader leaves its rows."""
        seconds = self._pauses.get(lease.run_id, self._poll_seconds)
        self._pauses[lease.run_id] = min(seconds * 2, _PAUSE_SECONDS_MAX)
        self._log.error(
            "will lead again soon", run=lease.run_id, error=str(error), pause_seconds=seconds
        )
        with contextlib.suppress(StorageError):  # else it runs out by itself
            await self._engine.runs.release_lease(lease)
        await asyncio.sleep(seconds)

    async def _renew(self, lease: Lease) -> None:
        """Return when the lease is lost, or can not be renewed in time.

        A run that its driver has just ended has no lease either: then the driver's end is waited
        for, which tells the clients and tidies up.
        """
        loop = asyncio.get_running_loop()
        good_until = loop.time() + self._lease_seconds
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            try:
                asked_at = loop.time()
                await self._engine.runs.renew_lease(lease, self._lease_seconds)
                good_until = asked_at + self._lease_seconds
            except FencedError:
                if not await self._was_ended(lease):
                    return
                await asyncio.Event().wait()
            except StorageError as error:
                self._log.error("lease not renewed", run=lease.run_id, error=str(error))
                if loop.time() > good_until - self._lease_seconds / 3:
                    return

    async def _was_ended(self, lease: Lease) -> bool:
        """Tell whether the run has ended under this lease."""
        try:
            run = await self._engine.runs.get(lease.run_id)
        except KumiaiError:  # deleted since, or not to be read: then it may be another's
            return False
        return run.epoch == lease.epoch and run.finished_at is not None

    async def _stop_all(self) -> None:
        drivers = list(self._drivers.values())
        for driver in drivers:
            driver.cancel()
        await asyncio.gather(*drivers, return_exceptions=True)
