"""What the coordinator takes of a client's word, and whom it names for what."""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.actions import Exclude, Send
from kumiai.secagg.client_steps import proof_digest
from kumiai.secagg.descriptor import Member, Proofs, RoundDescriptor, Scheme
from kumiai.secagg.messages import (
    SHARE_ENTRIES,
    Advertisement,
    Agreement,
    Body,
    Confirmation,
    KeyShares,
    Kind,
    MaskedInput,
    NonceReveal,
    Unmasking,
)
from kumiai.secagg.parameters import Adversary
from kumiai.secagg.proofs import CommittedUpdate
from kumiai.secagg.receipts import verify_receipt
from kumiai.secagg.schemes import server_machine
from tests.secagg.rounds import (
    COORDINATOR,
    SPARSE,
    VERIFIER,
    Network,
    names_of,
    paillier_network,
    pedersen_proofs,
    signers_of,
)

CHEAT, LATE = "site-0002", "site-0003"


class LastFirst(deque[tuple[str, Send]]):
    """What waits is delivered in the wrong order."""

    def popleft(self) -> tuple[str, Send]:
        return self.pop()


def excluded(network: Network, body: Body, attachment: bytes = b"") -> dict[str, str]:
    """Let one client sign a body, and return whom the coordinator names for it."""
    actions = network.server.receive(CHEAT, network.lie(body, CHEAT), attachment)
    return {each.client: each.reason for each in actions if isinstance(each, Exclude)}


def own_input(network: Network) -> MaskedInput:
    return network.body_of(network.kept_back(Kind.MASKED_INPUT, CHEAT), MaskedInput)


@pytest.mark.parametrize("changes", [{}, SPARSE])
def test_messages_may_come_in_any_order(changes: dict[str, Any]) -> None:
    network = Network(16, **{"threshold": 11, "minimum_survivors": 11, "dimension": 3, **changes})
    network._waiting = LastFirst()

    network.run()

    assert network.outcome is not None
    assert np.array_equal(network.outcome.total, network.plain_sum(tuple(network.names))[0])
    assert sorted(network.receipts) == network.names
    roster = {member.name: member.verification_key for member in network.descriptor.roster}
    facts = [verify_receipt(each, roster, verifier=VERIFIER) for each in network.receipts.values()]
    assert {len(each.signers) for each in facts} == {network.descriptor.quorum}


def test_few_survivors_of_many_clients_are_named_in_their_order() -> None:
    few = ("site-0002", "site-0003", "site-0009")
    trusted: dict[str, Any] = {"adversary": Adversary.SEMI_HONEST, "colluders": 0}
    network = Network(12, threshold=3, minimum_survivors=3, dimension=3, **trusted)
    network.updates = {name: network.updates[name] for name in few}

    network.run()

    assert network.outcome is not None
    assert network.outcome.survivors == few
    assert np.array_equal(network.outcome.total, network.plain_sum(few)[0])


@pytest.mark.parametrize(
    ("kind", "body", "who"),
    [
        (Kind.SURVIVORS, Agreement(bytes(32)), "the survivors"),
        (Kind.AGREEMENTS, Unmasking(()), "the survivors"),
        (Kind.RESULT, Confirmation(bytes(32), is_right=True), "the survivors"),
    ],
)
def test_whoever_is_not_in_the_sum_has_no_say_in_it(kind: Kind, body: Body, who: str) -> None:
    network = Network(5, threshold=4, minimum_survivors=4)
    network.updates.pop(LATE)
    network.run_until(kind)

    with pytest.raises(SecureAggregationError, match=f"'{LATE}' must be one of {who}, and is not"):
        network.server.receive(LATE, network.lie(body, LATE))

    assert network.server.excluded == {}


@pytest.mark.parametrize(
    ("kind", "body", "who"),
    [
        (Kind.ADVERTISEMENTS, NonceReveal(bytes(32), bytes(32)), "those who advertised"),
        (Kind.NONCE_REVEALS, KeyShares(bytes(32), bytes(32), bytes(32)), "those in the graph"),
    ],
)
def test_whoever_has_not_advertised_takes_no_part_in_a_sparse_round(
    kind: Kind, body: Body, who: str
) -> None:
    network = Network(16, **SPARSE)
    network.lost.add(LATE)
    network.run_until(kind)

    with pytest.raises(SecureAggregationError, match=f"'{LATE}' must be one of {who}, and is not"):
        network.server.receive(LATE, network.lie(body, LATE))


def test_one_key_for_masks_and_shares_names_its_client() -> None:
    network = Network(4)
    sent = network.kept_back(Kind.ADVERTISEMENT, CHEAT)
    key = network.body_of(sent, Advertisement).mask_key

    assert excluded(network, Advertisement(key, key, b"")) == {
        CHEAT: "advertised a key that is in use already"
    }


def test_another_nonce_than_was_hidden_names_its_client() -> None:
    network = Network(16, **SPARSE)
    network.run_until(Kind.ADVERTISEMENTS)

    assert excluded(network, NonceReveal(bytes(32), network.server._knowledge.hidden)) == {
        CHEAT: "revealed another nonce than it had hidden"
    }


def test_who_deals_the_key_does_not_depend_on_who_came_first() -> None:
    network = paillier_network(5)
    network.clients = dict(reversed(network.clients.items()))

    network.run()

    assert network.outcome is not None
    assert np.array_equal(network.outcome.total, network.plain_sum(tuple(network.names))[0])


@pytest.mark.parametrize("count", [0, 3])
def test_other_shares_than_those_under_the_signed_root_are_refused(count: int) -> None:
    network = Network(4)
    sent = network.kept_back(Kind.KEY_SHARES, CHEAT)
    entries = SHARE_ENTRIES.decode(sent.attachment)[:count]
    body = replace(network.body_of(sent, KeyShares), root=bytes(32))

    with pytest.raises(SecureAggregationError, match="shares must be those under the signed root"):
        network.server.receive(CHEAT, network.lie(body, CHEAT), SHARE_ENTRIES.write(entries))

    assert network.server.excluded == {}


def scaled_network() -> Network:
    signers = signers_of(4)
    roster = tuple(Member(name, signers[name].public, 3) for name in names_of(4))
    return Network(4, signers=signers, roster=roster)


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (3 * 8, {}),
        (3, {}),
        (3 * 8 + 3, {CHEAT: "gave its update the weight 27"}),
        (3 * 8 - 1, {CHEAT: "gave its update the weight 23"}),
        (2, {CHEAT: "gave its update the weight 2"}),
    ],
)
def test_a_weight_is_the_scale_times_one_to_the_bound(weight: int, reason: dict[str, str]) -> None:
    network = scaled_network()
    body = own_input(network)

    assert excluded(network, replace(body, weight=weight)) == reason


def test_a_client_may_complain_about_all_its_neighbours_and_about_nobody_else() -> None:
    network = Network(4)
    body = own_input(network)

    assert excluded(network, replace(body, complaints=(0, 1, 3))) == {}

    other = Network(4)
    body = own_input(other)
    assert excluded(other, replace(body, complaints=(0, 2))) == {
        CHEAT: "complained about clients that sent it nothing"
    }


def test_what_proves_something_has_no_place_in_a_round_without_proofs() -> None:
    proven = Network(4)
    body = own_input(proven)

    assert excluded(proven, replace(body, proof_digest=proof_digest(b"proof")), b"proof") == {
        CHEAT: "committed to its update in a round without proofs"
    }
    committed = Network(4)
    body = own_input(committed)
    assert excluded(committed, replace(body, commitments=b"row")) == {
        CHEAT: "committed to its update in a round without proofs"
    }


class Unrepeated:
    """Proofs that are checked when they come, and must not be checked after a restart."""

    def __init__(self) -> None:
        self.checked = 0

    def blinding_count(self, descriptor: RoundDescriptor) -> int:
        return pedersen_proofs().blinding_count(descriptor)

    def commit(
        self, values: NDArray[np.int64], descriptor: RoundDescriptor, context: bytes
    ) -> CommittedUpdate:
        return pedersen_proofs().commit(values, descriptor, context)

    def verify_update(
        self,
        commitments: bytes,
        proof: bytes,
        weight: int,
        *,
        descriptor: RoundDescriptor,
        context: bytes,
    ) -> None:
        self.checked += 1

    def verify_sum(
        self, commitments: Sequence[bytes], total: NDArray[np.int64], blindings: Sequence[int]
    ) -> None:
        pedersen_proofs().verify_sum(commitments, total, blindings)


@pytest.mark.parametrize("scheme", [Scheme.MASKING, Scheme.PAILLIER])
def test_proofs_are_checked_when_they_come_and_not_again_after_a_restart(scheme: Scheme) -> None:
    make = paillier_network if scheme is Scheme.PAILLIER else Network
    network = make(4, mode=Proofs.SUM)
    fresh, again = Unrepeated(), Unrepeated()
    network.server._knowledge._proofs = fresh
    network.run_until(Kind.SURVIVORS)

    server = server_machine(network.descriptor).restore(
        network.descriptor,
        COORDINATOR,
        network.records[COORDINATOR],
        signer=network.signers[COORDINATOR],
        verifier=VERIFIER,
        proofs=again,
    )

    assert sorted(server.missing_uploads) == network.names
    assert (fresh.checked, again.checked) == (4, 0)
