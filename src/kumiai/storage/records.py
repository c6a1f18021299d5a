"""What the repositories take and return: frozen values, no ORM object leaves this room.

A record has the columns of its row; columns named ``*_json`` are parsed and lose the suffix.
All times are seconds since 1970-01-01 UTC by the database's own clock.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "AcceptOutcome",
    "AcceptRequest",
    "AssignmentKind",
    "AssignmentRecord",
    "AssignmentState",
    "BlobKind",
    "ClientRecord",
    "ClientState",
    "DeletedModel",
    "DeletedRun",
    "EvaluationRecord",
    "EvaluationRequest",
    "EventLevel",
    "EventRecord",
    "Lease",
    "MetricPoint",
    "Metrics",
    "ModelRecord",
    "NewClient",
    "NewModel",
    "NewRun",
    "ReachableBlob",
    "RoundProgress",
    "RoundRecord",
    "RoundStage",
    "RunRecord",
    "RunState",
    "TrainTask",
    "UpdateRecord",
]

Metrics = Mapping[str, float]
RunState = Literal["submitted", "running", "finished", "failed", "stopped"]
RoundStage = Literal["collecting", "closed", "published", "abandoned"]
AssignmentKind = Literal["train", "evaluate", "prepare"]
AssignmentState = Literal[
    "assigned", "reported", "joined", "failed", "refused", "late", "cancelled"
]
ClientState = Literal["registered", "attached", "detached"]
EventLevel = Literal["info", "warning", "error"]
BlobKind = Literal["model", "state", "update"]


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run as submitted.

    Attributes:
        job: the job as plain JSON values.
        submit_token: the submitter's own key; the same token again gives the same run.
        model_digest: the initial model; its blob is stored before the run is created.
    """

    run_id: str
    name: str
    app: str
    job: Mapping[str, Any]
    submit_token: str | None
    submitted_by: str
    rounds_total: int
    model_digest: str
    model_size_bytes: int


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run: what was asked, how far it is, who leads it.

    Attributes:
        round: the round now open or last published; 0 before the first.
        model_digest: the last published model, at first the initial one.
        state_digest: the strategy's state after that round, if it has one.
        epoch: how often a leader took over; every leader write carries it.
        lease_until: when the leader's lease ends; 0 when there is none.
        reason: why it ended, in words.
        end_kind: of the error that it failed with, as `kumiai.core.error_kinds` names them;
            ``None`` if it has not failed, or did so before kinds were kept.
        row_version: how often people changed description and tags, and 1.
    """

    run_id: str
    name: str
    app: str
    state: RunState
    reason: str | None
    job: Mapping[str, Any]
    submit_token: str | None
    submitted_by: str
    rounds_total: int
    round: int
    model_digest: str
    state_digest: str | None
    epoch: int
    leader: str | None
    lease_until: float
    stop_requested: bool
    stop_reason: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    updated_at: float
    description: str = ""
    tags: tuple[str, ...] = ()
    row_version: int = 1
    end_kind: str | None = None


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """A round; round 0 stands for the initial model and is published from the start.

    Attributes:
        target_reports: how many updates are wanted.
        min_reports: the quorum: with fewer the round cannot be published.
        attempt: 1, and one more for each extension.
        quorum_at: when the quorum was first seen; the grace runs from here.
        metrics: weighted means of the updates' training metrics.
        evaluation: weighted means for the model that this round published.
    """

    run_id: str
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


@dataclass(frozen=True, slots=True)
class AssignmentRecord:
    """One client's duty in a round.

    ``round`` of an evaluation is the round of the model; of a preparation, the version that it
    starts from. A preparation is ``reported`` while its client waits, and ``joined`` once a round
    took it in.
    """

    run_id: str
    round: int
    client_id: str
    kind: AssignmentKind
    state: AssignmentState
    reason: str | None
    attempt: int
    seed: int
    assigned_at: float
    ended_at: float | None


@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """An accepted update: its blob is durable and will be in the sum."""

    run_id: str
    round: int
    client_id: str
    digest: str
    size_bytes: int
    examples: int
    metrics: Metrics
    accepted_at: float


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """One client's judgement of the model that ``round`` published."""

    run_id: str
    round: int
    client_id: str
    examples: int
    metrics: Metrics
    reported_at: float


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A published model; ``metrics`` are its federated evaluation, once there is one."""

    run_id: str
    round: int
    model_id: str
    digest: str
    size_bytes: int
    name: str
    metrics: Metrics | None
    created_at: float
    description: str = ""
    tags: tuple[str, ...] = ()
    row_version: int = 1


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """A client as last seen; ``last_seen_at`` is written when it attaches and detaches.

    One that is ``registered`` was announced and never came: it has no instance yet.
    """

    client_id: str
    instance_id: str
    software_version: str
    apps: tuple[str, ...]
    first_seen_at: float
    last_seen_at: float
    state: ClientState
    address: str
    display_name: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    row_version: int = 1


@dataclass(frozen=True, slots=True)
class NewModel:
    """A model from elsewhere, to be entered beside those that rounds published.

    Attributes:
        run_id: the run that it belongs to, which exists.
        created_at: ``None`` for now.
    """

    run_id: str
    round: int
    digest: str
    size_bytes: int
    name: str
    metrics: Metrics | None = None
    created_at: float | None = None
    description: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NewClient:
    """A client that is announced before it comes."""

    client_id: str
    display_name: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeletedRun:
    """A run that is gone.

    Attributes:
        namespaces: where its blobs are; no row reaches anything below them any more.
    """

    run_id: str
    namespaces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeletedModel:
    """A model that is gone.

    Attributes:
        is_unreachable: no other model of the run has the same bytes.
    """

    model_id: str
    namespace: str
    digest: str
    is_unreachable: bool


@dataclass(frozen=True, slots=True)
class ReachableBlob:
    """A blob that a row speaks of.

    Attributes:
        round: that it came from.
        client_id: whose update it is.
        size_bytes: ``None`` where no row tells.
        may_be_let_go: the job's ``keep_versions`` decides whether its bytes are kept.
    """

    namespace: str
    digest: str
    kind: BlobKind
    run_id: str
    round: int
    client_id: str | None
    size_bytes: int | None
    may_be_let_go: bool

    @property
    def what(self) -> str:
        """What it is, for people: ``model of round 3``."""
        match self.kind:
            case "model":
                return f"model of round {self.round}"
            case "state":
                return f"strategy state of round {self.round}"
            case "update":
                return f"update of client {self.client_id} in round {self.round}"


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """A metric's value at a round; ``at`` is when the round published its model."""

    round: int
    value: float
    at: float


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Something worth telling about a run; ``seq`` grows within a run in order of commit."""

    seq: int
    run_id: str
    round: int | None
    at: float
    level: EventLevel
    kind: str
    client_id: str | None
    text: str
    data: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write as leader of a run, until someone else takes a higher epoch."""

    run_id: str
    leader: str
    epoch: int


@dataclass(frozen=True, slots=True)
class RoundProgress:
    """How a round stands, all read at one instant.

    Attributes:
        assigned: train assignments still without an answer (not the sum of all).
        reported: train assignments with an accepted update.
        failed, refused, late: train assignments that ended without one.
        now: the database's clock, to compare with ``deadline_at`` and ``quorum_at``.
        epoch: the run's epoch; another than one's own means one is fenced.
    """

    assigned: int
    reported: int
    failed: int
    refused: int
    late: int
    stage: RoundStage
    attempt: int
    quorum_at: float | None
    deadline_at: float
    now: float
    stop_requested: bool
    epoch: int


@dataclass(frozen=True, slots=True)
class TrainTask:
    """How one client's training in a round stands, the round included.

    Attributes:
        state, reason: of the assignment.
        stage: of the round.
        accepted_digest: of this client's update, once one is accepted.
    """

    run_id: str
    round: int
    client_id: str
    state: AssignmentState
    reason: str | None
    attempt: int
    stage: RoundStage
    accepted_digest: str | None


@dataclass(frozen=True, slots=True)
class AcceptRequest:
    """An update whose blob is verified and durable, asking to be counted.

    Attributes:
        attempt: of the round, for which the client was asked when it sent the update.
    """

    run_id: str
    round: int
    attempt: int
    client_id: str
    digest: str
    size_bytes: int
    examples: int
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """An evaluation report asking to be counted."""

    run_id: str
    round: int
    client_id: str
    examples: int
    metrics: Metrics


class AcceptOutcome(enum.Enum):
    """What became of an `AcceptRequest`."""

    ACCEPTED = "accepted"
    """The row is committed: the update is in the sum."""
    DUPLICATE = "duplicate"
    """The same digest was accepted before; nothing changed."""
    CONFLICT = "conflict"
    """Another digest of this client was accepted before; that one stands."""
    LATE = "late"
    """The round collects no more."""
    OVERTAKEN = "overtaken"
    """It was sent for another attempt of the round than the client is asked for now."""
    NOT_ASSIGNED = "not_assigned"
    """This client has no train assignment in this round, or has none any more."""
