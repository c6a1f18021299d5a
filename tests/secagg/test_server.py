"""The coordinator's machine: what it takes when, whom it names, and how it goes on."""

from dataclasses import replace

import numpy as np
import pytest

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.actions import Exclude, Publish, Send, Stop
from kumiai.secagg.descriptor import Proofs
from kumiai.secagg.messages import (
    SHARE_ENTRIES,
    Advertisement,
    Agreement,
    Agreements,
    Confirmation,
    KeyShares,
    Kind,
    MaskedInput,
    Survivors,
)
from kumiai.secagg.receipts import verify_receipt
from kumiai.secagg.server import ServerRound
from kumiai.secagg.server_records import (
    PAILLIER_SERVER_TRANSITIONS,
    SERVER_TRANSITIONS,
    ServerEvent,
    ServerPhase,
    ServerRecord,
)
from kumiai.secagg.sharing import leaf_of
from kumiai.secagg.tree import HashTree
from tests.secagg.rounds import (
    COORDINATOR,
    VERIFIER,
    Network,
    blocks_of,
    describe,
    lose,
    pedersen_proofs,
    signers_of,
)

CHEAT = "site-0002"


def cheating(network: Network, kind: Kind, body: object, attachment: bytes = b"") -> None:
    """Let one client sign another body instead of its own."""

    def change(name: str, send: Send) -> Send:
        if name == CHEAT and network.kind_of(send) is kind:
            return Send(network.lie(body, CHEAT), attachment, send.vector)  # type: ignore[arg-type]
        return send

    network.to_server = change


def test_every_phase_is_reached_and_left_but_the_last_ones() -> None:
    beginnings = {ServerPhase.ADVERTISING, ServerPhase.ADVERTISING_HIDDEN}
    steps = [*SERVER_TRANSITIONS.items(), *PAILLIER_SERVER_TRANSITIONS.items()]
    reached = {to for (at, _), to in steps if to is not at}
    left = {phase for (phase, _), _ in steps}

    assert reached == set(ServerPhase) - beginnings
    assert set(ServerPhase) - left == {ServerPhase.PUBLISHED, ServerPhase.ABANDONED}
    assert {event for (_, event), _ in steps} == set(ServerEvent)


def test_only_who_may_speak_for_the_coordinator_runs_a_round() -> None:
    signers = signers_of(4)

    with pytest.raises(SecureAggregationError, match="name must be one of the coordinators"):
        ServerRound(describe(signers), "site-0000", signer=signers["site-0000"], verifier=VERIFIER)


def test_it_tells_how_far_it_is_and_who_is_awaited() -> None:
    network = Network(4)
    network.lost.add(CHEAT)
    network.begin()
    network.deliver()

    assert network.server.phase is ServerPhase.ADVERTISING
    assert network.server.awaited == (CHEAT,)
    assert network.server.has_enough
    assert repr(network.server).endswith("ADVERTISING)")
    assert network.server.announce() == ()


def test_three_of_four_are_enough_and_two_are_not() -> None:
    network = Network(4)
    network.lost |= {CHEAT, "site-0003"}
    network.begin()
    network.deliver()
    assert not network.server.has_enough

    network.from_server(network.server.end_phase())

    assert network.stopped == "advertising needs 3 clients, got 2"
    assert network.server.awaited == ()
    assert not network.server.has_enough
    with pytest.raises(SecureAggregationError, match="end must come when it is awaited"):
        network.server.end_phase()


def test_a_message_for_clients_is_refused() -> None:
    network = Network(4)

    with pytest.raises(SecureAggregationError, match="for the coordinator, got survivors"):
        network.server.receive(CHEAT, network.lie(Survivors(()), CHEAT))


def test_a_message_that_is_too_late_is_refused() -> None:
    network = Network(4)
    network.lost.add(CHEAT)
    late = network.clients[CHEAT].begin()
    network.run_until(Kind.DELIVERIES)

    (message,) = [action.message for action in late if isinstance(action, Send)]
    with pytest.raises(SecureAggregationError, match="advertisement must come when it is awaited"):
        network.server.receive(CHEAT, message)


def test_whoever_missed_a_phase_cannot_come_back_in_the_next() -> None:
    network = Network(4)

    def change(name: str, send: Send) -> Send | None:
        is_lost = name == CHEAT and network.kind_of(send) is Kind.KEY_SHARES
        return None if is_lost else send

    network.to_server = change
    network.updates.pop("site-0003")
    network.begin()
    network.deliver()
    network.from_server(network.server.end_phase())
    body = MaskedInput(bytes(32), 152, 1, b"", b"", ())

    with pytest.raises(SecureAggregationError, match="must be one of those who shared"):
        network.server.receive(CHEAT, network.lie(body, CHEAT))
    with pytest.raises(SecureAggregationError, match="must follow its masked input"):
        network.server.add_upload(CHEAT, blocks_of(b""))


def test_an_unusable_key_names_its_client() -> None:
    network = Network(4)
    network.begin()
    weak = Advertisement(bytes(32), b"\x09" + bytes(31), b"")

    network.from_server(network.server.receive(CHEAT, network.lie(weak, CHEAT)))

    assert network.excluded[CHEAT].startswith("advertised an unusable key: ")


def test_shares_for_others_than_the_neighbours_name_their_author() -> None:
    network = Network(4)

    def change(name: str, send: Send) -> Send:
        if name != CHEAT or network.kind_of(send) is not Kind.KEY_SHARES:
            return send
        entries = SHARE_ENTRIES.decode(send.attachment)[:-1]
        context = network.descriptor.context()
        root = HashTree([leaf_of(context, 2, entry) for entry in entries]).root
        body = replace(network.body_of(send, KeyShares), root=root)
        return Send(network.lie(body, CHEAT), SHARE_ENTRIES.write(entries))

    network.to_server = change
    network.run()

    assert network.excluded == {CHEAT: "shared its secrets among others than its neighbours"}
    assert network.outcome is not None


def test_a_nonce_after_other_advertisements_names_its_client() -> None:
    network = Network(16, degree=10, threshold=7, minimum_survivors=13, colluders=1, dimension=3)
    network.run_until(Kind.ADVERTISEMENTS)
    from kumiai.secagg.messages import NonceReveal

    body = NonceReveal(network.clients[CHEAT]._knowledge.keys.nonce, bytes(32))
    network.from_server(network.server.receive(CHEAT, network.lie(body, CHEAT)))

    assert network.excluded == {CHEAT: "says that it has seen other advertisements"}


def test_agreeing_to_other_survivors_names_the_client_and_its_update_still_counts() -> None:
    network = Network(4)
    cheating(network, Kind.AGREEMENT, Agreement(bytes(32)))

    network.run()

    assert network.excluded == {CHEAT: "agreed to other survivors than it was told"}
    assert network.outcome is not None
    assert network.outcome.survivors == tuple(network.names)
    assert sorted(network.receipts) == [name for name in network.names if name != CHEAT]
    assert all(send.recipients for send in network.sent[COORDINATOR])


def test_an_excluded_clients_upload_is_not_added() -> None:
    network = Network(4)
    cheating(network, Kind.MASKED_INPUT, MaskedInput(bytes(32), 0, 1, b"", b"", ()))
    network.raises = False

    network.run()

    assert network.excluded == {CHEAT: "named an upload of 0 bytes"}
    assert "must follow its masked input" in str(network.refused[0][1])


def test_an_upload_counts_once_however_often_it_comes() -> None:
    network = Network(4)
    network.run_until(Kind.SURVIVORS)

    assert network.server.add_upload(CHEAT, blocks_of(network.uploads[CHEAT])) == ()
    network.restart_server()
    assert network.server.add_upload(CHEAT, blocks_of(network.uploads[CHEAT])) == ()
    assert network.server.named_uploads == {}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda whole: whole[:-4], "upload must be 152 bytes, got 148"),
        (lambda whole: whole + bytes(4), "upload must be 152 bytes, got 156 or more"),
        (lambda whole: bytes(152), "upload must have the digest"),
    ],
)
def test_an_upload_of_other_bytes_leaves_the_sum_as_it_was(change, problem: str) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    network = Network(4)
    uploads: dict[str, bytes] = {}

    def keep(name: str, send: Send) -> Send:
        if name == CHEAT and send.vector is not None:
            uploads[name] = bytes(send.vector)
            return replace(send, vector=None)
        return send

    network.to_server = keep
    network.begin()
    network.deliver()
    assert list(network.server.named_uploads) == [CHEAT]

    with pytest.raises(SecureAggregationError, match=problem):
        network.server.add_upload(CHEAT, blocks_of(change(uploads[CHEAT])))
    with pytest.raises(ValueError, match="block must be a multiple of 4 bytes, got 3"):
        network.server.add_upload(CHEAT, blocks_of(uploads[CHEAT], 3))

    network.from_server(network.server.add_upload(CHEAT, blocks_of(uploads[CHEAT])))
    network.deliver()
    assert network.outcome is not None
    assert np.array_equal(network.outcome.total, network.plain_sum(tuple(network.names))[0])


def test_blocks_of_any_size_give_the_same_sum() -> None:
    totals = []
    signers = signers_of(4)
    for size in (4, 44, 152, 1 << 20):
        network = Network(4, signers=signers)
        network.run_until(Kind.SURVIVORS)
        network.restart_server()
        assert network.server.phase is ServerPhase.AGREEING
        server = ServerRound.restore(
            network.descriptor,
            COORDINATOR,
            network.records[COORDINATOR],
            signer=signers[COORDINATOR],
            verifier=VERIFIER,
        )
        for name in server.missing_uploads:
            server.add_upload(name, blocks_of(network.uploads[name], size))
        totals.append(np.array_equal(server._sum.vector(), network.server._sum.vector()))

    assert totals == [True] * 4


def test_after_a_restart_nothing_is_unmasked_before_all_uploads_are_back() -> None:
    network = Network(4)
    network.run_until(Kind.RESULT)
    server = ServerRound.restore(
        network.descriptor,
        COORDINATOR,
        network.records[COORDINATOR][:-1],
        signer=network.signers[COORDINATOR],
        verifier=VERIFIER,
    )
    assert server.phase is ServerPhase.UNMASKING
    assert sorted(server.missing_uploads) == network.names

    with pytest.raises(SecureAggregationError, match="uploads must be added again"):
        server.end_phase()
    for name in network.names:
        server.add_upload(name, blocks_of(network.uploads[name]))
    server.end_phase()

    assert np.array_equal(server._sum.vector(), network.server._sum.vector())


def test_a_coordinator_killed_after_any_record_ends_with_the_same_sum() -> None:
    network = Network(4)
    network.run()
    assert network.outcome is not None
    for count in range(len(network.records[COORDINATOR])):
        server = ServerRound.restore(
            network.descriptor,
            COORDINATOR,
            network.records[COORDINATOR][:count],
            signer=network.signers[COORDINATOR],
            verifier=VERIFIER,
        )
        actions: list[object] = []
        for name in server.missing_uploads:
            actions += server.add_upload(name, blocks_of(network.uploads[name]))
        actions += say_all_again(network, server)

        (published,) = [action.outcome for action in actions if isinstance(action, Publish)]
        assert np.array_equal(published.total, network.outcome.total)
        assert published.weight == network.outcome.weight


def say_all_again(network: Network, server: ServerRound) -> list[object]:
    """Let all clients say again what they had said; end each phase that does not end by itself."""
    actions: list[object] = []
    for phase in range(6):
        for name in network.names:
            send = network.sent[name][phase]
            try:
                actions += server.receive(name, send.message, send.attachment)
                if send.vector is not None:
                    actions += server.add_upload(name, blocks_of(network.uploads[name]))
            except SecureAggregationError:
                continue
    if server.phase is ServerPhase.CONFIRMING:
        actions += server.end_phase()
    return actions


def test_a_sum_that_nobody_confirms_is_not_published() -> None:
    network = Network(4)
    network.to_server = lambda _, send: None if network.kind_of(send) is Kind.CONFIRMATION else send

    network.run()

    assert network.stopped == "confirming needs 3 clients, got 0"


def test_exclusions_outlive_a_restart() -> None:
    network = Network(4)
    cheating(network, Kind.AGREEMENT, Agreement(bytes(32)))
    network.run_until(Kind.RESULT)

    network.restart_server()

    assert network.server.excluded == {CHEAT: "agreed to other survivors than it was told"}


def test_a_dealer_whose_mask_key_is_another_is_named_when_it_has_vanished() -> None:
    network = Network(4)
    keys = network.clients[CHEAT]._knowledge

    def change(name: str, send: Send) -> Send | None:
        if name == CHEAT and network.kind_of(send) is Kind.ADVERTISEMENT:
            keys.keys.mask_secret += 1
        if name == CHEAT and network.kind_of(send) is Kind.MASKED_INPUT:
            return None
        return send

    network.to_server = change
    network.run()

    assert network.outcome is None
    assert network.excluded == {CHEAT: "shared something else than its secrets"}
    assert network.evidence == {CHEAT: b""}
    assert network.stopped == "1 clients shared something else than their secrets"


def test_a_client_whose_upload_is_not_what_it_signed_is_left_out_once() -> None:
    network = Network(5, threshold=4, minimum_survivors=4)

    def change(name: str, send: Send) -> Send:
        is_input = network.kind_of(send) is Kind.MASKED_INPUT
        return replace(send, vector=None) if name == "site-0004" and is_input else send

    network.to_server = change
    network.begin()
    network.deliver()
    actions = network.server.exclude("site-0004", "uploaded junk")
    again = network.server.exclude("site-0004", "uploaded junk")
    network.from_server(actions)
    network.deliver()

    (excluded,) = [action for action in actions if isinstance(action, Exclude)]
    assert (excluded.reason, again) == ("uploaded junk", ())
    assert network.body_of(Send(excluded.evidence), MaskedInput).weight
    assert network.outcome is not None
    assert "site-0004" not in network.outcome.survivors
    with pytest.raises(SecureAggregationError, match="must come when it is awaited"):
        network.server.exclude("site-0003", "uploaded junk")
    with pytest.raises(SecureAggregationError, match="must be in the round's roster"):
        network.server.exclude("nobody", "uploaded junk")


def test_each_phase_is_a_turn_of_its_own() -> None:
    network = Network(4)
    turns = [network.server.turn]

    for kind in (Kind.ADVERTISEMENTS, Kind.SURVIVORS):
        network = Network(4)
        network.run_until(kind)
        turns.append(network.server.turn)

    assert len(set(turns)) == 3


def test_proofs_are_given_exactly_where_the_round_has_them() -> None:
    signers = signers_of(4)

    with pytest.raises(SecureAggregationError, match="proofs must be given for a round with"):
        ServerRound(
            describe(signers),
            COORDINATOR,
            signer=signers[COORDINATOR],
            verifier=VERIFIER,
            proofs=pedersen_proofs(),
        )


def test_a_round_that_has_its_sum_waits_for_nobody_more() -> None:
    network = Network(4)
    network.run()

    assert network.server.phase is ServerPhase.PUBLISHED
    assert not network.server.has_enough


def test_anothers_message_is_not_taken_from_a_client() -> None:
    network = Network(4)
    network.begin()

    with pytest.raises(
        SecureAggregationError, match=f"must be of its sender {CHEAT!r}, got one of"
    ):
        network.server.receive(CHEAT, network.sent["site-0003"][0].message)


def test_who_is_excluded_stands_beside_what_it_has_signed() -> None:
    network = Network(4)
    network.begin()
    weak = network.lie(Advertisement(bytes(32), b"\x09" + bytes(31), b""), CHEAT)

    actions = network.server.receive(CHEAT, weak)

    (excluded,) = [action for action in actions if isinstance(action, Exclude)]
    assert (excluded.client, excluded.evidence) == (CHEAT, weak)


def named_alone(network: Network) -> bytes:
    """Let one client name its upload without sending it; return the upload."""
    held: list[bytes] = []

    def keep(name: str, send: Send) -> Send:
        if name != CHEAT or send.vector is None:
            return send
        held.append(send.vector.tobytes())
        return replace(send, vector=None)

    network.to_server = keep
    network.begin()
    network.deliver()
    return held[0]


def test_an_upload_after_its_time_is_refused() -> None:
    network = Network(4)
    upload = named_alone(network)
    network.from_server(network.server.end_phase())

    with pytest.raises(SecureAggregationError, match="upload must come when it is awaited, got it"):
        network.server.add_upload(CHEAT, blocks_of(upload))

    assert network.server.phase is ServerPhase.AGREEING


def test_the_upload_of_a_client_that_was_left_out_is_neither_awaited_nor_taken() -> None:
    network = Network(5, threshold=4, minimum_survivors=4)
    network.updates.pop("site-0004")
    upload = named_alone(network)
    assert list(network.server.named_uploads) == [CHEAT]
    network.to_server = lambda _, send: send
    network.server.exclude(CHEAT, "uploaded junk")

    assert network.server.named_uploads == {}
    with pytest.raises(SecureAggregationError, match="must follow its masked input"):
        network.server.add_upload(CHEAT, blocks_of(upload))


def test_records_of_a_step_that_is_not_awaited_are_not_taken_up() -> None:
    network = Network(4)
    network.records[COORDINATOR] = [ServerRecord(ServerEvent.UPLOAD, CHEAT.encode()).encode()]

    with pytest.raises(SecureAggregationError, match="upload must come when it is awaited"):
        network.restart_server()


def test_a_restarted_coordinator_knows_whether_and_why_the_round_was_given_up() -> None:
    network = Network(4)
    network.run_until(Kind.AGREEMENTS)
    network.restart_server()
    going_on = network.server.stopped
    network.from_server(network.server.abandon("no more"))

    network.restart_server()

    assert going_on is None
    assert network.server.stopped == Stop("no more")


def test_a_round_is_given_up_once() -> None:
    network = Network(4)
    network.from_server(network.server.abandon("no more"))

    with pytest.raises(SecureAggregationError, match="abandon must come when it is awaited"):
        network.server.abandon("no more")

    (record,) = (ServerRecord.decode(data) for data in network.records[COORDINATOR])
    assert record == ServerRecord(ServerEvent.ABANDON, b"no more", b"")


def test_as_many_must_send_an_update_as_the_round_asks_for_and_fewer_may_agree() -> None:
    short = Network(5, threshold=4, minimum_survivors=5)
    lose(short, {CHEAT: Kind.MASKED_INPUT})
    enough = Network(5, threshold=4, minimum_survivors=5)
    lose(enough, {CHEAT: Kind.AGREEMENT})

    short.run()
    enough.run()

    assert short.stopped == "collecting needs 5 clients, got 4"
    assert enough.outcome is not None
    assert enough.outcome.survivors == tuple(enough.names)


def restored(network: Network, count: int) -> ServerRound:
    """Return the coordinator as its first records say, without any upload."""
    return ServerRound.restore(
        network.descriptor,
        COORDINATOR,
        network.records[COORDINATOR][:count],
        signer=network.signers[COORDINATOR],
        verifier=VERIFIER,
        proofs=network.proofs,
    )


def test_clients_may_agree_before_a_restarted_coordinator_has_the_uploads_back() -> None:
    network = Network(4)
    network.run_until(Kind.SURVIVORS)
    server = restored(network, len(network.records[COORDINATOR]))

    for name, client in network.clients.items():
        (send,) = network.sent[COORDINATOR][-1:]
        actions = client.receive(send.message)
        (agreement,) = [action.message for action in actions if isinstance(action, Send)]
        server.receive(name, agreement)

    assert server.phase is ServerPhase.UNMASKING
    assert sorted(server.missing_uploads) == network.names


def test_a_restarted_coordinator_blames_nobody_for_a_sum_that_it_has_not_made_again() -> None:
    network = Network(4, mode=Proofs.SUM, rerun_size=3, colluders=1)
    network.run_until(Kind.RESULT)
    server = restored(network, len(network.records[COORDINATOR]))
    assert server.phase is ServerPhase.CONFIRMING

    server.abandon("no more")

    assert server.stopped == Stop("no more")


def test_a_coordinator_that_is_restarted_after_the_end_publishes_the_same_sum_again() -> None:
    network = Network(4, mode=Proofs.SUM)
    network.run()
    network.restart_server()

    (publish, *issues) = network.server.announce()

    assert network.server.phase is ServerPhase.PUBLISHED
    assert isinstance(publish, Publish)
    assert network.outcome is not None
    assert np.array_equal(publish.outcome.total, network.outcome.total)
    assert len(issues) == 4


def test_each_client_is_sent_as_many_agreements_as_it_needs_and_no_more_to_check() -> None:
    network = Network(5, threshold=4, minimum_survivors=4)

    held = network.run_until(Kind.AGREEMENTS)

    assert {len(network.body_of(send, Agreements).envelopes) for send in held.values()} == {4}


def test_who_says_that_the_sum_is_wrong_stands_in_no_receipt() -> None:
    network = Network(4)
    held = network.run_until(Kind.RESULT)
    for name, send in held.items():
        network.from_client(name, network.clients[name].receive(send.message, send.vector or b""))
    own = network.sent["site-0000"][-1]
    doubt = Confirmation(network.body_of(own, Confirmation).digest, is_right=False)
    cheating(network, Kind.CONFIRMATION, doubt)

    network.deliver()

    assert network.outcome is not None
    roster = {member.name: member.verification_key for member in network.descriptor.roster}
    signers = {
        verify_receipt(receipt, roster, verifier=VERIFIER).signers
        for receipt in network.receipts.values()
    }
    assert signers == {tuple(name for name in network.names if name != CHEAT)}


def test_a_message_with_nothing_attached_is_written_down_so() -> None:
    network = Network(4)
    network.begin()
    message = network.sent[CHEAT][0].message

    network.from_server(network.server.receive(CHEAT, message))

    assert network.records[COORDINATOR] == [
        ServerRecord(ServerEvent.ADVERTISEMENT, message, b"").encode()
    ]
