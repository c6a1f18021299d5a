"""The demo as a program: its folder, its screen, its exit code."""

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from kumiai.core.clock import SystemClock
from kumiai.core.errors import StorageError
from kumiai.node.demo.options import DemoOptions, new_plan
from kumiai.node.demo.result import DemoResult
from kumiai.node.demo.screens import JsonScreen, PlainScreen, Screen, TerminalScreen
from kumiai.node.demo.story import DemoStory
from kumiai.node.local.federation import LocalFederation
from kumiai.node.local.foreground import run_in_foreground

__all__ = ["run_demo"]


def run_demo(options: DemoOptions) -> int:
    """Show the demo.

    Nothing is left when it ends, but for the model and the directory that was asked for.

    Returns:
        The exit code: 0, or 128 and the signal's number if it was stopped before its end.

    Raises:
        ConfigError: an option breaks its rule.
        KumiaiError: a process or the run failed; the message says why.
    """
    return run_in_foreground(lambda: _demo(options))


async def _demo(options: DemoOptions) -> int:
    plan = new_plan(options)
    stays = not options.exit and not options.json and sys.stdout.isatty()
    with _folder(options.directory) as folder, contextlib.closing(_new_screen(options)) as screen:
        federation = LocalFederation(
            folder, client_names=list(plan.sites), apps=[plan.app], client_data=plan.sites
        )
        try:
            story = DemoStory(plan, federation, screen, SystemClock())
            result = await story.tell()
            screen.result(result)
            screen.say(_ways_on(federation, result, stays=stays))
            if stays:
                await _until_stopped(federation)
        finally:
            screen.close()
            await federation.stop()
    return 0


@contextlib.contextmanager
def _folder(directory: Path | None) -> Iterator[Path]:
    if directory is not None:
        yield directory
        return
    try:
        temporary = tempfile.TemporaryDirectory(prefix="kumiai-demo-")
    except OSError as error:
        raise StorageError(f"no folder for temporary files can be made: {error}") from error
    with temporary as path:
        yield Path(path)


def _new_screen(options: DemoOptions) -> Screen:
    if options.json:
        return JsonScreen(sys.stdout)
    if sys.stdout.isatty():
        return TerminalScreen(Console())
    return PlainScreen(sys.stdout)


def _ways_on(federation: LocalFederation, result: DemoResult, *, stays: bool) -> list[str]:
    run_id = result.run_id
    other = (
        "  kumiai demo                    handwritten digits at five sites"
        if result.study == "heart"
        else "  kumiai demo --study heart      four real hospitals"
    )
    onward = [
        "",
        "What next?",
        "  kumiai dev                     a federation that stays, to submit your own runs to",
        other,
    ]
    if not stays:
        return onward
    config = federation.operator_config
    return [
        "",
        f"The federation is up: clients at {federation.address}, operators at {federation.url}",
        f"  kumiai run show {run_id} --config {config}",
        f"  kumiai run explain {run_id} --config {config}",
        f"  kumiai model list {run_id} --config {config}",
        *onward,
        "",
        "Press Ctrl-C to stop it.",
    ]


async def _until_stopped(federation: LocalFederation) -> None:
    # All has been shown; to be stopped now is the good end.
    with contextlib.suppress(asyncio.CancelledError):
        (await federation.wait_for_unwanted_end()).verify_running()
