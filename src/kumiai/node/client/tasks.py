"""Does the tasks of one site, one after the other, on one worker thread.

A task is known by its key: delivered again, it is not begun again, and an answer that may have
been lost is sent again. A higher attempt asks again: what was answered for the one before is no
answer to it. Study code runs in the worker thread; the session stays alive beside it.
"""

import asyncio
import contextlib
import functools
import json
import mmap
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import structlog

from kumiai.core import failpoints
from kumiai.core.arrays import layout_of
from kumiai.core.codec import decode
from kumiai.core.errors import (
    ConfigError,
    ConflictError,
    DeadlineError,
    KumiaiError,
    UpdateRejectedError,
)
from kumiai.learning import delta_of, flattened
from kumiai.node.central_rounds import CentralTerms, new_central_round
from kumiai.node.client.budget import SiteLedger
from kumiai.node.client.deltas import ArraysUpload, DeltaUpload
from kumiai.node.client.held import HeldUpdate, HeldUpdates, trained_ahead
from kumiai.node.client.private_updates import PrivateUpdates
from kumiai.node.client.secure.site import SecureSite
from kumiai.node.client.transfer import BlobTransfer, ModelFile, PutReport, Upload
from kumiai.node.contributions import (
    Contribution,
    clipped_contribution_of,
    contribution_of,
)
from kumiai.node.noised_rounds import PrivateTerms
from kumiai.node.study import (
    App,
    Context,
    Evaluation,
    Site,
    StudyError,
    TaskCancelledError,
    Update,
    run_evaluate,
    run_train,
)
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import CHUNK_BYTES
from kumiai.privacy import Event, TrainingTerms
from kumiai.privacy.ledger import ChargeKey
from kumiai.secagg import BufferPolicy, RoundDescriptor, TrainedAhead

__all__ = ["TaskRunner"]

_T = TypeVar("_T")
_Key = tuple[str, int, int]

_ANSWERS_REMEMBERED = 256
_MODELS_KEPT = 2
_TASKS_WAITING_MAX = 256
_REASON_CHARACTERS_MAX = 2_000
_PROGRESS_STEP = 0.05
_TASK_COMES_SECONDS = 60.0
_UNITS = {pb.PRIVACY_UNIT_RECORD: "record", pb.PRIVACY_UNIT_CLIENT: "client"}
_KIND_NAMES = {
    pb.TASK_KIND_TRAIN: "train",
    pb.TASK_KIND_EVALUATE: "evaluate",
    pb.TASK_KIND_PREPARE: "prepare",
}


@dataclass(eq=False, slots=True)
class _Task:
    message: pb.Task
    until: float
    attempt: int
    """Which is asked for; it may rise while an earlier one is worked on."""
    begun: int = 0
    """Which is worked on, and will be answered."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    computing_since: float = 0.0
    fraction_told: float = 0.0

    @property
    def key(self) -> _Key:
        key = self.message.key
        return (key.run_id, key.round, key.kind)

    @property
    def kind_name(self) -> str:
        return _KIND_NAMES.get(self.message.key.kind, "unknown")

    def until_over(self, attempt: int) -> float:
        """Return until when an attempt is worked for: not any more once another is asked for."""
        is_over = self.attempt > attempt or self.cancelled.is_set()
        return 0.0 if is_over else self.until


@dataclass(frozen=True, slots=True)
class _OpenUpdate:
    """An update that goes as it is, or clipped and in whole steps.

    Attributes:
        terms: how it was clipped; ``None``: it was not.
    """

    upload: Upload
    examples: int
    metrics: Mapping[str, float]
    terms: CentralTerms | None = None


class TaskRunner:
    """Takes tasks from the session and answers them."""

    def __init__(
        self,
        *,
        apps: Mapping[str, App],
        site: Site,
        transfer: BlobTransfer,
        state_dir: Path,
        send: Callable[[pb.ClientMessage], None],
        counters_dir: Path | None = None,
        heed_seconds: float = 30.0,
        secure: SecureSite | None = None,
        requires_secure: bool = False,
        ledger: SiteLedger | None = None,
    ) -> None:
        """Work for this site.

        Args:
            apps: the studies installed here, by name.
            site: the site's name and data options, for the studies.
            transfer: moves models and updates.
            state_dir: the models' cache lies below.
            send: gives a message to the session; called on the event loop, may drop it.
            counters_dir: where it is noted which update was summed; ``None``: in ``state_dir``.
            heed_seconds: how long a study may go on with a task that nobody waits for any more,
                withdrawn or over its deadline, before the log says so; then ever more rarely.
            secure: hides updates; ``None``: tasks that ask for it fail.
            requires_secure: refuse tasks whose update the coordinator would see.
            ledger: where private runs are paid for; ``None``: tasks of private runs fail.
        """
        self._apps = apps
        self._site = site
        self._transfer = transfer
        self._models = state_dir / "models"
        self._held = HeldUpdates(
            state_dir / "held", None if counters_dir is None else counters_dir / "held"
        )
        self._send = send
        self._heed_seconds = heed_seconds
        self._secure = secure
        self._requires_secure = requires_secure
        self._ledger = ledger
        self._private = (
            None if ledger is None else PrivateUpdates(state_dir / "private-updates", ledger)
        )
        self._computing: _Task | None = None
        self._blaming: asyncio.TimerHandle | None = None
        self._queue: asyncio.Queue[_Task] = asyncio.Queue()
        self._open: dict[_Key, _Task] = {}
        self._answers: OrderedDict[_Key, tuple[int, pb.ClientMessage | None]] = OrderedDict()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="kumiai-study")
        self._log = structlog.get_logger("kumiai.client").bind(client=site.name)

    @property
    def is_idle(self) -> bool:
        """Whether no task is waiting or being done."""
        return not self._open

    def take(self, message: pb.Task) -> None:
        """Take a task from the coordinator, or answer again what was answered already."""
        until = asyncio.get_running_loop().time() + message.deadline_seconds
        task = _Task(message, until, message.attempt)
        answered, answer = self._answers.get(task.key, (-1, None))
        known = self._open.get(task.key)
        was_withdrawn = known is not None and known.cancelled.is_set()
        if known is not None and not (was_withdrawn and task.attempt > known.attempt):
            known.until, known.attempt = until, max(known.attempt, task.attempt)
        elif task.attempt <= answered:
            if answer is not None:
                self._send(answer)
        elif self._queue.qsize() >= _TASKS_WAITING_MAX:
            self._log.warning("task dropped", run=message.key.run_id, reason="too many wait")
        else:
            self._open[task.key] = task
            self._queue.put_nowait(task)

    def cancel(self, cancel: pb.Cancel) -> None:
        """Drop what a round that is over has left open, or with round 0 everything of a run.

        That is its training and all that is older. The evaluation of the model that the round
        made has only begun, and what is made ahead of a round is withdrawn by itself alone.
        """
        loop = asyncio.get_running_loop()
        for key, task in self._open.items():
            if _is_over(key, cancel.key):
                task.cancelled.set()
                if task is self._computing:
                    self._blame_at(loop.time() + self._heed_seconds, task)
        if cancel.key.round == 0 and cancel.key.kind != pb.TASK_KIND_PREPARE:
            loop.run_in_executor(None, self._held.forget, cancel.key.run_id)

    def _blame_at(self, when: float, task: _Task) -> None:
        if self._blaming is not None:
            self._blaming.cancel()
        self._blaming = asyncio.get_running_loop().call_at(when, self._blame, task)

    def _blame(self, task: _Task) -> None:
        # A thread can not be ended from outside, and a second one beside it would share the
        # study's data and its memory: the site's owner has to hear why nothing else begins.
        now = asyncio.get_running_loop().time()
        if task.cancelled.is_set():
            fault = "goes on with a task that was withdrawn"
            remedy = "let it call context.check_cancelled() now and then"
        elif now >= task.until + self._heed_seconds:
            fault = "goes on with a task whose deadline is over"
            remedy = "let it do less, or the job give it more time"
        else:  # it was asked for anew
            self._blame_at(task.until + self._heed_seconds, task)
            return
        age = now - task.computing_since
        self._log.warning(
            f"study {fault}; other tasks wait until it returns: {remedy}",
            app=task.message.app,
            run=task.message.key.run_id,
            round=task.message.key.round,
            task=task.kind_name,
            age_seconds=round(age),
        )
        self._blame_at(now + max(age, self._heed_seconds), task)

    async def serve(self) -> None:
        """Do tasks until cancelled."""
        try:
            while True:
                task = await self._queue.get()
                answer = await self._do(task)
                if task.attempt > task.begun:
                    self._queue.put_nowait(task)  # asked again meanwhile: this answer is old
                    continue
                if self._open.get(task.key) is not task:
                    continue  # withdrawn, and asked anew since
                del self._open[task.key]
                self._remember(task, answer)
                if answer is not None:
                    self._send(answer)
        finally:
            for task in self._open.values():
                task.cancelled.set()
            self._worker.shutdown(wait=False, cancel_futures=True)

    async def _do(self, task: _Task) -> pb.ClientMessage | None:
        message, task.begun = task.message, task.attempt
        log = self._log.bind(run=message.key.run_id, round=message.key.round, task=task.kind_name)
        failpoints.reach("client.task.begun")
        try:
            if task.cancelled.is_set():
                return None
            app = self._apps.get(message.app)
            if app is None:
                return _failure(task, f"app {message.app!r} is not installed at this site")
            if (refusal := await self._refusal_of(message)) is not None:
                return _failure(task, refusal)
            if _is_ahead(message):
                return await self._work_ahead(task, app, log)
            model = await self._model(task)
            if message.key.kind == pb.TASK_KIND_EVALUATE:
                return await self._evaluate(task, app, model)
            return await self._train(task, app, model, log)
        except TaskCancelledError:
            log.info("task withdrawn")
            return None
        except KumiaiError as error:
            if task.cancelled.is_set():
                return None
            if task.attempt > task.begun:
                log.info("task begins anew", attempt=task.attempt, reason=str(error))
                return None
            log.warning("task failed", error=str(error), exc_info=error.__cause__)
            return _failure(task, str(error))
        except Exception as error:
            # The outermost loop of the tasks: one that breaks us must not end the client, nor
            # leave the round waiting. The words stay here, they may tell of the site's data.
            log.exception("task failed")
            return _failure(task, f"internal error of the client: {type(error).__name__}")

    async def _model(self, task: _Task) -> ModelFile:
        """Return the model of a task, which may begin to compute then."""
        message = task.message
        self._tell(task, pb.TASK_PHASE_FETCHING)
        model = await self._transfer.fetch_model(
            message.key.run_id,
            message.model_digest,
            message.model_size_bytes,
            self._models,
            until=lambda: task.until,
        )
        self._forget_old_models(model)
        self._tell(task, pb.TASK_PHASE_COMPUTING)
        return model

    async def _work_ahead(self, task: _Task, app: App, log: Any) -> pb.ClientMessage | None:
        """Make an update ahead of its round, or bring one into its round that waits here."""
        key, ahead = task.message.key, _ahead_of(task.message)
        base_digest, is_hidden = task.message.model_digest, task.message.HasField("secure")
        held = await asyncio.to_thread(self._held.find, key.run_id, ahead.version)
        if held is not None and (held.base_digest, held.is_hidden) != (base_digest, is_hidden):
            held = None
        if key.kind == pb.TASK_KIND_TRAIN:
            if held is None:
                return _failure(task, f"no update from version {ahead.version} waits at this site")
            update = held.contribution() if is_hidden else _open_of(held)
            await self._bring_again(task, update, log)
            return None
        # What is held may go into the round that is open, where it could not be brought, and into
        # no other; in the place of what was lost no second one is made.
        but_in = None if held is None else ahead.version + 1
        verify = functools.partial(self._held.verify_unused, but_in=but_in)
        await asyncio.to_thread(verify, key.run_id, ahead.version)
        if held is None:
            model, loop = await self._model(task), asyncio.get_running_loop()
            held = await self._compute(
                task,
                lambda: trained_ahead(
                    app,
                    _open_model(model),
                    self._context(task, app, loop),
                    ahead,
                    base_digest=base_digest,
                    is_hidden=is_hidden,
                ),
            )
            if task.cancelled.is_set():
                return None
            await asyncio.to_thread(self._held.keep, key.run_id, held)
        return pb.ClientMessage(prepared=pb.Prepared(key=key))

    async def _bring_again(self, task: _Task, update: Contribution | _OpenUpdate, log: Any) -> None:
        """Bring an update into its round, and into each attempt of it, as long as it goes on.

        Whoever says that it failed has to train anew, and what it has trained is lost. So what is
        late is not a failure here: the round has its own deadline, and asks again.
        """
        while not task.cancelled.is_set():
            task.begun = task.attempt
            try:
                await self._bring(task, update, log)
            except DeadlineError as error:
                log.warning("update not brought in time", attempt=task.begun, error=str(error))
            if task.begun >= task.attempt:
                return

    async def _refusal_of(self, message: pb.Task) -> str | None:
        """Return why this site does no such task; ``None``: it does."""
        is_open = message.key.kind != pb.TASK_KIND_EVALUATE and not message.HasField("secure")
        if self._requires_secure and is_open:
            return (
                "this site trains only where its update is hidden: the job must ask for "
                'secure_aggregation.mode = "masking"'
            )
        if is_open and self._secure and await self._secure.has_hidden(message.key.run_id):
            return (
                f"run {message.key.run_id} must hide this site's update, as it did before, and now "
                "asks for an open one; a run's job never changes: ask who runs the coordinator"
            )
        if self._ledger is not None and self._ledger.is_limited and not _is_private(message):
            return (
                "this site has a privacy budget, and what leaves it without noise has no price: "
                "the job must have a [privacy] table, and evaluation.every = 0"
            )
        return None

    async def _train(
        self, task: _Task, app: App, model: ModelFile, log: Any
    ) -> pb.ClientMessage | None:
        loop = asyncio.get_running_loop()

        def compute() -> Contribution | _OpenUpdate:
            base, context = _open_model(model), self._context(task, app, loop)
            made: Contribution | _OpenUpdate
            if context.privacy is not None:
                made = self._trained_privately(task, app, base, context)
            elif task.message.HasField("secure"):
                terms = _terms_of(task.message.secure)
                made = _without_words(
                    lambda: contribution_of(app, base, context, terms),
                    is_private=terms is not None,
                )
            elif task.message.HasField("central"):
                made = _clipped(app, base, context, _central_terms_of(task.message.central))
            else:
                update = run_train(app, base, context)
                upload = DeltaUpload.prepare(update.weights, base, chunk_bytes=CHUNK_BYTES)
                made = _OpenUpdate(upload, update.examples, update.metrics)
            failpoints.reach("client.train.done")
            return made

        update = await self._compute(task, compute)
        if not task.cancelled.is_set():
            await self._bring(task, update, log)
        return None

    def _trained_privately(
        self, task: _Task, app: App, base: Mapping[str, Any], context: Context
    ) -> Contribution | _OpenUpdate:
        """Train by noised steps and pay for all of them; blocking."""
        key, training = task.message.key, context.privacy
        if self._private is None or training is None:
            raise ConfigError("this site keeps no ledger, and takes no part in private runs")

        def train() -> Update:
            update = _without_words(lambda: run_train(app, base, context), is_private=True)
            context.check_cancelled()
            return update

        weights = self._private.paid(key.run_id, key.round, task.message.app, training.terms, train)
        if task.message.HasField("secure"):
            vector = flattened(delta_of(weights, base), layout_of(base))
            return Contribution(vector, 1, {})
        return _OpenUpdate(DeltaUpload.prepare(weights, base, chunk_bytes=CHUNK_BYTES), 1, {})

    async def _bring(self, task: _Task, update: Contribution | _OpenUpdate, log: Any) -> None:
        """Bring an update into the attempt of its round that was begun, hidden if that is asked.

        One that goes as it is goes into a later attempt that is asked for by then, too.
        """
        if isinstance(update, Contribution):
            upload: Upload = await self._masked(task, task.begun, update)
        else:
            upload = update.upload
            task.begun = task.attempt
            if update.terms is not None:
                await asyncio.to_thread(self._pay_for_opening, task, task.begun, update.terms)
                failpoints.reach("client.central.paid")
        self._tell(task, pb.TASK_PHASE_UPLOADING)
        result = await self._sent(task, upload, update)
        while (
            isinstance(update, _OpenUpdate)
            and result.outcome == pb.PUT_OUTCOME_OVERTAKEN
            and result.attempt > task.begun
        ):
            # The task that says so, and how long there is, comes on another stream: soon.
            task.begun = result.attempt
            task.until = max(task.until, asyncio.get_running_loop().time() + _TASK_COMES_SECONDS)
            result = await self._sent(task, upload, update)
        failpoints.reach("client.update.acknowledged")
        if result.outcome == pb.PUT_OUTCOME_ACCEPTED:
            log.info("update accepted", size_bytes=upload.size_bytes, **update.metrics)
        elif result.outcome == pb.PUT_OUTCOME_OVERTAKEN:
            log.info("update came too late for this attempt", attempt=task.begun)
        else:
            log.warning("update not accepted", reason=result.reason)

    async def _sent(
        self, task: _Task, upload: Upload, update: Contribution | _OpenUpdate
    ) -> pb.PutResult:
        """Send an update for the attempt that was begun, and return what became of it."""
        attempt = task.begun
        report = PutReport(
            run_id=task.message.key.run_id,
            round=task.message.key.round,
            attempt=attempt,
            examples=update.examples,
            metrics=dict(update.metrics),
        )

        def until() -> float:
            # What was hidden for an attempt is of no use in the next one; what was not is.
            return task.until_over(attempt if isinstance(update, Contribution) else task.attempt)

        return await self._transfer.send_update(
            upload, report, chunk_bytes=task.message.chunk_bytes, until=until
        )

    async def _masked(self, task: _Task, attempt: int, contribution: Contribution) -> Upload:
        """Return the update hidden; its round asks for it when all keys are there."""
        if self._secure is None:
            raise ConfigError("this site takes no part in secure aggregation")
        per_weight = task.message.secure.examples_per_weight
        key = (task.message.key.run_id, task.message.key.round, attempt)

        def weight(descriptor: RoundDescriptor) -> int:
            def pay(unit: str, event: Event) -> None:
                self._pay(
                    ChargeKey(*key),
                    context=descriptor.context(),
                    app=task.message.app,
                    unit=unit,
                    event=event,
                )

            name = self._site.name
            weight = contribution.weight_in(descriptor, per_weight, client=name, pay=pay)
            if contribution.ahead is not None:
                self._held.use(key[0], contribution.ahead.version, key[1])
            return weight

        # An attempt may be over before it asks for keys; nothing of it comes then.
        return await self._secure.mask(
            key, contribution.vector, weight, until=lambda: task.until_over(attempt)
        )

    def _pay(self, key: ChargeKey, *, context: bytes, app: str, unit: str, event: Event) -> None:
        """Pay for a contribution from this site's own budget, before it leaves; blocking."""
        if self._ledger is None:
            raise ConfigError("this site keeps no ledger, and takes no part in private runs")
        self._ledger.charge(key, context=context, app=app, unit=unit, event=event)

    def _pay_for_opening(self, task: _Task, attempt: int, terms: CentralTerms) -> None:
        """Pay for what the coordinator will publish of a round, once however often it asks."""
        if self._ledger is None:
            raise ConfigError("this site keeps no ledger, and takes no part in private runs")
        key = task.message.key
        for number in range(1, attempt + 1):
            try:
                self._ledger.charge(
                    ChargeKey(key.run_id, key.round, number),
                    context=terms.opening,
                    app=task.message.app,
                    unit="client",
                    event=terms.round.event,
                )
            except ConflictError:
                # The round was opened before, by a coordinator that was put back since.
                if number == attempt:
                    raise
            else:
                return

    async def _evaluate(self, task: _Task, app: App, model: ModelFile) -> pb.ClientMessage:
        loop = asyncio.get_running_loop()

        def compute() -> Evaluation:
            return run_evaluate(app, _open_model(model), self._context(task, app, loop))

        evaluation = await self._compute(task, compute)
        failpoints.reach("client.evaluation.done")
        report = pb.EvaluationReport(
            key=task.message.key,
            examples=evaluation.examples,
            metrics=dict(evaluation.metrics),
        )
        return pb.ClientMessage(evaluation=report)

    async def _compute(self, task: _Task, function: Callable[[], _T]) -> _T:
        loop = asyncio.get_running_loop()
        self._computing, task.computing_since = task, loop.time()
        over_at = loop.time() if task.cancelled.is_set() else task.until
        self._blame_at(over_at + self._heed_seconds, task)
        try:
            return await loop.run_in_executor(self._worker, function)
        finally:
            self._computing = None
            if self._blaming is not None:
                self._blaming.cancel()

    def _context(self, task: _Task, app: App, loop: asyncio.AbstractEventLoop) -> Context:
        def report(fraction: float, text: str) -> None:
            if fraction - task.fraction_told >= _PROGRESS_STEP:
                task.fraction_told = fraction
                loop.call_soon_threadsafe(self._tell, task, pb.TASK_PHASE_COMPUTING, fraction, text)

        message = task.message
        return app.context(
            self._site,
            round=message.key.round + (message.key.kind == pb.TASK_KIND_PREPARE),
            rounds=message.rounds_total,
            config=json.loads(message.config_json),
            seed=message.seed,
            report=None if _is_private(message) else report,
            cancelled=task.cancelled.is_set,
            privacy=_training_of(message),
        )

    def _tell(
        self, task: _Task, phase: pb.TaskPhase, fraction: float = 0.0, text: str = ""
    ) -> None:
        progress = pb.TaskProgress(key=task.message.key, phase=phase, fraction=fraction, text=text)
        self._send(pb.ClientMessage(progress=progress))

    def _remember(self, task: _Task, answer: pb.ClientMessage | None) -> None:
        self._answers[task.key] = (task.begun, answer)
        if len(self._answers) > _ANSWERS_REMEMBERED:
            self._answers.popitem(last=False)

    def _forget_old_models(self, newest: ModelFile) -> None:
        files = sorted(self._models.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
        old = [path for path in files[:-_MODELS_KEPT] if path != newest.path]
        # There is one task at a time, so a part is of a model that was given up.
        for path in (*old, *self._models.glob(".*.part")):
            with contextlib.suppress(OSError):  # what can not be deleted is tried again next time
                path.unlink()


def _is_over(open_key: _Key, withdrawn: pb.TaskKey) -> bool:
    """Tell whether an open task is among those that are withdrawn."""
    (run_id, number, kind), over = open_key, withdrawn.round
    is_ahead = kind == pb.TASK_KIND_PREPARE
    if run_id != withdrawn.run_id:
        return False
    if withdrawn.kind == pb.TASK_KIND_PREPARE:
        return is_ahead and number <= over
    if over == 0:
        return True
    return not is_ahead and (number < over or (number == over and kind == pb.TASK_KIND_TRAIN))


def _is_ahead(message: pb.Task) -> bool:
    """Tell whether a task makes an update ahead, or asks for one that was made so."""
    kind, is_ahead = message.key.kind, message.HasField("ahead")
    return kind == pb.TASK_KIND_PREPARE or (kind == pb.TASK_KIND_TRAIN and is_ahead)


def _ahead_of(message: pb.Task) -> TrainedAhead:
    ahead = message.ahead
    if not message.HasField("ahead"):
        raise ConfigError("task must be one of an asynchronous run: it names no version")
    try:
        policy = BufferPolicy(
            staleness_max=ahead.staleness_max, staleness_exponent=ahead.staleness_exponent
        )
    except ValueError as error:
        raise ConfigError(f"task must be one of an asynchronous run: {error}") from error
    return TrainedAhead(ahead.version, policy)


def _open_of(held: HeldUpdate) -> _OpenUpdate:
    return _OpenUpdate(held.upload(), held.examples, held.metrics)


def _training_of(message: pb.Task) -> TrainingTerms | None:
    if not message.HasField("training"):
        return None
    asked = message.training
    try:
        return TrainingTerms(
            clip=asked.clip,
            noise_multiplier=asked.noise_multiplier,
            sampling_rate=asked.sampling_rate,
            steps=asked.steps,
            batch=asked.batch,
            learning_rate=asked.learning_rate,
        )
    except ValueError as error:
        raise ConfigError(f"task must be one of a private training: {error}") from error


def _is_private(message: pb.Task) -> bool:
    if message.key.kind != pb.TASK_KIND_TRAIN or message.HasField("ahead"):
        # Whatever else it says: what is measured, or was made ahead, leaves without noise.
        return False
    if message.HasField("training"):
        return True
    if message.HasField("secure"):
        return message.secure.HasField("privacy")
    return message.HasField("central")


def _clipped(
    app: App, base: Mapping[str, Any], context: Context, terms: CentralTerms
) -> _OpenUpdate:
    arrays = _without_words(
        lambda: clipped_contribution_of(app, base, context, terms.round), is_private=True
    )
    return _OpenUpdate(ArraysUpload.prepare(arrays), 1, {}, terms)


def _without_words(contributed: Callable[[], _T], *, is_private: bool) -> _T:
    try:
        return contributed()
    except (StudyError, UpdateRejectedError) as error:
        if not is_private:
            raise
        # Its words may hold a record, or how many there are; the log beside the data has them.
        raise StudyError(
            "study failed, and a private run is not told why: see the log of this site"
        ) from error


def _terms_of(secure: pb.SecureTask) -> PrivateTerms | None:
    if not secure.HasField("privacy"):
        return None
    asked = secure.privacy
    if asked.unit not in _UNITS:
        raise ConfigError("privacy.unit of the task must be record or client, got another one")
    return PrivateTerms(_UNITS[asked.unit], asked.clip, asked.step)


def _central_terms_of(asked: pb.CentralTask) -> CentralTerms:
    this = new_central_round(
        clip=asked.clip,
        noise_multiplier=asked.noise_multiplier,
        cohort_size=asked.cohort_size,
        counts_unclipped=asked.counts_unclipped,
        separation=asked.separation,
    )
    return CentralTerms(this, asked.opening)


def _open_model(model: ModelFile) -> Mapping[str, Any]:
    # The mapping lives as long as an array of it; the file may be deleted meanwhile.
    with model.path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return decode(memoryview(mapped)).arrays


def _failure(task: _Task, reason: str) -> pb.ClientMessage:
    return pb.ClientMessage(
        failure=pb.TaskFailure(
            key=task.message.key, attempt=task.begun, reason=reason[:_REASON_CHARACTERS_MAX]
        )
    )
