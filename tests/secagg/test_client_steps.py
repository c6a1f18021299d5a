"""What a client checks of each message before it answers."""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kumiai.core.errors import KumiaiError, SecureAggregationError
from kumiai.secagg.actions import Send
from kumiai.secagg.client_steps import Step, proof_context, proof_digest
from kumiai.secagg.conversation import Conversation
from kumiai.secagg.descriptor import Proofs
from kumiai.secagg.messages import (
    Advertisement,
    Advertisements,
    Deliveries,
    Kind,
    NonceReveal,
    NonceReveals,
    Result,
    Survivors,
)
from kumiai.secagg.vectors import vector_digest
from tests.secagg.rounds import SPARSE, VERIFIER, Network

VICTIM, LATE = "site-0000", "site-0003"
STRICT: dict[str, Any] = {"threshold": 4, "minimum_survivors": 5}


def test_what_a_step_holds_stands_in_no_repr() -> None:
    assert repr(Step(None, b"attached", b"drawn")) == "Step(body=None)"
    assert (Step().attachment, Step().secret) == (b"", b"")


def test_too_few_advertisements_or_sharers_are_refused() -> None:
    network = Network(5, **STRICT)
    listed = network.body_for(VICTIM, Kind.ADVERTISEMENTS, Advertisements).envelopes
    with pytest.raises(
        SecureAggregationError, match=r"^advertisements must be of at least 5 clients, got 4"
    ):
        network.tell(VICTIM, Advertisements(listed[:4]))

    later = Network(5, **STRICT)
    body = later.body_for(VICTIM, Kind.DELIVERIES, Deliveries)
    with pytest.raises(
        SecureAggregationError, match=r"^sharers must be of at least 5 clients, got 4"
    ):
        later.tell(VICTIM, Deliveries(body.sharers[:4], body.deliveries[:3]))


def test_too_few_nonces_or_survivors_are_refused() -> None:
    network = Network(16, **SPARSE)
    listed = network.body_for(VICTIM, Kind.NONCE_REVEALS, NonceReveals).envelopes
    with pytest.raises(
        SecureAggregationError, match=r"^nonces must be of at least 13 clients, got 12"
    ):
        network.tell(VICTIM, NonceReveals(listed[:12]))

    later = Network(5, **STRICT)
    entries = later.body_for(VICTIM, Kind.SURVIVORS, Survivors).entries
    with pytest.raises(
        SecureAggregationError, match=r"^survivors must be of at least 5 clients, got 4"
    ):
        later.tell(VICTIM, Survivors(entries[:4]))


def test_the_nonce_of_somebody_who_has_not_advertised_is_refused() -> None:
    network = Network(16, **SPARSE)
    network.lost.add(LATE)
    listed = network.body_for(VICTIM, Kind.NONCE_REVEALS, NonceReveals).envelopes
    stray = network.lie(NonceReveal(bytes(32), network.clients[VICTIM]._knowledge.seen), LATE)

    with pytest.raises(
        SecureAggregationError, match=r"^nonces must be of all 15 who advertised, got 16"
    ):
        network.tell(VICTIM, NonceReveals((*listed[:3], stray, *listed[3:])))


@pytest.mark.parametrize("field", ["mask_key", "channel_key"])
def test_another_key_in_place_of_ones_own_is_refused(field: str) -> None:
    network = Network(4)
    listed = network.body_for(VICTIM, Kind.ADVERTISEMENTS, Advertisements).envelopes
    own = network.body_of(network.sent[VICTIM][0], Advertisement)
    other = network.lie(replace(own, **{field: b"\x07" * 32}), VICTIM)

    with pytest.raises(SecureAggregationError, match="must hold this client's own keys, got none"):
        network.tell(VICTIM, Advertisements((other, *listed[1:])))


@pytest.mark.parametrize("weight", [0, 9])
def test_a_weight_out_of_the_rounds_bound_is_refused_before_anything_is_masked(weight: int) -> None:
    network = Network(4)
    update, _ = network.updates.pop(VICTIM)
    network.begin()
    network.deliver()

    with pytest.raises(
        SecureAggregationError,
        match=rf"^weight must be 1 to the round's weight_bound 8, got {weight}",
    ):
        network.clients[VICTIM].submit(update, weight)


@pytest.mark.parametrize("mode", [Proofs.OFF, Proofs.SUM])
def test_the_same_update_gives_the_same_upload_after_a_restart(mode: Proofs) -> None:
    network = Network(4, mode=mode)
    network.run_until(Kind.SURVIVORS)
    update, weight = network.updates[VICTIM]
    network.restart_client(VICTIM)

    (again,) = network.clients[VICTIM].submit(update, weight)

    sends = [send for send in network.sent[VICTIM] if send.vector is not None]
    assert isinstance(again, Send)
    assert again.vector is not None
    assert again.vector.tobytes() == network.uploads[VICTIM]
    assert replace(again, vector=None) == replace(sends[0], vector=None)
    for other, other_weight in ((update, weight % 8 + 1), (-update, weight)):
        with pytest.raises(
            SecureAggregationError, match=r"^update must be the one that was submit"
        ):
            network.clients[VICTIM].submit(other, other_weight)


@pytest.mark.parametrize("change", [-4, 4])
def test_a_sum_of_another_length_is_refused_though_its_digest_is_signed(change: int) -> None:
    network = Network(4)
    held = network.run_until(Kind.RESULT)
    body = network.body_of(held[VICTIM], Result)
    whole = held[VICTIM].vector
    assert whole is not None
    content = (whole.tobytes() + bytes(4))[: 152 + change]
    digest = vector_digest(np.frombuffer(content, np.uint8))

    with pytest.raises(
        SecureAggregationError, match=rf"^sum must be 152 bytes .* got {152 + change}"
    ):
        network.tell(VICTIM, Result(body.inputs, digest), content)


def test_what_names_a_proof_and_what_it_is_good_for_are_these() -> None:
    conversation = Conversation(Network(4).descriptor, VERIFIER)
    parts = b"".join(len(part).to_bytes(8, "little") + part for part in (b"proof", b"site-0001"))
    domain = b"kumiai/secagg/transcript/v1/" + conversation.context

    assert proof_digest(b"p") == hashlib.sha256(b"kumiai/secagg/proof/v1/p").digest()
    assert proof_digest(b"") == b""
    assert proof_context(conversation, 1) == hashlib.sha256(domain + parts).digest()


@pytest.mark.parametrize("field", ["mask_key", "channel_key"])
@pytest.mark.parametrize("key", ["another's", "of low order"])
def test_a_key_that_is_anothers_or_of_low_order_is_refused(field: str, key: str) -> None:
    network = Network(4)
    listed = network.body_for(VICTIM, Kind.ADVERTISEMENTS, Advertisements).envelopes
    own, other = (network.body_of(network.sent[name][0], Advertisement) for name in (LATE, VICTIM))
    content = getattr(other, field) if key == "another's" else bytes(32)
    forged = network.lie(replace(own, **{field: content}), LATE)

    with pytest.raises(KumiaiError, match="keys must all differ" if any(content) else "low order"):
        network.tell(VICTIM, Advertisements((*listed[:3], forged)))
