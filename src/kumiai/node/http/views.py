"""What the API answers, as JSON: one model per thing, with the fields of its record.

All times are seconds since 1970-01-01 UTC by the database's clock, unless a name says otherwise.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from kumiai.node.http.hidden_rounds import HiddenRound
from kumiai.storage import (
    AssignmentKind,
    AssignmentState,
    Changes,
    ClientState,
    Dialect,
    EventLevel,
    EventRecord,
    ModelRecord,
    RoundProgress,
    RoundRecord,
    RoundStage,
    RunRecord,
    RunState,
)

__all__ = [
    "ClientInRoundView",
    "ClientView",
    "ClientsView",
    "CountsView",
    "DeletedRunView",
    "DescribeBody",
    "ErrorBody",
    "ErrorView",
    "EventView",
    "EventsView",
    "ExplainView",
    "HiddenRoundView",
    "InfoView",
    "ModelPageView",
    "ModelView",
    "ModelsView",
    "ReadyView",
    "RoundView",
    "RoundsView",
    "RunPageView",
    "RunView",
    "StatusView",
    "StopBody",
    "SubmitBody",
    "UploadView",
]

Metrics = Mapping[str, float]


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class ErrorBody(_View):
    """Why a request failed: ``kind`` for programs, ``message`` for people."""

    kind: str
    message: str


class ErrorView(_View):
    """The body of every answer of 400 and above."""

    error: ErrorBody


class StatusView(_View):
    """The process is alive."""

    status: str = "ok"


class ReadyView(_View):
    """Whether this coordinator can do its work, and if not, why."""

    ready: bool
    reasons: list[str]


class SubmitBody(BaseModel):
    """A run to be created."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    job: dict[str, Any]
    """See ``JobSpec``; checked as a whole, so that every problem is told at once."""
    model_digest: str
    """The initial model, uploaded before."""


class StopBody(BaseModel):
    """A request to stop."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: str = ""


class DescribeBody(BaseModel):
    """What to change about a run or a model; what is left out stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str | None = None
    tags: list[str] | None = None
    """Exactly these from now on."""
    add_tags: list[str] = []
    remove_tags: list[str] = []
    expected_version: int | None = None
    """The ``row_version`` that was read; another one by now is a conflict."""

    def changes(self) -> Changes:
        """Return them for the repositories."""
        return Changes(
            description=self.description,
            tags=self.tags,
            add_tags=self.add_tags,
            remove_tags=self.remove_tags,
        )


class UploadView(_View):
    """A model that is durable."""

    digest: str
    size_bytes: int


class DeletedRunView(_View):
    """A run that is gone.

    Attributes:
        count: blobs that went with it.
        size_bytes: what these took.
        left_count: blobs that are too young to go at once; the next sweep takes them.
    """

    run_id: str
    count: int
    size_bytes: int
    left_count: int


class RoundView(_View):
    """A round; round 0 is the initial model."""

    round: int
    stage: RoundStage
    base_digest: str
    target_reports: int
    min_reports: int
    attempt: int
    opened_at: float
    deadline_at: float
    quorum_at: float | None
    closed_at: float | None
    published_at: float | None
    model_digest: str | None
    reports: int | None
    examples: int | None
    metrics: Metrics | None
    evaluation: Metrics | None
    evaluation_reports: int | None
    close_reason: str | None

    @classmethod
    def of(cls, record: RoundRecord) -> Self:
        """Return the view of a record."""
        return cls.model_validate(asdict(record))


class CountsView(_View):
    """How many of a round's clients stand where; ``assigned`` are those without an answer."""

    assigned: int
    reported: int
    failed: int
    refused: int
    late: int

    @classmethod
    def of(cls, progress: RoundProgress) -> Self:
        """Return the counts of a round's progress."""
        return cls(
            assigned=progress.assigned,
            reported=progress.reported,
            failed=progress.failed,
            refused=progress.refused,
            late=progress.late,
        )


class RunView(_View):
    """A run; ``current`` and ``counts`` are told for a single run only.

    Attributes:
        reason: why it ended, in words.
        end_kind: of the error that it failed with, one of the kinds of this API's errors;
            ``None`` if it has not failed.
    """

    run_id: str
    name: str
    app: str
    state: RunState
    reason: str | None
    end_kind: str | None
    job: Mapping[str, Any]
    submitted_by: str
    rounds_total: int
    round: int
    model_digest: str
    leader: str | None
    epoch: int
    stop_requested: bool
    stop_reason: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    updated_at: float
    description: str
    tags: tuple[str, ...]
    row_version: int
    current: RoundView | None = None
    counts: CountsView | None = None

    @classmethod
    def of(
        cls,
        record: RunRecord,
        *,
        current: RoundRecord | None = None,
        counts: RoundProgress | None = None,
    ) -> Self:
        """Return the view of a record."""
        return cls.model_validate(
            {
                **asdict(record),
                "current": None if current is None else RoundView.of(current),
                "counts": None if counts is None else CountsView.of(counts),
            }
        )


class RunPageView(_View):
    """Some runs of a list; ``next`` is what ``cursor`` takes for the page after."""

    runs: list[RunView]
    next: str | None


class RoundsView(_View):
    """All rounds of a run, in order."""

    rounds: list[RoundView]


class EventView(_View):
    """Something worth telling about a run; ``seq`` grows."""

    seq: int
    round: int | None
    at: float
    level: EventLevel
    kind: str
    client_id: str | None
    text: str
    data: Mapping[str, Any] | None

    @classmethod
    def of(cls, record: EventRecord) -> Self:
        """Return the view of a record."""
        return cls.model_validate(asdict(record))


class EventsView(_View):
    """Events in order; ``after`` is what the next request gives to go on."""

    events: list[EventView]
    after: int


class ModelView(_View):
    """A model version; ``is_kept`` tells whether its bytes are still here."""

    run_id: str
    round: int
    model_id: str
    digest: str
    size_bytes: int
    name: str
    metrics: Metrics | None
    created_at: float
    description: str
    tags: tuple[str, ...]
    row_version: int
    is_kept: bool

    @classmethod
    def of(cls, record: ModelRecord, *, is_kept: bool) -> Self:
        """Return the view of a record."""
        return cls.model_validate({**asdict(record), "is_kept": is_kept})


class ModelsView(_View):
    """All versions of a run's model, the initial one first."""

    models: list[ModelView]


class ModelPageView(_View):
    """Some models of a list; ``next`` is what ``cursor`` takes for the page after."""

    models: list[ModelView]
    next: str | None


class ClientInRoundView(_View):
    """What one client does, or did not do, in the present round.

    Attributes:
        kind: its duty; ``None`` if it has none in this round.
        state: of that duty; ``absent`` if it was not asked because it is not attached.
        reason: why it failed, was refused or is late, or what is in its way.
        attached: whether it has a session with this coordinator now.
        phase: what it said last that it does.
        heard_seconds_ago: since its last word.
    """

    client: str
    kind: AssignmentKind | None
    state: AssignmentState | str
    reason: str | None
    attached: bool
    phase: str | None
    heard_seconds_ago: float | None


class HiddenRoundView(_View):
    """Where the hidden sum of a round stands; ``phase`` while it goes on, ``reason`` after that."""

    attempt: int
    phase: str | None
    reason: str | None
    awaited: list[str]
    answered: list[str]
    excluded: dict[str, str]
    suspects: list[str]

    @classmethod
    def of(cls, hidden: HiddenRound) -> Self:
        """Return what the API tells of it."""
        standing = hidden.standing
        return cls(
            attempt=hidden.attempt,
            phase=None if standing is None else standing.phase.name.lower(),
            reason=hidden.reason,
            awaited=[] if standing is None else list(standing.awaited),
            answered=[] if standing is None else list(standing.answered),
            excluded=dict(hidden.excluded),
            suspects=list(hidden.suspects),
        )


class ExplainView(_View):
    """Why a run is where it is, in one screen; ``lines`` is that screen."""

    run_id: str
    state: RunState
    reason: str | None
    end_kind: str | None
    round: int
    rounds_total: int
    stage: RoundStage | None
    attempt: int | None
    deadline_seconds: float | None
    min_reports: int | None
    counts: CountsView | None
    apps_offered: list[str]
    lines: list[str]
    hidden: HiddenRoundView | None = None
    clients: list[ClientInRoundView]


class ClientView(_View):
    """A client as last seen; the fields from ``attached`` on are of its session here, now."""

    client_id: str
    instance_id: str
    software_version: str
    apps: list[str]
    first_seen_at: float
    last_seen_at: float
    state: ClientState
    address: str
    attached: bool
    attached_at: float | None
    phase: str | None
    clock_skew_seconds: float | None
    heard_seconds_ago: float | None


class ClientsView(_View):
    """Every client that ever attached, sorted."""

    clients: list[ClientView]


class InfoView(_View):
    """Who answers here."""

    coordinator_id: str
    version: str
    protocol_version: int
    led_runs: list[str]
    database: Dialect
    can_evaluate: bool
    uptime_seconds: float
