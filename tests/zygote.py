"""Forks processes of Kumiai from a parent that has imported everything once.

An import costs a second or more, and the tests here start hundreds of processes. The parent has
one thread and has opened nothing when it forks. A caller holds one connection a child: the child
keeps its end open for as long as it lives, so that the end of the connection is the child's end,
however it came about.

Where branches are counted, those of a child are if it is asked for: a child that is killed would
only be slowed down, as what it has counted dies with it.
"""

import asyncio
import contextlib
import importlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, Self

ROOT = Path(__file__).parents[1]
_ONE_THREAD = dict.fromkeys(("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_COUNTING = "COVERAGE_PROCESS_CONFIG"  # by which coverage tells a new process to count


class Child:
    """A forked process."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: Any, log: Path) -> None:
        self.pid = pid
        self.log = log
        self.exit_code: int | None = None
        """Once it is dead; none: it was killed."""
        self._reader = reader
        self._writer = writer
        self._end: asyncio.Task[bytes] = asyncio.create_task(reader.read())

    @property
    def is_running(self) -> bool:
        return not self._end.done()

    @property
    def was_killed(self) -> bool:
        """Whether it is dead without having ended by itself."""
        return not self.is_running and self.exit_code is None

    async def ended(self) -> None:
        """Return when the process is dead."""
        with contextlib.suppress(ConnectionError):
            last_word = await asyncio.shield(self._end)
            self.exit_code = int(last_word) if last_word else None
        self._writer.close()

    def send(self, number: signal.Signals) -> None:
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def kill(self) -> None:
        """End it without a word."""
        self.send(signal.SIGKILL)
        await self.ended()

    def last_lines(self, count: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])


class Zygote:
    """The parent; every child dies with it, and it with this process."""

    def __init__(self) -> None:
        # A socket's path is short: not below the folders that pytest lends.
        self._folder = Path(tempfile.mkdtemp(prefix="kumiai-"))
        self._socket = self._folder / "zygote"
        environment = {**os.environ, **_ONE_THREAD}
        counting = environment.pop(_COUNTING, None)
        self._counting = {_COUNTING: counting} if counting else {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.zygote", str(self._socket)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            self.__exit__()
            raise RuntimeError("the parent of the processes must start; see its standard error")

    async def fork(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        output: Path | None = None,
        program: str = "kumiai.testing.crash",
        is_counted: bool = False,
    ) -> Child:
        """Start ``kumiai``, or the ``main`` of another module, with these arguments.

        Its results go to ``output``, else to the log. Its branches count if it ends by itself.
        """
        reader, writer = await asyncio.open_unix_connection(str(self._socket))
        request = {
            "program": program,
            "arguments": list(arguments),
            "environment": {**environment, **(self._counting if is_counted else {})},
            "log": str(log),
            "output": str(output or log),
        }
        writer.write(json.dumps(request).encode() + b"\n")
        return Child(int(await reader.readline()), reader, writer, log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=30)
        shutil.rmtree(self._folder, ignore_errors=True)


def serve(path: str) -> None:
    """Fork until standard input ends."""
    _import_everything()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a child ended
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as lines:
                request = json.loads(lines.readline())
                parent = os.getpid()
                pid = os.fork()
                if pid == 0:
                    listener.close()
                    _become(request, parent, connection, lines)
                try:
                    connection.sendall(f"{pid}\n".encode())
                except ConnectionError:
                    os.kill(pid, signal.SIGKILL)  # whoever asked is gone


def _import_everything() -> None:
    import aiosqlite  # noqa: F401
    import asyncpg  # noqa: F401

    import kumiai.node.assembly.coordinator
    import kumiai.node.cli.app
    import kumiai.node.cli.serving
    import kumiai.node.http
    import kumiai.node.logs
    import kumiai.testing.crash  # noqa: F401
    import tests.system.study  # noqa: F401


def _become(
    request: dict[str, Any], parent: int, connection: socket.socket, lines: IO[bytes]
) -> NoReturn:
    """Be the program that was asked for; ``connection`` stays open until the end."""
    from kumiai.node.local.parent_watch import exit_with_parent

    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for name, target in (("output", 1), ("log", 2)):
            appended = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            os.dup2(os.open(request[name], appended, 0o600), target)
        os.environ.update(request["environment"])
        if _COUNTING in os.environ:
            importlib.import_module("coverage").process_startup()
        sys.argv = ["kumiai", *request["arguments"]]
        exit_with_parent(parent)
        code = importlib.import_module(request["program"]).main() or 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:  # noqa: BLE001 - there is nobody else to tell
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        with contextlib.suppress(OSError):
            connection.sendall(str(code).encode())
        del lines
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
