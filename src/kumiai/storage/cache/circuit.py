"""A circuit breaker: who has failed several times in a row is left alone for a while.

It does no I/O and starts nothing; the caller asks before a call and tells what came of it.
"""

from enum import Enum

from kumiai.core.clock import Clock, SystemClock

__all__ = ["CircuitBreaker", "CircuitState"]


class CircuitState(Enum):
    """What the breaker does with a call."""

    CLOSED = "closed"
    """It lets every call through."""
    OPEN = "open"
    """It refuses every call."""
    HALF_OPEN = "half-open"
    """One call is on trial, all others are refused."""


class CircuitBreaker:
    """Lets calls through until too many have failed in a row, then one at a time on trial.

    Args:
        failures_max: so many failures in a row open it, >= 1.
        open_seconds: how long it stays open the first time; twice as long after each trial that
            fails.
        open_seconds_max: but never longer than this.
        clock: tells when it has been open for long enough.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        *,
        failures_max: int = 5,
        open_seconds: float = 0.25,
        open_seconds_max: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        if failures_max < 1:
            raise ValueError(f"failures_max must be at least 1, got {failures_max}")
        if not 0 < open_seconds <= open_seconds_max:
            raise ValueError(
                f"open_seconds must be above 0 and at most {open_seconds_max}, got {open_seconds}"
            )
        self._failures_max = failures_max
        self._first_seconds = open_seconds
        self._open_seconds_max = open_seconds_max
        self._clock = clock or SystemClock()
        self._failures = 0
        self._open_seconds = open_seconds
        self._opened_at: float | None = None
        self._trial_ends_at: float | None = None
        self.openings = 0

    @property
    def state(self) -> CircuitState:
        """What the next call would meet, a trial included."""
        if self._opened_at is None:
            return CircuitState.CLOSED
        if self._clock.monotonic() < self._opened_at + self._open_seconds:
            return CircuitState.OPEN
        return CircuitState.HALF_OPEN

    @property
    def seconds_to_trial(self) -> float:
        """How long it still refuses every call; 0 when it does not."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._open_seconds - self._clock.monotonic())

    def allow(self) -> bool:
        """Return whether a call may be made now; who gets True says `succeed` or `fail` after."""
        if self._opened_at is None:
            return True
        now = self._clock.monotonic()
        if now < self._opened_at + self._open_seconds:
            return False
        # A trial that nobody reported on, because its caller was cancelled, does not last.
        if self._trial_ends_at is not None and now < self._trial_ends_at:
            return False
        self._trial_ends_at = now + self._open_seconds_max
        return True

    def succeed(self) -> None:
        """Take note that a call went well: the breaker closes."""
        self._failures = 0
        if self._opened_at is not None:
            self._opened_at = self._trial_ends_at = None
            self._open_seconds = self._first_seconds

    def fail(self) -> None:
        """Take note that a call failed."""
        self._failures += 1
        if self._opened_at is None:
            if self._failures >= self._failures_max:
                self._open()
        elif self._trial_ends_at is not None:
            self._open_seconds = min(self._open_seconds * 2, self._open_seconds_max)
            self._open()

    def _open(self) -> None:
        self._opened_at = self._clock.monotonic()
        self._trial_ends_at = None
        self.openings += 1
