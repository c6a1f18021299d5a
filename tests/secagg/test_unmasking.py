"""The masks in a sum follow from shares of survivors and of those lost, or somebody has lied."""

from dataclasses import replace

import pytest

from kumiai.core.errors import KumiaiError
from kumiai.crypto.shamir import Share, split
from kumiai.secagg.graph import Neighbourhoods, sparse_graph
from kumiai.secagg.messages import Advertisement
from kumiai.secagg.round_keys import RoundKeys, pair_key, pair_sign, self_mask_digest_of
from kumiai.secagg.unmasking import Rebuilding, masks_to_remove, missing_authors

CONTEXT = b"the round"
MEMBERS = range(7)
LOST = (2, 5)
SURVIVORS = (0, 1, 3, 4, 6)
THRESHOLD = 2
KEYS = {index: RoundKeys(bytes([index + 1]) * 32, CONTEXT) for index in MEMBERS}
GRAPH = sparse_graph(MEMBERS, 4, bytes(range(32)))


def shares_of(index: int, graph: Neighbourhoods = GRAPH) -> dict[int, Share]:
    keys, holders = KEYS[index], graph.holders[index]
    secret = keys.mask_secret if index in LOST else keys.self_secret
    shares = split(secret, threshold=THRESHOLD, share_count=len(holders))
    return dict(zip(holders, shares, strict=True))


def rebuilding() -> Rebuilding:
    return Rebuilding(
        graph=GRAPH,
        threshold=THRESHOLD,
        survivors=SURVIVORS,
        lost=LOST,
        shares={index: shares_of(index) for index in MEMBERS},
        advertisements={
            index: Advertisement(keys.mask_key.public, keys.channel.public, b"")
            for index, keys in KEYS.items()
        },
        self_mask_digests={
            index: self_mask_digest_of(KEYS[index].self_mask, CONTEXT) for index in SURVIVORS
        },
        context=CONTEXT,
    )


def test_the_masks_are_those_of_survivors_and_of_pairs_with_one_lost() -> None:
    what = rebuilding()

    masks, guilty = masks_to_remove(what)

    own = [(KEYS[index].self_mask, 1) for index in SURVIVORS]
    pairs = [
        (
            pair_key(KEYS[peer].mask_key, KEYS[lost].mask_key.public, CONTEXT),
            pair_sign(peer, lost),
        )
        for lost in LOST
        for peer in GRAPH.neighbours(lost)
        if peer in SURVIVORS
    ]
    assert masks == own + pairs
    assert guilty == ()
    assert {sign for _, sign in pairs} == {1, -1}
    assert LOST[1] in GRAPH.neighbours(LOST[0])


def test_any_shares_as_many_as_the_threshold_are_enough() -> None:
    what = rebuilding()
    few = {index: dict(list(each.items())[-THRESHOLD:]) for index, each in what.shares.items()}

    assert masks_to_remove(replace(what, shares=few)) == masks_to_remove(what)
    assert missing_authors(replace(what, shares=few)) == ()


def test_whoever_has_too_few_shares_is_named() -> None:
    what = rebuilding()
    few = {**what.shares, 3: dict(list(what.shares[3].items())[:1])}
    del few[5]

    assert missing_authors(what) == ()
    assert missing_authors(replace(what, shares=few)) == (3, 5)
    with pytest.raises((KumiaiError, ValueError, KeyError)):
        masks_to_remove(replace(what, shares=few))


def test_authors_whose_shares_give_another_secret_are_guilty() -> None:
    what = rebuilding()
    wrong = {
        index: {
            holder: Share(each.x, each.value ^ 1) for holder, each in what.shares[index].items()
        }
        for index in (1, 2)
    }

    masks, guilty = masks_to_remove(replace(what, shares={**what.shares, **wrong}))

    assert guilty == (1, 2)
    honest = masks_to_remove(what)[0]
    of_the_other_lost = [peer for peer in GRAPH.neighbours(5) if peer in SURVIVORS]
    assert masks[len(SURVIVORS) :] == honest[-len(of_the_other_lost) :]


def test_shares_stand_in_no_repr() -> None:
    assert "Share" not in repr(rebuilding())
