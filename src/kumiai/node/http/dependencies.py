"""What the API works with: the coordinator's parts, handed in by the assembly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from kumiai.core.clock import Clock
from kumiai.identity import CallGate
from kumiai.node.coordinator.blob_service import TransferMeter
from kumiai.node.coordinator.budgets import BudgetDesk
from kumiai.node.coordinator.leadership import RunSupervisor
from kumiai.node.coordinator.sessions import SessionHub
from kumiai.node.coordinator.signals import RunSignals
from kumiai.node.coordinator.sites import SiteOffice
from kumiai.storage import (
    APITokenRepository,
    AuditLog,
    DatabaseManager,
    ModelRepository,
    NearReads,
    RunRepository,
    SecureRoundRepository,
    SweptStore,
    TrainingHistoryRepository,
)

__all__ = ["ApiDependencies", "Parts"]


@dataclass(frozen=True, slots=True)
class ApiDependencies:
    """The parts of one coordinator.

    Attributes:
        gate: decides who may make which call.
        coordinator_id: this replica's lasting name.
        near: the same runs, and the clients, for those who only look.
        can_evaluate: whether this coordinator can measure a model itself, which jobs with
            ``evaluation.central`` need.
        model_bytes_max: the largest initial model that may be uploaded.
        stream_count_max: how many event streams may be open at once.
        token_days_max: how long a token may be good.
        unwell: names the background work that has ended by an error and was started again.
    """

    database: DatabaseManager
    runs: RunRepository
    near: NearReads
    history: TrainingHistoryRepository
    models: ModelRepository
    secure: SecureRoundRepository
    audit: AuditLog
    tokens: APITokenRepository
    budgets: BudgetDesk
    blobs: SweptStore
    hub: SessionHub
    supervisor: RunSupervisor
    signals: RunSignals
    gate: CallGate
    meter: TransferMeter
    sites: SiteOffice
    clock: Clock
    coordinator_id: str
    can_evaluate: bool
    model_bytes_max: int = 4 << 30
    stream_count_max: int = 100
    token_days_max: int = 90
    unwell: Callable[[], Sequence[str]] = tuple


async def _parts(request: Request) -> ApiDependencies:
    return cast("ApiDependencies", request.app.state.parts)


Parts = Annotated[ApiDependencies, Depends(_parts)]
"""How a route asks for them."""
