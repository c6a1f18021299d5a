"""Takes evaluation reports in: check, record, wake the run."""

from collections.abc import Mapping

from kumiai.learning import verify_report
from kumiai.node.coordinator.orders import TaskKey
from kumiai.node.coordinator.signals import RunSignals
from kumiai.node.job import parse_job
from kumiai.storage import RunRepository, UpdateInbox

__all__ = ["EvaluationIntake"]


class EvaluationIntake:
    """Checks and records what clients measured on their own data."""

    def __init__(self, *, runs: RunRepository, inbox: UpdateInbox, signals: RunSignals) -> None:
        """Record through ``inbox``."""
        self._runs = runs
        self._inbox = inbox
        self._signals = signals

    async def accept(self, key: TaskKey, examples: int, metrics: Mapping[str, float]) -> bool:
        """Record a report; return whether it counts (not when it came late or twice).

        Raises:
            UpdateRejectedError: its numbers can not be averaged; it is written down as refused.
        """
        run = await self._runs.get(key.run_id)
        verify_report(examples, metrics, examples_max=parse_job(run.job).examples_max)
        accepted = await self._inbox.accept_evaluation(
            key.run_id, key.round, key.client_id, examples, dict(metrics)
        )
        self._signals.wake(key.run_id)
        return accepted
