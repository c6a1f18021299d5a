"""A whole federation inside one process: the same run code, no sockets, virtual clients.

The round engine, the rows, the strategies and the intake are those of the coordinator; only who
carries a task to a client differs. Thousands of virtual clients share a few worker threads; each
has its own data, seed and rows, and nothing else.
"""

import asyncio
import functools
import json
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from kumiai.core.arrays import NamedArrays
from kumiai.core.clock import SystemClock
from kumiai.core.codec import decode, encode
from kumiai.core.error_kinds import ERRORS_BY_KIND
from kumiai.core.errors import ConfigError, KumiaiError
from kumiai.core.ids import new_id
from kumiai.crypto.signatures import Ed25519Signer, Ed25519Verifier
from kumiai.learning import delta_of
from kumiai.node.contributions import (
    Contribution,
    clipped_contribution_of,
    contribution_of,
)
from kumiai.node.coordinator.aggregation import Aggregator
from kumiai.node.coordinator.budgets import BudgetDesk
from kumiai.node.coordinator.engine import RoundEngine
from kumiai.node.coordinator.evaluations import EvaluationIntake
from kumiai.node.coordinator.intake import FinishedUpdate, UpdateIntake
from kumiai.node.coordinator.leadership import RunSupervisor
from kumiai.node.coordinator.namespaces import model_namespace, update_namespace
from kumiai.node.coordinator.orders import TaskKey, TaskOrder
from kumiai.node.coordinator.run_facts import RunFactsCache
from kumiai.node.coordinator.secure.mailbox import SecureMailbox
from kumiai.node.coordinator.secure.planning import survivors_least
from kumiai.node.coordinator.secure.summing import SumParts
from kumiai.node.coordinator.secure.sums import OwnKey, SecureSums, VouchedMember
from kumiai.node.coordinator.signals import RunSignals
from kumiai.node.coordinator.tasks import TaskWriter
from kumiai.node.job import JobSpec, parse_job, parse_job_toml
from kumiai.node.secure_proofs import proofs_of
from kumiai.node.study import App, Site, initial_model, run_evaluate, run_train
from kumiai.node.virtual_rounds import VirtualRounds
from kumiai.privacy import PrivacySpent, PrivacyUnit, event_from_json
from kumiai.privacy.budget import epsilon_spent, merged
from kumiai.privacy.ledger import BudgetScope, ScopeKind
from kumiai.secagg import TrainedAhead
from kumiai.storage import (
    BlobStore,
    BudgetRepository,
    DatabaseManager,
    LocalBlobStore,
    MemoryBlobStore,
    NewRun,
    RoundRecord,
    RunRepository,
    SecureRoundRepository,
    UpdateInbox,
)

__all__ = ["RoundResult", "RunResult", "run", "simulate"]

_Result = TypeVar("_Result")

_DATABASE = "simulation.db"
_SPOOL_IN_MEMORY_BYTES_MAX = 512 << 20
_LOOK_SECONDS = 0.05
_BATCH_SECONDS = 0.05
_BATCH_MAX = 256


@dataclass(frozen=True, slots=True)
class RoundResult:
    """One round: metrics that the clients reported, averaged by their examples.

    Attributes:
        round: counts from 1; 0 is the initial model, which has an evaluation only.
        reports: updates in the sum.
        metrics: of the training.
        evaluation: of the model that the round made; empty if it was not evaluated.
    """

    round: int
    reports: int
    metrics: Mapping[str, float]
    evaluation: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run came to.

    Attributes:
        weights: the last model.
        history: the initial model's evaluation, then one entry per round.
        seconds: how long the rounds took.
        privacy: what the run's ledger says that it cost, at the job's delta; ``None``: the job has
            no ``[privacy]``.
    """

    weights: Mapping[str, NDArray[Any]]
    history: tuple[RoundResult, ...]
    seconds: float
    privacy: PrivacySpent | None = None

    @property
    def evaluation(self) -> Mapping[str, float]:
        """The last model's federated evaluation."""
        return self.history[-1].evaluation

    def save(self, path: str | Path) -> None:
        """Write the last model as a safetensors file."""
        with Path(path).open("wb") as file:
            file.writelines(encode(self.weights))


def run(
    app: App,
    *,
    sites: int | Sequence[str] | Mapping[str, Mapping[str, Any]] = 4,
    rounds: int = 10,
    strategy: str | Mapping[str, Any] = "fedavg",
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    cohort_size: int | None = None,
    data: Mapping[str, Any] | None = None,
    evaluate_every: int = 1,
    workers: int | None = None,
    on_round: Callable[[RoundResult], None] | None = None,
) -> RunResult:
    """Train a study in this process and return the model.

    Args:
        app: the study.
        sites: how many virtual sites, their names, or their names with data options.
        rounds: how many rounds, >= 1.
        strategy: a name, or a mapping of ``name`` and parameters.
        config: handed to the study as ``context.config``.
        seed: everything random derives from it; the same seed gives the same model.
        cohort_size: reports wanted a round; ``None`` asks every site.
        data: data options of every site, beside ``partition`` and ``partitions``.
        evaluate_every: evaluate each so many rounds, and the last; 0 never.
        workers: threads that train; ``None``: one per core.
        on_round: called with each round that ended, while the run goes on.

    Raises:
        ConfigError: an argument is wrong.
        QuorumLostError: too few sites trained.
        KumiaiError: the run failed otherwise; the class and the message say why.
    """
    job = parse_job(
        {
            "run": {"app": app.name, "rounds": rounds, "seed": seed, "keep_versions": 1},
            "cohort": {"size": cohort_size},
            "strategy": {"name": strategy} if isinstance(strategy, str) else dict(strategy),
            "evaluation": {"every": evaluate_every if app.evaluate_function else 0},
            "train": dict(config or {}),
        }
    )
    return simulate(app, job, sites=sites, data=data, workers=workers, on_round=on_round)


def simulate(
    app: App,
    job: JobSpec | str | Path,
    *,
    sites: int | Sequence[str] | Mapping[str, Mapping[str, Any]],
    data: Mapping[str, Any] | None = None,
    workers: int | None = None,
    model: NamedArrays | None = None,
    on_round: Callable[[RoundResult], None] | None = None,
) -> RunResult:
    """Run a job in this process; as `run`, with a whole job.

    Args:
        app: the study; its name must be the job's.
        job: as it would be submitted, or the TOML file that it stands in.
        sites: as for `run`.
        data: as for `run`.
        workers: as for `run`.
        model: the initial model; ``None`` asks the study.
        on_round: as for `run`.

    Raises:
        ConfigError: the job names another app, or an argument is wrong.
        QuorumLostError: too few sites trained.
        KumiaiError: the run failed otherwise; the class and the message say why.
    """
    if not isinstance(job, JobSpec):
        job = _job_in(Path(job))
    if job.run.app != app.name:
        raise ConfigError(f"run.app must be {app.name!r} for this study, got {job.run.app!r}")
    app.verify_complete()
    virtual_sites = _sites(sites, data or {})
    if job.cohort.size is not None and job.cohort.size > len(virtual_sites):
        raise ConfigError(
            f"cohort.size must be at most the number of sites ({len(virtual_sites)}), "
            f"got {job.cohort.size}"
        )
    _verify_can_hide(job, len(virtual_sites))
    # The model may be large, and lives until the run's end: made here, outside the thread.
    weights = model or initial_model(app, job.train, seed=job.run.seed)

    if not structlog.is_configured():
        _log_errors_only()
    database = _empty_database()

    async def main() -> RunResult:
        with tempfile.TemporaryDirectory(prefix="kumiai-simulation-") as folder:
            (Path(folder) / _DATABASE).write_bytes(database)
            federation = _Federation(
                app, job, virtual_sites, weights, folder=Path(folder), workers=workers
            )
            return await federation.run(on_round)

    return _in_own_loop(main)


@functools.cache
def _empty_database() -> bytes:
    """Return the file of a database with all tables and no row: made once, to migrate is slow."""

    async def main() -> bytes:
        with tempfile.TemporaryDirectory(prefix="kumiai-simulation-") as folder:
            database = DatabaseManager(
                f"sqlite:///{Path(folder) / _DATABASE}", sqlite_synchronous="OFF"
            )
            await database.connect()
            try:
                await database.migrate()
            finally:
                await database.close()
            return (Path(folder) / _DATABASE).read_bytes()

    return _in_own_loop(main)


def _job_in(path: Path) -> JobSpec:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"job must be a TOML file that can be read, got {path}: {error}"
        ) from None
    return parse_job_toml(text, source=str(path))


def _verify_can_hide(job: JobSpec, count: int) -> None:
    """Refuse what would wait for sites that never come."""
    least = survivors_least(job.secure_aggregation, count)
    if job.secure_aggregation.mode != "none" and count < least:
        raise ConfigError(
            f"sites must be at least {least} with secure_aggregation.mode = "
            f'"{job.secure_aggregation.mode}", got {count}; in a sum of fewer, one update shows'
        )


def _sites(
    sites: int | Sequence[str] | Mapping[str, Mapping[str, Any]], data: Mapping[str, Any]
) -> dict[str, Site]:
    if isinstance(sites, int):
        if sites < 1:
            raise ConfigError(f"sites must be at least 1, got {sites}")
        width = len(str(sites))
        sites = [f"site-{number:0{width}}" for number in range(1, sites + 1)]
    options = sites if isinstance(sites, Mapping) else {name: {} for name in sites}
    return {
        name: Site(name, {"partition": index, "partitions": len(options), **data, **options[name]})
        for index, name in enumerate(options)
    }


def _log_errors_only() -> None:
    """Keep the coordinator's remarks on a run to itself: rounds and errors tell the caller.

    What is left goes to standard error; standard output is for results.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        # A program that asks for logs afterwards gets them.
        cache_logger_on_first_use=False,
    )


def _in_own_loop(main: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
    """Run a coroutine in a thread of its own: a notebook has a running loop in this one."""
    outcome: Future[_Result] = Future()

    def work() -> None:
        try:
            outcome.set_result(asyncio.run(main()))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            outcome.set_exception(error)

    thread = threading.Thread(target=work, name="kumiai-simulation", daemon=True)
    thread.start()
    return outcome.result()


class _Federation:
    """One simulated run and everything that it needs."""

    def __init__(
        self,
        app: App,
        job: JobSpec,
        sites: Mapping[str, Site],
        model: NamedArrays,
        *,
        folder: Path,
        workers: int | None,
    ) -> None:
        self._job = job
        self._model = model
        self._run_id = new_id("run")
        self._database = DatabaseManager(
            f"sqlite:///{folder / _DATABASE}", sqlite_synchronous="OFF"
        )
        self._runs = RunRepository(self._database)
        self._budgets = BudgetRepository(self._database)
        self._inbox = UpdateInbox(self._database, batch_limit=1_000)
        self._blobs = _spool(model, job.cohort.size or len(sites), folder)
        signals = RunSignals()
        mailbox = SecureMailbox(signals.wake)
        facts = RunFactsCache(runs=self._runs, blobs=self._blobs)
        self._pool = ThreadPoolExecutor(
            workers or os.cpu_count() or 1, thread_name_prefix="kumiai-virtual-client"
        )
        self._rounds = VirtualRounds(mailbox, self._blobs, self._pool)
        # Of its own: what unmasks waits for no study.
        self._summing = ThreadPoolExecutor(1, thread_name_prefix="kumiai-secure-sum")
        self._clients = _VirtualClients(
            app=app,
            rounds=self._rounds,
            sites=sites,
            runs=self._runs,
            blobs=self._blobs,
            intake=UpdateIntake(
                runs=self._runs,
                inbox=self._inbox,
                blobs=self._blobs,
                signals=signals,
                facts=facts,
                executor=None,
            ),
            evaluations=EvaluationIntake(inbox=self._inbox, signals=signals, facts=facts),
            pool=self._pool,
            parallel=workers or os.cpu_count() or 1,
            signals=signals,
        )
        engine = RoundEngine(
            secure=self._new_sums(mailbox, facts),
            runs=self._runs,
            blobs=self._blobs,
            directory=self._clients,
            tasks=TaskWriter(self._runs),
            aggregator=Aggregator(blobs=self._blobs, worker=self._pool),
            signals=signals,
            clock=SystemClock(),
            budgets=BudgetDesk(self._budgets, folder, "simulation"),
        )
        self._supervisor = RunSupervisor(
            engine, leader="simulation", lease_seconds=300, poll_seconds=1.0
        )

    def _new_sums(self, mailbox: SecureMailbox, facts: RunFactsCache) -> SecureSums:
        signer = Ed25519Signer.generate()
        own_key = OwnKey(VouchedMember("coordinator", signer.public), signer)
        return SecureSums(
            SumParts(
                repository=SecureRoundRepository(self._database),
                blobs=self._blobs,
                carrier=self._rounds,
                worker=self._summing,
            ),
            members=self._rounds,
            mailbox=mailbox,
            own_key=lambda: own_key,
            verifier=Ed25519Verifier(),
            proofs=proofs_of,
            facts=facts,
        )

    async def run(self, on_round: Callable[[RoundResult], None] | None) -> RunResult:
        clock = SystemClock()
        await self._database.connect()
        await self._inbox.start()
        working = asyncio.create_task(self._clients.serve())
        hearing = asyncio.create_task(self._rounds.serve())
        leading: asyncio.Task[None] | None = None
        try:
            await self._submit()
            began = clock.monotonic()
            leading = asyncio.create_task(self._supervisor.serve())
            await self._watch(on_round, {working, leading, hearing})
            return await self._result(clock.monotonic() - began)
        finally:
            tasks = [each for each in (working, hearing, leading) if each is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._summing.shutdown(cancel_futures=True)
            self._pool.shutdown(cancel_futures=True)
            await self._inbox.close()
            await self._database.close()

    async def _submit(self) -> None:
        buffers = encode(self._model)
        digest = await self._blobs.put(model_namespace(self._run_id), buffers)
        await self._runs.create(
            NewRun(
                run_id=self._run_id,
                name=self._job.run.name,
                app=self._job.run.app,
                job=self._job.model_dump(),
                submit_token=None,
                submitted_by="simulation",
                rounds_total=self._job.run.rounds,
                model_digest=digest,
                model_size_bytes=sum(buffer.nbytes for buffer in buffers),
            )
        )

    async def _watch(
        self, on_round: Callable[[RoundResult], None] | None, tasks: set["asyncio.Task[None]"]
    ) -> None:
        """Tell each round once, with its evaluation, until the run has ended."""
        told, seen = -1, -1
        while True:
            run_now = await self._runs.get(self._run_id)
            has_ended = run_now.state in {"finished", "failed", "stopped"}
            if on_round is not None and (has_ended or run_now.round > seen):
                seen = run_now.round
                records = await self._runs.rounds(self._run_id)
                published = [each for each in records if each.stage == "published"]
                # A round's evaluation is written before the next round is published.
                for record in published if has_ended else published[:-1]:
                    if record.round > told:
                        told = record.round
                        on_round(_round_result(record))
            if has_ended and run_now.state != "finished":
                error = ERRORS_BY_KIND.get(run_now.end_kind or "", KumiaiError)
                raise error(await self._why(run_now.reason or run_now.state))
            if has_ended:
                return
            done, _ = await asyncio.wait(tasks, timeout=_LOOK_SECONDS)
            for task in done:
                task.result()

    async def _why(self, reason: str) -> str:
        """Return the run's reason with the first client's own words."""
        for event in await self._runs.events(self._run_id):
            if event.level != "info" and event.client_id is not None:
                return f"{reason}; first failure: {event.text}"
        return reason

    async def _result(self, seconds: float) -> RunResult:
        model = await self._runs.find_model(self._run_id, None)
        if model is None:
            raise KumiaiError("a finished run must have a model, got none")
        with self._blobs.open_buffer(model_namespace(self._run_id), model.digest) as buffer:
            weights = {name: np.array(array) for name, array in decode(buffer).arrays.items()}
        records = await self._runs.rounds(self._run_id)
        history = tuple(_round_result(record) for record in records)
        return RunResult(weights, history, seconds, await self._privacy())

    async def _privacy(self) -> PrivacySpent | None:
        """Return what the model has paid, as the ledger says: as much as whoever has paid most."""
        privacy = self._job.privacy
        if privacy is None:
            return None
        scope = BudgetScope(ScopeKind.MODEL, self._job.run.name or self._job.run.app)
        (model,) = await self._budgets.scopes([scope])
        counts = merged({each.event: each.count} for each in model.paid)
        return PrivacySpent.on(
            [event_from_json(text) for text in counts],
            epsilon=epsilon_spent(counts, privacy.delta),
            delta=privacy.delta,
            unit=PrivacyUnit(privacy.unit),
        )


def _spool(model: NamedArrays, cohort: int, folder: Path) -> BlobStore:
    """Return a store for the updates of a round: in memory when they fit, else on disk."""
    size = sum(array.nbytes for array in model.values())
    if size * (cohort + 4) <= _SPOOL_IN_MEMORY_BYTES_MAX:
        return MemoryBlobStore()
    return LocalBlobStore(folder / "blobs", durable=False)


def _round_result(record: RoundRecord) -> RoundResult:
    return RoundResult(
        record.round, record.reports or 0, record.metrics or {}, record.evaluation or {}
    )


@dataclass(frozen=True, slots=True)
class _Done:
    """What a virtual client made of an order, computed in a worker thread."""

    order: TaskOrder
    examples: int = 0
    metrics: Mapping[str, float] | None = None
    buffers: Sequence[memoryview] = ()
    failure: str | None = None
    contribution: Contribution | None = None
    """What is to be hidden; then there are no buffers."""

    @property
    def is_for_one_attempt(self) -> bool:
        """Whether it says nothing for another attempt of its order: hidden, or a failure."""
        is_hidden = self.contribution is not None and self.order.key.kind == "train"
        return self.failure is not None or is_hidden


class _VirtualClients:
    """The engine's `ClientDirectory` without a network: orders go straight to worker threads."""

    def __init__(
        self,
        *,
        app: App,
        rounds: VirtualRounds,
        sites: Mapping[str, Site],
        runs: RunRepository,
        blobs: BlobStore,
        intake: UpdateIntake,
        evaluations: EvaluationIntake,
        pool: Executor,
        parallel: int,
        signals: RunSignals,
    ) -> None:
        self._app = app
        self._rounds = rounds
        self._sites = sites
        self._names = sorted(sites)
        self._runs = runs
        self._blobs = blobs
        self._intake = intake
        self._evaluations = evaluations
        self._pool = pool
        self._parallel = parallel
        self._signals = signals
        self._orders: asyncio.Queue[TaskOrder] = asyncio.Queue()
        self._taken: dict[TaskKey, TaskOrder] = {}
        self._held: dict[tuple[str, str], _Done] = {}
        self._task_seconds = 1.0  # of the last batch

    def available(self, app: str) -> Sequence[str]:
        return self._names if app == self._app.name else []

    def deliver(self, orders: Sequence[TaskOrder]) -> None:
        for order in orders:
            if order.key not in self._taken:
                self._orders.put_nowait(order)
            self._taken[order.key] = order  # the newest attempt that is asked for

    def cancel(
        self,
        run_id: str,
        round_number: int | None,
        reason: str,
        *,
        kind: Literal["prepare"] | None = None,
        clients: Collection[str] | None = None,
    ) -> None:
        """Nothing to do: whoever comes late is told so by the rows."""

    async def wait_for_change(self, timeout_seconds: float) -> None:
        await asyncio.sleep(timeout_seconds)

    async def serve(self) -> None:
        """Carry orders out until cancelled, as many at a time as there are workers."""
        workers = [asyncio.create_task(self._work()) for _ in range(self._parallel)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._orders.get()]
            if batch[0].ahead is None:  # else a quick client would wait for a slow one
                batch += [self._orders.get_nowait() for _ in range(self._share())]
            done = await loop.run_in_executor(self._pool, self._compute_all, batch)
            await asyncio.gather(*(self._settle(each) for each in done))

    def _share(self) -> int:
        """Return how many more orders to take at once.

        Waking a thread costs as much as a tiny task, so tiny tasks go in batches; long ones go
        one by one, so that no worker sits on what another could begin.
        """
        wanted = int(_BATCH_SECONDS / max(self._task_seconds, 1e-6))
        return min(wanted, _BATCH_MAX, self._orders.qsize() // self._parallel)

    def _compute_all(self, batch: Sequence[TaskOrder]) -> list[_Done]:
        clock = SystemClock()
        began = clock.monotonic()
        with ExitStack() as opened:
            models = {
                digest: decode(
                    opened.enter_context(self._blobs.open_buffer(model_namespace(run_id), digest))
                ).arrays
                for run_id, digest in {(each.key.run_id, each.model_digest) for each in batch}
            }
            done = [self._compute(order, models[order.model_digest]) for order in batch]
        self._task_seconds = (clock.monotonic() - began) / len(batch)
        return done

    def _compute(self, order: TaskOrder, base: NamedArrays) -> _Done:
        is_ahead = order.key.kind == "prepare"
        if order.ahead is not None and not is_ahead:
            return self._waiting(order, order.ahead)
        context = self._app.context(
            self._sites[order.key.client_id],
            round=order.key.round + is_ahead,
            rounds=order.rounds_total,
            config=json.loads(order.config_json),
            seed=order.seed,
            privacy=order.training,
        )
        try:
            if order.key.kind == "evaluate":
                evaluation = run_evaluate(self._app, base, context)
                return _Done(order, evaluation.examples, evaluation.metrics)
            if order.examples_per_weight is not None:
                made = contribution_of(self._app, base, context, order.privacy)
                made = replace(made, ahead=order.ahead)
                return _Done(order, made.examples, made.metrics, contribution=made)
            if order.central is not None:
                steps = clipped_contribution_of(self._app, base, context, order.central.round)
                return _Done(order, 1, {}, encode(steps))
            update = run_train(self._app, base, context)
        except KumiaiError as error:
            return _Done(order, failure=str(error))
        delta = delta_of(update.weights, base)
        return _Done(order, update.examples, update.metrics, encode(delta))

    def _waiting(self, order: TaskOrder, ahead: TrainedAhead) -> _Done:
        """Return what a client made ahead of the round that now takes it in."""
        held = self._held.get((order.key.run_id, order.key.client_id))
        if held is None or held.order.key.round != ahead.version:
            return _Done(order, failure=f"no update from version {ahead.version} waits here")
        return replace(held, order=order)

    async def _settle(self, done: _Done) -> None:
        key, attempt = done.order.key, done.order.attempt
        try:
            hidden = await self._hidden(done)
            if not done.is_for_one_attempt:
                attempt = self._taken[key].attempt
            await self._answer(hidden, attempt)
        finally:
            # Answered or refused: the same order, should it come again, is a new attempt.
            newest = self._taken.pop(key)
            if newest.attempt > attempt:
                self.deliver([newest])

    async def _hidden(self, done: _Done) -> _Done:
        """Return the update masked, if it is to be."""
        order, made = done.order, done.contribution
        if made is None or order.examples_per_weight is None or order.key.kind == "prepare":
            return done
        per_weight, key = order.examples_per_weight, order.key
        try:
            masked = await self._rounds.mask(
                key.client_id,
                (key.run_id, key.round, order.attempt),
                made.vector,
                lambda descriptor: made.weight_in(descriptor, per_weight, client=key.client_id),
            )
        except KumiaiError as error:
            return replace(done, failure=str(error), contribution=None)
        return replace(done, buffers=[masked.data], contribution=None)

    async def _answer(self, done: _Done, attempt: int) -> None:
        key = done.order.key
        if done.failure is not None:
            await self._runs.fail_assignment(
                key.run_id,
                key.round,
                key.client_id,
                key.kind,
                state="failed",
                reason=done.failure,
                attempt=attempt,
            )
            self._signals.wake(key.run_id)
        elif key.kind == "evaluate":
            await self._evaluations.accept(key, done.examples, done.metrics or {})
        elif key.kind == "prepare":
            self._held[key.run_id, key.client_id] = done
            await self._runs.report_prepared(key.run_id, key.round, key.client_id)
            self._signals.wake(key.run_id)
        else:
            namespace = update_namespace(key.run_id, key.round, key.client_id)
            digest = await self._blobs.put(namespace, done.buffers)
            await self._intake.finish(
                FinishedUpdate(
                    run_id=key.run_id,
                    round=key.round,
                    attempt=attempt,
                    client_id=key.client_id,
                    digest=digest,
                    size_bytes=sum(buffer.nbytes for buffer in done.buffers),
                    examples=done.examples,
                    metrics=done.metrics or {},
                )
            )
