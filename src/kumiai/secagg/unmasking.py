"""From the shares that survivors gave away to the masks that hide the sum."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kumiai.crypto.shamir import Share, combine_many
from kumiai.secagg.graph import Neighbourhoods
from kumiai.secagg.messages import Advertisement
from kumiai.secagg.round_keys import (
    mask_key_of,
    pair_key,
    pair_sign,
    self_mask_digest_of,
    self_mask_of,
)

__all__ = ["Rebuilding", "masks_to_remove", "missing_authors"]

_Masks = list[tuple[bytes, Literal[1, -1]]]


@dataclass(frozen=True, slots=True)
class Rebuilding:
    """What it takes to find the masks in the sum.

    Attributes:
        graph: who masked towards whom.
        threshold: shares of a secret.
        survivors: who is in the sum.
        lost: who had shared secrets and is not in it.
        shares: for each of both, the checked shares by holder.
        advertisements: everybody's keys.
        self_mask_digests: what the survivors have said about their own masks' keys.
        context: of the round.
    """

    graph: Neighbourhoods
    threshold: int
    survivors: Sequence[int]
    lost: Sequence[int]
    shares: Mapping[int, Mapping[int, Share]] = field(repr=False)
    advertisements: Mapping[int, Advertisement]
    self_mask_digests: Mapping[int, bytes]
    context: bytes


def missing_authors(what: Rebuilding) -> tuple[int, ...]:
    """Return whose secret cannot be rebuilt; while there is one, none may be."""
    return tuple(
        author
        for author in (*what.survivors, *what.lost)
        if len(what.shares.get(author, {})) < what.threshold
    )


def masks_to_remove(what: Rebuilding) -> tuple[_Masks, tuple[int, ...]]:
    """Return all masks in the sum, and the authors whose shares gave another secret than theirs.

    An author is guilty when every share is the one that it committed to, and still they do not
    give the secret behind what it has published.
    """
    secrets_found = _rebuilt(what)
    summed = set(what.survivors)
    masks: _Masks = []
    guilty = []
    for author in what.survivors:
        key = self_mask_of(secrets_found[author], what.context)
        if self_mask_digest_of(key, what.context) != what.self_mask_digests[author]:
            guilty.append(author)
        masks.append((key, 1))
    for author in what.lost:
        own = mask_key_of(secrets_found[author], what.context)
        if own.public != what.advertisements[author].mask_key:
            guilty.append(author)
            continue
        for peer in what.graph.neighbours(author):
            if peer in summed:
                key = pair_key(own, what.advertisements[peer].mask_key, what.context)
                masks.append((key, pair_sign(peer, author)))
    return masks, tuple(guilty)


def _rebuilt(what: Rebuilding) -> dict[int, int]:
    """Combine the first shares of each author: the same holders for most, so that it is quick."""
    authors = (*what.survivors, *what.lost)
    chosen = [
        [share for _, share in sorted(what.shares[author].items())[: what.threshold]]
        for author in authors
    ]
    found = combine_many(chosen, threshold=what.threshold)
    return dict(zip(authors, found, strict=True))
