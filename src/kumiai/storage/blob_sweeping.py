"""Which blobs are needed, which are garbage, and the sweeping away of the latter.

A blob is needed when a row reaches it, as `kumiai.storage.reachability` says, and it is no
version of a model that the job's ``keep_versions`` lets go. All else in the folders of runs, and
what is left of uploads, is garbage once it is older than the grace.

The grace is what protects the blobs that no row reaches yet: every write puts its blob first,
which sets the blob's age back to zero, and commits its row then, which must not take as long as
the grace. Strategy of a sweep: list a page of blobs, only then ask the rows about their runs, and
leave the last look at the age to the store, which takes it where nobody can publish between the
look and the deletion. So any number of sweeps may run beside each other and beside running
federations.

A store belongs to one database: blobs of runs that the database does not know are garbage.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.digest import digest_of
from kumiai.core.errors import ConflictError, IntegrityError, NotFoundError
from kumiai.storage.blob_listing import StoredBlob
from kumiai.storage.blobs import BlobStore
from kumiai.storage.database import DatabaseManager
from kumiai.storage.fencing import LIVE_STATES
from kumiai.storage.namespaces import run_namespaces
from kumiai.storage.reachability import last_published, reached_by
from kumiai.storage.records import ReachableBlob
from kumiai.storage.rows import parsed, table_of
from kumiai.storage.tables import TrainingSession

__all__ = [
    "GRACE_SECONDS",
    "GRACE_SECONDS_MIN",
    "BlobProblem",
    "BlobSweeper",
    "CheckReport",
    "RunUsage",
    "SweepReport",
    "SweptStore",
]

GRACE_SECONDS = 24 * 3600.0
GRACE_SECONDS_MIN = 900.0

_RUNS = table_of(TrainingSession)

_ROOTS = ("models", "states", "updates", "probes")
_RUNS_PAGE = 50
_PROBLEMS_MAX = 100
_EXAMPLES_MAX = 20

_Address = tuple[str, str]


class SweptStore(BlobStore, Protocol):
    """A blob store that can be looked through and swept."""

    async def check(self) -> None:
        """See that the store can be used.

        Raises:
            StorageError: it can not; the message says what to do.
        """
        ...

    def list_blobs(self, namespace_prefix: str) -> AsyncIterator[list[StoredBlob]]:
        """Give what is stored below a namespace, unfinished uploads included, in pages.

        What appears or goes meanwhile may be given or not.
        """
        ...

    async def sweep(
        self, blobs: Sequence[StoredBlob], *, older_than_seconds: float
    ) -> list[StoredBlob]:
        """Delete those that are still as old, and uploads that nobody holds.

        A blob that is put, or begun again, beside this is either young by then and stays, or its
        putting finds that it has gone and puts it anew.

        Returns:
            The deleted ones.
        """
        ...


@dataclass(frozen=True, slots=True)
class BlobProblem:
    """A needed blob that is not as it must be."""

    blob: ReachableBlob
    problem: Literal["missing", "wrong size", "wrong bytes"]

    def __str__(self) -> str:
        """Return it in words."""
        blob = self.blob
        return f"{blob.what} of run {blob.run_id} ({blob.namespace}/{blob.digest}): {self.problem}"


@dataclass(slots=True)
class CheckReport:
    """What a check found; of the problems the first hundred."""

    count: int = 0
    size_bytes: int = 0
    problem_count: int = 0
    problems: list[BlobProblem] = field(default_factory=list)


@dataclass(slots=True)
class SweepReport:
    """What a sweep deleted, or would; of the blobs the first twenty."""

    seen: int = 0
    count: int = 0
    size_bytes: int = 0
    by_root: Counter[str] = field(default_factory=Counter)
    examples: list[StoredBlob] = field(default_factory=list)


@dataclass(slots=True)
class RunUsage:
    """What a run takes in the blob store; ``run_id`` may be unknown to the database."""

    run_id: str
    is_known: bool
    counts: Counter[str] = field(default_factory=Counter)
    size_bytes: Counter[str] = field(default_factory=Counter)
    reclaimable_bytes: int = 0


class BlobSweeper:
    """Compares a blob store with the rows of its database.

    Args:
        database: connected, its schema at this version.
        blobs: the store that belongs to it.
    """

    def __init__(self, database: DatabaseManager, blobs: SweptStore) -> None:
        self._database = database
        self._blobs = blobs

    async def sweep(
        self,
        *,
        grace_seconds: float = GRACE_SECONDS,
        is_dry_run: bool = False,
        run_id: str | None = None,
    ) -> SweepReport:
        """Delete the garbage that is older than the grace.

        Args:
            grace_seconds: longer than any upload waits for its row; nothing younger is touched.
            is_dry_run: only tell what would be deleted.
            run_id: only what this run has left, which this database knew until it was deleted;
                ``None`` for the garbage of all.

        Raises:
            ConflictError: the database knows no run at all, and there is something to delete:
                more likely it is not the store's database.
            StorageError: the database or the store failed; what is deleted by then stays so.
        """
        report = SweepReport()
        roots = _ROOTS if run_id is None else run_namespaces(run_id)
        async for page, needed, known in self._pages(roots):
            garbage = [each for each in page if _is_garbage(each, needed, grace_seconds)]
            if garbage and not known and not is_dry_run and run_id is None:
                await self._verify_any_run()
            if not is_dry_run:
                garbage = await self._blobs.sweep(garbage, older_than_seconds=grace_seconds)
            report.seen += len(page)
            report.count += len(garbage)
            report.size_bytes += sum(each.size_bytes for each in garbage)
            report.by_root.update(_root_of(each) for each in garbage)
            report.examples += garbage[: _EXAMPLES_MAX - len(report.examples)]
        return report

    async def usage(self, *, grace_seconds: float = GRACE_SECONDS) -> list[RunUsage]:
        """Return what each run takes, sorted by run; what a sweep could reclaim included."""
        runs: dict[str, RunUsage] = {}
        async for page, needed, known in self._pages():
            for blob in page:
                run_id = _run_of(blob)
                usage = runs.setdefault(run_id, RunUsage(run_id, run_id in known))
                name = "uploads" if blob.kind == "upload" else _root_of(blob)
                usage.counts[name] += 1
                usage.size_bytes[name] += blob.size_bytes
                if _is_garbage(blob, needed, grace_seconds):
                    usage.reclaimable_bytes += blob.size_bytes
        return sorted(runs.values(), key=lambda usage: usage.run_id)

    async def check(self, *, reads_data: bool = False) -> CheckReport:
        """See that every needed blob exists and has its size.

        Args:
            reads_data: also read all bytes and compare them with the digest.

        Raises:
            StorageError: the database or the store failed.
        """
        report = CheckReport()
        async for run_ids in self._run_pages():
            needed, _ = await self._needed_by(run_ids)
            for blob in needed:
                report.count += 1
                report.size_bytes += blob.size_bytes or 0
                problem = await self._problem_of(blob, reads_data=reads_data)
                if problem is None or not await self._is_still_needed(blob):
                    continue
                report.problem_count += 1
                if len(report.problems) < _PROBLEMS_MAX:
                    report.problems.append(problem)
        return report

    async def _pages(
        self, roots: Sequence[str] = _ROOTS
    ) -> AsyncIterator[tuple[list[StoredBlob], set[_Address], set[str]]]:
        """Give the blobs in pages, with what is needed of their runs and which runs are known."""
        for root in roots:
            async for page in self._blobs.list_blobs(root):
                # After the listing: a row that came before it is seen, a later one's blob is young.
                needed, known = await self._needed_by(sorted({_run_of(each) for each in page}))
                yield page, {(each.namespace, each.digest) for each in needed}, known

    async def _verify_any_run(self) -> None:
        async with self._database.reading() as connection:
            found = (await connection.execute(select(_RUNS.c.run_id).limit(1))).first()
        if found is None:
            raise ConflictError(
                f"database {self._database!r} must know a run before blobs are swept, got none; "
                "see that it is the database of this blob store"
            )

    async def _run_pages(self) -> AsyncIterator[list[str]]:
        last = ""
        while True:
            statement = (
                select(_RUNS.c.run_id)
                .where(_RUNS.c.run_id > last)
                .order_by(_RUNS.c.run_id)
                .limit(_RUNS_PAGE)
            )
            async with self._database.reading() as connection:
                page = [str(row.run_id) for row in await connection.execute(statement)]
            if not page:
                return
            yield page
            last = page[-1]

    async def _needed_by(self, run_ids: Collection[str]) -> tuple[list[ReachableBlob], set[str]]:
        """Return what these runs need, and which of them the database knows."""
        needed: list[ReachableBlob] = []
        known: set[str] = set()
        ids = list(run_ids)
        for start in range(0, len(ids), _RUNS_PAGE):
            # One snapshot: the step that publishes a model drops the need for its updates.
            some = ids[start : start + _RUNS_PAGE]
            async with self._database.reading() as connection:
                let_go = await _let_go_rounds(connection, some)
                reached = await reached_by(connection, some)
            known.update(let_go)
            needed += [
                blob
                for blob in reached
                if not blob.may_be_let_go or blob.round > let_go[blob.run_id]
            ]
        return needed, known

    async def _is_still_needed(self, blob: ReachableBlob) -> bool:
        needed, _ = await self._needed_by([blob.run_id])
        return any((each.namespace, each.digest) == (blob.namespace, blob.digest)
                   for each in needed)  # fmt: skip

    async def _problem_of(self, blob: ReachableBlob, *, reads_data: bool) -> BlobProblem | None:
        size_bytes = await self._blobs.find_size(blob.namespace, blob.digest)
        if size_bytes is None:
            return BlobProblem(blob, "missing")
        if blob.size_bytes is not None and size_bytes != blob.size_bytes:
            return BlobProblem(blob, "wrong size")
        if reads_data:
            try:
                if not await asyncio.to_thread(self._has_right_bytes, blob):
                    return BlobProblem(blob, "wrong bytes")
            except NotFoundError:
                return BlobProblem(blob, "missing")
        return None

    def _has_right_bytes(self, blob: ReachableBlob) -> bool:
        try:
            with self._blobs.open_buffer(blob.namespace, blob.digest) as view:
                return digest_of([view]) == blob.digest
        except IntegrityError:
            return False


def _is_garbage(blob: StoredBlob, needed: Collection[_Address], grace_seconds: float) -> bool:
    # An upload is reached by no row; the blob that came of it may be.
    is_needed = blob.kind == "blob" and (blob.namespace, blob.digest) in needed
    return not is_needed and blob.age_seconds > grace_seconds


def _root_of(blob: StoredBlob) -> str:
    return blob.namespace.partition("/")[0]


def _run_of(blob: StoredBlob) -> str:
    # What is not in a folder of a run is of the run without a name, which does not exist.
    return blob.namespace.partition("/")[2].partition("/")[0]


async def _let_go_rounds(connection: AsyncConnection, run_ids: Sequence[str]) -> dict[str, int]:
    """Return of each run that is known the last round whose model the job lets go; 0: none."""
    told = (_RUNS.c.run_id, _RUNS.c.state, _RUNS.c.job_json, last_published.label("newest"))
    statement: Select[Any] = select(*told).where(_RUNS.c.run_id.in_(run_ids))
    rows = [parsed(row) for row in await connection.execute(statement)]
    return {
        row["run_id"]: _let_go_round(
            row["job"], row["newest"] or 0, is_live=row["state"] in LIVE_STATES
        )
        for row in rows
    }


def _let_go_round(job: Mapping[str, Any], newest: int, *, is_live: bool) -> int:
    kept = _number_in(job, "run", "keep_versions")
    if kept is None:
        return 0
    behind = _number_in(job, "asynchronous", "staleness_max")
    if is_live and behind is not None and newest != _number_in(job, "run", "rounds"):
        # Clients that have begun from an older version may have yet to fetch it.
        kept = max(kept, behind + 1)
    return newest - kept


def _number_in(job: Mapping[str, Any], table: str, key: str) -> int | None:
    found = job.get(table)
    number = found.get(key) if isinstance(found, dict) else None
    return number if isinstance(number, int) else None
