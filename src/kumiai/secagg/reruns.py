"""What to do when everybody did as told and still the sum is not that of the commitments.

Then some client has uploaded another vector than it committed to. Nothing names it: its masks hide
what it did. The round gives no result, and is run again in groups, each a round of its own with new
keys; the groups whose sum fails again are split, until the groups are as small as is allowed. The
honest majority gets into the model at once, and what remains are small groups that hold a cheat,
whose members are left out of this round's result and reported.

No group is ever smaller than the minimum, so that no sum tells more than one of that many clients.
A client that is in a failing group again and again, with other clients each time, is the cheat:
`suspects` finds it.

Source: group testing (Dorfman 1943), with a floor under the groups; suspects by the smallest
hitting sets (Reiter 1987, diagnosis from first principles).
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

from kumiai.secagg.descriptor import SURVIVORS_LEAST

__all__ = ["plan_rerun", "rerun_groups", "suspects"]

_ORDER_DOMAIN: Final = b"kumiai/secagg/rerun/v1/"
_LIARS_MAX: Final = 3


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


def suspects(wrong_groups: Iterable[Collection[str]]) -> frozenset[str]:
    """Return who must have lied, if no more clients did than it takes to explain the wrong sums.

    At least one of each group has lied, so the liars are a set that has somebody of every group.
    Of these sets the smallest are the explanations, and a suspect is in all of them. So one liar
    can bring nobody else under suspicion, and several can do so only to fewer than they are
    themselves, and only as long as they leave the others' groups alone: a wrong sum that the
    suspects do not explain clears them.

    Args:
        wrong_groups: the smallest groups whose sum was wrong, of many rounds.

    Returns:
        Nobody while several explanations are as good, or while each needs more than three liars.
    """
    groups_of: dict[str, int] = {}
    count = 0
    for group in set(map(frozenset, wrong_groups)):
        for client in group:
            groups_of[client] = groups_of.get(client, 0) | 1 << count
        count += 1
    for size in range(1, _LIARS_MAX + 1):
        shared = _shared(_explanations((1 << count) - 1, size, groups_of))
        if shared is not None:
            return shared
    return frozenset()


def _shared(explanations: Iterable[frozenset[str]]) -> frozenset[str] | None:
    """Return who is in all of them; ``None``: there are none."""
    shared: frozenset[str] | None = None
    for each in explanations:
        shared = each if shared is None else shared & each
        if not shared:
            break
    return shared


def _explanations(
    unexplained: int, size: int, groups_of: Mapping[str, int]
) -> Iterator[frozenset[str]]:
    """Yield the sets of at most so many clients that have somebody of each group, some often.

    With a size of 1 a client must explain all that is left, so that none is ever less.
    """
    if not unexplained:
        yield frozenset()
        return
    # One of them must be in as many groups as falls to each, so the others need no look.
    least = -(-unexplained.bit_count() // size)
    for client, groups in groups_of.items():
        if (groups & unexplained).bit_count() >= least:
            for others in _explanations(unexplained & ~groups, size - 1, groups_of):
                yield others | {client}
