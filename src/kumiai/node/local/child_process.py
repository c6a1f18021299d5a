"""A program of ours as a child process: its output in a file, its life bound to this process."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from kumiai.core.errors import KumiaiError

__all__ = ["ChildCommand", "ChildProcess"]

_TAIL_BYTES = 16 << 10
# A small model is trained fastest by one thread; six processes with one per core fight for them.
_ONE_THREAD = dict.fromkeys(("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True, slots=True)
class ChildCommand:
    """What is started.

    Attributes:
        name: what people call it.
        module: run as ``python -m``.
        arguments: follow the module.
        log: receives both outputs, after what stands there already.
        environment: wins over this process's own. Variables that begin with ``KUMIAI_`` are not
            inherited: a setting of the person who starts us must not reach every child.
    """

    name: str
    module: str
    arguments: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)


class ChildProcess:
    """A started program; it ends at the latest with this process."""

    def __init__(self, command: ChildCommand, process: asyncio.subprocess.Process) -> None:
        """Take over what ``start`` has started."""
        self.command = command
        self.is_unwanted = False
        """Whether its end was asked for."""
        self._process = process

    @classmethod
    async def start(cls, command: ChildCommand) -> Self:
        """Start the program.

        Raises:
            OSError: the log can not be written, or there is no room for another process.
        """
        command.log.parent.mkdir(parents=True, exist_ok=True)
        with command.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "kumiai.node.local.parent_watch",
                str(os.getpid()),
                command.module,
                *command.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(command.environment),
                # Ctrl-C reaches the whole foreground group; the parent alone decides who stops.
                start_new_session=True,
            )
        return cls(command, process)

    @property
    def name(self) -> str:
        """What people call it."""
        return self.command.name

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended, the negated signal if one killed it; ``None`` while it runs."""
        return self._process.returncode

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self.exit_code is None

    def verify_running(self) -> None:
        """Check that it has not ended.

        Raises:
            KumiaiError: it has; the message holds its last lines.
        """
        if self.exit_code is not None:
            raise KumiaiError(
                f"{self.name} must go on running, got its end with exit code {self.exit_code}; "
                f"its last lines:\n{self.last_lines()}"
            )

    async def wait(self) -> int:
        """Return the exit code once it has ended."""
        return await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal that ends it, wait for the end and return the exit code."""
        self.is_unwanted = True
        self.send(number)
        return await self.wait()

    async def stop(self, patience_seconds: float) -> int:
        """Ask it to end, force it after the time, and return the exit code."""
        self.is_unwanted = True
        # One that was halted can not hear. And nothing is sent after what ends it: Python looks
        # first whether it has ended, which takes the exit code away from who waits for it.
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(patience_seconds):
                return await self.wait()
        except TimeoutError:
            return await self.kill()

    def last_lines(self, count: int = 15) -> str:
        """Return the end of what it wrote."""
        try:
            with self.command.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-count:])


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("KUMIAI_")
    }
    # Unbuffered: the last lines of a process that is killed are worth the most.
    return {**_ONE_THREAD, **inherited, "PYTHONUNBUFFERED": "1", **extra}
