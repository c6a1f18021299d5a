"""The clock as an interface, so that tests decide what time it is.

Wall time is for people and for rows; waiting and measuring use the monotonic clock.
"""

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """What the rest of Kumiai may ask about time."""

    def now(self) -> float:
        """Return wall time, seconds since 1970-01-01 UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        """Return wall time, seconds since 1970-01-01 UTC."""
        return time.time_ns() / 1e9

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""
        return time.monotonic()
