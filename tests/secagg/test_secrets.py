"""Secrets stand in no display, and cannot be pickled or copied by mistake."""

import copy

import pytest

from kumiai.core.errors import CryptoError
from kumiai.secagg.actions import Persist
from kumiai.secagg.client_records import ClientEvent, ClientRecord
from kumiai.secagg.client_steps import Step
from kumiai.secagg.messages import RevealedShare, SecretKind
from kumiai.secagg.round_keys import RoundKeys
from kumiai.secagg.sharing import SharePair
from tests.secagg.rounds import Network


def test_nothing_that_holds_a_secret_shows_it_or_lets_itself_be_copied() -> None:
    network = Network(4)
    network.run()
    client = network.clients["site-0000"]
    pair = client._knowledge.own_pair
    record = ClientRecord(1, ClientEvent.BEGIN, secret=b"very secret")
    step = Step(secret=b"very secret")

    for each in (client._knowledge.keys, pair, record, step, Persist(record.encode())):
        assert str(pair.mask_key.value) not in repr(each)
        assert "secret" not in repr(each).replace("mask_secret", "")
        with pytest.raises(TypeError, match="cannot be pickled"):
            copy.copy(each)
    assert repr(client._knowledge.keys) == "RoundKeys()"
    revealed = RevealedShare(3, SecretKind.SELF_MASK, b"s" * 34, b"t" * 32)
    assert repr(revealed) == "RevealedShare(author=3, secret=SELF_MASK)"


def test_actions_show_no_record_and_no_message() -> None:
    network = Network(4)

    actions = network.clients["site-0000"].begin()

    assert [repr(action) for action in actions] == [
        "Persist()",
        "Advance(counter=1)",
        "Send(recipients=())",
    ]


def test_each_secret_of_a_round_is_of_that_round_alone() -> None:
    seed = bytes(range(32))
    one, other = RoundKeys(seed, b"one"), RoundKeys(seed, b"other")

    for name in RoundKeys.__slots__:
        first, second = getattr(one, name), getattr(other, name)
        assert getattr(first, "public", first) != getattr(second, "public", second)


def test_shares_of_another_length_are_refused() -> None:
    with pytest.raises(CryptoError, match="shares must be 132 bytes, got 131"):
        SharePair.decode(bytes(131))
