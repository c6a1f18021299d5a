from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TaskKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_KIND_UNSPECIFIED: _ClassVar[TaskKind]
    TASK_KIND_TRAIN: _ClassVar[TaskKind]
    TASK_KIND_EVALUATE: _ClassVar[TaskKind]
    TASK_KIND_PREPARE: _ClassVar[TaskKind]

class PrivacyUnit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIVACY_UNIT_UNSPECIFIED: _ClassVar[PrivacyUnit]
    PRIVACY_UNIT_RECORD: _ClassVar[PrivacyUnit]
    PRIVACY_UNIT_CLIENT: _ClassVar[PrivacyUnit]

class TaskPhase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_PHASE_UNSPECIFIED: _ClassVar[TaskPhase]
    TASK_PHASE_FETCHING: _ClassVar[TaskPhase]
    TASK_PHASE_COMPUTING: _ClassVar[TaskPhase]
    TASK_PHASE_UPLOADING: _ClassVar[TaskPhase]

class PutOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PUT_OUTCOME_UNSPECIFIED: _ClassVar[PutOutcome]
    PUT_OUTCOME_ACCEPTED: _ClassVar[PutOutcome]
    PUT_OUTCOME_LATE: _ClassVar[PutOutcome]
    PUT_OUTCOME_REFUSED: _ClassVar[PutOutcome]
    PUT_OUTCOME_RESUME: _ClassVar[PutOutcome]
    PUT_OUTCOME_OVERTAKEN: _ClassVar[PutOutcome]
TASK_KIND_UNSPECIFIED: TaskKind
TASK_KIND_TRAIN: TaskKind
TASK_KIND_EVALUATE: TaskKind
TASK_KIND_PREPARE: TaskKind
PRIVACY_UNIT_UNSPECIFIED: PrivacyUnit
PRIVACY_UNIT_RECORD: PrivacyUnit
PRIVACY_UNIT_CLIENT: PrivacyUnit
TASK_PHASE_UNSPECIFIED: TaskPhase
TASK_PHASE_FETCHING: TaskPhase
TASK_PHASE_COMPUTING: TaskPhase
TASK_PHASE_UPLOADING: TaskPhase
PUT_OUTCOME_UNSPECIFIED: PutOutcome
PUT_OUTCOME_ACCEPTED: PutOutcome
PUT_OUTCOME_LATE: PutOutcome
PUT_OUTCOME_REFUSED: PutOutcome
PUT_OUTCOME_RESUME: PutOutcome
PUT_OUTCOME_OVERTAKEN: PutOutcome

class ClientMessage(_message.Message):
    __slots__ = ("hello", "heartbeat", "progress", "failure", "evaluation", "renewal", "trust", "secure", "prepared")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    RENEWAL_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    SECURE_FIELD_NUMBER: _ClassVar[int]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    heartbeat: Heartbeat
    progress: TaskProgress
    failure: TaskFailure
    evaluation: EvaluationReport
    renewal: CertificateRequest
    trust: TrustAnswer
    secure: SecurePart
    prepared: Prepared
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., progress: _Optional[_Union[TaskProgress, _Mapping]] = ..., failure: _Optional[_Union[TaskFailure, _Mapping]] = ..., evaluation: _Optional[_Union[EvaluationReport, _Mapping]] = ..., renewal: _Optional[_Union[CertificateRequest, _Mapping]] = ..., trust: _Optional[_Union[TrustAnswer, _Mapping]] = ..., secure: _Optional[_Union[SecurePart, _Mapping]] = ..., prepared: _Optional[_Union[Prepared, _Mapping]] = ...) -> None: ...

class ServerMessage(_message.Message):
    __slots__ = ("welcome", "heartbeat", "task", "cancel", "receipt", "audit", "renewed", "trust", "secure")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    AUDIT_FIELD_NUMBER: _ClassVar[int]
    RENEWED_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    SECURE_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    heartbeat: Heartbeat
    task: Task
    cancel: Cancel
    receipt: Receipt
    audit: AuditCheckpoint
    renewed: CertificateAnswer
    trust: TrustOffer
    secure: SecurePart
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., task: _Optional[_Union[Task, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ..., audit: _Optional[_Union[AuditCheckpoint, _Mapping]] = ..., renewed: _Optional[_Union[CertificateAnswer, _Mapping]] = ..., trust: _Optional[_Union[TrustOffer, _Mapping]] = ..., secure: _Optional[_Union[SecurePart, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol_version", "instance_id", "software_version", "apps", "wall_time", "audit_size", "voucher")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    APPS_FIELD_NUMBER: _ClassVar[int]
    WALL_TIME_FIELD_NUMBER: _ClassVar[int]
    AUDIT_SIZE_FIELD_NUMBER: _ClassVar[int]
    VOUCHER_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    instance_id: str
    software_version: str
    apps: _containers.RepeatedScalarFieldContainer[str]
    wall_time: float
    audit_size: int
    voucher: bytes
    def __init__(self, protocol_version: _Optional[int] = ..., instance_id: _Optional[str] = ..., software_version: _Optional[str] = ..., apps: _Optional[_Iterable[str]] = ..., wall_time: _Optional[float] = ..., audit_size: _Optional[int] = ..., voucher: _Optional[bytes] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol_version", "coordinator_id", "heartbeat_seconds", "wall_time", "software_version", "audit", "trust")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_ID_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WALL_TIME_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    AUDIT_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    coordinator_id: str
    heartbeat_seconds: float
    wall_time: float
    software_version: str
    audit: AuditCheckpoint
    trust: TrustOffer
    def __init__(self, protocol_version: _Optional[int] = ..., coordinator_id: _Optional[str] = ..., heartbeat_seconds: _Optional[float] = ..., wall_time: _Optional[float] = ..., software_version: _Optional[str] = ..., audit: _Optional[_Union[AuditCheckpoint, _Mapping]] = ..., trust: _Optional[_Union[TrustOffer, _Mapping]] = ...) -> None: ...

class TrustOffer(_message.Message):
    __slots__ = ("roots", "successions", "revocations")
    ROOTS_FIELD_NUMBER: _ClassVar[int]
    SUCCESSIONS_FIELD_NUMBER: _ClassVar[int]
    REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    roots: str
    successions: str
    revocations: str
    def __init__(self, roots: _Optional[str] = ..., successions: _Optional[str] = ..., revocations: _Optional[str] = ...) -> None: ...

class TrustAnswer(_message.Message):
    __slots__ = ("roots", "reason")
    ROOTS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    roots: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    def __init__(self, roots: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ...) -> None: ...

class AuditCheckpoint(_message.Message):
    __slots__ = ("note", "key", "from_size", "path")
    NOTE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    FROM_SIZE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    note: str
    key: str
    from_size: int
    path: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, note: _Optional[str] = ..., key: _Optional[str] = ..., from_size: _Optional[int] = ..., path: _Optional[_Iterable[bytes]] = ...) -> None: ...

class CertificateRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: str
    def __init__(self, request: _Optional[str] = ...) -> None: ...

class CertificateAnswer(_message.Message):
    __slots__ = ("chain", "reason")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    chain: str
    reason: str
    def __init__(self, chain: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class SecurePart(_message.Message):
    __slots__ = ("run_id", "round", "attempt", "content", "is_last")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    IS_LAST_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round: int
    attempt: int
    content: bytes
    is_last: bool
    def __init__(self, run_id: _Optional[str] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., content: _Optional[bytes] = ..., is_last: bool = ...) -> None: ...

class SecureContent(_message.Message):
    __slots__ = ("opening", "message", "ask_receipt", "receipt")
    OPENING_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ASK_RECEIPT_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    opening: SecureOpening
    message: SecureMessage
    ask_receipt: bool
    receipt: bytes
    def __init__(self, opening: _Optional[_Union[SecureOpening, _Mapping]] = ..., message: _Optional[_Union[SecureMessage, _Mapping]] = ..., ask_receipt: bool = ..., receipt: _Optional[bytes] = ...) -> None: ...

class SecureOpening(_message.Message):
    __slots__ = ("descriptor", "vouchers")
    DESCRIPTOR_FIELD_NUMBER: _ClassVar[int]
    VOUCHERS_FIELD_NUMBER: _ClassVar[int]
    descriptor: bytes
    vouchers: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, descriptor: _Optional[bytes] = ..., vouchers: _Optional[_Iterable[bytes]] = ...) -> None: ...

class SecureMessage(_message.Message):
    __slots__ = ("envelope", "attachment", "vector_digest", "vector_size_bytes")
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    ATTACHMENT_FIELD_NUMBER: _ClassVar[int]
    VECTOR_DIGEST_FIELD_NUMBER: _ClassVar[int]
    VECTOR_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    envelope: bytes
    attachment: bytes
    vector_digest: str
    vector_size_bytes: int
    def __init__(self, envelope: _Optional[bytes] = ..., attachment: _Optional[bytes] = ..., vector_digest: _Optional[str] = ..., vector_size_bytes: _Optional[int] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("sequence",)
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    def __init__(self, sequence: _Optional[int] = ...) -> None: ...

class TaskKey(_message.Message):
    __slots__ = ("run_id", "round", "kind")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round: int
    kind: TaskKind
    def __init__(self, run_id: _Optional[str] = ..., round: _Optional[int] = ..., kind: _Optional[_Union[TaskKind, str]] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("key", "app", "rounds_total", "model_digest", "model_size_bytes", "config_json", "seed", "deadline_seconds", "attempt", "chunk_bytes", "secure", "training", "central", "ahead")
    KEY_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MODEL_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    SECURE_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    CENTRAL_FIELD_NUMBER: _ClassVar[int]
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    key: TaskKey
    app: str
    rounds_total: int
    model_digest: str
    model_size_bytes: int
    config_json: str
    seed: int
    deadline_seconds: float
    attempt: int
    chunk_bytes: int
    secure: SecureTask
    training: TrainingTask
    central: CentralTask
    ahead: AheadTask
    def __init__(self, key: _Optional[_Union[TaskKey, _Mapping]] = ..., app: _Optional[str] = ..., rounds_total: _Optional[int] = ..., model_digest: _Optional[str] = ..., model_size_bytes: _Optional[int] = ..., config_json: _Optional[str] = ..., seed: _Optional[int] = ..., deadline_seconds: _Optional[float] = ..., attempt: _Optional[int] = ..., chunk_bytes: _Optional[int] = ..., secure: _Optional[_Union[SecureTask, _Mapping]] = ..., training: _Optional[_Union[TrainingTask, _Mapping]] = ..., central: _Optional[_Union[CentralTask, _Mapping]] = ..., ahead: _Optional[_Union[AheadTask, _Mapping]] = ...) -> None: ...

class AheadTask(_message.Message):
    __slots__ = ("version", "staleness_max", "staleness_exponent")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STALENESS_MAX_FIELD_NUMBER: _ClassVar[int]
    STALENESS_EXPONENT_FIELD_NUMBER: _ClassVar[int]
    version: int
    staleness_max: int
    staleness_exponent: float
    def __init__(self, version: _Optional[int] = ..., staleness_max: _Optional[int] = ..., staleness_exponent: _Optional[float] = ...) -> None: ...

class TrainingTask(_message.Message):
    __slots__ = ("clip", "noise_multiplier", "sampling_rate", "steps", "batch", "learning_rate")
    CLIP_FIELD_NUMBER: _ClassVar[int]
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_RATE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    clip: float
    noise_multiplier: float
    sampling_rate: float
    steps: int
    batch: float
    learning_rate: float
    def __init__(self, clip: _Optional[float] = ..., noise_multiplier: _Optional[float] = ..., sampling_rate: _Optional[float] = ..., steps: _Optional[int] = ..., batch: _Optional[float] = ..., learning_rate: _Optional[float] = ...) -> None: ...

class CentralTask(_message.Message):
    __slots__ = ("clip", "noise_multiplier", "cohort_size", "counts_unclipped", "opening", "separation")
    CLIP_FIELD_NUMBER: _ClassVar[int]
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    COHORT_SIZE_FIELD_NUMBER: _ClassVar[int]
    COUNTS_UNCLIPPED_FIELD_NUMBER: _ClassVar[int]
    OPENING_FIELD_NUMBER: _ClassVar[int]
    SEPARATION_FIELD_NUMBER: _ClassVar[int]
    clip: float
    noise_multiplier: float
    cohort_size: int
    counts_unclipped: bool
    opening: bytes
    separation: int
    def __init__(self, clip: _Optional[float] = ..., noise_multiplier: _Optional[float] = ..., cohort_size: _Optional[int] = ..., counts_unclipped: bool = ..., opening: _Optional[bytes] = ..., separation: _Optional[int] = ...) -> None: ...

class SecureTask(_message.Message):
    __slots__ = ("examples_per_weight", "privacy")
    EXAMPLES_PER_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    PRIVACY_FIELD_NUMBER: _ClassVar[int]
    examples_per_weight: int
    privacy: PrivateTask
    def __init__(self, examples_per_weight: _Optional[int] = ..., privacy: _Optional[_Union[PrivateTask, _Mapping]] = ...) -> None: ...

class PrivateTask(_message.Message):
    __slots__ = ("unit", "clip", "step")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    unit: PrivacyUnit
    clip: float
    step: float
    def __init__(self, unit: _Optional[_Union[PrivacyUnit, str]] = ..., clip: _Optional[float] = ..., step: _Optional[float] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("key", "reason")
    KEY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    key: TaskKey
    reason: str
    def __init__(self, key: _Optional[_Union[TaskKey, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class TaskProgress(_message.Message):
    __slots__ = ("key", "phase", "fraction", "text")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    key: TaskKey
    phase: TaskPhase
    fraction: float
    text: str
    def __init__(self, key: _Optional[_Union[TaskKey, _Mapping]] = ..., phase: _Optional[_Union[TaskPhase, str]] = ..., fraction: _Optional[float] = ..., text: _Optional[str] = ...) -> None: ...

class TaskFailure(_message.Message):
    __slots__ = ("key", "reason", "attempt")
    KEY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    key: TaskKey
    reason: str
    attempt: int
    def __init__(self, key: _Optional[_Union[TaskKey, _Mapping]] = ..., reason: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class EvaluationReport(_message.Message):
    __slots__ = ("key", "examples", "metrics")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    KEY_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    key: TaskKey
    examples: int
    metrics: _containers.ScalarMap[str, float]
    def __init__(self, key: _Optional[_Union[TaskKey, _Mapping]] = ..., examples: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Prepared(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: TaskKey
    def __init__(self, key: _Optional[_Union[TaskKey, _Mapping]] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("key", "accepted", "reason")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    key: TaskKey
    accepted: bool
    reason: str
    def __init__(self, key: _Optional[_Union[TaskKey, _Mapping]] = ..., accepted: bool = ..., reason: _Optional[str] = ...) -> None: ...

class PutHeader(_message.Message):
    __slots__ = ("run_id", "round", "digest", "size_bytes", "offset", "examples", "metrics", "attempt")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round: int
    digest: str
    size_bytes: int
    offset: int
    examples: int
    metrics: _containers.ScalarMap[str, float]
    attempt: int
    def __init__(self, run_id: _Optional[str] = ..., round: _Optional[int] = ..., digest: _Optional[str] = ..., size_bytes: _Optional[int] = ..., offset: _Optional[int] = ..., examples: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., attempt: _Optional[int] = ...) -> None: ...

class PutResult(_message.Message):
    __slots__ = ("outcome", "reason", "received_bytes", "attempt")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    outcome: PutOutcome
    reason: str
    received_bytes: int
    attempt: int
    def __init__(self, outcome: _Optional[_Union[PutOutcome, str]] = ..., reason: _Optional[str] = ..., received_bytes: _Optional[int] = ..., attempt: _Optional[int] = ...) -> None: ...

class StatRequest(_message.Message):
    __slots__ = ("run_id", "round", "digest")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round: int
    digest: str
    def __init__(self, run_id: _Optional[str] = ..., round: _Optional[int] = ..., digest: _Optional[str] = ...) -> None: ...

class StatResult(_message.Message):
    __slots__ = ("received_bytes",)
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    received_bytes: int
    def __init__(self, received_bytes: _Optional[int] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("run_id", "digest", "offset", "sum_of_round")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SUM_OF_ROUND_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    digest: str
    offset: int
    sum_of_round: int
    def __init__(self, run_id: _Optional[str] = ..., digest: _Optional[str] = ..., offset: _Optional[int] = ..., sum_of_round: _Optional[int] = ...) -> None: ...
