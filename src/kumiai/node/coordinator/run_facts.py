"""What never changes about a run, read once: its job, its model's layout and size."""

from dataclasses import dataclass

from kumiai.core.arrays import Layout
from kumiai.core.codec import decode_header
from kumiai.core.errors import NotFoundError
from kumiai.node.coordinator.namespaces import model_namespace
from kumiai.node.job import JobSpec, parse_job
from kumiai.storage import BlobStore, RunRepository

__all__ = ["RunFacts", "RunFactsCache"]

_HEADER_BYTES_MAX = 8 + (1 << 20)
_RUNS_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The constants of a run."""

    job: JobSpec
    layout: Layout
    model_size_bytes: int


class RunFactsCache:
    """Keeps the facts of the runs that were asked for last."""

    def __init__(self, *, runs: RunRepository, blobs: BlobStore) -> None:
        """Read from these at the first question about a run."""
        self._runs = runs
        self._blobs = blobs
        self._facts: dict[str, RunFacts] = {}

    async def get(self, run_id: str) -> RunFacts:
        """Return the facts of a run.

        Raises:
            NotFoundError: no such run.
        """
        if (facts := self._facts.get(run_id)) is not None:
            return facts
        facts = await self._load(run_id)
        while len(self._facts) >= _RUNS_REMEMBERED:
            self._facts.pop(next(iter(self._facts)))
        self._facts[run_id] = facts
        return facts

    async def _load(self, run_id: str) -> RunFacts:
        run = await self._runs.get(run_id)
        model = await self._runs.find_model(run_id, 0)
        if model is None:
            raise NotFoundError(f"run {run_id} has no initial model")
        prefix = await self._blobs.read(model_namespace(run_id), model.digest, 0, _HEADER_BYTES_MAX)
        return RunFacts(parse_job(run.job), decode_header(prefix).layout, model.size_bytes)
