"""A hash tree over a client's sealed shares: one signature for all, a short proof for each holder.

Source: Merkle 1987; leaves and nodes are told apart as in RFC 9162 section 2.1.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

from kumiai.core.errors import SecureAggregationError

__all__ = ["DIGEST_SIZE_BYTES", "HashTree", "verify_path"]

DIGEST_SIZE_BYTES: Final = 32

_LEAF_DOMAIN: Final = b"kumiai/secagg/leaf/v1/"
_NODE_DOMAIN: Final = b"kumiai/secagg/node/v1/"
_NO_LEAF: Final = hashlib.sha256(b"kumiai/secagg/no-leaf/v1/").digest()


class HashTree:
    """The tree over some leaves, filled up to a power of two with leaves that hold nothing."""

    __slots__ = ("_levels",)

    def __init__(self, leaves: Sequence[bytes]) -> None:
        """Build it over the leaves' contents."""
        level, nothing = [_leaf(leaf) for leaf in leaves] or [_NO_LEAF], _NO_LEAF
        self._levels = [level]
        while len(level) > 1:
            if len(level) % 2:
                level.append(nothing)
            level = [_node(*level[place : place + 2]) for place in range(0, len(level), 2)]
            # Where no leaf stands below, all nodes of a level are the same, and are not kept.
            nothing = _node(nothing, nothing)
            self._levels.append(level)

    @property
    def root(self) -> bytes:
        """What stands for all leaves."""
        return self._levels[-1][0]

    def paths(self) -> list[bytes]:
        """Return what leads from each leaf to the root: the digests beside it, one after another.

        Where the leaves were filled up, paths of those that hold nothing may follow.
        """
        paths = [b""]
        for level in reversed(self._levels[:-1]):
            paths = [level[place ^ 1] + paths[place // 2] for place in range(len(level))]
        return paths


def verify_path(root: bytes, leaf: bytes, position: int, path: bytes) -> None:
    """Check that a leaf stands under a root.

    Args:
        root: of its author's tree.
        leaf: its content.
        position: where it must stand, from 0.
        path: of `HashTree.paths`; a number of whole digests.

    Raises:
        SecureAggregationError: it does not.
    """
    digest = _leaf(leaf)
    for depth in range(len(path) // DIGEST_SIZE_BYTES):
        other = path[depth * DIGEST_SIZE_BYTES : (depth + 1) * DIGEST_SIZE_BYTES]
        is_right = position >> depth & 1
        digest = _node(other, digest) if is_right else _node(digest, other)
    if digest != root:
        raise SecureAggregationError(
            f"entry must stand at {position} under its author's root, got another root"
        )


def _leaf(content: bytes) -> bytes:
    return hashlib.sha256(_LEAF_DOMAIN + content).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE_DOMAIN + left + right).digest()
