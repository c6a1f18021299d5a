"""Clients alter what they upload in round after round; or do so in turns, to have another blamed.

The attack on the naming is a pair of clients that lie only where a third one is with them.
"""

from collections.abc import Callable, Collection

from kumiai.secagg import suspects
from kumiai.secagg.descriptor import Proofs
from tests.attacks.test_upload_that_was_not_committed_to import Lying
from tests.secagg.rounds import Network, names_of, signers_of

SIGNERS = signers_of(6)
NAMES = names_of(6)
LIAR, ACCOMPLICE, VICTIM = NAMES[:3]
Liars = Callable[[Collection[str]], Collection[str]]
"""Says who of a group lies in it."""


def wrong_sum(members: Collection[str], liars: Liars) -> Network | None:
    """Run a round of these members; return it if its sum was wrong."""
    signers = {name: SIGNERS[name] for name in (*sorted(members), "coordinator")}
    threshold = len(members) // 2 + 1
    network = Network(
        mode=Proofs.SUM,
        signers=signers,
        threshold=threshold,
        minimum_survivors=max(3, threshold),
        colluders=0,
        rerun_size=3,
    )
    for name in liars(members):
        network.clients[name]._knowledge._proofs = Lying()  # type: ignore[assignment]
    network.run()
    return None if network.outcome is not None else network


def wrong_groups(liars: Liars) -> list[tuple[str, ...]]:
    """Return the smallest wrong groups of one round of all, as the machines split it."""
    whole = wrong_sum(NAMES, liars)
    if whole is None or whole.server.stopped is None or whole.server.stopped.wrong is None:
        return []
    return [group for group in whole.server.stopped.wrong.groups if wrong_sum(group, liars)]


def test_one_that_lies_in_every_round_is_known_and_no_other_is_suspected() -> None:
    found: list[tuple[str, ...]] = []

    for _ in range(25):
        found += wrong_groups(lambda members: {LIAR} & set(members))
        assert suspects(found) <= {LIAR}
        if suspects(found):
            break

    assert suspects(found) == {LIAR}
    assert len(found) >= 2


def test_two_that_lie_only_beside_a_third_cannot_keep_it_out_and_lie_on() -> None:
    def beside_the_victim(members: Collection[str]) -> Collection[str]:
        here = {LIAR, ACCOMPLICE} & set(members)
        return here if VICTIM in members else set()

    found: list[tuple[str, ...]] = []
    for _ in range(7):
        found += wrong_groups(beside_the_victim)
    framed = suspects(found)
    # In a group without the victim one of both must lie, or the sums are right again.
    for _ in range(7):
        found += wrong_groups(lambda members: {LIAR, ACCOMPLICE} & set(members) - framed)

    assert framed <= {LIAR, ACCOMPLICE, VICTIM}
    assert VICTIM not in suspects(found)
