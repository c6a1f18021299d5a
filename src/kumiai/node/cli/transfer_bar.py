"""A progress bar for a model on its way, on standard error, if that is a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["transfer_bar"]


@contextmanager
def transfer_bar(what: str) -> Iterator[Callable[[int], Callable[[int], None]]]:
    """Lend a bar: called with the size in bytes, it returns who is told of the bytes passing."""
    if not sys.stderr.isatty():
        yield lambda _size_bytes: _ignore
        return
    import rich.console
    import rich.progress

    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.DownloadColumn(),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(*columns, console=console, transient=True) as progress:

        def begin(size_bytes: int) -> Callable[[int], None]:
            task = progress.add_task(what, total=size_bytes)
            return lambda passed: progress.advance(task, passed)

        yield begin


def _ignore(_passed: int) -> None:
    pass
