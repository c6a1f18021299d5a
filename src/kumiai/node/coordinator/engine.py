"""What the drivers of all runs work with."""

from dataclasses import dataclass

from kumiai.core.clock import Clock
from kumiai.node.coordinator.aggregation import Aggregator
from kumiai.node.coordinator.budgets import BudgetDesk
from kumiai.node.coordinator.orders import ClientDirectory
from kumiai.node.coordinator.secure.sums import SecureSums
from kumiai.node.coordinator.signals import RunSignals
from kumiai.node.coordinator.tasks import TaskWriter
from kumiai.storage import BlobStore, RunRepository

__all__ = ["EngineTimes", "RoundEngine"]


@dataclass(frozen=True, slots=True)
class EngineTimes:
    """How often the driver looks by itself when nothing wakes it."""

    look_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class RoundEngine:
    """What every driver works with."""

    runs: RunRepository
    blobs: BlobStore
    directory: ClientDirectory
    tasks: TaskWriter
    aggregator: Aggregator
    signals: RunSignals
    clock: Clock
    times: EngineTimes = EngineTimes()
    secure: SecureSums | None = None
    """For runs with hidden updates; ``None``: they fail here."""
    budgets: BudgetDesk | None = None
    """For private runs; ``None``: they fail here."""
