"""The program under test, in this process, and a federation for it to talk to."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from typer.testing import CliRunner

from kumiai.node.cli.app import app
from kumiai.node.local.federation import LocalFederation

STUDY = Path(__file__).with_name("counting.py")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an invocation has left behind."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The standard output as JSON."""
        return json.loads(self.out)


def invoke(
    *arguments: object, stdin: str = "", environ: Mapping[str, str] | None = None
) -> Outcome:
    """Run ``kumiai`` with these arguments in this process."""
    result = CliRunner().invoke(
        app, [str(each) for each in arguments], input=stdin, env=dict(environ or {})
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


def start(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
    """Start ``kumiai`` with these arguments as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "kumiai.node.cli", *map(str, arguments)],
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=options.pop("stderr", subprocess.PIPE),
        text=True,
        env={**os.environ, **options.pop("environ", {})},
        **options,
    )


class Federation:
    """A coordinator and two clients as processes, driven from a thread with an event loop."""

    def __init__(self, directory: Path) -> None:
        self.processes = LocalFederation(
            directory, client_names=["site-1", "site-2"], apps=[str(STUDY)], log_level="warning"
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.do(self.processes.start())

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine where the federation lives."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(90)

    @property
    def config(self) -> Path:
        """The operator's settings."""
        return self.processes.operator_config

    def invoke(self, *arguments: object) -> Outcome:
        """Run ``kumiai`` as the operator of this federation."""
        return invoke("--config", self.config, *arguments)

    def close(self) -> None:
        """Stop everything."""
        self.do(self.processes.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
