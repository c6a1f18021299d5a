"""A client sends an update beyond the bound, or another's proof: it is named and left out."""

from dataclasses import replace

import numpy as np
import pytest

from kumiai.secagg.actions import Send
from kumiai.secagg.client_steps import proof_digest
from kumiai.secagg.descriptor import Proofs
from kumiai.secagg.messages import Kind, MaskedInput
from tests.secagg.rounds import Network, pedersen_proofs

CHEAT = "site-0002"


def assert_named_and_left_out(network: Network) -> None:
    survivors = tuple(name for name in network.names if name != CHEAT)
    assert list(network.excluded) == [CHEAT]
    assert network.outcome is not None, network.stopped
    assert network.outcome.survivors == survivors
    assert np.array_equal(network.outcome.total, network.plain_sum(survivors)[0])


def test_an_update_beyond_the_norm_cannot_be_proven() -> None:
    network = Network(4, mode=Proofs.NORM, norm_bound=1.0)
    rich = replace(network.descriptor, norm_bound=100.0)
    network.clients[CHEAT]._knowledge.conversation.descriptor = rich
    network.raises = False

    network.run()

    # The proof is of another bound: the coordinator's check fails, whatever the client claims.
    assert_named_and_left_out(network)
    assert "did not prove its update" in network.excluded[CHEAT]


@pytest.mark.parametrize("of_another", [True, False])
def test_anothers_commitments_and_proof_do_not_count(of_another: bool) -> None:
    network = Network(4, mode=Proofs.NORM)
    first: list[tuple[MaskedInput, bytes]] = []

    def change(name: str, send: Send) -> Send:
        if network.kind_of(send) is not Kind.MASKED_INPUT:
            return send
        body = network.body_of(send, MaskedInput)
        if name != CHEAT:
            first.append((body, send.attachment))
            return send
        stolen, proof = first[0]
        if not of_another:
            made = pedersen_proofs().commit(
                np.full(38, body.weight, np.int64), network.descriptor, b"another round"
            )
            stolen, proof = replace(body, commitments=made.commitments), made.proof
        forged = replace(
            body,
            commitments=stolen.commitments,
            weight=stolen.weight,
            proof_digest=proof_digest(proof),
        )
        return Send(network.lie(forged, CHEAT), proof, send.vector)

    network.to_server = change
    network.raises = False
    network.run()

    assert_named_and_left_out(network)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"weight": 9}, "gave its update the weight 9"),
        ({"vector_size_bytes": 151}, "named an upload of 151 bytes"),
        ({"commitments": b"x"}, "committed to its update in a round without proofs"),
        ({"complaints": (0, 2)}, "complained about clients that sent it nothing"),
    ],
)
def test_an_input_that_must_not_be_is_named(changes: dict[str, object], reason: str) -> None:
    network = Network(4)

    def change(name: str, send: Send) -> Send:
        if name == CHEAT and network.kind_of(send) is Kind.MASKED_INPUT:
            body = replace(network.body_of(send, MaskedInput), **changes)  # type: ignore[arg-type]
            return Send(network.lie(body, CHEAT), send.attachment, send.vector)
        return send

    network.to_server = change
    network.raises = False
    network.run()

    assert_named_and_left_out(network)
    assert network.excluded[CHEAT] == reason


def test_a_proof_that_was_changed_on_its_way_can_be_sent_again() -> None:
    network = Network(4, mode=Proofs.NORM)
    changed: list[Send] = []

    def change(name: str, send: Send) -> Send:
        if name == CHEAT and network.kind_of(send) is Kind.MASKED_INPUT and not changed:
            changed.append(send)
            network._waiting.append((name, send))
            return replace(send, attachment=b"x" + send.attachment[1:])
        return send

    network.to_server = change
    network.raises = False
    network.run()

    assert "proof must be the one" in str(network.refused[0][1])
    assert network.excluded == {}
    assert network.outcome is not None
    assert network.outcome.survivors == tuple(network.names)
