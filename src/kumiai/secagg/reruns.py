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

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from kumiai.secagg.descriptor import SURVIVORS_LEAST

__all__ = ["plan_rerun", "suspects"]

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
