"""What Prometheus reads: `kumiai_` names, base units, no label value that a client chooses.

Counters count since this process started, and only what belongs to this replica: over several
replicas sums are right. What happened in runs is taken from their events, at each scrape, for
the time that this replica led them; nothing in the round engine has to report anything.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from kumiai import __version__
from kumiai.core.errors import StorageError
from kumiai.node.coordinator.blob_service import TransferMeter
from kumiai.node.http.dependencies import ApiDependencies
from kumiai.storage import CacheMetrics, EventRecord

__all__ = ["ApiMetrics", "RunObserver"]

_LIVE: Final = ("submitted", "running")
_RUNS_MAX: Final = 1_000
_DONE_REMEMBERED: Final = 10_000
_EVENTS_PAGE: Final = 500
_ROUND_BUCKETS: Final = (
    *(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    *(120, 300, 600, 1_800, 3_600, 7_200, 21_600, 86_400),
)


class ApiMetrics:
    """The metrics of one coordinator, in a registry of their own."""

    def __init__(self, meter: TransferMeter, cache: CacheMetrics | None = None) -> None:
        """Start with nothing counted but what ``meter`` and ``cache`` count."""
        self.registry = CollectorRegistry()
        self._gauge = partial(Gauge, registry=self.registry)
        self._counter = partial(Counter, registry=self.registry)
        self._histogram = partial(Histogram, registry=self.registry)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.registry.register(_WireCollector(meter))
        if cache is not None:
            self.registry.register(_CacheCollector(cache))
        self._add_coordinator()
        self._add_runs()
        self._add_rounds()

    def _add_coordinator(self) -> None:
        info = self._gauge("kumiai_build_info", "Always 1; the version is its label.", ["version"])
        info.labels(__version__).set(1)
        self.database_up = self._gauge(
            "kumiai_database_up", "Whether the database answered this scrape."
        )
        self.sessions = self._gauge("kumiai_sessions_open", "Clients attached to this coordinator.")
        self.clients_attached = self._gauge(
            "kumiai_clients_attached", "Clients attached to any coordinator."
        )
        self.clients_registered = self._gauge(
            "kumiai_clients_registered", "Clients that ever attached."
        )
        self.http_duration = self._histogram(
            "kumiai_http_request_duration_seconds",
            "From a request to the beginning of its answer.",
            ["method", "route", "status"],
        )

    def _add_runs(self) -> None:
        self.leases = self._gauge("kumiai_leases_held", "Runs that this coordinator leads.")
        self.runs_live = self._gauge(
            "kumiai_runs_live", "Runs that have not ended, at most 1000.", ["state"]
        )
        self.runs_ended = self._counter("kumiai_runs_ended_total", "Runs that ended.", ["state"])
        for state in ("finished", "failed", "stopped"):
            self.runs_ended.labels(state)

    def _add_rounds(self) -> None:
        self.rounds_published = self._counter(
            "kumiai_rounds_published_total", "Rounds that published a model."
        )
        self.rounds_extended = self._counter(
            "kumiai_rounds_extended_total", "Deadlines set anew for want of a quorum."
        )
        self.round_duration = self._histogram(
            "kumiai_round_duration_seconds",
            "From a round's opening to its model.",
            buckets=_ROUND_BUCKETS,
        )
        self.round_last_published = self._gauge(
            "kumiai_round_last_published_timestamp_seconds",
            "When the last round was published; 0 before the first.",
        )
        self.updates_accepted = self._counter(
            "kumiai_updates_accepted_total", "Updates that entered a published sum."
        )
        self.updates_rejected = self._counter(
            "kumiai_updates_rejected_total",
            "Updates asked for that did not enter the sum.",
            ["reason"],
        )
        self.evaluations_rejected = self._counter(
            "kumiai_evaluations_rejected_total",
            "Evaluations asked for that do not count.",
            ["reason"],
        )
        for reason in ("invalid", "failed", "late"):
            self.updates_rejected.labels(reason)
        for reason in ("invalid", "failed"):
            self.evaluations_rejected.labels(reason)


class _WireCollector(Collector):
    """Reads the meter when it is asked."""

    def __init__(self, meter: TransferMeter) -> None:
        self._meter = meter

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            "kumiai_wire_bytes", "Bytes of models and updates, by direction.", labels=["direction"]
        )
        family.add_metric(["received"], self._meter.received_bytes)
        family.add_metric(["sent"], self._meter.sent_bytes)
        yield family


class _CacheCollector(Collector):
    """Reads what the cache has counted when it is asked."""

    def __init__(self, cache: CacheMetrics) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for sample in self._cache.samples():
            # A counter's family goes without the end of its samples' name, as do parts of others.
            name = re.sub("_(total|sum|count)$", "", sample.name)
            family = families.setdefault(name, Metric(name, sample.help, sample.kind))
            family.add_sample(sample.name, dict(sample.labels), sample.value)
        yield from families.values()


@dataclass(slots=True)
class _Followed:
    """How far a run's events are read, and what they said so far."""

    after: int = 0
    is_ours: bool = False
    opened_at: float | None = None


class RunObserver:
    """Brings the metrics up to date with the rows."""

    def __init__(self, parts: ApiDependencies, metrics: ApiMetrics) -> None:
        """Count what happens from now on."""
        self._parts = parts
        self._metrics = metrics
        self._started_at = parts.clock.now()
        self._followed: dict[str, _Followed] = {}
        # In order of insertion, so that the oldest is forgotten first.
        self._done: dict[str, None] = {}

    async def refresh(self) -> None:
        """Read what is new; a database that does not answer is a metric of its own."""
        self._metrics.sessions.set(len(self._parts.hub.sessions()))
        self._metrics.leases.set(len(self._parts.supervisor.led_runs))
        try:
            await self._refresh_clients()
            await self._refresh_runs()
        except StorageError:
            self._metrics.database_up.set(0)
        else:
            self._metrics.database_up.set(1)

    async def _refresh_clients(self) -> None:
        clients = await self._parts.near.clients()
        self._metrics.clients_registered.set(len(clients))
        self._metrics.clients_attached.set(sum(each.state == "attached" for each in clients))

    async def _refresh_runs(self) -> None:
        # Read before the events: a run that has ended by now has told its last event.
        live = await self._parts.runs.list_runs(states=_LIVE, limit=_RUNS_MAX)
        newest = await self._parts.runs.list_runs(limit=_RUNS_MAX)
        for state in _LIVE:
            self._metrics.runs_live.labels(state).set(sum(each.state == state for each in live))
        living = {run.run_id for run in live}
        ended = [
            run.run_id
            for run in newest
            if run.finished_at is not None
            and run.finished_at >= self._started_at
            and run.run_id not in self._done
        ]
        for run_id in [*self._followed, *living, *ended]:
            if run_id not in self._done:
                await self._follow(run_id, self._followed.setdefault(run_id, _Followed()))
            if run_id not in living:
                self._followed.pop(run_id, None)
                self._remember_done(run_id)

    def _remember_done(self, run_id: str) -> None:
        self._done[run_id] = None
        if len(self._done) > _DONE_REMEMBERED:
            del self._done[next(iter(self._done))]

    async def _follow(self, run_id: str, followed: _Followed) -> None:
        is_full = True
        while is_full:
            events = await self._parts.runs.events(
                run_id, after_seq=followed.after, limit=_EVENTS_PAGE
            )
            for event in events:
                await self._count(event, followed)
                followed.after = event.seq
            is_full = len(events) == _EVENTS_PAGE

    async def _count(self, event: EventRecord, followed: _Followed) -> None:
        if event.kind == "leader_changed":
            followed.is_ours = (event.data or {}).get("leader") == self._parts.coordinator_id
        elif event.kind == "round_opened":
            followed.opened_at = event.at
        if not followed.is_ours or event.at < self._started_at:
            return
        metrics = self._metrics
        match event.kind:
            case "round_published":
                await self._count_published(event, followed)
            case "round_extended":
                metrics.rounds_extended.inc()
            case "train_failed":
                metrics.updates_rejected.labels("failed").inc()
            case "train_refused":
                metrics.updates_rejected.labels("invalid").inc()
            case "evaluate_failed":
                metrics.evaluations_rejected.labels("failed").inc()
            case "evaluate_refused":
                metrics.evaluations_rejected.labels("invalid").inc()
            case "run_finished" | "run_failed" | "run_stopped":
                metrics.runs_ended.labels(event.kind.removeprefix("run_")).inc()
            case _:
                pass

    async def _count_published(self, event: EventRecord, followed: _Followed) -> None:
        metrics = self._metrics
        metrics.rounds_published.inc()
        metrics.round_last_published.set(event.at)
        metrics.updates_accepted.inc((event.data or {}).get("reports", 0))
        if followed.opened_at is not None:
            metrics.round_duration.observe(max(event.at - followed.opened_at, 0.0))
        if event.round is not None:
            progress = await self._parts.runs.progress(event.run_id, event.round)
            metrics.updates_rejected.labels("late").inc(progress.late)
