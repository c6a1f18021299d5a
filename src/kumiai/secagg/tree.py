"""A hash tree over a client's sealed shares: one signature for all, a short proof for each holder.

Source: Merkle 1987; leaves and nodes are told apart as in RFC 9162 section 2.1.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

from kumiai.core.errors import SecureAggregationError

__all__ = ["HashTree", "verify_path"]

_LEAF_DOMAIN: Final = b"kumiai/secagg/leaf/v1/"
_NODE_DOMAIN: Final = b"kumiai/secagg/node/v1/"
_NO_LEAF: Final = hashlib.sha256(b"kumiai/secagg/no-leaf/v1/").digest()


class HashTree:
    """The tree over some leaves, filled up to a power of two."""

    __slots__ = ("_levels",)

    def __init__(self, leaves: Sequence[bytes]) -> None:
        """Build it over at least one leaf's content."""
        width = 1 << (len(leaves) - 1).bit_length()
        level = [_leaf(leaf) for leaf in leaves] + [_NO_LEAF] * (width - len(leaves))
        self._levels = [level]
        while len(level) > 1:
            level = [_node(*level[place : place + 2]) for place in range(0, len(level), 2)]
            self._levels.append(level)

    @property
    def root(self) -> bytes:
        """What stands for all leaves."""
        return self._levels[-1][0]

    def path(self, position: int) -> tuple[bytes, ...]:
        """Return what leads from a leaf to the root."""
        return tuple(
            [level[(position >> depth) ^ 1] for depth, level in enumerate(self._levels[:-1])]
        )


def verify_path(root: bytes, leaf: bytes, position: int, path: Sequence[bytes]) -> None:
    """Check that a leaf stands under a root.

    Raises:
        SecureAggregationError: it does not.
    """
    digest = _leaf(leaf)
    for depth, other in enumerate(path):
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
