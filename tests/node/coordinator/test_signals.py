"""Waking a run's driver."""

import asyncio

from kumiai.node.coordinator.signals import RunSignals


async def test_a_wake_up_ends_the_wait() -> None:
    signals = RunSignals()
    waiting = asyncio.create_task(signals.wait("run-a", 60, reports=9))
    await asyncio.sleep(0)

    signals.wake("run-a")

    async with asyncio.timeout(30):
        await waiting


async def test_reports_end_the_wait_when_enough_came() -> None:
    signals = RunSignals()
    waiting = asyncio.create_task(signals.wait("run-a", 60, reports=2))
    await asyncio.sleep(0)

    signals.report("run-a")
    await asyncio.sleep(0)
    assert not waiting.done()
    signals.report("run-a")

    async with asyncio.timeout(30):
        await waiting


async def test_reports_between_two_waits_count() -> None:
    signals = RunSignals()
    await signals.wait("run-a", 0)
    signals.report("run-a")

    async with asyncio.timeout(30):
        await signals.wait("run-a", 60, reports=1)


async def test_the_wait_ends_by_itself() -> None:
    async with asyncio.timeout(30):
        await RunSignals().wait("run-a", 0.001)


async def test_other_runs_are_not_woken() -> None:
    signals = RunSignals()
    waiting = asyncio.create_task(signals.wait("run-a", 60))
    await asyncio.sleep(0)

    signals.wake("run-b")
    signals.report("run-b")
    await asyncio.sleep(0)

    assert not waiting.done()
    waiting.cancel()


async def test_a_forgotten_run_keeps_nothing() -> None:
    signals = RunSignals()
    await signals.wait("run-a", 0)
    signals.report("run-a")

    signals.forget("run-a")
    waiting = asyncio.create_task(signals.wait("run-a", 60))
    await asyncio.sleep(0)

    assert not waiting.done()
    waiting.cancel()
