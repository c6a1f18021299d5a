"""Whoever looks at the records sees what the coordinator's machine knows."""

from dataclasses import replace
from typing import Any

import pytest

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.actions import Action, Send
from kumiai.secagg.descriptor import Proofs
from kumiai.secagg.messages import Confirmation, KeyDeal, Kind, MaskedInput
from kumiai.secagg.server_records import ServerPhase
from kumiai.secagg.standing import Standing, standing_of
from tests.secagg.rounds import COORDINATOR, PAILLIER, Network

SPARSE = {"degree": 30, "threshold": 22, "colluders": 1, "minimum_survivors": 38}


class Watched(Network):
    """Compares the records with the machine after each of its steps."""

    def __init__(self, count: int, **changes: object) -> None:
        super().__init__(count, **changes)  # type: ignore[arg-type]
        self.phases: set[ServerPhase] = set()

    @property
    def standing(self) -> Standing:
        return standing_of(self.descriptor, self.records[COORDINATOR])

    def from_server(self, actions: tuple[Action, ...]) -> None:
        super().from_server(actions)
        found = self.standing
        assert (found.phase, found.awaited) == (self.server.phase, self.server.awaited)
        assert found.excluded == self.server.excluded
        self.phases.add(found.phase)


@pytest.mark.parametrize("changes", [{}, SPARSE])
def test_the_records_say_where_the_round_stands_at_every_step(changes: dict[str, object]) -> None:
    network = Watched(40 if changes else 4, **changes)
    network.run()

    assert network.outcome is not None
    seen = {ServerPhase.REVEALING, ServerPhase.ADVERTISING_HIDDEN} & network.phases
    assert bool(seen) is bool(changes)
    assert network.standing == Standing(ServerPhase.PUBLISHED, (), ())


@pytest.mark.parametrize(
    "kind",
    [
        Kind.ADVERTISEMENT,
        Kind.KEY_SHARES,
        Kind.MASKED_INPUT,
        Kind.AGREEMENT,
        Kind.UNMASKING,
        Kind.CONFIRMATION,
    ],
)
def test_the_records_say_whose_answer_never_came(kind: Kind) -> None:
    network = Watched(6, threshold=4, minimum_survivors=4, colluders=1)

    def change(name: str, send: Send) -> Send | None:
        is_lost = name == "site-0002" and network.kind_of(send) is kind
        return None if is_lost else send

    network.to_server = change
    network.run()

    assert network.outcome is not None


class WatchedWithKey(Watched):
    """The same with a Paillier key."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(4, **PAILLIER, **changes)


def test_the_records_say_where_a_round_with_a_key_stands_at_every_step() -> None:
    network = WatchedWithKey(mode=Proofs.SUM)
    network.updates.pop("site-0001")
    network.run()

    assert network.outcome is not None
    assert {ServerPhase.SHARING, ServerPhase.OPENING} < network.phases
    assert network.standing == Standing(ServerPhase.PUBLISHED, (), ())


@pytest.mark.parametrize("is_right", [None, False])
def test_of_those_who_confirmed_a_sum_with_a_key_one_is_asked_for_it(is_right: bool | None) -> None:
    network = WatchedWithKey(mode=Proofs.SUM)

    def change(name: str, send: Send) -> Send | None:
        if name != "site-0000" or network.kind_of(send) is not Kind.CONFIRMATION:
            return send
        if is_right is None:
            return None
        digest = network.body_of(send, Confirmation).digest
        return Send(network.lie(Confirmation(digest, is_right), name))

    network.to_server = change
    network.run()

    assert network.outcome is not None


def test_once_a_client_has_told_the_sum_no_other_is_awaited() -> None:
    network = WatchedWithKey()
    network.run()

    records = network.records[COORDINATOR]
    standing = standing_of(network.descriptor, records[:-1])
    assert (standing.phase, standing.awaited) == (ServerPhase.OPENING, ())
    assert standing.answered == ("site-0000",)


def test_a_round_with_a_key_that_is_abandoned_at_once_awaits_nobody() -> None:
    network = WatchedWithKey()

    network.from_server(network.server.abandon("enough"))

    assert network.standing == Standing(ServerPhase.ABANDONED, (), ())


@pytest.mark.parametrize("kind", [Kind.KEY_DEAL, Kind.OPENING])
def test_the_records_say_who_is_asked_in_vain(kind: Kind) -> None:
    network = WatchedWithKey()
    network.to_server = lambda _, send: None if network.kind_of(send) is kind else send

    network.run()

    assert network.standing == Standing(ServerPhase.ABANDONED, (), ())


def test_whoever_deals_no_key_is_not_awaited_any_more() -> None:
    network = WatchedWithKey()

    def change(name: str, send: Send) -> Send:
        if network.kind_of(send) is Kind.KEY_DEAL:
            return Send(network.lie(KeyDeal(b"", bytes(32)), name), send.attachment)
        return send

    network.to_server = change
    network.run()

    assert list(network.standing.excluded.values()) == [
        "says that it has seen other advertisements"
    ]


def test_whoever_is_silent_is_awaited_and_who_lied_is_not() -> None:
    network = Watched(5, threshold=4, minimum_survivors=4, mode=Proofs.OFF)
    network.updates.pop("site-0004")

    def change(name: str, send: Send) -> Send:
        if name == "site-0003" and network.kind_of(send) is Kind.MASKED_INPUT:
            body = replace(network.body_of(send, MaskedInput), weight=9)
            return Send(network.lie(body, name), send.attachment, send.vector)
        return send

    network.to_server = change
    network.raises = False
    network.begin()
    network.deliver()

    assert network.standing == Standing(
        ServerPhase.COLLECTING,
        ("site-0004",),
        ("site-0000", "site-0001", "site-0002"),
        {"site-0003": "gave its update the weight 9"},
    )


def test_an_abandoned_round_awaits_nobody() -> None:
    network = Watched(4)
    network.begin()

    network.from_server(network.server.abandon("enough"))

    assert network.standing == Standing(ServerPhase.ABANDONED, (), ())


def test_records_of_another_round_are_refused() -> None:
    network = Network(4)
    network.run()

    with pytest.raises(SecureAggregationError, match="must be of round"):
        standing_of(Network(4).descriptor, network.records[COORDINATOR])
