"""The machine's own clock."""

import time
from datetime import UTC, datetime

from kumiai.core.clock import Clock, SystemClock


def test_wall_time_is_seconds_since_1970_in_utc() -> None:
    before = time.time_ns()

    now = SystemClock().now()

    assert before / 1e9 <= now <= time.time_ns() / 1e9
    assert datetime.fromtimestamp(now, UTC).year >= 2025


def test_monotonic_time_never_goes_back() -> None:
    clock: Clock = SystemClock()

    readings = [clock.monotonic() for _ in range(100)]

    assert readings == sorted(readings)
