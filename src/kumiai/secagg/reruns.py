"""What to do when everybody did as told and still the sum is not that of the commitments.

Then some client has uploaded another vector than it committed to. Nothing names it: its masks hide
what it did. The round gives no result, and is run again in groups, each a round of its own with new
keys; the groups whose sum fails again are split, until the groups are as small as is allowed. The
honest majority gets into the model at once, and what remains are small groups that hold a cheat,
whose members are left out of this round's result and reported.

No group is ever smaller than the minimum, so that no sum tells more than one of that many clients.
A client that is in a failing group again and again, with other clients each time, is the cheat:
`suspects` counts that.

Source: group testing (Dorfman 1943), with a floor under the groups.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from kumiai.secagg.descriptor import SURVIVORS_LEAST

__all__ = ["plan_rerun", "rerun_groups", "suspects"]

_ORDER_DOMAIN: Final = b"kumiai/secagg/rerun/v1/"
_FAILURES_LEAST: Final = 2


def plan_rerun(clients: Sequence[str], *, minimum_size: int) -> tuple[tuple[str, ...], ...]:
    """Return the groups in which a failed round's clients go again.

    Args:
        clients: who was in the failed sum, in an order that none of them chose (shuffle it).
        minimum_size: of each group, at least 3; more hides each client among more.

    Returns:
        Two groups, as equal as can be; none where two would be too small: then the group cannot be
        narrowed down any further, and gives no result in this round.

    Raises:
        ValueError: ``minimum_size`` is below 3, or a client is named twice.
    """
    if minimum_size < SURVIVORS_LEAST:
        raise ValueError(f"minimum_size must be at least {SURVIVORS_LEAST}, got {minimum_size}")
    if len(set(clients)) < len(clients):
        raise ValueError(f"clients must all differ, got {len(clients) - len(set(clients))} twice")
    if len(clients) < 2 * minimum_size:
        return ()
    half = len(clients) // 2
    return tuple(clients[:half]), tuple(clients[half:])


def rerun_groups(
    survivors: Iterable[str], *, agreement: bytes, minimum_size: int
) -> tuple[tuple[str, ...], ...]:
    """Return the one way in which all members split a failed sum, the coordinator among them.

    Whoever could choose the groups, or let a member of one drop out, could take sums that differ
    in a single update. So the order follows from what all survivors had signed, a group is summed
    whole or not at all, and both groups are of at least the minimum.

    Args:
        survivors: who was in the failed sum.
        agreement: what they had signed before it was unmasked.
        minimum_size: of each group; 0: there are no groups.
    """
    if minimum_size == 0:
        return ()

    def place(name: str) -> bytes:
        return hashlib.sha256(_ORDER_DOMAIN + agreement + name.encode()).digest()

    groups = plan_rerun(sorted(survivors, key=place), minimum_size=minimum_size)
    return tuple(tuple(sorted(group)) for group in groups)


def suspects(failed_groups: Iterable[Sequence[str]]) -> Mapping[str, int]:
    """Return who was in how many of the smallest groups that failed, the most often first.

    Args:
        failed_groups: those that `plan_rerun` gave no groups for, of many rounds.

    Returns:
        Only clients that were in two or more: once may be the neighbour's fault.
    """
    counts: dict[str, int] = {}
    for group in failed_groups:
        for client in group:
            counts[client] = counts.get(client, 0) + 1
    often = [(client, count) for client, count in counts.items() if count >= _FAILURES_LEAST]
    return dict(sorted(often, key=lambda each: (-each[1], each[0])))
