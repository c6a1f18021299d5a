"""What a client must heed is part of the protocol's version, which both ends compare."""

from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor

from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import PROTOCOL_VERSION

FIELDS_OF_A_TASK = {
    3: """
    Task.key=1 TaskKey.run_id=1 TaskKey.round=2 TaskKey.kind=3 TASK_KIND_UNSPECIFIED=0
    TASK_KIND_TRAIN=1 TASK_KIND_EVALUATE=2 TASK_KIND_PREPARE=3 Task.app=2 Task.rounds_total=3
    Task.model_digest=4 Task.model_size_bytes=5 Task.config_json=6 Task.seed=7
    Task.deadline_seconds=8 Task.attempt=9 Task.chunk_bytes=10 Task.secure=11
    SecureTask.examples_per_weight=1 SecureTask.privacy=2 PrivateTask.unit=1
    PRIVACY_UNIT_UNSPECIFIED=0 PRIVACY_UNIT_RECORD=1 PRIVACY_UNIT_CLIENT=2 PrivateTask.clip=2
    PrivateTask.step=3 Task.training=12 TrainingTask.clip=1 TrainingTask.noise_multiplier=2
    TrainingTask.sampling_rate=3 TrainingTask.steps=4 TrainingTask.batch=5
    TrainingTask.learning_rate=6 Task.central=13 CentralTask.clip=1 CentralTask.noise_multiplier=2
    CentralTask.cohort_size=3 CentralTask.counts_unclipped=4 CentralTask.opening=5
    CentralTask.separation=6 Task.ahead=14 AheadTask.version=1 AheadTask.staleness_max=2
    AheadTask.staleness_exponent=3
    """
}
FIELDS_OF_AN_ANSWER = {
    3: """
    PutHeader.run_id=1 PutHeader.round=2 PutHeader.digest=3 PutHeader.size_bytes=4
    PutHeader.offset=5 PutHeader.examples=6 PutHeader.metrics=7 MetricsEntry.key=1
    MetricsEntry.value=2 PutHeader.attempt=8 PutResult.outcome=1 PUT_OUTCOME_UNSPECIFIED=0
    PUT_OUTCOME_ACCEPTED=1 PUT_OUTCOME_LATE=2 PUT_OUTCOME_REFUSED=3 PUT_OUTCOME_RESUME=4
    PUT_OUTCOME_OVERTAKEN=5 PutResult.reason=2 PutResult.received_bytes=3 PutResult.attempt=4
    TaskFailure.key=1 TaskKey.run_id=1 TaskKey.round=2 TaskKey.kind=3 TASK_KIND_UNSPECIFIED=0
    TASK_KIND_TRAIN=1 TASK_KIND_EVALUATE=2 TASK_KIND_PREPARE=3 TaskFailure.reason=2
    TaskFailure.attempt=3
    """
}


def fields_of(message: Descriptor) -> Iterator[str]:
    for each in message.fields:
        yield f"{message.name}.{each.name}={each.number}"
        if each.message_type is not None:
            yield from fields_of(each.message_type)
        if each.enum_type is not None:
            yield from (f"{value.name}={value.number}" for value in each.enum_type.values)


def test_a_task_asks_for_nothing_new_without_another_protocol_version() -> None:
    assert " ".join(FIELDS_OF_A_TASK[PROTOCOL_VERSION].split()) == " ".join(
        fields_of(pb.Task.DESCRIPTOR)
    ), "a client that knows no such field ignores it: raise PROTOCOL_VERSION, then note it here"


def test_an_answer_carries_nothing_new_without_another_protocol_version() -> None:
    answers = (pb.PutHeader, pb.PutResult, pb.TaskFailure)
    found = [each for answer in answers for each in fields_of(answer.DESCRIPTOR)]
    assert " ".join(FIELDS_OF_AN_ANSWER[PROTOCOL_VERSION].split()) == " ".join(found), (
        "an end that knows no such field leaves it out: raise PROTOCOL_VERSION, then note it here"
    )
