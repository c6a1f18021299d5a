"""Running a program of child processes in the foreground: it leaves nothing behind when stopped."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

__all__ = ["run_in_foreground"]

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_in_foreground(main: Callable[[], Awaitable[int]]) -> int:
    """Run a coroutine function to its end, or until a signal asks to stop.

    A signal cancels it, so that it cleans up as after an error. A second one cancels the cleaning
    as well, for those who can't wait.

    Args:
        main: returns an exit code; may catch the cancellation and return one even then.

    Returns:
        Its exit code, or 128 and the signal's number if a signal ended it.
    """
    return asyncio.run(_supervised(main))


async def _supervised(main: Callable[[], Awaitable[int]]) -> int:
    running = asyncio.ensure_future(main())
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        received.append(number)
        running.cancel()

    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        return await running
    except asyncio.CancelledError:
        if not received:
            raise
        return 128 + received[0]
    finally:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)
