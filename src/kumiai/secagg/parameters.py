"""How many neighbours a sparse graph needs, and how many shares a secret.

Every client masks towards ``degree`` others only, so that chance decides who its neighbours are:
the numbers here keep the chance that it decides badly below stated bounds.

* Privacy, 2^-40: no client has so many colluding neighbours that they could rebuild its secrets,
  or in the malicious case make honest ones rebuild both; and the clients that neither collude nor
  drop out stay connected, so that nothing but the sum of all of them can be seen.
* Correctness, 2^-20: each client has enough neighbours left to rebuild its secret.

Probabilities are hypergeometric tails times the number of clients (union bound), in base-2
logarithms: they reach far below what a float can hold.

Source: Bell, Bonawitz, Gascon, Lepoint, Raykova 2020, "Secure single-server aggregation with
(poly)logarithmic overhead", section 3; a ring in random order falls apart only if ``degree / 2``
that follow each other are gone.
"""

import functools
import math
from dataclasses import dataclass
from enum import Enum
from typing import Final

__all__ = [
    "CORRECTNESS_LOG2",
    "PRIVACY_LOG2",
    "Adversary",
    "GraphParameters",
    "correctness_failure_log2",
    "privacy_failure_log2",
    "smallest_graph",
]

PRIVACY_LOG2: Final = -40.0
CORRECTNESS_LOG2: Final = -20.0
_IMPOSSIBLE: Final = -math.inf
_CERTAIN: Final = 0.0


class Adversary(Enum):
    """What the coordinator, together with some clients, may do."""

    SEMI_HONEST = "semi-honest"
    """It follows the protocol and looks at all it gets."""
    MALICIOUS = "malicious"
    """It says to each client whatever it likes."""


@dataclass(frozen=True, slots=True)
class GraphParameters:
    """A graph's size.

    Attributes:
        degree: neighbours of each client, even.
        threshold: how many shares rebuild a secret.
    """

    degree: int
    threshold: int


def smallest_graph(
    client_count: int,
    *,
    colluding: float,
    dropping: float,
    adversary: Adversary,
    own_shares: int = 1,
) -> GraphParameters:
    """Return the smallest graph that keeps both bounds.

    Args:
        client_count: n, at least 3.
        colluding: the part of the clients that works for the adversary, 0 to 1.
        dropping: the part that drops out at random, 0 to 1.
        adversary: what the coordinator may do.
        own_shares: 1 if each client keeps a share of its own secrets, as ours do; 0 gives the
            figures of the paper's setting.

    Raises:
        ValueError: no graph keeps them; all clients must then be neighbours of all.
    """
    colluders, dropouts = int(client_count * colluding), int(client_count * dropping)
    for degree in range(2, client_count, 2):
        if _severed_log2(client_count, colluders + dropouts, degree) > PRIVACY_LOG2:
            continue
        threshold = _smallest_threshold(client_count, colluders, degree, adversary, own_shares)
        rebuilt = _rebuilt_log2(
            client_count, colluders, degree, threshold, adversary, own_shares=own_shares
        )
        failure = correctness_failure_log2(client_count, dropouts, degree, threshold)
        if rebuilt <= PRIVACY_LOG2 and failure <= CORRECTNESS_LOG2:
            return GraphParameters(degree, threshold)
    raise ValueError(
        f"a sparse graph must keep the failure bounds, got none for {client_count} clients, "
        f"{colluders} colluding and {dropouts} dropping; use the complete graph"
    )


def privacy_failure_log2(
    client_count: int,
    *,
    colluders: int,
    dropouts: int,
    degree: int,
    threshold: int,
    adversary: Adversary,
) -> float:
    """Return the base-2 logarithm of the chance that more than the sum can be seen."""
    rebuilt = _rebuilt_log2(client_count, colluders, degree, threshold, adversary, own_shares=1)
    severed = _severed_log2(client_count, colluders + dropouts, degree)
    return min(_CERTAIN, max(rebuilt, severed))


def correctness_failure_log2(
    client_count: int, dropouts: int, degree: int, threshold: int
) -> float:
    """Return the base-2 logarithm of the chance that a secret cannot be rebuilt."""
    gone = _tail_log2(client_count - 1, dropouts, degree, degree - threshold + 1)
    return min(_CERTAIN, math.log2(client_count) + gone)


def _smallest_threshold(
    client_count: int, colluders: int, degree: int, adversary: Adversary, own_shares: int
) -> int:
    """Return the least threshold that keeps privacy; the degree if none does."""
    low, high = 2, degree
    # More shares are never worse for privacy, so that halving finds the first that is enough.
    while low < high:
        middle = (low + high) // 2
        failure = _rebuilt_log2(
            client_count, colluders, degree, middle, adversary, own_shares=own_shares
        )
        low, high = (low, middle) if failure <= PRIVACY_LOG2 else (middle + 1, high)
    return low


def _rebuilt_log2(
    client_count: int,
    colluders: int,
    degree: int,
    threshold: int,
    adversary: Adversary,
    *,
    own_shares: int,
) -> float:
    """Bound the chance that some client's neighbourhood lets both its secrets be rebuilt.

    A malicious coordinator tells two sets of honest holders two stories: with c colluders among
    h holders it needs 2 threshold <= h + c.
    """
    least = threshold
    if adversary is Adversary.MALICIOUS:
        least = 2 * threshold - (degree + own_shares)
    return math.log2(client_count) + _tail_log2(client_count - 1, colluders, degree, least)


def _severed_log2(client_count: int, removed: int, degree: int) -> float:
    """Bound the chance that ``degree / 2`` neighbours on the ring are all among the removed."""
    half = degree // 2
    if removed < half:
        return _IMPOSSIBLE
    runs = _choose_log2(client_count - half, removed - half) - _choose_log2(client_count, removed)
    return math.log2(client_count) + runs


def _tail_log2(population: int, marked: int, draws: int, least: int) -> float:
    """Return log2 of the chance that at least ``least`` of the draws are marked."""
    terms = [
        _choose_log2(marked, drawn) + _choose_log2(population - marked, draws - drawn)
        for drawn in range(max(least, 0), min(marked, draws) + 1)
        if draws - drawn <= population - marked
    ]
    if not terms:
        return _IMPOSSIBLE
    highest = max(terms)
    rest = math.fsum(2.0 ** (term - highest) for term in terms)
    return highest + math.log2(rest) - _choose_log2(population, draws)


def _choose_log2(count: int, chosen: int) -> float:
    return _factorial_log2(count) - _factorial_log2(chosen) - _factorial_log2(count - chosen)


@functools.cache
def _factorial_log2(number: int) -> float:
    return math.lgamma(number + 1) / math.log(2)
