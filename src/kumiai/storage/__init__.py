"""What outlives a process: rows in SQL, and blobs by their digest."""

from kumiai.storage.blobs import BlobStore, BlobWriter, MemoryBlobStore
from kumiai.storage.clients import ClientRegistryRepository
from kumiai.storage.database import DatabaseManager, Dialect, Isolation, SQLiteSynchronous
from kumiai.storage.database_health import DatabaseHealth
from kumiai.storage.inbox import UpdateInbox
from kumiai.storage.local_blobs import LocalBlobStore
from kumiai.storage.records import (
    AcceptOutcome,
    AcceptRequest,
    AssignmentKind,
    AssignmentRecord,
    AssignmentState,
    ClientRecord,
    ClientState,
    EvaluationRecord,
    EventLevel,
    EventRecord,
    Lease,
    Metrics,
    ModelRecord,
    NewRun,
    RoundProgress,
    RoundRecord,
    RoundStage,
    RunRecord,
    RunState,
    TrainTask,
    UpdateRecord,
)
from kumiai.storage.runs import RunRepository
from kumiai.storage.schema import MigrationStep
from kumiai.storage.tables import ClientRegistration, FLModel, TrainingSession

__all__ = [
    "AcceptOutcome",
    "AcceptRequest",
    "AssignmentKind",
    "AssignmentRecord",
    "AssignmentState",
    "BlobStore",
    "BlobWriter",
    "ClientRecord",
    "ClientRegistration",
    "ClientRegistryRepository",
    "ClientState",
    "DatabaseHealth",
    "DatabaseManager",
    "Dialect",
    "EvaluationRecord",
    "EventLevel",
    "EventRecord",
    "FLModel",
    "Isolation",
    "Lease",
    "LocalBlobStore",
    "MemoryBlobStore",
    "Metrics",
    "MigrationStep",
    "ModelRecord",
    "NewRun",
    "RoundProgress",
    "RoundRecord",
    "RoundStage",
    "RunRecord",
    "RunRepository",
    "RunState",
    "SQLiteSynchronous",
    "TrainTask",
    "TrainingSession",
    "UpdateInbox",
    "UpdateRecord",
]
