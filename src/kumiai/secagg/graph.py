"""Who masks towards whom: everybody towards everybody, or a ring in random order.

In the sparse graph each client is joined to the ``degree / 2`` next on either side of a ring
(Harary graph). The order of the ring comes from a seed that no single party chose.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Neighbourhoods", "complete_graph", "sparse_graph"]

_ORDER_DOMAIN: Final = b"kumiai/secagg/ring/v1/"


@dataclass(frozen=True, slots=True)
class Neighbourhoods:
    """For each client, by its index in the roster: itself and its neighbours.

    Attributes:
        holders: ascending; who holds shares of the client's secrets, the client among them. The
            share of the holder at position p stands at x = p + 1.
    """

    holders: dict[int, tuple[int, ...]]

    def neighbours(self, index: int) -> tuple[int, ...]:
        """Return towards whom a client masks."""
        return tuple(each for each in self.holders[index] if each != index)

    def place(self, author: int, holder: int) -> int:
        """Return the x of a holder's share of an author's secrets, from 1."""
        return self.holders[author].index(holder) + 1


def complete_graph(members: Sequence[int]) -> Neighbourhoods:
    """Return the graph in which everybody is a neighbour of everybody."""
    everybody = tuple(sorted(members))
    return Neighbourhoods(dict.fromkeys(everybody, everybody))


def sparse_graph(members: Sequence[int], degree: int, seed: bytes) -> Neighbourhoods:
    """Return a ring in an order that the seed decides, each joined to ``degree`` around it.

    Args:
        members: indices in the roster.
        degree: even; where the members are too few for it, the graph is complete.
        seed: 32 bytes on which all members agree.

    Source: Harary 1962; as used by Bell et al. 2020, section 3.
    """
    if len(members) <= degree + 1:
        return complete_graph(members)
    ring = sorted(members, key=lambda index: _rank(seed, index))
    half = degree // 2
    holders = {
        index: tuple(sorted(ring[(position + step) % len(ring)] for step in range(-half, half + 1)))
        for position, index in enumerate(ring)
    }
    return Neighbourhoods(holders)


def _rank(seed: bytes, index: int) -> bytes:
    return hashlib.sha256(_ORDER_DOMAIN + seed + index.to_bytes(4, "little")).digest()
