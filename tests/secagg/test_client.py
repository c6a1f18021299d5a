"""The client's machine: what it does when, and what it will not do."""

import pytest

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.actions import AskUpdate, KeepReceipt, Send, Stop
from kumiai.secagg.client import ClientRound
from kumiai.secagg.client_records import (
    CLIENT_TRANSITIONS,
    PAILLIER_CLIENT_TRANSITIONS,
    ClientEvent,
    ClientPhase,
    ClientRecord,
)
from kumiai.secagg.descriptor import Proofs
from kumiai.secagg.messages import (
    Abandonment,
    Advertisement,
    Advertisements,
    Agreement,
    Deliveries,
    Delivery,
    Kind,
    MaskedInput,
    ReceiptIssue,
    Survivors,
)
from tests.secagg.rounds import (
    VERIFIER,
    Network,
    describe,
    paillier_network,
    pedersen_proofs,
    signers_of,
)

VICTIM = "site-0000"


def test_every_phase_is_reached_and_left_but_the_last_ones() -> None:
    tables = (CLIENT_TRANSITIONS, PAILLIER_CLIENT_TRANSITIONS)
    reached = {phase for table in tables for phase in table.values()}
    left = {phase for table in tables for phase, _ in table}

    assert reached == set(ClientPhase) - {ClientPhase.NEW}
    assert set(ClientPhase) - left == {ClientPhase.DONE, ClientPhase.STOPPED}


@pytest.mark.parametrize("table", [CLIENT_TRANSITIONS, PAILLIER_CLIENT_TRANSITIONS])
def test_no_step_is_taken_twice_on_any_way_through(
    table: dict[tuple[ClientPhase, ClientEvent], ClientPhase],
) -> None:
    def ways(phase: ClientPhase, taken: tuple[ClientEvent, ...]) -> list[tuple[ClientEvent, ...]]:
        steps = [(event, to) for (at, event), to in table.items() if at is phase]
        return [taken] + [way for event, to in steps for way in ways(to, (*taken, event))]

    assert all(len(set(way)) == len(way) for way in ways(ClientPhase.NEW, ()))


def test_a_client_begins_once() -> None:
    network = Network(4)
    network.begin()

    with pytest.raises(SecureAggregationError, match="begin must come when it is awaited"):
        network.clients[VICTIM].begin()


def test_it_says_how_far_it_is_and_nothing_else() -> None:
    network = Network(4)
    network.begin()

    assert repr(network.clients[VICTIM]) == "ClientRound('site-0000', ADVERTISED)"
    assert repr(network.clients[VICTIM]._knowledge) == "ClientKnowledge('site-0000')"


@pytest.mark.parametrize("mode", [Proofs.OFF, Proofs.SUM])
def test_proofs_are_given_exactly_where_the_round_has_them(mode: Proofs) -> None:
    signers = signers_of(4)
    proofs = pedersen_proofs() if mode is Proofs.OFF else None

    with pytest.raises(SecureAggregationError, match="proofs must be given for a round with"):
        ClientRound(
            describe(signers, proofs=mode),
            VICTIM,
            signer=signers[VICTIM],
            verifier=VERIFIER,
            proofs=proofs,
        )


def test_a_message_for_the_coordinator_is_refused() -> None:
    network = Network(4)
    network.begin()

    with pytest.raises(SecureAggregationError, match="message must be for clients, got agreement"):
        network.tell(VICTIM, Agreement(bytes(32)))


def test_what_is_signed_as_one_kind_is_not_read_as_another() -> None:
    network = Network(4)
    held = network.run_until(Kind.ADVERTISEMENTS)
    listed = network.body_of(held[VICTIM], Advertisements).envelopes
    agreement = network.lie(Agreement(bytes(32)), "site-0003")

    with pytest.raises(
        SecureAggregationError, match="must be Advertisement, got Agreement of 'site-0003'"
    ):
        network.tell(VICTIM, Advertisements((*listed[:3], agreement)))


def test_a_lost_connection_is_taken_up_with_the_last_message() -> None:
    network = Network(4)
    assert network.clients[VICTIM].resend() == ()
    network.run_until(Kind.ADVERTISEMENTS)

    assert network.clients[VICTIM].resend() == (network.sent[VICTIM][0],)


def test_a_client_that_has_its_shares_asks_for_the_update_again_after_a_restart() -> None:
    network = Network(4)
    update = network.updates.pop(VICTIM)
    network.begin()
    network.deliver()
    told = network.told[VICTIM][-1]
    assert network.clients[VICTIM].phase is ClientPhase.READY

    network.restart_client(VICTIM)

    assert network.clients[VICTIM].resend() == (AskUpdate(),)
    assert network.clients[VICTIM].receive(told.message) == (AskUpdate(),)
    network.from_client(VICTIM, network.clients[VICTIM].submit(*update))
    assert network.clients[VICTIM].receive(told.message) == ()
    assert network.clients[VICTIM].resend() == (AskUpdate(),)


def test_a_round_that_was_given_up_takes_nothing_more() -> None:
    network = Network(4)
    held = network.run_until(Kind.SURVIVORS)

    actions = network.tell(VICTIM, Abandonment("too few"))

    assert actions[-1] == Stop("too few")
    assert network.clients[VICTIM].resend() == ()
    with pytest.raises(SecureAggregationError, match="got it while stopped"):
        network.clients[VICTIM].receive(held[VICTIM].message)
    with pytest.raises(SecureAggregationError, match="got it while stopped"):
        network.clients[VICTIM].submit(*network.updates[VICTIM])
    network.restart_client(VICTIM)
    assert network.clients[VICTIM].phase is ClientPhase.STOPPED


def test_a_finished_round_has_nothing_to_send_again() -> None:
    network = Network(4)
    network.run()

    assert network.clients[VICTIM].phase is ClientPhase.DONE
    assert network.clients[VICTIM].resend() == ()
    network.restart_client(VICTIM)
    assert network.clients[VICTIM].phase is ClientPhase.DONE


def test_a_list_of_sharers_without_oneself_or_with_strangers_is_refused() -> None:
    network = Network(7)
    held = network.run_until(Kind.DELIVERIES)
    body = network.body_of(held[VICTIM], Deliveries)

    for sharers in ((1, 2, 3, 4, 5, 6), (0, 1, 2, 3, 4, 5, 6, 9)):
        with pytest.raises(SecureAggregationError, match="sharers must be of those"):
            network.tell(VICTIM, Deliveries(sharers, body.deliveries))


def test_anothers_delivery_is_refused_though_it_stands_under_the_root() -> None:
    network = Network(4)
    held = network.run_until(Kind.DELIVERIES)
    own = network.body_of(held[VICTIM], Deliveries)
    third = network.body_of(held["site-0003"], Deliveries)
    others = {delivery.envelope: delivery for delivery in third.deliveries}
    first, *rest = own.deliveries
    stolen: Delivery = others[first.envelope]

    with pytest.raises(SecureAggregationError, match="delivery must be for this client"):
        network.tell(VICTIM, Deliveries(own.sharers, (stolen, *rest)))


def test_survivors_among_whom_too_few_are_neighbours_are_refused() -> None:
    network = Network(16, degree=10, threshold=7, minimum_survivors=13, colluders=1, dimension=3)
    network.run_until(Kind.SURVIVORS)
    entries = network.server._knowledge.entries
    near = set(network.clients[VICTIM]._knowledge.graph.neighbours(0))
    thin = tuple(entry for entry in entries if entry.index not in sorted(near)[:3])

    network.clients[VICTIM]._knowledge.graph.holders[0] = (0, 1, 2)

    with pytest.raises(SecureAggregationError, match="survivors must hold 7 of this client's"):
        network.tell(VICTIM, Survivors(thin))


def test_a_nonce_where_none_belongs_is_refused_by_both_sides() -> None:
    network = Network(4)
    held = network.run_until(Kind.ADVERTISEMENTS)
    listed = network.body_of(held[VICTIM], Advertisements).envelopes
    body = network.body_of(network.sent["site-0003"][0], Advertisement)
    odd = Advertisement(body.mask_key, body.channel_key, bytes(32))

    with pytest.raises(SecureAggregationError, match="nonce_digest must be 0 bytes"):
        network.tell(VICTIM, Advertisements((*listed[:3], network.lie(odd, "site-0003"))))

    fresh = Network(4, signers=network.signers)
    fresh.begin()
    fresh.server.receive("site-0003", fresh.lie(odd, "site-0003"))
    assert fresh.server.excluded == {"site-0003": "advertised 32 bytes of a nonce"}


def test_the_uploads_size_is_four_bytes_a_number() -> None:
    network = Network(4, dimension=1000)
    network.run()
    (send,) = [each for each in network.sent[VICTIM] if network.kind_of(each) is Kind.MASKED_INPUT]

    assert isinstance(send, Send)
    assert send.vector is not None
    assert send.vector.nbytes == 4 * 1001
    assert network.body_of(send, MaskedInput).vector_size_bytes == 4 * 1001


def test_a_client_that_has_seen_no_sum_knows_of_no_groups() -> None:
    assert Network(4).clients[VICTIM].rerun_groups == ()


def test_a_result_without_its_sum_is_refused() -> None:
    network = Network(4)
    held = network.run_until(Kind.RESULT)

    with pytest.raises(SecureAggregationError, match=r"^sum must be 152 bytes .* got 0 bytes"):
        network.clients[VICTIM].receive(held[VICTIM].message)


def test_what_a_client_does_of_itself_is_written_down_without_a_message() -> None:
    network = Network(4)
    network.run_until(Kind.SURVIVORS)
    records = [
        ClientRecord.decode(data, number)
        for number, data in enumerate(network.records[VICTIM], start=1)
    ]

    heard = {record.event: record.heard for record in records}

    assert heard[ClientEvent.BEGIN] == heard[ClientEvent.SUBMIT] == b""
    assert heard[ClientEvent.DELIVERIES] == network.told[VICTIM][1].message


def test_records_of_a_step_that_is_not_awaited_are_not_taken_up() -> None:
    network = Network(4)
    network.records[VICTIM] = [ClientRecord(1, ClientEvent.SUBMIT).encode()]
    network.counters[VICTIM] = 1

    with pytest.raises(SecureAggregationError, match=r"^submit must come when it is awaited"):
        network.restart_client(VICTIM)


def test_the_last_messages_of_a_round_may_come_twice() -> None:
    network = Network(4)
    network.run()
    issue = network.told[VICTIM][-1].message
    given_up = Network(4)
    given_up.begin()
    end = given_up.lie(Abandonment("too few"))
    given_up.clients[VICTIM].receive(end)

    assert network.clients[VICTIM].receive(issue) == (KeepReceipt(network.receipts[VICTIM]),)
    assert given_up.clients[VICTIM].receive(end) == (Stop("too few"),)
    with pytest.raises(SecureAggregationError, match="receipt_issue must be the ones that came"):
        network.tell(VICTIM, ReceiptIssue(b"another"))


def test_an_end_that_cannot_be_read_changes_nothing() -> None:
    network = Network(4)
    network.begin()

    with pytest.raises(SecureAggregationError, match="reason must be printable and not empty"):
        network.clients[VICTIM].receive(network.lie_in_bytes(Kind.ABANDONMENT, bytes(4)))

    assert network.clients[VICTIM].phase is ClientPhase.ADVERTISED


def test_a_client_that_only_listened_last_says_again_what_it_said_before() -> None:
    network = paillier_network(3)
    network.run_until(Kind.KEY_DELIVERY)
    dealt = {name for name in network.names if len(network.sent[name]) == 2}

    for name in network.names:
        assert network.clients[name].resend() == (network.sent[name][-1],)
    assert len(dealt) == 1


def test_a_client_that_was_restarted_knows_which_sum_it_has_confirmed() -> None:
    network = paillier_network(3)
    held = network.run_until(Kind.RECEIPT_ISSUE)

    for name, send in held.items():
        network.restart_client(name)
        network.from_client(name, network.clients[name].receive(send.message))

    assert sorted(network.receipts) == network.names
