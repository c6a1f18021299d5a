"""When a round stops waiting."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.node.coordinator.collection import (
    Close,
    Decision,
    Extend,
    GiveUp,
    MarkQuorum,
    Stop,
    Wait,
    decide,
)
from kumiai.node.job import CohortSpec
from kumiai.storage import RoundProgress

COHORT = CohortSpec(size=4, grace_seconds=10, deadline_seconds=100, max_attempts=2)
FRESH = RoundProgress(
    assigned=4,
    reported=0,
    failed=0,
    refused=0,
    late=0,
    stage="collecting",
    quorum_at=None,
    deadline_at=1_100.0,
    now=1_000.0,
    stop_requested=False,
    epoch=1,
    attempt=1,
)


def decided(progress: RoundProgress, *, target: int = 4, quorum: int = 3) -> Decision:
    return decide(progress, COHORT, target_reports=target, min_reports=quorum)


def test_it_waits_for_the_reports_that_the_quorum_lacks() -> None:
    assert decided(FRESH) == Wait(100.0, 3)


def test_it_closes_when_all_wanted_reports_are_in() -> None:
    assert decided(replace(FRESH, assigned=0, reported=4)) == Close("all wanted reports are in")


def test_over_selected_clients_that_are_still_busy_do_not_hold_it_up() -> None:
    assert isinstance(decided(replace(FRESH, assigned=2, reported=4)), Close)


def test_it_writes_the_quorum_down_once() -> None:
    at_quorum = replace(FRESH, assigned=1, reported=3)

    assert decided(at_quorum) == MarkQuorum()
    assert decided(replace(at_quorum, quorum_at=1_000.0)) == Wait(10.0, 1)


def test_it_closes_when_the_grace_after_the_quorum_is_over() -> None:
    after_grace = replace(FRESH, assigned=1, reported=3, quorum_at=990.0)

    assert decided(after_grace) == Close("grace after the quorum is over, 1 clients silent")


def test_the_grace_never_outlasts_the_deadline() -> None:
    near_deadline = replace(FRESH, assigned=1, reported=3, quorum_at=1_000.0, deadline_at=1_004.0)

    assert decided(near_deadline) == Wait(4.0, 1)


def test_it_closes_at_the_deadline_with_a_quorum() -> None:
    at_deadline = replace(FRESH, assigned=1, reported=3, quorum_at=1_099.0, now=1_100.0)

    assert decided(at_deadline) == Close("deadline, 1 clients silent")


def test_it_closes_when_everybody_has_answered_and_the_quorum_stands() -> None:
    assert isinstance(decided(replace(FRESH, assigned=0, reported=3, failed=1)), Close)


def test_it_asks_again_at_the_deadline_without_a_quorum() -> None:
    decision = decided(replace(FRESH, assigned=2, reported=2, now=1_100.0))

    assert decision == Extend(
        "2 of 3 needed reports at the deadline, 2 clients silent, 0 failed or were refused"
    )


def test_it_asks_again_at_once_when_the_quorum_can_no_longer_be_reached() -> None:
    decision = decided(replace(FRESH, assigned=1, reported=1, failed=1, refused=1))

    assert decision == Extend("1 of 3 needed reports are in, 2 failed or were refused")


def test_it_gives_up_after_the_last_attempt() -> None:
    assert isinstance(decided(replace(FRESH, assigned=0, failed=4, attempt=2)), GiveUp)


def test_a_stop_comes_before_everything() -> None:
    assert decided(replace(FRESH, reported=4, stop_requested=True)) == Stop()


counts = st.integers(0, 6)


@given(
    assigned=counts,
    reported=counts,
    failed=counts,
    attempt=st.integers(1, 3),
    now=st.floats(900, 1_200),
    quorum_at=st.none() | st.floats(900, 1_200),
)
def test_no_state_waits_without_an_end(
    *, assigned: int, reported: int, failed: int, attempt: int, now: float, quorum_at: float | None
) -> None:
    progress = replace(
        FRESH,
        assigned=assigned,
        reported=reported,
        failed=failed,
        attempt=attempt,
        now=now,
        quorum_at=quorum_at,
    )

    decision = decided(progress)

    if isinstance(decision, Wait):
        assert 0 < decision.seconds <= 1_100.0 - now
        assert 1 <= decision.reports <= max(assigned, 1)
    if isinstance(decision, Close | MarkQuorum):
        assert reported >= 3
    if isinstance(decision, Extend | GiveUp):
        assert reported < 3


@pytest.mark.parametrize(("target", "quorum"), [(1, 1), (2, 2), (3, 2), (10, 7)])
def test_the_default_quorum_is_two_thirds_rounded_up(target: int, quorum: int) -> None:
    assert CohortSpec().quorum(target) == quorum
