"""Rounds in which each client masks towards a part of the others."""

import numpy as np
import pytest

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.actions import Send
from kumiai.secagg.messages import Kind, NonceReveal, NonceReveals
from kumiai.secagg.parameters import Adversary
from tests.secagg.rounds import SPARSE, Network


def sparse(count: int = 16) -> Network:
    return Network(count, **SPARSE)


def test_the_sum_is_exact_and_each_client_holds_few_shares() -> None:
    network = sparse()

    network.run()

    assert network.outcome is not None
    assert np.array_equal(network.outcome.total, network.plain_sum(tuple(network.names))[0])
    assert len(network.receipts) == 16
    held = {len(client._knowledge.held) for client in network.clients.values()}
    assert held == {11}


@pytest.mark.parametrize(
    "kind",
    [Kind.ADVERTISEMENT, Kind.NONCE_REVEAL, Kind.KEY_SHARES, Kind.MASKED_INPUT, Kind.UNMASKING],
)
def test_clients_may_vanish_at_every_phase(kind: Kind) -> None:
    network = sparse()
    vanishing = set(network.names[5:8])

    def change(name: str, send: Send) -> Send | None:
        if name in vanishing and network.kind_of(send) is kind:
            network.lost.add(name)
            return None
        return send

    network.to_server = change
    network.run()

    assert network.outcome is not None, network.stopped
    survivors = tuple(
        name for name in network.names if name not in vanishing or kind is Kind.UNMASKING
    )
    assert network.outcome.survivors == survivors
    assert np.array_equal(network.outcome.total, network.plain_sum(survivors)[0])


def test_a_malicious_coordinator_cannot_leave_nonces_out() -> None:
    network = Network(16, **{**SPARSE, "adversary": Adversary.MALICIOUS, "threshold": 7})
    held = network.run_until(Kind.NONCE_REVEALS)
    envelopes = network.body_of(held["site-0000"], NonceReveals).envelopes

    with pytest.raises(SecureAggregationError, match="nonces must be of all 16"):
        network.tell("site-0000", NonceReveals(envelopes[:-1]))


def test_a_round_in_which_a_nonce_is_kept_back_ends_against_a_malicious_coordinator() -> None:
    network = Network(16, **{**SPARSE, "adversary": Adversary.MALICIOUS, "threshold": 7})

    def change(name: str, send: Send) -> Send | None:
        is_kept = name == "site-0009" and network.kind_of(send) is Kind.NONCE_REVEAL
        return None if is_kept else send

    network.to_server = change
    network.run()

    assert network.outcome is None
    assert network.stopped == "revealing needs 16 clients, got 15"


@pytest.mark.parametrize("is_nonce", [True, False])
def test_another_nonce_than_was_hidden_is_noticed_by_both_sides(is_nonce: bool) -> None:
    network = sparse()
    cheat, victim = "site-0009", "site-0000"
    held = network.run_until(Kind.NONCE_REVEALS)
    envelopes = list(network.body_of(held[victim], NonceReveals).envelopes)
    seen = network.clients[cheat]._knowledge.seen
    body = NonceReveal(bytes(32), seen) if is_nonce else NonceReveal(
        network.clients[cheat]._knowledge.keys.nonce, bytes(32)
    )  # fmt: skip
    envelopes[9] = network.lie(body, cheat)

    with pytest.raises(SecureAggregationError, match="'site-0009' must reveal the nonce"):
        network.tell(victim, NonceReveals(tuple(envelopes)))

    other = sparse()
    other.to_server = lambda name, send: (
        Send(other.lie(body, cheat))
        if name == cheat and other.kind_of(send) is Kind.NONCE_REVEAL
        else send
    )
    other.run()
    assert list(other.excluded) == [cheat]
    assert other.outcome is not None


def test_nonces_without_ones_own_are_refused() -> None:
    network = sparse()
    held = network.run_until(Kind.NONCE_REVEALS)
    envelopes = network.body_of(held["site-0000"], NonceReveals).envelopes

    with pytest.raises(SecureAggregationError, match="nonces must hold this client's own"):
        network.tell("site-0000", NonceReveals(envelopes[1:]))


def test_both_sides_restart_in_a_sparse_round() -> None:
    network = sparse()
    held = network.run_until(Kind.AGREEMENTS)
    for name in network.names:
        network.restart_client(name)
    network.restart_server()

    for name, send in held.items():
        network.from_client(name, network.clients[name].receive(send.message))
    network.deliver()

    assert network.outcome is not None
    assert np.array_equal(network.outcome.total, network.plain_sum(tuple(network.names))[0])
