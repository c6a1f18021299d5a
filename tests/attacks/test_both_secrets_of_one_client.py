"""A coordinator that gets both secrets of a client can take all masks off its update.

It asks the same holders for the self mask of a client as a survivor, and for its mask key as if
it had dropped out.
"""

import pytest

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.messages import (
    Agreement,
    Agreements,
    Kind,
    RevealedShare,
    SecretKind,
    Survivor,
    Survivors,
    Unmasking,
    encode_body,
)
from tests.secagg.rounds import Network


def test_a_second_list_of_survivors_is_refused_once_one_was_signed() -> None:
    network = Network(7)
    held = network.run_until(Kind.AGREEMENTS)
    first = network.body_of(network.told["site-0000"][-1], Survivors)
    without_victim = Survivors(tuple(entry for entry in first.entries if entry.index != 3))

    with pytest.raises(SecureAggregationError, match="different stories"):
        network.tell("site-0000", without_victim)

    assert len(held) == 7


def test_after_one_secret_was_given_away_no_other_is_whatever_is_asked() -> None:
    network = Network(7)
    network.run_until(Kind.RESULT)
    first = network.body_of(network.sent["site-0000"][-1], Unmasking)
    survivors = network.body_of(network.told["site-0000"][-2], Survivors)
    without_victim = Survivors(tuple(each for each in survivors.entries if each.index != 3))

    for body in (without_victim, Agreements(())):
        with pytest.raises(SecureAggregationError, match="different stories"):
            network.tell("site-0000", body)

    kinds = {share.author: share.secret for share in first.shares}
    assert kinds == dict.fromkeys(range(7), SecretKind.SELF_MASK)


def test_a_message_cannot_even_say_both() -> None:
    both = tuple(RevealedShare(3, kind, bytes(34), bytes(32)) for kind in SecretKind)

    with pytest.raises(ValueError, match="shares must increase"):
        encode_body(Unmasking(both))


def test_two_lists_shown_to_two_parts_of_the_clients_never_both_reach_the_threshold() -> None:
    network = Network(7)
    network.run_until(Kind.SURVIVORS)
    entries = network.server._knowledge.entries
    lists = (Survivors(entries[:5]), Survivors(entries[1:6]))
    parts = (network.names[:3], network.names[3:5])
    agreed: list[list[bytes]] = []
    for body, part in zip(lists, parts, strict=True):
        for name in part:
            network.tell(name, body)
        agreed.append([network.sent[name][-1].message for name in part])

    # Two colluders of seven sign whatever helps; even so neither part has five signatures.
    for envelopes, part in zip(agreed, parts, strict=True):
        digest = network.body_of(network.sent[part[0]][-1], Agreement).digest
        colluders = [network.lie(Agreement(digest), f"site-{n:04}") for n in (5, 6)]
        for name in part[:1]:
            all_signed = Agreements((*envelopes, *colluders))
            survivors = {each.index for each in lists[parts.index(part)].entries}
            signed = [e for e in all_signed.envelopes if _index(network, e) in survivors]
            if len(signed) >= network.descriptor.threshold:
                pytest.fail("both secrets of one client could be had")
            with pytest.raises(SecureAggregationError, match="agreements must be of 5"):
                network.tell(name, all_signed)


def _index(network: Network, envelope: bytes) -> int:
    from kumiai.secagg.messages import read_envelope

    return network.descriptor.index_of(read_envelope(envelope, network.descriptor).sender)


def test_entries_name_each_survivor_once() -> None:
    with pytest.raises(ValueError, match="survivors must increase"):
        encode_body(Survivors((Survivor(3, bytes(32)), Survivor(3, bytes(32)))))
