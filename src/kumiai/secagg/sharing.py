"""Shares of a client's two secrets: made, sealed, opened, and checked."""

import secrets
from dataclasses import dataclass, field
from typing import Final, NoReturn

from kumiai.core.errors import CryptoError
from kumiai.crypto.agreement import AgreementKey
from kumiai.crypto.keys import open_sealed, seal
from kumiai.crypto.shamir import (
    SHARE_SALT_SIZE_BYTES,
    SHARE_SIZE_BYTES,
    Share,
    commitment_of,
    split,
    verify_share,
)
from kumiai.secagg.graph import Neighbourhoods
from kumiai.secagg.messages import (
    SHARE_ENTRY,
    RevealedShare,
    SecretKind,
    ShareEntry,
)
from kumiai.secagg.round_keys import RoundKeys, place_context, share_key

__all__ = ["SharePair", "leaf_of", "make_entries", "open_entry", "verify_revealed"]

_PAIR_SIZE_BYTES: Final = 2 * (SHARE_SIZE_BYTES + SHARE_SALT_SIZE_BYTES)


@dataclass(frozen=True, slots=True)
class SharePair:
    """What one holder holds of one author.

    Attributes:
        mask_key: share of the key of its pairwise masks.
        mask_key_salt: of the commitment to it.
        self_mask: share of its own mask's secret.
        self_mask_salt: of the commitment to it.
    """

    mask_key: Share = field(repr=False)
    mask_key_salt: bytes = field(repr=False)
    self_mask: Share = field(repr=False)
    self_mask_salt: bytes = field(repr=False)

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied."""
        raise TypeError("a SharePair cannot be pickled")

    def encode(self) -> bytes:
        """Return the pair as bytes, to be sealed."""
        return (
            self.mask_key.encode()
            + self.mask_key_salt
            + self.self_mask.encode()
            + self.self_mask_salt
        )

    @classmethod
    def decode(cls, data: bytes) -> "SharePair":
        """Return the pair that the bytes stand for.

        Raises:
            CryptoError: they stand for none.
        """
        if len(data) != _PAIR_SIZE_BYTES:
            raise CryptoError(f"shares must be {_PAIR_SIZE_BYTES} bytes, got {len(data)}")
        half = _PAIR_SIZE_BYTES // 2
        first, second = data[:half], data[half:]
        return cls(
            Share.decode(first[:SHARE_SIZE_BYTES]),
            first[SHARE_SIZE_BYTES:],
            Share.decode(second[:SHARE_SIZE_BYTES]),
            second[SHARE_SIZE_BYTES:],
        )

    def reveal(self, author: int, secret: SecretKind) -> RevealedShare:
        """Return one of the two, to be given away; the other one never must be."""
        if secret is SecretKind.MASK_KEY:
            return RevealedShare(author, secret, self.mask_key.encode(), self.mask_key_salt)
        return RevealedShare(author, secret, self.self_mask.encode(), self.self_mask_salt)

    def entry(self, place: bytes, holder: int, sealed: bytes) -> ShareEntry:
        """Return the leaf that commits to both."""
        return ShareEntry.of(
            holder,
            commitment_of(
                self.mask_key.encode(),
                salt=self.mask_key_salt,
                context=_of(place, SecretKind.MASK_KEY),
            ),
            commitment_of(
                self.self_mask.encode(),
                salt=self.self_mask_salt,
                context=_of(place, SecretKind.SELF_MASK),
            ),
            sealed,
        )


def make_entries(
    author: int,
    keys: RoundKeys,
    *,
    graph: Neighbourhoods,
    threshold: int,
    channel_keys: dict[int, bytes],
    context: bytes,
) -> tuple[SharePair, tuple[ShareEntry, ...]]:
    """Share an author's secrets.

    Args:
        author: its index.
        keys: its secrets.
        graph: who holds shares.
        threshold: how many give a secret back.
        channel_keys: of the holders, by index.
        context: of the round.

    Returns:
        The author's own pair, and an entry for each holder, the author among them.
    """
    holders = graph.holders[author]
    count = len(holders)
    mask_key_shares = split(keys.mask_secret, threshold=threshold, share_count=count)
    self_mask_shares = split(keys.self_secret, threshold=threshold, share_count=count)
    pairs, entries = [], []
    for holder, mask_key, self_mask in zip(holders, mask_key_shares, self_mask_shares, strict=True):
        salts = secrets.token_bytes(2 * SHARE_SALT_SIZE_BYTES)
        pair = SharePair(
            mask_key, salts[:SHARE_SALT_SIZE_BYTES], self_mask, salts[SHARE_SALT_SIZE_BYTES:]
        )
        place = place_context(context, author, holder)
        sealed = b""
        if holder != author:
            key = share_key(keys.channel, channel_keys[holder], place)
            sealed = seal(key, pair.encode(), place)
        pairs.append(pair)
        entries.append(pair.entry(place, holder, sealed))
    return pairs[holders.index(author)], tuple(entries)


def open_entry(
    entry: ShareEntry, author: int, channel: AgreementKey, *, peer: bytes, graph: Neighbourhoods,
    context: bytes,
) -> SharePair:  # fmt: skip
    """Return what an author has sealed for the holder whose channel key this is.

    Raises:
        CryptoError: it cannot be opened, stands at another place, or is not what the author has
            committed to.
    """
    place = place_context(context, author, entry.holder)
    pair = SharePair.decode(open_sealed(share_key(channel, peer, place), entry.sealed, place))
    x = graph.place(author, entry.holder)
    if not pair.mask_key.x == pair.self_mask.x == x:
        raise CryptoError(f"shares must stand at {x}, got other places")
    found = pair.entry(place, entry.holder, entry.sealed)
    if found != entry:
        raise CryptoError("shares must be those that their author committed to, got others")
    return pair


def verify_revealed(
    revealed: RevealedShare, entry: ShareEntry, *, graph: Neighbourhoods, context: bytes
) -> Share:
    """Return a share that a holder has given away.

    Raises:
        CryptoError: it is not the one that its author has committed to.
    """
    share = Share.decode(revealed.share)
    place = place_context(context, revealed.author, entry.holder)
    x = graph.place(revealed.author, entry.holder)
    if share.x != x:
        raise CryptoError(f"share must stand at {x}, got {share.x}")
    commitment = (
        entry.mask_key_digest if revealed.secret is SecretKind.MASK_KEY else entry.self_mask_digest
    )
    verify_share(
        revealed.share,
        salt=revealed.salt,
        context=_of(place, revealed.secret),
        commitment=commitment,
    )
    return share


def leaf_of(context: bytes, author: int, entry: ShareEntry) -> bytes:
    """Return an entry as the content of a leaf of its author's tree."""
    return place_context(context, author, entry.holder) + SHARE_ENTRY.write(entry)


def _of(place: bytes, secret: SecretKind) -> bytes:
    return place + secret.to_bytes(1, "little")
