import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from structlog.testing import capture_logs

from kumiai.node.coordinator.supervision import SupervisedWork, SupervisionTimes

QUICK = SupervisionTimes(
    first_pause_seconds=0.001, longest_pause_seconds=0.004, proved_seconds=10.0
)


class HandClock:
    """Goes on when the test says so."""

    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class Work:
    """Ends as often as it is told to, then goes on."""

    def __init__(self, *ends: Exception | None) -> None:
        self.ends = list(ends)
        self.begun = 0
        self.going = asyncio.Event()
        self.end_now = asyncio.Event()

    async def __call__(self) -> None:
        self.begun += 1
        if self.ends:
            end = self.ends.pop(0)
            if end is not None:
                raise end
            return
        self.going.set()
        await self.end_now.wait()


@pytest.fixture
async def supervised() -> AsyncIterator[Callable[..., SupervisedWork]]:
    all_work: list[SupervisedWork] = []

    def new(work: Work, clock: HandClock, times: SupervisionTimes = QUICK) -> SupervisedWork:
        all_work.append(SupervisedWork("the audit signer", work, clock, times))
        all_work[-1].start()
        return all_work[-1]

    yield new
    for each in all_work:
        await each.stop()


async def test_work_that_ends_is_told_of_and_started_again(
    supervised: Callable[..., SupervisedWork],
) -> None:
    work = Work(RuntimeError("first"), None, KeyError("third"))

    with capture_logs() as logged:
        supervised(work, HandClock())
        async with asyncio.timeout(30):
            await work.going.wait()

    assert work.begun == 4
    assert [each["log_level"] for each in logged] == ["error"] * 3
    assert {each["work"] for each in logged} == {"the audit signer"}
    assert [each["retry_seconds"] for each in logged] == [0.001, 0.002, 0.004]
    assert [type(each["exc_info"]).__name__ for each in logged] == [
        "RuntimeError",
        "NoneType",
        "KeyError",
    ]


async def test_work_is_well_again_once_it_has_lasted(
    supervised: Callable[..., SupervisedWork],
) -> None:
    work, clock = Work(RuntimeError("first")), HandClock()

    supervision = supervised(work, clock)
    at_first = supervision.is_well
    async with asyncio.timeout(30):
        await work.going.wait()
    started_again = supervision.is_well
    clock.at += 10.0

    assert (at_first, started_again, supervision.is_well) == (True, False, True)


async def test_work_that_is_down_is_not_well_however_long_it_lasted(
    supervised: Callable[..., SupervisedWork],
) -> None:
    work, clock = Work(), HandClock()
    slow = SupervisionTimes(first_pause_seconds=1000.0)
    supervision = supervised(work, clock, slow)
    async with asyncio.timeout(30):
        await work.going.wait()
        clock.at += 1e6
        work.end_now.set()
        while supervision.is_well:
            await asyncio.sleep(0)
    clock.at += 1e6

    assert not supervision.is_well
    await supervision.stop()


async def test_after_it_has_lasted_the_pauses_begin_anew(
    supervised: Callable[..., SupervisedWork],
) -> None:
    work, clock = Work(RuntimeError("first"), RuntimeError("second")), HandClock()
    with capture_logs() as logged:
        supervised(work, clock)
        async with asyncio.timeout(30):
            await work.going.wait()
            clock.at += 10.0
            work.end_now.set()
            while len(logged) < 3:
                await asyncio.sleep(0)

    assert [each["retry_seconds"] for each in logged[:3]] == [0.001, 0.002, 0.001]


async def test_stopping_ends_the_work_and_may_be_repeated() -> None:
    work = Work()
    supervision = SupervisedWork("the audit signer", work, HandClock())
    await supervision.stop()
    supervision.start()
    async with asyncio.timeout(30):
        await work.going.wait()
    before = {task.get_name() for task in asyncio.all_tasks()}

    await supervision.stop()
    await supervision.stop()

    assert "the-audit-signer" in before
    assert "the-audit-signer" not in {task.get_name() for task in asyncio.all_tasks()}
