"""What every benchmark here shares: CPU seconds, peak memory, tables, and goals met or missed.

Figures are those of the kernel: CPU seconds of processes from their counters, so that they hold
on a busy machine as well; peak memory is the high-water mark of resident memory, which counts the
pages of mapped files, too (they are cache and go when something else needs the room).
"""

import json
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import psutil

__all__ = [
    "CpuMeter",
    "Goal",
    "Load",
    "MemoryWatch",
    "at_least",
    "at_most",
    "fresh_peak",
    "load_line",
    "megabytes",
    "peak_rss_bytes",
    "print_goals",
    "print_table",
]

RESULTS_VARIABLE = "BENCHMARK_RESULTS"
"""Names a file to which each goal is appended as a line of JSON; see ``__main__.py``."""
_LOOK_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that was promised, and what came out.

    Attributes:
        name: what is measured.
        wanted: the promise, in words.
        measured: the figure, in words.
        is_met: whether it keeps the promise.
    """

    name: str
    wanted: str
    measured: str
    is_met: bool


def at_least(name: str, limit: float, measured: float, unit: str = "") -> Goal:
    """Return a goal of which more is better."""
    return Goal(name, f">= {limit:g}{unit}", f"{measured:.3g}{unit}", measured >= limit)


def at_most(name: str, limit: float, measured: float, unit: str = "") -> Goal:
    """Return a goal of which less is better."""
    return Goal(name, f"<= {limit:g}{unit}", f"{measured:.3g}{unit}", measured <= limit)


class CpuMeter:
    """CPU seconds of some processes since a moment; their threads count, their children do not."""

    def __init__(self, pids: Iterable[int]) -> None:
        """Begin now."""
        self._processes = [psutil.Process(pid) for pid in pids]
        self._began = self._now()

    def seconds(self) -> float:
        """Return what they used since the beginning."""
        return self._now() - self._began

    def _now(self) -> float:
        times = [process.cpu_times() for process in self._processes]
        return sum(each.user + each.system for each in times)


class Load:
    """How busy others kept the machine meanwhile: timings next to a busy neighbour mean little."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        """Begin now; ``pids`` are our own processes, asked for at both ends."""
        self._pids = pids
        self._wall, self._busy, self._own = self._now()

    def other_cores(self) -> float:
        """Return how many cores the others used on average since the beginning."""
        wall, busy, own = self._now()
        seconds = max(wall - self._wall, 1e-9)
        return max(0.0, (busy - self._busy - (own - self._own)) / seconds)

    def _now(self) -> tuple[float, float, float]:
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        # guest time is counted in user time already
        busy = sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        own = sum(
            each.user + each.system
            for each in (psutil.Process(pid).cpu_times() for pid in {*self._pids(), os.getpid()})
        )
        return (busy + idle) / (os.cpu_count() or 1), busy, own


def peak_rss_bytes(pid: int) -> int:
    """Return the most resident memory that a process ever had; where unknown, what it has now."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return int(psutil.Process(pid).memory_info().rss)


def fresh_peak(pid: int) -> None:
    """Forget the peak so far, where the system allows it."""
    path = Path(f"/proc/{pid}/clear_refs")
    if path.exists():
        path.write_text("5")


class MemoryWatch:
    """Looks again and again at how much memory of its own a process has: no file's pages."""

    def __init__(self, pid: int) -> None:
        """Name the process; ``with`` begins and ends the looking."""
        self._status = Path(f"/proc/{pid}/status")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.peak_bytes = 0
        """The most seen; 0 where the system does not tell."""

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """End."""
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            try:
                text = self._status.read_text()
            except OSError:
                return
            for line in text.splitlines():
                if line.startswith("RssAnon:"):
                    self.peak_bytes = max(self.peak_bytes, int(line.split()[1]) << 10)


def megabytes(size_bytes: float) -> str:
    """Return a size in millions of bytes."""
    return f"{size_bytes / 1e6:,.0f}"


def print_table(title: str, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: the first column to the left, figures to the right."""
    lines = [list(headers), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    print(f"\n{title}")
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("  ".join(cells).rstrip(), flush=True)


def print_goals(goals: Sequence[Goal]) -> None:
    """Print what was promised and what came out, and note it for the summary of all."""
    print_table("goals", ["", "goal", "measured", ""], [_row(goal) for goal in goals])
    if path := os.environ.get(RESULTS_VARIABLE):
        with Path(path).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(goal)) + "\n" for goal in goals)


def load_line() -> str:
    """Return what the machine has and how busy it is."""
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{os.cpu_count()} cores, load average {load}"


def _row(goal: Goal) -> list[str]:
    return [goal.name, goal.wanted, goal.measured, "met" if goal.is_met else "MISSED"]
