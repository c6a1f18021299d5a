"""When does a round stop waiting? One pure decision over the round's counters.

A round closes when every wanted report is in, when everybody who was asked has answered, when
the grace after the quorum is over, or at the deadline with a quorum. Without a quorum it is
extended (new deadline, clients asked anew) up to the attempts of the job, then the run fails.
No branch waits for ever.
"""

from dataclasses import dataclass

from kumiai.node.job import CohortSpec
from kumiai.storage import RoundProgress

__all__ = ["Close", "Decision", "Extend", "GiveUp", "MarkQuorum", "Stop", "Wait", "decide"]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before this time, so many reports, or a failure."""

    seconds: float
    reports: int


@dataclass(frozen=True, slots=True)
class MarkQuorum:
    """The quorum stands for the first time: write down when."""


@dataclass(frozen=True, slots=True)
class Close:
    """Aggregate what is there."""

    reason: str


@dataclass(frozen=True, slots=True)
class Extend:
    """The quorum was missed: ask again, with a new deadline."""

    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The quorum was missed for the last time."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Somebody asked the run to stop."""


Decision = Wait | MarkQuorum | Close | Extend | GiveUp | Stop


def decide(
    progress: RoundProgress, cohort: CohortSpec, *, target_reports: int, min_reports: int
) -> Decision:
    """Return what the round does now.

    Args:
        progress: the round's counters and times, all on the database's clock.
        cohort: the job's waiting rules.
        target_reports: reports wanted; with over-selection fewer than were asked.
        min_reports: the quorum.
    """
    if progress.stop_requested:
        return Stop()
    if progress.reported >= target_reports:
        return Close("all wanted reports are in")
    if progress.assigned == 0 and progress.reported >= min_reports:
        return Close("every client has answered")
    is_late = progress.now >= progress.deadline_at
    if progress.reported >= min_reports:
        return _after_quorum(progress, cohort, target_reports, is_late=is_late)
    can_reach_quorum = progress.reported + progress.assigned >= min_reports
    if is_late or not can_reach_quorum:
        why = (
            f"{progress.reported} of {min_reports} needed reports "
            + (f"at the deadline, {progress.assigned} clients silent" if is_late else "are in")
            + f", {progress.failed + progress.refused} failed or were refused"
        )
        is_last = progress.attempt >= cohort.max_attempts
        return GiveUp(why) if is_last else Extend(why)
    wanted = min_reports - progress.reported
    return Wait(progress.deadline_at - progress.now, min(wanted, progress.assigned))


def _after_quorum(
    progress: RoundProgress, cohort: CohortSpec, target_reports: int, *, is_late: bool
) -> Decision:
    if is_late:
        return Close(f"deadline, {progress.assigned} clients silent")
    if progress.quorum_at is None:
        return MarkQuorum()
    closes_at = min(progress.quorum_at + cohort.grace_seconds, progress.deadline_at)
    if progress.now >= closes_at:
        return Close(f"grace after the quorum is over, {progress.assigned} clients silent")
    wanted = target_reports - progress.reported
    return Wait(closes_at - progress.now, min(wanted, progress.assigned))
