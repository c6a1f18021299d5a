"""A run to work on: how it is submitted, and each step of its leader with arguments that fit."""

from collections.abc import Sequence
from dataclasses import dataclass

from kumiai.storage import AcceptRequest, Lease, NewRun, RunRepository

__all__ = ["TTL_SECONDS", "Leading", "new_run", "request_of"]

TTL_SECONDS = 60.0


def new_run(run_id: str = "run-a", **changes: object) -> NewRun:
    values: dict[str, object] = {
        "run_id": run_id,
        "name": "digits",
        "app": "digits-app",
        "job": {"rounds": 3, "strategy": {"name": "fedavg"}},
        "submit_token": None,
        "submitted_by": "olga",
        "rounds_total": 3,
        "model_digest": "d0",
        "model_size_bytes": 10,
    }
    return NewRun(**(values | changes))  # type: ignore[arg-type]


def request_of(
    client_id: str,
    *,
    run_id: str = "run-a",
    round_: int = 1,
    attempt: int = 1,
    digest: str | None = None,
) -> AcceptRequest:
    digest = f"update-{client_id}" if digest is None else digest
    return AcceptRequest(run_id, round_, attempt, client_id, digest, 100, 7, {"loss": 0.5})


@dataclass
class Leading:
    """A run with its leader, and each step with arguments that fit."""

    runs: RunRepository
    lease: Lease

    async def open(
        self,
        number: int = 1,
        *,
        clients: Sequence[str] = ("a", "b", "c"),
        evaluate: Sequence[str] = (),
    ) -> None:
        await self.runs.open_round(
            self.lease,
            round=number,
            base_digest=f"d{number - 1}",
            target_reports=len(clients),
            min_reports=1,
            deadline_seconds=60.0,
            clients=[(client, 1000 + index) for index, client in enumerate(clients)],
            evaluate_clients=evaluate,
            evaluate_round=number - 1 if evaluate else None,
        )

    async def publish(self, number: int = 1, *, model: str | None = None) -> None:
        await self.runs.publish_round(
            self.lease,
            round=number,
            model_digest=f"d{number}" if model is None else model,
            model_size_bytes=11,
            state_digest=f"s{number}",
            reports=2,
            examples=14,
            metrics={"loss": 0.25},
        )

    async def play(self, number: int = 1) -> None:
        """Open, close and publish a round."""
        await self.open(number)
        await self.runs.close_round(self.lease, number, "all reported")
        await self.publish(number)
