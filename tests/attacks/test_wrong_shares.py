"""Shares are changed, cut short, swapped or wrong from the beginning; who did it is named."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from kumiai.core.errors import SecureAggregationError
from kumiai.crypto.keys import seal
from kumiai.crypto.shamir import Share
from kumiai.secagg.actions import Send
from kumiai.secagg.messages import (
    SHARE_ENTRIES,
    Deliveries,
    KeyShares,
    Kind,
    MaskedInput,
    RevealedShare,
    SecretKind,
    ShareEntry,
    Unmasking,
)
from kumiai.secagg.parameters import Adversary
from kumiai.secagg.round_keys import place_context, share_key
from kumiai.secagg.sharing import SharePair, leaf_of
from kumiai.secagg.tree import HashTree
from tests.secagg.rounds import Network, with_sealed

VICTIM, CHEAT = "site-0000", "site-0002"


def lenient(count: int = 5) -> Network:
    """Return a round in which two of five may drop out."""
    return Network(
        count,
        threshold=3,
        minimum_survivors=3,
        adversary=Adversary.SEMI_HONEST,
        colluders=1,
    )


@pytest.mark.parametrize("place", [0, 12, -1])
def test_a_sealed_share_that_was_changed_on_its_way_is_refused(place: int) -> None:
    network = Network(4)
    held = network.run_until(Kind.DELIVERIES)
    body = network.body_of(held[VICTIM], Deliveries)
    first, *others = body.deliveries
    sealed = bytearray(first.entry.sealed)
    sealed[place] ^= 1

    changed = replace(first, entry=with_sealed(first.entry, bytes(sealed)))

    with pytest.raises(SecureAggregationError, match="under its author's root"):
        network.tell(VICTIM, Deliveries(body.sharers, (changed, *others)))


def test_a_share_that_was_left_out_or_swapped_is_refused() -> None:
    network = Network(4)
    held = network.run_until(Kind.DELIVERIES)
    body = network.body_of(held[VICTIM], Deliveries)
    first, second, third = body.deliveries
    swapped = (replace(first, entry=second.entry), replace(second, entry=first.entry), third)

    for deliveries, match in ((body.deliveries[1:], "of all 3"), (swapped, "author's root")):
        with pytest.raises(SecureAggregationError, match=match):
            network.tell(VICTIM, Deliveries(body.sharers, deliveries))


@pytest.mark.parametrize(
    "attachment", [lambda whole: whole[:-1], lambda _: b"", lambda _: bytes(4)]
)
def test_shares_cut_short_or_left_out_are_not_taken(attachment: Callable[[bytes], bytes]) -> None:
    network = lenient()
    network.raises = False

    def change(name: str, send: Send) -> Send:
        is_cut = name == CHEAT and network.kind_of(send) is Kind.KEY_SHARES
        return replace(send, attachment=attachment(send.attachment)) if is_cut else send

    network.to_server = change
    network.run()

    assert [(name, "shares must be" in str(error)) for name, error in network.refused] == [
        (CHEAT, True)
    ]
    assert network.outcome is not None
    assert CHEAT not in network.outcome.survivors


def cheat_with_shares(
    network: Network, victims_of: dict[str, list[int]], *, steps_aside: int = 0
) -> None:
    """Let clients seal wrong shares for some holders, under a root that they sign."""

    def change(name: str, send: Send) -> Send:
        if name not in victims_of or network.kind_of(send) is not Kind.KEY_SHARES:
            return send
        author = network.names.index(name)
        knowledge = network.clients[name]._knowledge
        entries = []
        for entry in SHARE_ENTRIES.decode(send.attachment):
            if entry.holder in victims_of[name]:
                place = place_context(network.descriptor.context(), author, entry.holder)
                peer = knowledge.advertisements[entry.holder].channel_key
                key = share_key(knowledge.keys.channel, peer, place)
                wrong = Share(entry.holder + 1 + steps_aside, 7)
                pair = SharePair(wrong, bytes(32), wrong, bytes(32))
                sealed = seal(key, pair.encode(), place)
                entries.append(with_sealed(entry, sealed))
            else:
                entries.append(entry)
        return signed_shares(network, name, send, tuple(entries))

    network.to_server = change


def signed_shares(network: Network, name: str, send: Send, entries: tuple[ShareEntry, ...]) -> Send:
    author = network.names.index(name)
    context = network.descriptor.context()
    tree = HashTree([leaf_of(context, author, entry) for entry in entries])
    body = replace(network.body_of(send, KeyShares), root=tree.root)
    return Send(network.lie(body, name), SHARE_ENTRIES.write(entries))


@pytest.mark.parametrize("steps_aside", [0, 1])
def test_holders_complain_and_the_round_goes_on_without_their_shares(steps_aside: int) -> None:
    network = lenient()
    cheat_with_shares(network, {CHEAT: [0, 1]}, steps_aside=steps_aside)

    network.run()

    complaints = [
        network.body_of(send, MaskedInput).complaints
        for name in network.names
        for send in network.sent[name]
        if network.kind_of(send) is Kind.MASKED_INPUT
    ]
    assert complaints == [(2,), (2,), (), (), ()]
    assert network.outcome is not None
    total, _ = network.plain_sum(tuple(network.names))
    assert (network.outcome.total == total).all()


def test_a_dealer_of_whom_more_complain_than_may_lie_is_named() -> None:
    network = lenient()
    cheat_with_shares(network, {CHEAT: [0, 1, 3], "site-0004": [0]})

    network.run()

    assert network.outcome is None
    assert network.excluded == {CHEAT: "sent 3 of its neighbours shares that they could not use"}


def test_a_dealer_of_whom_as_many_complain_as_may_lie_is_not_named_for_what_others_lack() -> None:
    network = lenient()
    cheat_with_shares(network, {CHEAT: [0, 1]})
    cheating = network.to_server

    def change(name: str, send: Send) -> Send | None:
        is_lost = name == "site-0003" and network.kind_of(send) is Kind.UNMASKING
        return None if is_lost else cheating(name, send)

    network.to_server = change
    network.run()

    assert network.stopped is not None
    assert network.stopped.startswith("the secrets of 1 clients could not be rebuilt")
    assert network.excluded == {}


def test_a_dealer_whose_shares_give_another_secret_is_named() -> None:
    network = lenient()

    def change(name: str, send: Send) -> Send:
        if name == CHEAT and network.kind_of(send) is Kind.KEY_SHARES:
            body = replace(network.body_of(send, KeyShares), self_mask_digest=bytes(32))
            return Send(network.lie(body, CHEAT), send.attachment)
        return send

    network.to_server = change
    network.run()

    assert network.outcome is None
    assert network.excluded == {CHEAT: "shared something else than its secrets"}


@pytest.mark.parametrize("is_other_kind", [True, False])
def test_a_holder_that_gives_a_wrong_share_is_named_and_others_are_used(
    is_other_kind: bool,
) -> None:
    network = lenient()

    def change(name: str, send: Send) -> Send:
        if name == CHEAT and network.kind_of(send) is Kind.UNMASKING:
            body = network.body_of(send, Unmasking)
            first, *others = body.shares
            kind = SecretKind.MASK_KEY if is_other_kind else first.secret
            wrong = RevealedShare(first.author, kind, Share(3, 1).encode(), first.salt)
            return Send(network.lie(Unmasking((wrong, *others)), CHEAT))
        return send

    network.to_server = change
    network.run()

    reason = "of the wrong secret" if is_other_kind else "of 'site-0000'"
    assert list(network.excluded) == [CHEAT]
    assert network.excluded[CHEAT].endswith(reason)
    assert network.outcome is not None
    total, _ = network.plain_sum(tuple(network.names))
    assert (network.outcome.total == total).all()


def test_a_holder_that_gives_a_share_from_another_place_is_named() -> None:
    network = lenient()

    def change(name: str, send: Send) -> Send:
        if name == CHEAT and network.kind_of(send) is Kind.UNMASKING:
            first, *others = network.body_of(send, Unmasking).shares
            share = Share(5, Share.decode(first.share).value).encode()
            return Send(network.lie(Unmasking((replace(first, share=share), *others)), CHEAT))
        return send

    network.to_server = change
    network.run()

    assert network.excluded == {CHEAT: "revealed a wrong share of 'site-0000'"}
    assert network.outcome is not None


def test_a_holder_that_gives_too_few_shares_is_named() -> None:
    network = lenient()

    def change(name: str, send: Send) -> Send:
        if name == CHEAT and network.kind_of(send) is Kind.UNMASKING:
            shares = network.body_of(send, Unmasking).shares
            return Send(network.lie(Unmasking(shares[1:]), CHEAT))
        return send

    network.to_server = change
    network.run()

    assert network.excluded == {CHEAT: "revealed shares of others than its neighbours"}
    assert network.outcome is not None
