"""Writes task orders from rows: for a round that just opened, and for a client that came back."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kumiai.core.errors import NotFoundError
from kumiai.node.ahead import ahead_seconds, policy_of
from kumiai.node.central_rounds import CentralTerms, central_round_of, clip_after, opening_of
from kumiai.node.coordinator.orders import TaskKey, TaskOrder
from kumiai.node.job import JobSpec, parse_job
from kumiai.node.local_noise import training_terms_of
from kumiai.node.noised_rounds import PrivateTerms, terms_of
from kumiai.node.wire.channel import CHUNK_BYTES, chunk_bytes_for
from kumiai.secagg import TrainedAhead
from kumiai.storage import (
    AssignmentRecord,
    BudgetRepository,
    ModelRecord,
    RunRecord,
    RunRepository,
)

__all__ = ["TaskWriter"]

_Key = tuple[int, str, str]


@dataclass(frozen=True, slots=True)
class _Terms:
    """What all tasks of one kind in one round share."""

    deadline_seconds: float
    chunk_bytes: int
    central: CentralTerms | None = None


class TaskWriter:
    """Turns assignments into orders."""

    def __init__(self, runs: RunRepository, ledger: BudgetRepository | None = None) -> None:
        """Read what an order needs from here; ``None``: no budget was ever restored."""
        self._runs = runs
        self._ledger = ledger

    async def open_orders(self, client_id: str) -> list[TaskOrder]:
        """Return the orders for all tasks that this client has not answered yet."""
        orders: list[TaskOrder] = []
        for assignment in await self._runs.open_assignments(client_id):
            run = await self._runs.get(assignment.run_id)
            orders += await self.orders(run, parse_job(run.job), [assignment])
        return orders

    async def orders(
        self, run: RunRecord, job: JobSpec, assignments: Sequence[AssignmentRecord]
    ) -> list[TaskOrder]:
        """Return an order for each assignment, evaluations first.

        A client works in the order of arrival, so it evaluates the model before it trains on it.
        """
        bases = await self._bases(run, job, assignments)
        models = await self._models(run, bases.values())
        terms = await self._terms(run, job, assignments)
        config_json = json.dumps({**job.train, **job.strategy.build().client_config()})
        return [
            TaskOrder(
                key=TaskKey(run.run_id, assignment.round, assignment.kind, assignment.client_id),
                app=run.app,
                rounds_total=run.rounds_total,
                model_digest=models[bases[_key_of(assignment)]].digest,
                model_size_bytes=models[bases[_key_of(assignment)]].size_bytes,
                config_json=config_json,
                seed=assignment.seed,
                deadline_seconds=terms[assignment.round, assignment.kind].deadline_seconds,
                attempt=assignment.attempt,
                chunk_bytes=terms[assignment.round, assignment.kind].chunk_bytes,
                examples_per_weight=_examples_per_weight(job, assignment),
                privacy=_privacy(job, assignment),
                central=terms[assignment.round, assignment.kind].central,
                training=training_terms_of(job) if assignment.kind == "train" else None,
                ahead=_ahead(job, assignment, bases[_key_of(assignment)]),
            )
            for assignment in sorted(assignments, key=lambda each: (each.kind, each.client_id))
        ]

    async def _bases(
        self, run: RunRecord, job: JobSpec, assignments: Iterable[AssignmentRecord]
    ) -> dict[_Key, int]:
        """Return the round whose model each task begins with.

        Training starts from the model that the round before published, or from an older one that
        was made ahead from; an evaluation looks at the model of its own round.
        """
        bases, policy, ahead = {}, policy_of(job), dict[int, dict[str, int]]()
        for each in assignments:
            number = each.round - 1 if each.kind == "train" else each.round
            if policy is not None and each.kind == "train":
                if each.round not in ahead:
                    ahead[each.round] = await self._runs.bases(
                        run.run_id, each.round, oldest=policy.oldest(number)
                    )
                number = ahead[each.round].get(each.client_id, number)
            bases[_key_of(each)] = number
        return bases

    async def _models(self, run: RunRecord, rounds: Iterable[int]) -> dict[int, ModelRecord]:
        models = {}
        for number in set(rounds):
            model = await self._runs.find_model(run.run_id, number)
            if model is None:
                raise NotFoundError(f"run {run.run_id} has no model of round {number}")
            models[number] = model
        return models

    async def _terms(
        self, run: RunRecord, job: JobSpec, assignments: Iterable[AssignmentRecord]
    ) -> dict[tuple[int, str], _Terms]:
        terms: dict[tuple[int, str], _Terms] = {}
        for number, kind in {(each.round, each.kind) for each in assignments}:
            if kind == "evaluate":
                terms[number, kind] = _Terms(job.evaluation.deadline_seconds, CHUNK_BYTES)
            elif kind == "prepare":
                terms[number, kind] = _Terms(ahead_seconds(job), CHUNK_BYTES)
            else:
                progress = await self._runs.progress(run.run_id, number)
                terms[number, kind] = _Terms(
                    max(progress.deadline_at - progress.now, 0.0),
                    chunk_bytes_for(progress.assigned + progress.reported),
                    await self._central(run, job, number),
                )
        return terms

    async def _central(self, run: RunRecord, job: JobSpec, number: int) -> CentralTerms | None:
        privacy = job.privacy
        if privacy is None or privacy.noise != "central":
            return None
        current = await self._runs.round(run.run_id, number)
        previous = await self._runs.round(run.run_id, number - 1)
        lost = 0
        if self._ledger is not None:
            lost = await self._ledger.adopted_attempts(run.run_id, number)
        return CentralTerms(
            central_round_of(job, privacy, clip_after(privacy, previous.metrics)),
            opening_of(run.run_id, number, current.opened_at, lost),
        )


def _key_of(assignment: AssignmentRecord) -> _Key:
    return assignment.round, assignment.kind, assignment.client_id


def _ahead(job: JobSpec, assignment: AssignmentRecord, version: int) -> TrainedAhead | None:
    policy = policy_of(job)
    if policy is None or assignment.kind == "evaluate":
        return None
    return TrainedAhead(version, policy)


def _examples_per_weight(job: JobSpec, assignment: AssignmentRecord) -> int | None:
    if not job.secure_aggregation.is_on or assignment.kind == "evaluate":
        return None
    is_uniform = job.strategy.weighting == "uniform" or job.privacy is not None
    return 0 if is_uniform else job.secure_aggregation.examples_per_weight


def _privacy(job: JobSpec, assignment: AssignmentRecord) -> PrivateTerms | None:
    privacy = job.privacy
    if privacy is None or privacy.noise != "distributed" or assignment.kind != "train":
        return None
    return terms_of(job, privacy)
