"""``kumiai dev``: a federation on this machine that stays, for those who write studies.

Its folder is kept: certificates, runs and models are there again at the next start. A process
that dies is started again, so that one can kill whichever one likes and watch.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel

from kumiai.core.clock import Clock, SystemClock
from kumiai.core.errors import ConfigError
from kumiai.node.local.child_process import ChildProcess
from kumiai.node.local.federation import LocalFederation
from kumiai.node.local.foreground import run_in_foreground
from kumiai.node.settings import resolved_app

__all__ = ["DevOptions", "run_dev"]

_STUDIES = ("digits", "heart", "rand")
_CLIENTS_MAX = 50
_ENDS_MAX, _ENDS_SECONDS = 3, 30.0
_JOB = """\
# A job to try: the classes of handwritten digits, spread unevenly over the sites.
[run]
app = "digits"
rounds = 20

[strategy]
name = "fedavg"
"""


@dataclass(frozen=True, slots=True)
class DevOptions:
    """What can be chosen.

    Attributes:
        directory: the federation's own; made if missing, kept afterwards.
        clients: how many sites.
        apps: the studies that every site has installed, as ``file.py[:name]`` or
            ``package.module[:name]``; none: those that come with the package.
        port: where clients connect, on loopback; 0 takes a free one.
        http_port: where operators connect, on loopback; 0 takes a free one.
        log_level: of every process.
    """

    directory: Path = Path(".kumiai")
    clients: int = 3
    apps: tuple[str, ...] = ()
    port: int = 8421
    http_port: int = 8420
    log_level: str = "info"


def run_dev(options: DevOptions) -> int:
    """Run a federation until Ctrl-C.

    Returns:
        The exit code: 0 when it was asked to stop once it was up.

    Raises:
        ConfigError: an option breaks its rule.
        KumiaiError: a process can not be started, or does not stay up.
    """
    return run_in_foreground(lambda: _dev(options, Console(), SystemClock()))


async def _dev(options: DevOptions, console: Console, clock: Clock) -> int:
    federation = _new_federation(options)
    try:
        await federation.start(on_step=lambda text: _tell(console, text))
        _tell_ways(console, federation, options)
        with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C is how it ends
            await _keep_up(federation, console, clock)
        _tell(console, "stopping")
    finally:
        await federation.stop()
    return 0


def _new_federation(options: DevOptions) -> LocalFederation:
    """Return the federation, not started yet.

    Raises:
        ConfigError: an option breaks its rule.
    """
    if not 1 <= options.clients <= _CLIENTS_MAX:
        raise ConfigError(f"clients must be 1 to {_CLIENTS_MAX}, got {options.clients}")
    for field in ("port", "http_port"):
        if not 0 <= getattr(options, field) <= 65535:
            raise ConfigError(f"{field} must be 0 to 65535, got {getattr(options, field)}")
    sites: Mapping[str, Mapping[str, Any]] = {
        f"site-{number + 1}": {"partition": number, "partitions": options.clients}
        for number in range(options.clients)
    }
    own = [f"kumiai.node.studies.{name}" for name in _STUDIES]
    return LocalFederation(
        options.directory,
        client_names=list(sites),
        # Settings take a file's path from their own folder; here it is from where one stands.
        apps=[resolved_app(app, Path.cwd()) for app in options.apps] or own,
        client_data=sites,
        log_level=options.log_level,
        ports=(options.port, options.http_port),
    )


async def _keep_up(federation: LocalFederation, console: Console, clock: Clock) -> None:
    """Start again whoever dies, but not for ever.

    Raises:
        KumiaiError: a process ends again and again.
    """
    ends: dict[str, list[float]] = {}
    while True:
        process = await federation.wait_for_unwanted_end()
        now = clock.monotonic()
        recent = [at for at in ends.get(process.name, ()) if now - at < _ENDS_SECONDS]
        ends[process.name] = [*recent, now]
        if len(recent) + 1 >= _ENDS_MAX:
            process.verify_running()
        _tell(
            console, f"{process.name} ended with exit code {process.exit_code}: starting it again"
        )
        await _start_again(process, federation)


async def _start_again(process: ChildProcess, federation: LocalFederation) -> None:
    if process in federation.clients.values():
        await federation.start_client(process.name)
    else:
        await federation.start_coordinator()


def _tell(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _tell_ways(console: Console, federation: LocalFederation, options: DevOptions) -> None:
    folder, config = federation.folder.path, federation.operator_config
    ways = [
        "",
        f"clients connect to   {federation.address}",
        f"operators, metrics   {federation.url}",
        f"settings             {config}",
        f"logs                 {folder / 'logs'}",
        "",
    ]
    if options.apps:
        app, job = options.apps[0], Path("job.toml")
    else:
        app, job = f"kumiai.node.studies.{_STUDIES[0]}", _example_job(folder)
    ways += [
        "Submit a run from another terminal:",
        f"  export KUMIAI_CONFIG={config}",
        f"  kumiai run submit {job} --app {app} --watch",
        "",
    ]
    for line in ways:
        _tell(console, line)
    warning = (
        "Not for production: the keys of all members and of their authority\n"
        "lie in one folder, and everything listens on this machine only."
    )
    console.print(Panel.fit(warning, border_style="yellow"))
    _tell(console, "Press Ctrl-C to stop; the folder stays.")


def _example_job(folder: Path) -> Path:
    path = folder / f"{_STUDIES[0]}.toml"
    if not path.exists():
        path.write_text(_JOB, encoding="utf-8")
    return path
