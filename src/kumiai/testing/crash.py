"""A program of Kumiai that kills itself where it is told to.

``python -m kumiai.testing.crash coordinator start …`` is ``kumiai coordinator start …``, and the
same goes for every other command, with a hook at the named points of `kumiai.core.failpoints`.
SIGKILL leaves no time for anything: no clean-up, no flush, no goodbye to the peers. What the
kernel holds survives, as after any crash of a process; a loss of power is another matter.

The hook reads the environment:

``KUMIAI_TEST_KILL_AT``
    Where to die: ``name`` or ``name:nth``, several joined with ``>``. Each part is counted from
    the moment at which the one before it was reached, and the last kills. So
    ``coordinator.round.opened:2>storage.blob.write.after`` dies at the first write of round 2.
``KUMIAI_TEST_POINTS``
    A file: each reached point is appended to it, with the time.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kumiai.core import failpoints

__all__ = ["KILL_AT", "POINTS", "KillHook", "Step", "install_from_environment", "main", "parse"]

KILL_AT = "KUMIAI_TEST_KILL_AT"
POINTS = "KUMIAI_TEST_POINTS"


@dataclass(frozen=True, slots=True)
class Step:
    """The ``nth`` arrival (from 1) at the point ``name``."""

    name: str
    nth: int


def parse(text: str) -> tuple[Step, ...]:
    """Return the steps of ``name[:nth][>name[:nth]…]``; of an empty text none.

    Raises:
        ValueError: a name is missing, or a number is not 1 or more.
    """
    return tuple(_parse_step(part) for part in text.split(">")) if text else ()


class KillHook:
    """Notes each point that is reached, and kills at the end of its path.

    Args:
        path: where to die; none: never.
        note: called with each point's name, before a kill at it.
        kill: ends the process.
    """

    def __init__(
        self,
        path: tuple[Step, ...],
        *,
        note: Callable[[str], None] = lambda _: None,
        kill: Callable[[], None] | None = None,
    ) -> None:
        self._path = list(path)
        self._note = note
        self._kill = kill or _kill_this_process
        self._arrivals = 0
        # Points are reached in the event loop and in threads.
        self._lock = threading.Lock()

    def __call__(self, name: str) -> None:
        """Take note of an arrival; the last one of the path does not return."""
        with self._lock:
            self._note(name)
            if self._has_arrived(name):
                self._kill()

    def _has_arrived(self, name: str) -> bool:
        if not self._path or self._path[0].name != name:
            return False
        self._arrivals += 1
        if self._arrivals < self._path[0].nth:
            return False
        self._arrivals = 0
        del self._path[0]
        return not self._path


def install_from_environment() -> None:
    """Install the hook that the environment describes.

    Raises:
        ValueError: it describes none.
    """
    points = os.environ.get(POINTS)
    note = _appender(Path(points)) if points else lambda _: None
    failpoints.install(KillHook(parse(os.environ.get(KILL_AT, "")), note=note))


def main() -> None:
    """Run the command line under the hook."""
    from kumiai.node.cli import main as run  # noqa: PLC0415 - the hook is cheap, the programs not

    install_from_environment()
    run()


def _parse_step(part: str) -> Step:
    name, _, nth = part.strip().partition(":")
    count = int(nth or 1) if (nth or "1").isdecimal() else 0
    if not name or count < 1:
        raise ValueError(f"{KILL_AT} must be name[:nth], joined with '>', got {part!r}")
    return Step(name, count)


def _appender(path: Path) -> Callable[[str], None]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def append(name: str) -> None:
        # One write, so that the line is with the kernel, whole, before the process dies. The
        # clock is the one that processes of a machine share.
        os.write(descriptor, f"{time.monotonic():.6f} {name}\n".encode())

    return append


def _kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
