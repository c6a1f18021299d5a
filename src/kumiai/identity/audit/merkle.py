"""The tree over the entries: roots, and proofs of a few hundred bytes about a million of them.

SHA-256 with a first byte that tells a leaf (0) from a node (1), as in Certificate Transparency.
A `Frontier` holds the roots of the perfect subtrees that the entries so far make up, at most one
for each bit of their number: appending reads nothing again. What proofs need beside it are the
nodes over 256, 65 536, … entries, which `Frontier.append` tells when they are complete.

Source: RFC 6962 section 2.1; verification as in RFC 9162 sections 2.1.3.2 and 2.1.4.2.
"""

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from typing import Final

from kumiai.core.errors import IntegrityError

__all__ = [
    "HASH_BYTES",
    "KEPT_LEVELS",
    "Frontier",
    "Node",
    "consistency_ranges",
    "folded",
    "included_root",
    "inclusion_ranges",
    "leaf_hash",
    "node_hash",
    "subtrees",
    "verify_consistency",
]

HASH_BYTES: Final = 32
KEPT_LEVELS: Final = 8
"""Nodes are kept at levels 8, 16, 24, …: one row for 256 entries, and never more to fold."""
_LEVEL_MAX: Final = 62

Node = tuple[int, int, bytes]
"""Level (0: a leaf), position within the level, hash."""


def leaf_hash(body: bytes) -> bytes:
    """Return the hash of an entry."""
    return hashlib.sha256(b"\x00" + body).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node over two others."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def folded(hashes: Sequence[bytes]) -> bytes:
    """Return the root over perfect subtrees, from the left and largest to the right."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


class Frontier:
    """The right edge of the tree: all that an append needs to know."""

    __slots__ = ("_hashes", "size")

    def __init__(self, size: int = 0, content: bytes = b"") -> None:
        """Start with no entry, or go on.

        Args:
            size: how many entries there are.
            content: of `to_bytes`.

        Raises:
            IntegrityError: the two do not belong together.
        """
        if size < 0 or len(content) != size.bit_count() * HASH_BYTES:
            raise IntegrityError(
                f"frontier of {size} entries must hold one hash for each bit of their number, "
                f"got {len(content)} bytes"
            )
        self.size = size
        self._hashes = [content[at : at + 32] for at in range(0, len(content), HASH_BYTES)]

    def append(self, leaf: bytes) -> list[Node]:
        """Take in the hash of the next entry; return the nodes to be kept that it completes."""
        kept: list[Node] = []
        position, level = self.size, 0
        while position & 1:
            leaf = node_hash(self._hashes.pop(), leaf)
            position >>= 1
            level += 1
            if level % KEPT_LEVELS == 0:
                kept.append((level, position, leaf))
        self._hashes.append(leaf)
        self.size += 1
        return kept

    def root(self) -> bytes:
        """Return the root over all entries so far."""
        return folded(self._hashes)

    def to_bytes(self) -> bytes:
        """Return what a later process goes on with."""
        return b"".join(self._hashes)


def inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """Return the entries [start, end) under each node of an inclusion proof, in its order.

    Raises:
        ValueError: there is no such entry.
    """
    if not 0 <= index < size:
        raise ValueError(f"index must be 0 to {size - 1}, got {index}")
    found: list[tuple[int, int]] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((start, middle))
            start = middle
    return found[::-1]


def consistency_ranges(first: int, second: int) -> list[tuple[int, int]]:
    """Return the entries [start, end) under each node of a consistency proof, in its order.

    Raises:
        ValueError: not 0 < first <= second.
    """
    if not 0 < first <= second:
        raise ValueError(f"sizes must be 0 < first <= second, got {first} and {second}")
    found: list[tuple[int, int]] = []
    start, end, is_whole = 0, second, True
    while first != end:
        middle = start + _split(end - start)
        if first <= middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((start, middle))
            start, is_whole = middle, False
    if not is_whole:
        found.append((start, end))
    return found[::-1]


def subtrees(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the perfect subtrees (level, position) that make up the entries [start, end).

    Args:
        start: a multiple of the largest power of two below ``end - start``, as in proofs.
        end: above it.
    """
    while start < end:
        level = (end - start).bit_length() - 1
        yield level, start >> level
        start += 1 << level


def included_root(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """Return the root of the tree that an entry stands in at its place, if the path is right.

    Who signed this root has had the entry; whether somebody did is the caller's to check.

    Args:
        leaf: of `leaf_hash`.
        index: the entry's place.
        size: how many entries the tree has.
        path: the nodes of `inclusion_ranges`.

    Raises:
        IntegrityError: no entry of that place has such a path.
    """
    _verify_hashes(path)
    if not 0 <= index < size:
        raise IntegrityError(f"entry must be one of the {size} of the checkpoint, got {index}")
    position, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise _not_proved()
        if position & 1 or position == last:
            found = node_hash(sibling, found)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            found = node_hash(found, sibling)
        position >>= 1
        last >>= 1
    if last:
        raise _not_proved()
    return found


def verify_consistency(
    first: int, second: int, path: Sequence[bytes], first_root: bytes, second_root: bytes
) -> None:
    """Check that the tree of ``second`` entries begins with the ``first`` ones unchanged.

    Raises:
        IntegrityError: it does not, or the proof is another's.
    """
    _verify_hashes(path)
    if not 0 < first <= second:
        raise IntegrityError(
            f"log must have grown from {first} entries, got {second}: entries are missing"
        )
    if first == second:
        if path or not hmac.compare_digest(first_root, second_root):
            raise _not_grown(first)
        return
    hashes = list(path) if first & (first - 1) else [first_root, *path]
    if not hashes:
        raise _not_grown(first)
    position, last = first - 1, second - 1
    while position & 1:
        position >>= 1
        last >>= 1
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise _not_grown(first)
        if position & 1 or position == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        position >>= 1
        last >>= 1
    is_old = hmac.compare_digest(old, first_root)
    if last or not is_old or not hmac.compare_digest(new, second_root):
        raise _not_grown(first)


def _split(count: int) -> int:
    """Return the largest power of two below ``count``."""
    return 1 << ((count - 1).bit_length() - 1)


def _verify_hashes(path: Sequence[bytes]) -> None:
    if len(path) > 2 * _LEVEL_MAX or any(len(each) != HASH_BYTES for each in path):
        raise IntegrityError(f"proof must be a few hashes of 32 bytes, got {len(path)} of others")


def _not_proved() -> IntegrityError:
    return IntegrityError("proof must lead from the entry to a root, got too many or few hashes")


def _not_grown(first: int) -> IntegrityError:
    return IntegrityError(
        f"the first {first} entries of the log must be those that were signed, got others: "
        "the history was rewritten"
    )
