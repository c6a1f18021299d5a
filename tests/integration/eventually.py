"""Waiting for what another process, thread or task brings about: in one place, and not for ever."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["eventually"]

_PAUSE_SECONDS = 0.01


async def eventually(
    look: Callable[[], Any], is_so: Callable[[Any], object] = bool, *, seconds: float = 60
) -> Any:
    """Return what ``look``, which may be a coroutine function, finds once ``is_so`` of it."""
    found = None

    async def ask() -> None:
        nonlocal found
        while True:
            found = look()
            if inspect.isawaitable(found):
                found = await found
            if is_so(found):
                return
            await asyncio.sleep(_PAUSE_SECONDS)

    try:
        async with asyncio.timeout(seconds):
            await ask()
    except TimeoutError:
        raise AssertionError(f"not so within {seconds:g} s; last seen: {found}") from None
    return found
