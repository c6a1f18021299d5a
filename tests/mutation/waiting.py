"""How a forked child ends, and whether it waits for something that never comes.

Time that passes proves nothing: on a busy machine whoever works is slow. So a child is given up
after time in which neither it nor what it has started used a processor, or stood in line for one.
What works without end is not ended here; for that there is a limit of processor time.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WAIT_SECONDS_MAX = 60.0
LOOK_SECONDS = 0.5
_POLL_SECONDS = 0.005
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PROCESSES = Path("/proc")
_UNSEEN = 0.1
"""Where the system tells nothing: how much of the time that passes counts as waiting."""


def code_of(
    pid: int, *, wait_seconds_max: float = WAIT_SECONDS_MAX, look_seconds: float = LOOK_SECONDS
) -> int | None:
    """Return how a child ended that leads a session of its own; what it left behind ends as well.

    Args:
        pid: the child.
        wait_seconds_max: for how long it may wait, all in all.
        look_seconds: how often one looks whether it does.

    Returns:
        Its exit code, negative for a signal; ``None``: it waited longer, and was ended.
    """
    waited, looked, seen = 0.0, time.monotonic(), look_at(pid)
    while not has_ended(pid) and waited <= wait_seconds_max:
        time.sleep(_POLL_SECONDS)
        now = time.monotonic()
        if now - looked >= look_seconds:
            before, seen = seen, look_at(pid)
            waited += waited_between(before, seen, passed_seconds=now - looked)
            looked = now
    is_done = has_ended(pid)
    # Before the child is waited for: until then its number is nobody else's.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) if is_done else None


def has_ended(pid: int) -> bool:
    """Return whether a child has ended, and leave it to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a child and of all that it has started.

    Attributes:
        pids: who they were.
        is_working: somebody had a processor just then, or stood in line for one, or for a disk.
        used_seconds: the processor time that they had used.
    """

    pids: frozenset[int]
    is_working: bool
    used_seconds: float


def waited_between(before: Seen | None, after: Seen | None, *, passed_seconds: float) -> float:
    """Return how much of the time between two looks was waiting; ``None``: nothing can be seen."""
    if before is None or after is None:
        return passed_seconds * _UNSEEN
    # Who has just ended, or begun, may have stood in line while we looked at the others.
    if after.is_working or after.pids != before.pids:
        return 0.0
    used = max(0.0, after.used_seconds - before.used_seconds)
    return max(0.0, passed_seconds - used)


def look_at(pid: int) -> Seen | None:
    """Return what can be seen of a child; ``None`` where the system does not tell."""
    processes = {each.pid: each for each in all_processes()}
    if pid not in processes:
        return None
    family, size = {pid}, 0
    while size != len(family):
        size = len(family)
        family |= {each.pid for each in processes.values() if each.belongs_to(pid, family)}
    return Seen(
        pids=frozenset(family),
        is_working=any(has_work(each) for each in family),
        used_seconds=sum(processes[each].used_seconds for each in family),
    )


@dataclass(frozen=True, slots=True)
class Process:
    """A line of the system's table of processes."""

    pid: int
    parent: int
    session: int
    used_seconds: float
    """By itself, and by those children that ended and that it waited for."""

    def belongs_to(self, leader: int, family: set[int]) -> bool:
        return self.session == leader or self.parent in family


def all_processes() -> Iterator[Process]:
    """Return the processes that there are; none where there is no such table."""
    for each in _PROCESSES.glob("[0-9]*"):
        match fields_of(each / "stat"):
            case [_, parent, _, session, *others]:
                used = sum(map(int, others[7:11])) / _TICKS_PER_SECOND
                yield Process(int(each.name), int(parent), int(session), used)


def has_work(pid: int) -> bool:
    """Return whether a thread of a process runs, or would, or reads from a disk."""
    threads = (_PROCESSES / str(pid) / "task").glob("*/stat")
    return any(fields_of(thread)[:1] in (["R"], ["D"]) for thread in threads)


def fields_of(stat: Path) -> list[str]:
    """Return the fields from the state on; none if the process or the thread has just ended."""
    try:
        # The name stands before them in parentheses, and there may be parentheses in it.
        return stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
