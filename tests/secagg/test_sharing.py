"""Shares of two secrets reach their holder alone, and stay the ones that were committed to."""

from dataclasses import replace

import pytest

from kumiai.core.errors import CryptoError
from kumiai.crypto.agreement import AgreementKey
from kumiai.crypto.keys import open_sealed, seal
from kumiai.crypto.shamir import Share, combine, commitment_of
from kumiai.secagg.graph import complete_graph
from kumiai.secagg.messages import SHARE_ENTRY, RevealedShare, SecretKind, ShareEntry
from kumiai.secagg.round_keys import RoundKeys, place_context, share_key
from kumiai.secagg.sharing import SharePair, leaf_of, make_entries, open_entry, verify_revealed
from tests.secagg.rounds import with_sealed

CONTEXT = b"the round"
GRAPH = complete_graph([2, 4, 6, 8])
KEYS = {index: RoundKeys(bytes([index]) * 32, CONTEXT) for index in (2, 4, 6, 8)}
CHANNELS = {index: keys.channel.public for index, keys in KEYS.items()}
AUTHOR = 4


def shared(threshold: int = 3) -> tuple[SharePair, tuple[ShareEntry, ...]]:
    return make_entries(
        AUTHOR,
        KEYS[AUTHOR],
        graph=GRAPH,
        threshold=threshold,
        channel_keys=CHANNELS,
        context=CONTEXT,
    )


def opened(entry: ShareEntry, holder: int = 8, context: bytes = CONTEXT) -> SharePair:
    return open_entry(
        entry,
        AUTHOR,
        KEYS[holder].channel,
        peer=CHANNELS[AUTHOR],
        graph=GRAPH,
        context=context,
    )


def resealed(entry: ShareEntry, pair: SharePair) -> ShareEntry:
    """Return an entry that its author has sealed again, with another pair in it."""
    place = place_context(CONTEXT, AUTHOR, entry.holder)
    key = share_key(KEYS[AUTHOR].channel, CHANNELS[entry.holder], place)
    return with_sealed(entry, seal(key, pair.encode(), place))


def test_as_many_holders_as_the_threshold_have_the_secrets_in_hand() -> None:
    own, entries = shared()

    assert [entry.holder for entry in entries] == [2, 4, 6, 8]
    assert [bool(entry.sealed) for entry in entries] == [True, False, True, True]
    pairs = [own, opened(entries[0], 2), opened(entries[3], 8)]
    assert sorted(pair.mask_key.x for pair in pairs) == [1, 2, 4]
    mask_secret = combine([pair.mask_key for pair in pairs], threshold=3)
    self_secret = combine([pair.self_mask for pair in pairs], threshold=3)
    assert (mask_secret, self_secret) == (KEYS[AUTHOR].mask_secret, KEYS[AUTHOR].self_secret)
    salts = {salt for pair in pairs for salt in (pair.mask_key_salt, pair.self_mask_salt)}
    assert {len(salt) for salt in salts} == {32}
    assert len(salts) == 6


def test_an_entry_commits_to_both_shares_at_their_place() -> None:
    _, entries = shared()
    entry = entries[3]
    pair, place = opened(entry), place_context(CONTEXT, AUTHOR, 8)

    for share, salt, found, kind in (
        (pair.mask_key, pair.mask_key_salt, entry.mask_key_digest, b"\x01"),
        (pair.self_mask, pair.self_mask_salt, entry.self_mask_digest, b"\x02"),
    ):
        assert found == commitment_of(share.encode(), salt=salt, context=place + kind)
    assert leaf_of(CONTEXT, AUTHOR, entry) == place + SHARE_ENTRY.write(entry)


def test_a_pair_is_read_as_it_was_written_and_of_one_length() -> None:
    own, _ = shared()

    again = SharePair.decode(own.encode())

    assert again == own
    assert own.encode() == own.mask_key.encode() + own.mask_key_salt + own.self_mask.encode() + (
        own.self_mask_salt
    )
    for data in (own.encode()[:-1], own.encode() + b"\0"):
        with pytest.raises(CryptoError, match=f"^shares must be 132 bytes, got {len(data)}"):
            SharePair.decode(data)
    with pytest.raises(TypeError, match="cannot be pickled"):
        own.__reduce__()
    assert repr(own) == "SharePair()"


def test_a_sealed_pair_opens_for_its_holder_in_its_round_alone() -> None:
    _, entries = shared()

    place = place_context(CONTEXT, AUTHOR, 8)
    key = share_key(KEYS[8].channel, CHANNELS[AUTHOR], place)
    assert SharePair.decode(open_sealed(key, entries[3].sealed, place)) == opened(entries[3])
    with pytest.raises(CryptoError):
        opened(entries[3], 6)
    with pytest.raises(CryptoError):
        opened(with_sealed(entries[3], entries[3].sealed, holder=6), 6)
    with pytest.raises(CryptoError):
        opened(entries[3], context=b"another round")


@pytest.mark.parametrize("moved", ["mask_key", "self_mask", "both"])
def test_a_share_at_another_place_is_refused(moved: str) -> None:
    _, entries = shared()
    pair = opened(entries[3])
    names = ["mask_key", "self_mask"] if moved == "both" else [moved]
    elsewhere = {name: Share(3, getattr(pair, name).value) for name in names}

    with pytest.raises(CryptoError, match="shares must stand at 4, got other places"):
        opened(resealed(entries[3], replace(pair, **elsewhere)))


@pytest.mark.parametrize("changed", ["mask_key", "self_mask", "mask_key_salt", "self_mask_salt"])
def test_what_the_author_has_not_committed_to_is_refused(changed: str) -> None:
    _, entries = shared()
    pair = opened(entries[3])
    old = getattr(pair, changed)
    new = bytes(32) if isinstance(old, bytes) else Share(old.x, old.value ^ 1)

    with pytest.raises(CryptoError, match="shares must be those that their author committed to"):
        opened(resealed(entries[3], replace(pair, **{changed: new})))


def test_what_is_given_away_is_one_of_the_two_and_is_checked() -> None:
    _, entries = shared()
    pair = opened(entries[3])

    for secret, share in (
        (SecretKind.MASK_KEY, pair.mask_key),
        (SecretKind.SELF_MASK, pair.self_mask),
    ):
        revealed = pair.reveal(AUTHOR, secret)
        assert verify_revealed(revealed, entries[3], graph=GRAPH, context=CONTEXT) == share
        assert (revealed.author, revealed.secret) == (AUTHOR, secret)


def test_a_wrong_share_is_not_taken() -> None:
    _, entries = shared()
    pair = opened(entries[3])
    revealed = pair.reveal(AUTHOR, SecretKind.MASK_KEY)
    moved = Share(3, pair.mask_key.value)
    other = Share(4, pair.mask_key.value ^ 1)

    def verify(wrong: RevealedShare, context: bytes = CONTEXT) -> None:
        verify_revealed(wrong, entries[3], graph=GRAPH, context=context)

    with pytest.raises(CryptoError, match="share must stand at 4, got 3"):
        verify(replace(revealed, share=moved.encode()))
    for wrong, context in (
        (replace(revealed, share=other.encode()), CONTEXT),
        (replace(revealed, salt=bytes(32)), CONTEXT),
        (replace(revealed, secret=SecretKind.SELF_MASK), CONTEXT),
        (revealed, b"another round"),
    ):
        with pytest.raises(CryptoError):
            verify(wrong, context)
    with pytest.raises(CryptoError):
        open_entry(
            entries[3],
            AUTHOR,
            AgreementKey(bytes(32)),
            peer=CHANNELS[AUTHOR],
            graph=GRAPH,
            context=CONTEXT,
        )
