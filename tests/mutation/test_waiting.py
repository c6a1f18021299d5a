"""A mutant that waits for ever is ended; one that works, or would if it were let, is not."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from tests.alone import run_alone
from tests.mutation.waiting import Seen, code_of, look_at, waited_between

WAIT_SECONDS = 0.5
"""A child may wait so long here; it is looked at twice as often."""

needs_table = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="this system does not tell who waits"
)


def forked(body: Callable[[], object]) -> int:
    """Fork a process that ends with what it is given to do."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
        finally:
            os._exit(0)
    return pid


def child(body: Callable[[], object]) -> int:
    """Fork one that leads a session of its own, as a trial does."""

    def leader() -> None:
        os.setsid()
        body()

    return forked(leader)


def work(seconds: float) -> None:
    """Use so much of a processor's time."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def wait_for_ever() -> NoReturn:
    while True:
        signal.pause()


def ending(pid: int) -> int | None:
    return code_of(pid, wait_seconds_max=WAIT_SECONDS, look_seconds=WAIT_SECONDS / 2)


@contextmanager
def one_processor_shared_with_another() -> Iterator[None]:
    """Let what is forked here have one processor, and a rival that takes most of it."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    rival = forked(lambda: work(600))
    try:
        yield
    finally:
        os.kill(rival, signal.SIGKILL)
        os.waitpid(rival, 0)
        os.sched_setaffinity(0, allowed)


def check_that_a_child_that_waits_is_ended() -> None:
    assert ending(child(wait_for_ever)) is None


def check_that_a_child_that_works_takes_its_time() -> None:
    assert ending(child(lambda: work(3 * WAIT_SECONDS))) == 0


def check_that_a_child_whose_worker_works_takes_its_time() -> None:
    def parent() -> None:
        os.waitpid(forked(lambda: work(3 * WAIT_SECONDS)), 0)

    assert ending(child(parent)) == 0


def check_that_what_a_worker_used_is_seen_after_its_end() -> None:
    reading, writing = os.pipe()

    def parent() -> None:
        os.waitpid(forked(lambda: work(0.3)), 0)
        os.write(writing, b"1")
        wait_for_ever()

    pid = child(parent)
    os.read(reading, 1)
    found = look_at(pid)
    os.kill(pid, signal.SIGKILL)

    assert found is not None
    assert found.pids == {pid}
    assert found.used_seconds >= 0.25


def check_that_a_child_that_is_not_let_takes_its_time() -> None:
    def last_in_line() -> None:
        os.nice(15)
        work(WAIT_SECONDS / 5)

    with one_processor_shared_with_another():
        began = time.monotonic()
        # Of the same session as its rival: between sessions some systems share evenly.
        code = ending(forked(last_in_line))

        assert time.monotonic() - began > 2 * WAIT_SECONDS, "the processor was not shared"
    assert code == 0


def check_that_what_a_child_leaves_behind_ends_with_it() -> None:
    reading, writing = os.pipe()

    code = ending(child(lambda: forked(wait_for_ever)))

    os.close(writing)
    assert code == 0
    assert os.read(reading, 1) == b"", "somebody holds the other end"


def check_that_a_childs_own_end_is_told() -> None:
    assert ending(child(lambda: os._exit(3))) == 3
    assert ending(child(lambda: os.kill(os.getpid(), signal.SIGXCPU))) == -signal.SIGXCPU


def test_a_child_that_waits_for_ever_is_ended() -> None:
    run_alone(check_that_a_child_that_waits_is_ended)


@needs_table
@pytest.mark.parametrize(
    "check",
    [
        check_that_a_child_that_works_takes_its_time,
        check_that_a_child_whose_worker_works_takes_its_time,
        check_that_a_child_that_is_not_let_takes_its_time,
    ],
)
def test_a_child_that_works_or_would_if_it_were_let_takes_its_time(
    check: Callable[[], None],
) -> None:
    run_alone(check)


@needs_table
def test_what_a_worker_used_is_seen_after_its_end() -> None:
    run_alone(check_that_what_a_worker_used_is_seen_after_its_end)


def test_what_a_child_has_started_ends_with_it() -> None:
    run_alone(check_that_what_a_child_leaves_behind_ends_with_it)


def test_how_a_child_ended_is_told() -> None:
    run_alone(check_that_a_childs_own_end_is_told)


def seen(used_seconds: float, *, is_working: bool = False, pids: tuple[int, ...] = (7,)) -> Seen:
    return Seen(frozenset(pids), is_working, used_seconds)


@pytest.mark.parametrize(
    ("before", "after", "waited"),
    [
        (seen(2), seen(2), 4.0),
        (seen(2), seen(2, is_working=True), 0.0),
        (seen(2, is_working=True), seen(2), 4.0),
        (seen(2), seen(2, pids=(7, 8)), 0.0),
        (seen(2, pids=(7, 8)), seen(2, pids=(7, 9)), 0.0),
        (seen(1), seen(2), 3.0),
        (seen(0), seen(9), 0.0),  # several at once
        (seen(5), seen(2), 4.0),
        (None, None, 0.4),
        (seen(2), None, 0.4),
        (None, seen(2), 0.4),
    ],
)
def test_only_time_without_work_is_waiting(
    before: Seen | None, after: Seen | None, waited: float
) -> None:
    assert waited_between(before, after, passed_seconds=4.0) == pytest.approx(waited)
