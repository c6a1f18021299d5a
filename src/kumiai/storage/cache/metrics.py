"""What a cache does, in numbers: how often it helps, how long it takes, and when to call somebody.

Everything here is bounded and belongs to one event loop. Rates are those of the last minute as well
as since the start: an alert about the whole life of a process would come hours late.
"""

import bisect
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from kumiai.core.clock import Clock, SystemClock
from kumiai.storage.cache.keyvalue import StoreSize

__all__ = [
    "Alert",
    "AlertRule",
    "CacheCounts",
    "CacheMetrics",
    "LatencyHistogram",
    "Sample",
]

_BUCKETS_PER_DECADE = 10
_LIMITS: Final[tuple[float, ...]] = tuple(
    math.pow(10.0, exponent / _BUCKETS_PER_DECADE - 6)
    for exponent in range(8 * _BUCKETS_PER_DECADE + 1)
)
"""Upper bounds, seconds: from a microsecond to 100 seconds, each a quarter more than the last."""
_SLICES = 60


class LatencyHistogram:
    """How long something took, in buckets each a quarter wider than the last."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_LIMITS) + 1)
        self.count = 0
        self.sum_seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect.bisect_left(_LIMITS, seconds)] += 1
        self.count += 1
        self.sum_seconds += seconds

    def percentile(self, share: float) -> float:
        """Return the bound below which this share of them lies, seconds; 0 without any.

        Args:
            share: 0 < share <= 1.

        Raises:
            ValueError: ``share`` is outside.
        """
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share}")
        wanted, seen = share * self.count, 0
        if not self.count:
            return 0.0
        for limit, count in zip(_LIMITS, self._counts, strict=False):
            seen += count
            if seen >= wanted:
                return limit
        return _LIMITS[-1]


@dataclass(slots=True)
class CacheCounts:
    """How often something happened.

    Attributes:
        hits: a value was there, or it was known that there is none.
        negative_hits: of these, how often it was known that there is none.
        misses: nothing that may be used was there.
        loads: a loader was called, refreshes included.
        load_errors: it raised.
        stampedes_avoided: somebody got the result of another's load.
        stale_refreshes: a value was loaded anew before its time was up.
        stored: a value was stored.
        discarded: a loaded value was not stored: it was invalidated meanwhile, or is too large.
        invalidations: keys, tags and patterns that were invalidated.
        errors: the store failed, and the value was loaded instead.
        damaged: what lay under a key could not be read.
        waits_given_up: somebody else's load took too long.
    """

    hits: int = 0
    negative_hits: int = 0
    misses: int = 0
    loads: int = 0
    load_errors: int = 0
    stampedes_avoided: int = 0
    stale_refreshes: int = 0
    stored: int = 0
    discarded: int = 0
    invalidations: int = 0
    errors: int = 0
    damaged: int = 0
    waits_given_up: int = 0


_HELP: Final = {
    "hits": "Reads that found a value.",
    "negative_hits": "Reads that found it known that there is no value.",
    "misses": "Reads that found nothing that may be used.",
    "loads": "Calls of a loader.",
    "load_errors": "Calls of a loader that raised.",
    "stampedes_avoided": "Reads that were given the result of another's load.",
    "stale_refreshes": "Values loaded anew before their time was up.",
    "stored": "Values stored.",
    "discarded": "Loaded values that were not stored.",
    "invalidations": "Keys, tags and patterns invalidated.",
    "errors": "Failures of the store that a load made good.",
    "damaged": "Entries that could not be read.",
    "waits_given_up": "Waits for another's load that took too long.",
}

Measure = Literal[
    "hit_rate",
    "get_seconds_p99",
    "load_seconds_p99",
    "loads_per_second",
    "errors_per_second",
    "size_bytes",
    "keys",
    "outbox_depth",
    "outbox_age_seconds",
    "outbox_parked",
]


@dataclass(frozen=True, slots=True)
class AlertRule:
    """When somebody should know.

    Attributes:
        name: of the alert.
        measure: what is looked at; rates are those of the last minute.
        limit: beyond it lies trouble.
        is_above: trouble is above the limit; otherwise below.
        for_seconds: how long it must last before the alert begins, and be over before it ends.
        clear_limit: only on the other side of this is it over; ``None``: of `limit`.

    Raises:
        ValueError: ``for_seconds`` is negative, or ``clear_limit`` lies on the wrong side.
    """

    name: str
    measure: Measure
    limit: float
    is_above: bool = True
    for_seconds: float = 0.0
    clear_limit: float | None = None

    def __post_init__(self) -> None:
        """Check the rule."""
        if self.for_seconds < 0:
            raise ValueError(f"for_seconds must be at least 0, got {self.for_seconds}")
        clear = self.clear_limit
        if clear is not None and (clear > self.limit if self.is_above else clear < self.limit):
            side = "at most" if self.is_above else "at least"
            raise ValueError(f"clear_limit must be {side} {self.limit}, got {clear}")

    def is_beyond(self, value: float, *, is_active: bool) -> bool:
        """Return whether a value is trouble, or, while the alert is on, still is."""
        limit = self.clear_limit if is_active and self.clear_limit is not None else self.limit
        return value > limit if self.is_above else value < limit


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert that begins or ends.

    Attributes:
        rule: which.
        value: what was measured.
        at: when, seconds since 1970-01-01 UTC.
        is_active: it begins; otherwise it ends.
    """

    rule: AlertRule
    value: float
    at: float
    is_active: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """One figure as Prometheus takes it."""

    name: str
    kind: Literal["counter", "gauge", "summary"]
    help: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class _Watch:
    rule: AlertRule
    is_active: bool = False
    since: float | None = None
    """Since when the value has been on the other side."""


@dataclass(slots=True)
class _Slice:
    """What happened within one second."""

    second: int
    hits: int = 0
    misses: int = 0
    loads: int = 0
    errors: int = 0


class CacheMetrics:
    """Counts what a cache does; tells rates, percentiles and alerts.

    Args:
        rules: when somebody should know.
        on_alert: told when an alert begins and when it ends; it must not block.
        clock: tells the time.
    """

    def __init__(
        self,
        *,
        rules: Sequence[AlertRule] = (),
        on_alert: Callable[[Alert], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.counts = CacheCounts()
        self.get_latency = LatencyHistogram()
        self.load_latency = LatencyHistogram()
        self._clock = clock or SystemClock()
        self._began = self._clock.monotonic()
        self._slices: deque[_Slice] = deque(maxlen=_SLICES)
        self._on_alert = on_alert
        self._watches = [_Watch(rule) for rule in rules]
        self._size = StoreSize(keys=0, bytes=0)
        self._outbox = (0, 0.0, 0)

    @property
    def hit_rate(self) -> float:
        """The share of reads that found a value, since the start; 1 without any."""
        return _rate(self.counts.hits, self.counts.misses)

    @property
    def active_alerts(self) -> tuple[AlertRule, ...]:
        """The rules whose alert is on."""
        return tuple(watch.rule for watch in self._watches if watch.is_active)

    def add_hit(self, seconds: float, *, is_negative: bool = False) -> None:
        """Count a read that found a value."""
        self.counts.hits += 1
        self.counts.negative_hits += is_negative
        self.get_latency.add(seconds)
        self._slice().hits += 1

    def add_miss(self, seconds: float) -> None:
        """Count a read that found nothing."""
        self.counts.misses += 1
        self.get_latency.add(seconds)
        self._slice().misses += 1

    def add_load(self, seconds: float, *, has_failed: bool = False) -> None:
        """Count a call of a loader."""
        self.counts.loads += 1
        self.counts.load_errors += has_failed
        self.load_latency.add(seconds)
        self._slice().loads += 1

    def add_error(self) -> None:
        """Count a failure of the store."""
        self.counts.errors += 1
        self._slice().errors += 1

    def set_size(self, size: StoreSize) -> None:
        """Note how much the store holds."""
        self._size = size

    def set_outbox(self, *, depth: int, age_seconds: float, parked: int) -> None:
        """Note how much of the outbox waits, how old the oldest is, how many are parked."""
        self._outbox = (depth, age_seconds, parked)

    def measure(self, name: Measure) -> float:
        """Return a figure that a rule can look at."""
        depth, age, parked = self._outbox
        match name:
            case "hit_rate":
                recent = self._recent()
                return _rate(sum(each.hits for each in recent), sum(e.misses for e in recent))
            case "get_seconds_p99":
                return self.get_latency.percentile(0.99)
            case "load_seconds_p99":
                return self.load_latency.percentile(0.99)
            case "loads_per_second":
                return sum(each.loads for each in self._recent()) / self._window()
            case "errors_per_second":
                return sum(each.errors for each in self._recent()) / self._window()
            case "size_bytes":
                return float(self._size.bytes)
            case "keys":
                return float(self._size.keys)
            case "outbox_depth":
                return float(depth)
            case "outbox_age_seconds":
                return age
            case "outbox_parked":
                return float(parked)

    def check_alerts(self) -> list[Alert]:
        """Look at the rules; return, and tell, which alerts begin or end now."""
        changed = []
        now = self._clock.monotonic()
        for watch in self._watches:
            value = self.measure(watch.rule.measure)
            if watch.rule.is_beyond(value, is_active=watch.is_active) == watch.is_active:
                watch.since = None
                continue
            watch.since = now if watch.since is None else watch.since
            if now - watch.since >= watch.rule.for_seconds:
                watch.is_active, watch.since = not watch.is_active, None
                changed.append(Alert(watch.rule, value, self._clock.now(), watch.is_active))
        if self._on_alert is not None:
            for alert in changed:
                self._on_alert(alert)
        return changed

    def dashboard_data(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON."""
        depth, age, parked = self._outbox
        return {
            "at": self._clock.now(),
            "counts": {each.name: getattr(self.counts, each.name) for each in fields(CacheCounts)},
            "hit_rate": self.hit_rate,
            "last_minute": {
                "hit_rate": self.measure("hit_rate"),
                "loads_per_second": self.measure("loads_per_second"),
                "errors_per_second": self.measure("errors_per_second"),
            },
            "get_seconds": _percentiles(self.get_latency),
            "load_seconds": _percentiles(self.load_latency),
            "size": {"keys": self._size.keys, "bytes": self._size.bytes},
            "outbox": {"depth": depth, "age_seconds": age, "parked": parked},
            "alerts": [rule.name for rule in self.active_alerts],
        }

    def samples(self) -> list[Sample]:
        """Return every figure under the name that Prometheus knows it by."""
        depth, age, parked = self._outbox
        found = [
            Sample(
                f"kumiai_cache_{each.name}_total",
                "counter",
                _HELP[each.name],
                getattr(self.counts, each.name),
            )
            for each in fields(CacheCounts)
        ]
        for name, told, histogram in (
            ("get", "Seconds that a read took.", self.get_latency),
            ("load", "Seconds that a loader took.", self.load_latency),
        ):
            full = f"kumiai_cache_{name}_seconds"
            found += [
                Sample(
                    full,
                    "summary",
                    told,
                    histogram.percentile(share),
                    (("quantile", f"{share:g}"),),
                )
                for share in _SHARES
            ]
            found.append(Sample(f"{full}_sum", "summary", told, histogram.sum_seconds))
            found.append(Sample(f"{full}_count", "summary", told, histogram.count))
        gauges: tuple[tuple[str, str, float], ...] = (
            ("keys", "Keys in the store.", self._size.keys),
            ("size_bytes", "Bytes that the store takes.", self._size.bytes),
            ("outbox_depth", "Rows of the outbox that wait.", depth),
            ("outbox_age_seconds", "Age of the oldest row that waits.", age),
            ("outbox_parked", "Rows that were given up.", parked),
            ("alerts", "Alerts that are on.", len(self.active_alerts)),
        )
        found += [
            Sample(f"kumiai_cache_{name}", "gauge", told, value) for name, told, value in gauges
        ]
        return found

    def _slice(self) -> _Slice:
        second = int(self._clock.monotonic())
        if not self._slices or self._slices[-1].second != second:
            self._slices.append(_Slice(second))
        return self._slices[-1]

    def _recent(self) -> list[_Slice]:
        oldest = int(self._clock.monotonic()) - _SLICES
        return [each for each in self._slices if each.second > oldest]

    def _window(self) -> float:
        return min(max(self._clock.monotonic() - self._began, 1.0), float(_SLICES))


_SHARES = (0.5, 0.9, 0.99)


def _percentiles(histogram: LatencyHistogram) -> dict[str, float]:
    found = {f"p{share * 100:g}": histogram.percentile(share) for share in _SHARES}
    return {**found, "count": histogram.count, "sum": histogram.sum_seconds}


def _rate(hits: int, misses: int) -> float:
    reads = hits + misses
    return hits / reads if reads else 1.0
