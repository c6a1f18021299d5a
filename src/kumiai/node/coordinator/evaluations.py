"""Takes evaluation reports in: check, record, wake the run."""

from collections.abc import Mapping

from kumiai.learning import verify_report
from kumiai.node.coordinator.metric_names import verify_client_metric_names
from kumiai.node.coordinator.orders import TaskKey
from kumiai.node.coordinator.run_facts import RunFactsCache
from kumiai.node.coordinator.signals import RunSignals
from kumiai.storage import UpdateInbox

__all__ = ["EvaluationIntake"]


class EvaluationIntake:
    """Checks and records what clients measured on their own data."""

    def __init__(self, *, inbox: UpdateInbox, signals: RunSignals, facts: RunFactsCache) -> None:
        """Record through ``inbox``."""
        self._inbox = inbox
        self._signals = signals
        self._facts = facts

    async def accept(self, key: TaskKey, examples: int, metrics: Mapping[str, float]) -> bool:
        """Record a report; return whether it counts (not when it came late or twice).

        Raises:
            UpdateRejectedError: its numbers can not be averaged, or a metric has a name of the
                coordinator's.
            NotFoundError: no such run.
        """
        facts = await self._facts.get(key.run_id)
        verify_report(examples, metrics, examples_max=facts.job.examples_max)
        verify_client_metric_names(metrics)
        accepted = await self._inbox.accept_evaluation(
            key.run_id, key.round, key.client_id, examples, dict(metrics)
        )
        self._signals.report(key.run_id)
        return accepted
