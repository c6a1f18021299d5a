"""A coordinator publishes another sum, or a client uploads another vector than it committed to."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from kumiai.core.errors import SecureAggregationError
from kumiai.crypto.group import ORDER
from kumiai.secagg.actions import Send
from kumiai.secagg.descriptor import Proofs
from kumiai.secagg.messages import Confirmation, Kind, MaskedInput, Result
from kumiai.secagg.vectors import vector_digest
from tests.secagg.rounds import Network

Lie = Callable[[Network, NDArray[np.uint8]], None]
CHEAT = "site-0002"


def add_one(network: Network, vector: NDArray[np.uint8]) -> None:
    words = vector[: 4 * network.descriptor.upload_words].view(np.uint32)
    words[5] += 1


def wrap_around(network: Network, vector: NDArray[np.uint8]) -> None:
    words = vector[: 4 * network.descriptor.upload_words].view(np.uint32)
    words[7] += np.uint32(1 << 31)


def count_twice(network: Network, vector: NDArray[np.uint8]) -> None:
    add(network, vector, 1)


def leave_out(network: Network, vector: NDArray[np.uint8]) -> None:
    add(network, vector, -1)


def add(network: Network, vector: NDArray[np.uint8], times: int) -> None:
    """Add a client's plain update, as a coordinator with a false friend can."""
    from tests.secagg.rounds import plain_words

    plain = plain_words(network, CHEAT)
    plain[-1] = 0  # the weight is announced: an altered one would be seen at once
    words = vector[: 4 * network.descriptor.upload_words].view(np.uint32)
    words += (times * plain).astype(np.uint32)


def change_blinding(network: Network, vector: NDArray[np.uint8]) -> None:
    vector[-32:] = np.frombuffer((int(ORDER) - 1).to_bytes(32, "big"), np.uint8)


def change_weight(network: Network, vector: NDArray[np.uint8]) -> None:
    words = vector[: 4 * network.descriptor.upload_words].view(np.uint32)
    words[-1] += 1


@pytest.mark.parametrize(
    "lie", [add_one, wrap_around, count_twice, leave_out, change_blinding, change_weight]
)
def test_another_sum_is_confirmed_by_nobody_and_not_published(lie: Lie) -> None:
    network = Network(4, mode=Proofs.SUM)
    held = network.run_until(Kind.RESULT)

    answers = []
    for name, send in held.items():
        body = network.body_of(send, Result)
        assert send.vector is not None
        vector = np.frombuffer(bytes(send.vector), np.uint8).copy()
        lie(network, vector)
        altered = replace(body, sum_digest=vector_digest(vector))
        network.tell(name, altered, vector.tobytes())
        answers.append(network.body_of(network.sent[name][-1], Confirmation))

    assert [answer.is_right for answer in answers] == [False] * 4
    network.deliver()
    assert network.outcome is None
    assert network.stopped == "confirming needs 3 clients, got 0"


def test_a_sum_without_its_signed_digest_is_refused() -> None:
    network = Network(4)
    held = network.run_until(Kind.RESULT)
    send = held["site-0000"]
    assert send.vector is not None
    vector = bytearray(send.vector)
    vector[0] ^= 1

    for content in (bytes(vector), bytes(vector[:-4]), b""):
        with pytest.raises(SecureAggregationError, match="sum must be 152 bytes"):
            network.clients["site-0000"].receive(send.message, content)


def test_inputs_that_were_left_out_or_doubled_are_refused() -> None:
    network = Network(4)
    held = network.run_until(Kind.RESULT)
    send = held["site-0000"]
    assert send.vector is not None
    body = network.body_of(send, Result)
    first, *others = body.inputs

    for inputs in (tuple(others), (first, first, *others), (first, others[0])):
        with pytest.raises(SecureAggregationError, match=r"inputs must be those|one of each"):
            network.tell("site-0000", replace(body, inputs=inputs), bytes(send.vector))


def test_another_sum_for_one_client_alone_gets_no_quorum_and_no_receipt() -> None:
    network = Network(4)
    held = network.run_until(Kind.RESULT)
    for name, send in held.items():
        vector = np.frombuffer(bytes(send.vector or b""), np.uint8).copy()
        if name == "site-0000":
            add_one(network, vector)
        body = replace(network.body_of(send, Result), sum_digest=vector_digest(vector))
        network.tell(name, body, vector.tobytes())

    network.raises = False
    network.deliver()

    assert network.outcome is not None
    assert sorted(network.receipts) == network.names[1:]
    assert "the sum that it has checked" in str(network.refused[0][1])


def test_an_upload_that_is_not_what_was_committed_to_is_never_published() -> None:
    network = Network(4, mode=Proofs.SUM)

    def change(name: str, send: Send) -> Send:
        if name == CHEAT and network.kind_of(send) is Kind.MASKED_INPUT:
            assert send.vector is not None
            vector = np.frombuffer(bytes(send.vector), np.uint8).copy()
            vector[0] += 1
            body = replace(network.body_of(send, MaskedInput), vector_digest=vector_digest(vector))
            network.clients[CHEAT]._knowledge.input = body
            return Send(network.lie(body, CHEAT), send.attachment, vector.data)
        return send

    network.to_server = change
    network.run()

    assert network.outcome is None
    assert network.stopped == "the sum is not that of what its clients had committed to"


def test_an_upload_that_is_not_the_signed_one_does_not_enter_the_sum() -> None:
    network = Network(4)
    network.raises = False

    def change(name: str, send: Send) -> Send:
        if name == CHEAT and send.vector is not None:
            return replace(send, vector=memoryview(bytes(send.vector.nbytes)))
        return send

    network.to_server = change
    network.run()

    assert [name for name, _ in network.refused] == [CHEAT]
    assert network.outcome is not None
    survivors = tuple(name for name in network.names if name != CHEAT)
    assert network.outcome.survivors == survivors
    assert np.array_equal(network.outcome.total, network.plain_sum(survivors)[0])


def test_without_proofs_a_weight_that_was_not_announced_is_still_seen() -> None:
    network = Network(4)
    held = network.run_until(Kind.RESULT)
    name, send = next(iter(held.items()))
    vector = np.frombuffer(bytes(send.vector or b""), np.uint8).copy()
    change_weight(network, vector)
    body = replace(network.body_of(send, Result), sum_digest=vector_digest(vector))

    network.tell(name, body, vector.tobytes())

    assert not network.body_of(network.sent[name][-1], Confirmation).is_right
