"""What outlives a process: rows in SQL, and blobs by their digest."""

from kumiai.storage.audit import (
    AuditEnd,
    AuditLog,
    AuditQuery,
    AuditRecord,
    AuditScribe,
    CheckpointRecord,
    WrittenEntry,
)
from kumiai.storage.audit_trail import AuditTrail, NoTrail
from kumiai.storage.blob_listing import StoredBlob
from kumiai.storage.blob_sweeping import (
    GRACE_SECONDS_MIN,
    BlobSweeper,
    CheckReport,
    RunUsage,
    SweepReport,
    SweptStore,
)
from kumiai.storage.blobs import BlobStore, BlobWriter, MemoryBlobStore
from kumiai.storage.budget_ledger import SealedCharge
from kumiai.storage.budgets import (
    BudgetRepository,
    ChargeRecord,
    LedgerCheck,
    LedgerState,
    ScopeRecord,
)
from kumiai.storage.cache.circuit import CircuitBreaker, CircuitState
from kumiai.storage.cache.draining import DrainSettings, OutboxDrain
from kumiai.storage.cache.entries import MISSING, CacheEntry
from kumiai.storage.cache.failover import ResilientKeyValue, ServedBy
from kumiai.storage.cache.invalidation import INVALIDATION_TOPIC, CacheInvalidation, Target
from kumiai.storage.cache.keyvalue import KeyValueSource, KeyValueStore, StoreFullError, StoreSize
from kumiai.storage.cache.lock_failover import FailoverLocks
from kumiai.storage.cache.locks import DistributedLock, HeldLock, LockBackend, MemoryLocks
from kumiai.storage.cache.memory import MemoryKeyValue
from kumiai.storage.cache.metrics import Alert, AlertRule, CacheMetrics
from kumiai.storage.cache.outbox import CacheOutbox, OutboxRow, OutboxState, OutboxToken
from kumiai.storage.cache.packing import PackedSerializer
from kumiai.storage.cache.patterns import CachePattern, CacheSettings
from kumiai.storage.cache.redis import RedisHealth, RedisManager, RedisMetrics
from kumiai.storage.cache.redis_locks import RedisLocks
from kumiai.storage.cache.serialisation import JSONSerializer, Serializer
from kumiai.storage.cache.sql_locks import SQLLocks, verify_fence
from kumiai.storage.cache.write_behind import WriteBehind
from kumiai.storage.change_notes import ChangeNotes
from kumiai.storage.clients import ClientQuery, ClientRegistryRepository
from kumiai.storage.database import DatabaseManager, Dialect, Isolation, SQLiteSynchronous
from kumiai.storage.database_health import DatabaseHealth
from kumiai.storage.denials import DeniedSites, SiteDenials
from kumiai.storage.descriptions import Changes
from kumiai.storage.enrolment_tables import EnrolmentRow
from kumiai.storage.enrolments import (
    Claim,
    EnrolmentRepository,
    EnrolmentState,
    NewInvitation,
    SiteCertificate,
    SiteRecord,
    SiteState,
)
from kumiai.storage.filters import MetricFloor
from kumiai.storage.history import SessionOrder, SessionQuery, TrainingHistoryRepository
from kumiai.storage.inbox import UpdateInbox
from kumiai.storage.local_blobs import LocalBlobStore
from kumiai.storage.models import ModelOrder, ModelQuery, ModelRepository
from kumiai.storage.near_reads import CacheNotes, NearReads
from kumiai.storage.paging import PAGE_LIMIT_MAX, Page
from kumiai.storage.records import (
    AcceptOutcome,
    AcceptRequest,
    AssignmentKind,
    AssignmentRecord,
    AssignmentState,
    ClientRecord,
    ClientState,
    DeletedModel,
    DeletedRun,
    EvaluationRecord,
    EventLevel,
    EventRecord,
    Lease,
    MetricPoint,
    Metrics,
    ModelRecord,
    NewClient,
    NewModel,
    NewRun,
    ReachableBlob,
    RoundProgress,
    RoundRecord,
    RoundStage,
    RunRecord,
    RunState,
    TrainTask,
    UpdateRecord,
)
from kumiai.storage.runs import RunRepository
from kumiai.storage.s3_blobs import S3BlobStore
from kumiai.storage.s3_bucket import S3Place
from kumiai.storage.schema import MigrationStep
from kumiai.storage.secure_rounds import (
    ClientExclusion,
    SecureRoundRecord,
    SecureRoundRepository,
    SecureRoundState,
    Suspicion,
)
from kumiai.storage.tables import ClientRegistration, FLModel, TrainingSession
from kumiai.storage.tokens import APITokenRecord, APITokenRepository, NewAPIToken

__all__ = [
    "GRACE_SECONDS_MIN",
    "INVALIDATION_TOPIC",
    "MISSING",
    "PAGE_LIMIT_MAX",
    "APITokenRecord",
    "APITokenRepository",
    "AcceptOutcome",
    "AcceptRequest",
    "Alert",
    "AlertRule",
    "AssignmentKind",
    "AssignmentRecord",
    "AssignmentState",
    "AuditEnd",
    "AuditLog",
    "AuditQuery",
    "AuditRecord",
    "AuditScribe",
    "AuditTrail",
    "BlobStore",
    "BlobSweeper",
    "BlobWriter",
    "BudgetRepository",
    "CacheEntry",
    "CacheInvalidation",
    "CacheMetrics",
    "CacheNotes",
    "CacheOutbox",
    "CachePattern",
    "CacheSettings",
    "ChangeNotes",
    "Changes",
    "ChargeRecord",
    "CheckReport",
    "CheckpointRecord",
    "CircuitBreaker",
    "CircuitState",
    "Claim",
    "ClientExclusion",
    "ClientQuery",
    "ClientRecord",
    "ClientRegistration",
    "ClientRegistryRepository",
    "ClientState",
    "DatabaseHealth",
    "DatabaseManager",
    "DeletedModel",
    "DeletedRun",
    "DeniedSites",
    "Dialect",
    "DistributedLock",
    "DrainSettings",
    "EnrolmentRepository",
    "EnrolmentRow",
    "EnrolmentState",
    "EvaluationRecord",
    "EventLevel",
    "EventRecord",
    "FLModel",
    "FailoverLocks",
    "HeldLock",
    "Isolation",
    "JSONSerializer",
    "KeyValueSource",
    "KeyValueStore",
    "Lease",
    "LedgerCheck",
    "LedgerState",
    "LocalBlobStore",
    "LockBackend",
    "MemoryBlobStore",
    "MemoryKeyValue",
    "MemoryLocks",
    "MetricFloor",
    "MetricPoint",
    "Metrics",
    "MigrationStep",
    "ModelOrder",
    "ModelQuery",
    "ModelRecord",
    "ModelRepository",
    "NearReads",
    "NewAPIToken",
    "NewClient",
    "NewInvitation",
    "NewModel",
    "NewRun",
    "NoTrail",
    "OutboxDrain",
    "OutboxRow",
    "OutboxState",
    "OutboxToken",
    "PackedSerializer",
    "Page",
    "ReachableBlob",
    "RedisHealth",
    "RedisLocks",
    "RedisManager",
    "RedisMetrics",
    "ResilientKeyValue",
    "RoundProgress",
    "RoundRecord",
    "RoundStage",
    "RunRecord",
    "RunRepository",
    "RunState",
    "RunUsage",
    "S3BlobStore",
    "S3Place",
    "SQLLocks",
    "SQLiteSynchronous",
    "ScopeRecord",
    "SealedCharge",
    "SecureRoundRecord",
    "SecureRoundRepository",
    "SecureRoundState",
    "Serializer",
    "ServedBy",
    "SessionOrder",
    "SessionQuery",
    "SiteCertificate",
    "SiteDenials",
    "SiteRecord",
    "SiteState",
    "StoreFullError",
    "StoreSize",
    "StoredBlob",
    "Suspicion",
    "SweepReport",
    "SweptStore",
    "Target",
    "TrainTask",
    "TrainingHistoryRepository",
    "TrainingSession",
    "UpdateInbox",
    "UpdateRecord",
    "WriteBehind",
    "WrittenEntry",
    "verify_fence",
]
