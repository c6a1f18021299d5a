"""From the rows of a closed round to the next model: the same rows give the same bytes.

The updates are folded one at a time from the spool into one accumulator, in the order of the
client ids, so that memory does not grow with the cohort and another coordinator that does the
work again after a crash publishes the identical model.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kumiai.core.arrays import NamedArrays, layout_of
from kumiai.core.codec import decode, encode
from kumiai.core.errors import DivergedError, KumiaiError
from kumiai.learning import (
    Strategy,
    mean_of_updates,
    nonfinite_count,
    unflattened,
    weighted_metrics,
    weights_of,
)
from kumiai.node.ahead import damping_of
from kumiai.node.coordinator.metric_names import CENTRAL_PREFIX
from kumiai.node.coordinator.namespaces import (
    model_namespace,
    state_namespace,
    update_namespace,
)
from kumiai.node.job import JobSpec
from kumiai.storage import BlobStore, RunRecord, UpdateRecord

__all__ = ["CARRIED_PREFIX", "Aggregator", "CentralEvaluator", "NewModel"]

CARRIED_PREFIX: Final = "privacy."
"""Under such names arrays lie beside the strategy's state that are none of it."""
_NOTHING: Final[NamedArrays] = MappingProxyType({})

_FRESH: Final[Mapping[str, int]] = MappingProxyType({})

CentralEvaluator = Callable[[str, NamedArrays, Mapping[str, Any]], Mapping[str, float]]
"""Measures a model (of this app, with this config) on the coordinator's own data."""


@dataclass(frozen=True, slots=True)
class NewModel:
    """What a round made; the blobs are durable."""

    digest: str
    size_bytes: int
    state_digest: str | None
    examples: int
    metrics: Mapping[str, float]
    central_failure: str | None = None
    """Why the coordinator's own evaluation has no numbers."""


class Aggregator:
    """Makes the next model of a run."""

    def __init__(
        self,
        *,
        blobs: BlobStore,
        worker: Executor,
        fold_executor: Executor | None = None,
        fold_threads: int = 1,
        evaluator: CentralEvaluator | None = None,
    ) -> None:
        """Read and write ``blobs``; compute in ``worker``, so that sessions are served meanwhile.

        Args:
            blobs: where updates and models are.
            worker: runs one aggregation at a time per call.
            fold_executor: threads that share the addition of one update.
            fold_threads: how many of them.
            evaluator: for jobs with ``evaluation.central``.
        """
        self._blobs = blobs
        self._worker = worker
        self._fold_executor = fold_executor
        self._fold_threads = fold_threads
        self._evaluator = evaluator

    @property
    def can_evaluate(self) -> bool:
        """Whether jobs with central evaluation can run here."""
        return self._evaluator is not None

    async def aggregate(
        self,
        run: RunRecord,
        job: JobSpec,
        *,
        round_number: int,
        base_digest: str,
        updates: Sequence[UpdateRecord],
        mean: NDArray[np.float32] | None = None,
        scales: Mapping[str, int] = _FRESH,
        carried: NamedArrays = _NOTHING,
    ) -> NewModel:
        """Fold the updates, let the strategy make the model, store it.

        Args:
            run: the run, with the strategy's state as the round before left it.
            job: its job.
            round_number: the round that closed.
            base_digest: the model that the clients started from.
            updates: at least one, sorted by client id.
            mean: of updates that are hidden; ``None``: they lie open in the spool.
            scales: what each client's update counts by its age; none: all count the same.
            carried: what the next rounds need beside the strategy's state, under names of
                `CARRIED_PREFIX`; stored with it.

        Raises:
            StorageError: a blob can not be read or written; calling again is safe.
            DivergedError: the new model has numbers that are NaN or infinite.
        """
        work = _Work(self._blobs, run, job, round_number, base_digest, tuple(updates), mean, scales)
        made = await asyncio.get_running_loop().run_in_executor(
            self._worker,
            lambda: work.compute(self._fold_executor, self._fold_threads, self._evaluator),
        )
        buffers = encode(made.model)
        digest = await self._blobs.put(model_namespace(run.run_id), buffers)
        state_digest = None
        if state := {**made.state, **carried}:
            state_digest = await self._blobs.put(
                state_namespace(run.run_id, round_number), encode(state)
            )
        metrics = weighted_metrics([(each.examples, each.metrics) for each in updates])
        return NewModel(
            digest=digest,
            size_bytes=sum(buffer.nbytes for buffer in buffers),
            state_digest=state_digest,
            examples=sum(each.examples for each in updates),
            metrics={
                **metrics,
                **{f"{CENTRAL_PREFIX}{name}": value for name, value in made.central.items()},
            },
            central_failure=made.central_failure,
        )


@dataclass(frozen=True, slots=True)
class _Made:
    """What one aggregation computed."""

    model: NamedArrays
    state: NamedArrays
    central: Mapping[str, float]
    central_failure: str | None


@dataclass(frozen=True, slots=True)
class _Work:
    """One aggregation, for a worker thread."""

    blobs: BlobStore
    run: RunRecord
    job: JobSpec
    round_number: int
    base_digest: str
    updates: tuple[UpdateRecord, ...]
    hidden_mean: NDArray[np.float32] | None
    scales: Mapping[str, int]

    def compute(
        self, executor: Executor | None, threads: int, evaluator: CentralEvaluator | None
    ) -> _Made:
        strategy = self.job.strategy.build()
        namespace = model_namespace(self.run.run_id)
        with self.blobs.open_buffer(namespace, self.base_digest) as buffer:
            base = decode(buffer).arrays
            if self.hidden_mean is not None:
                mean = unflattened(self.hidden_mean, layout_of(base))
            else:
                mean = mean_of_updates(
                    self._weighted_updates(), layout_of(base), executor=executor, threads=threads
                )
            # What overflows is found below, and then told with its name.
            with np.errstate(over="ignore", invalid="ignore"):
                model, state = self._apply(strategy, base, self._damped(mean))
        self._verify_finite("model", model)
        self._verify_finite("strategy state", state)
        central: Mapping[str, float] = {}
        central_failure = None
        if self.job.evaluation.central and evaluator is not None:
            try:
                central = evaluator(self.run.app, model, self.job.train)
            except KumiaiError as error:  # the study's own: the model is no worse for it
                central_failure = str(error)
        return _Made(model, state, central, central_failure)

    def _damped(self, mean: NamedArrays) -> NamedArrays:
        """Return the mean, shorter if its updates are old."""
        damping = damping_of(self.updates, self.scales, weighting=self.job.strategy.weighting)
        if damping == 1.0:
            return mean
        return {name: (array * damping).astype(array.dtype) for name, array in mean.items()}

    def _verify_finite(self, what: str, arrays: NamedArrays) -> None:
        # Each update was finite; a sum of large ones, or a power of one, need not be.
        for name, array in arrays.items():
            if count := nonfinite_count(array):
                raise DivergedError(
                    f"{what} of round {self.round_number} must be finite, got {count} of "
                    f"{array.size} numbers of {name!r} that are NaN or infinite; a client's "
                    "update was too large, or the strategy's learning rate is"
                )

    def _apply(
        self, strategy: Strategy, base: NamedArrays, mean: NamedArrays
    ) -> tuple[NamedArrays, NamedArrays]:
        if self.run.state_digest is None:
            return strategy.apply(base, mean, strategy.initial_state(base))
        namespace = state_namespace(self.run.run_id, self.round_number - 1)
        with self.blobs.open_buffer(namespace, self.run.state_digest) as buffer:
            state = {
                name: array
                for name, array in decode(buffer).arrays.items()
                if not name.startswith(CARRIED_PREFIX)
            }
            return strategy.apply(base, mean, state or strategy.initial_state(base))

    def _weighted_updates(self) -> Iterator[tuple[NamedArrays, float]]:
        examples = [each.examples for each in self.updates]
        weights = weights_of(examples, self.job.strategy.weighting)
        if self.scales:
            weights *= [self.scales[each.client_id] for each in self.updates]
            weights /= weights.sum()
        for update, weight in zip(self.updates, weights, strict=True):
            namespace = update_namespace(self.run.run_id, self.round_number, update.client_id)
            with self.blobs.open_buffer(namespace, update.digest) as buffer:
                yield decode(buffer).arrays, float(weight)
