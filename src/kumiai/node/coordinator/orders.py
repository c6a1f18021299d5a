"""What the round engine tells a client to do, before it becomes a message.

The engine speaks in these values, so that it runs unchanged over gRPC sessions and inside one
process (simulation).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from kumiai.core.errors import ConfigError, NotFoundError
from kumiai.core.ids import verify_name
from kumiai.node.central_rounds import CentralTerms
from kumiai.node.noised_rounds import PrivateTerms
from kumiai.privacy import TrainingTerms
from kumiai.secagg import TrainedAhead
from kumiai.storage import AssignmentKind

__all__ = ["ClientDirectory", "TaskKey", "TaskOrder", "verify_named_task"]

_ROUND_MAX = 1_000_000  # the most that a job may ask for
_ATTEMPT_MAX = 1_000_000  # more than any job allows, and one row of a database holds


def verify_named_task(run_id: str, round_number: int, attempt: int = 1) -> None:
    """Check that a client's message names what could be a task, before a row is looked for.

    What no run could be called must not look like a failure of the database.

    Raises:
        NotFoundError: it does not.
    """
    try:
        verify_name("run", run_id)
    except ConfigError as error:
        raise NotFoundError(str(error)) from None
    if round_number > _ROUND_MAX:
        raise NotFoundError(f"round of run {run_id} must exist, got {round_number}")
    if not 1 <= attempt <= _ATTEMPT_MAX:
        raise NotFoundError(
            f"attempt of round {round_number} of run {run_id} must exist, got {attempt}"
        )


@dataclass(frozen=True, slots=True)
class TaskKey:
    """Names one task of one client; the same key is the same task, however often it is sent."""

    run_id: str
    round: int
    kind: AssignmentKind
    client_id: str


@dataclass(frozen=True, slots=True)
class TaskOrder:
    """One task for one client.

    ``config_json`` is the job's ``[train]`` table merged with the strategy's client settings;
    ``deadline_seconds`` is what was left when the order was made. A higher ``attempt`` asks again,
    whatever the client answered before.
    """

    key: TaskKey
    app: str
    rounds_total: int
    model_digest: str
    model_size_bytes: int
    config_json: str
    seed: int
    deadline_seconds: float
    attempt: int = 1
    chunk_bytes: int = 0
    examples_per_weight: int | None = None
    """For a masked update: 0 where all weigh the same; ``None``: the update goes as it is."""
    privacy: PrivateTerms | None = None
    """How contributions are clipped and counted before noise is added; ``None``: there is none."""
    central: CentralTerms | None = None
    """The same where the coordinator adds the noise; ``None``: it adds none."""
    training: TrainingTerms | None = None
    """By which the client trains, where it adds all noise by itself; ``None``: it does not."""
    ahead: TrainedAhead | None = None
    """Of an asynchronous run: the version that the update is made from; ``None``: of no such."""


class ClientDirectory(Protocol):
    """Who is there, and how to reach them. Sessions over gRPC, or virtual clients."""

    def available(self, app: str) -> Sequence[str]:
        """Return the ids of the attached clients that offer ``app``, sorted."""
        ...

    def deliver(self, orders: Sequence[TaskOrder]) -> None:
        """Send each order to its client if it is attached; the rows deliver the rest later."""
        ...

    def cancel(
        self,
        run_id: str,
        round_number: int | None,
        reason: str,
        *,
        kind: Literal["prepare"] | None = None,
        clients: Collection[str] | None = None,
    ) -> None:
        """Tell every attached client, or these alone, to drop its tasks of this run (and round).

        With a kind those alone that are made ahead, from this version and older ones.
        """
        ...

    async def wait_for_change(self, timeout_seconds: float) -> None:
        """Return when a client attached or left, or after the time."""
        ...
