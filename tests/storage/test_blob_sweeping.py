"""What no row reaches goes when it is old, and nothing else; on both databases, both stores."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from kumiai.core.clock import SystemClock
from kumiai.core.digest import digest_of
from kumiai.core.errors import ConflictError
from kumiai.storage import (
    BlobSweeper,
    DatabaseManager,
    Lease,
    LocalBlobStore,
    RunRepository,
    SweptStore,
    TrainingHistoryRepository,
    UpdateInbox,
    blob_listing,
)
from kumiai.storage.namespaces import model_namespace, state_namespace, update_namespace
from kumiai.testing.databases import SQLiteTemplate
from tests.storage.leading import TTL_SECONDS, new_run, request_of

ALL = -5.0
"""A grace that protects nothing, not even what the store's clock dates a second ahead."""
HOUR = 3600.0
RUN = "run-1"


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.integration)])
async def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SweptStore]:
    """Lend a store that may be swept at any age."""
    if request.param == "s3":
        yield request.getfixturevalue("new_s3_store")(fresh_seconds=ALL)
        return
    store = LocalBlobStore(tmp_path / "blobs")
    yield store
    await store.close()


@pytest.fixture
def sweeper(database: DatabaseManager, blobs: SweptStore) -> BlobSweeper:
    return BlobSweeper(database, blobs)


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalBlobStore]:
    store = LocalBlobStore(tmp_path / "blobs")
    yield store
    await store.close()


async def put(blobs: SweptStore, namespace: str, content: str) -> str:
    return await blobs.put(namespace, [content.encode()])


async def found(blobs: SweptStore) -> list[str]:
    """Return all that is stored, as namespace and content."""
    told = []
    for root in ("models", "states", "updates", "probes", "others"):
        async for page in blobs.list_blobs(root):
            for each in page:
                if each.kind == "upload":
                    told.append(f"{each.namespace} upload")
                    continue
                content = await blobs.read(each.namespace, each.digest, 0, 100)
                told.append(f"{each.namespace} {content.decode()}")
    return sorted(told)


async def begin_run(
    runs: RunRepository,
    blobs: SweptStore,
    *,
    keep: int = 5,
    rounds: int = 9,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> Lease:
    digest = await put(blobs, model_namespace(RUN), "model 0")
    job = {"run": {"rounds": rounds, "keep_versions": keep}, **more}
    await runs.create(
        new_run(run_id=RUN, job=job, model_digest=digest, model_size_bytes=len("model 0"))
    )
    lease = await runs.acquire_lease(RUN, "leader-1", TTL_SECONDS)
    assert lease is not None
    await runs.start(lease)
    return lease


async def open_round(runs: RunRepository, lease: Lease, number: int) -> None:
    await runs.open_round(
        lease,
        round=number,
        base_digest=(await runs.get(RUN)).model_digest,
        target_reports=2,
        min_reports=1,
        deadline_seconds=60.0,
        clients=[("a", 1), ("b", 2)],
    )


async def publish_round(runs: RunRepository, blobs: SweptStore, lease: Lease, number: int) -> None:
    await runs.close_round(lease, number, "enough")
    model, state = f"model {number}", f"state {number}"
    await runs.publish_round(
        lease,
        round=number,
        model_digest=await put(blobs, model_namespace(RUN), model),
        model_size_bytes=len(model),
        state_digest=await put(blobs, state_namespace(RUN, number), state),
        reports=1,
        examples=1,
        metrics={},
    )


async def accept(database: DatabaseManager, blobs: SweptStore, number: int, client: str) -> None:
    content = "x" * (99 - len(client)) + client  # a hundred bytes, as the row will say
    content += "x" * (100 - len(content))
    digest = await put(blobs, update_namespace(RUN, number, client), content)
    inbox = UpdateInbox(database)
    await inbox.start()
    await inbox.accept(request_of(client, run_id=RUN, round_=number, digest=digest))
    await inbox.close()


async def live_run(
    database: DatabaseManager, blobs: SweptStore, *, keep: int = 5, rounds: int = 2
) -> tuple[RunRepository, Lease]:
    """Return a run that has published some rounds and has an update in the next."""
    runs = RunRepository(database)
    lease = await begin_run(runs, blobs, keep=keep)
    for number in range(1, rounds + 1):
        await open_round(runs, lease, number)
        await accept(database, blobs, number, "a")
        await publish_round(runs, blobs, lease, number)
    await open_round(runs, lease, rounds + 1)
    await accept(database, blobs, rounds + 1, "a")
    return runs, lease


async def test_what_rows_reach_stays_and_all_else_goes(
    database: DatabaseManager, blobs: SweptStore, sweeper: BlobSweeper
) -> None:
    await live_run(database, blobs)
    await put(blobs, update_namespace(RUN, 3, "b"), "an update that was never accepted")
    await put(blobs, model_namespace(RUN), "a model that was never published")
    await put(blobs, model_namespace("run-9"), "a model of a run that was never submitted")
    await put(blobs, "probes/coordinator-1", "a probe that was not taken back")
    await put(blobs, "others/run-9", "none of ours")

    report = await sweeper.sweep(grace_seconds=ALL)

    assert await found(blobs) == sorted(
        [
            "models/run-1 model 0",
            "models/run-1 model 1",
            "models/run-1 model 2",
            "states/run-1/2 state 2",
            "updates/run-1/3/a " + "x" * 98 + "ax",
            "others/run-9 none of ours",
        ]
    )
    assert report.by_root == {"models": 2, "probes": 1, "states": 1, "updates": 3}
    assert report.count == len(report.examples) == 7
    assert report.seen == 12
    assert (await sweeper.check(reads_data=True)).problem_count == 0


async def test_what_is_young_stays(
    database: DatabaseManager, blobs: SweptStore, sweeper: BlobSweeper
) -> None:
    await live_run(database, blobs)
    await put(blobs, model_namespace("run-9"), "a model of a run that is being submitted")
    before = await found(blobs)

    report = await sweeper.sweep(grace_seconds=HOUR)

    assert report.count == 0
    assert await found(blobs) == before


async def test_a_dry_run_tells_and_deletes_nothing(
    database: DatabaseManager, blobs: SweptStore, sweeper: BlobSweeper
) -> None:
    await live_run(database, blobs)
    before = await found(blobs)

    told = await sweeper.sweep(grace_seconds=ALL, is_dry_run=True)
    usage = await sweeper.usage(grace_seconds=ALL)

    assert await found(blobs) == before
    assert (told.count, told.size_bytes) == (3, 207)
    assert [each.reclaimable_bytes for each in usage] == [207]
    assert (await sweeper.sweep(grace_seconds=ALL)).size_bytes == 207


@pytest.mark.parametrize("state", ["finished", "failed", "stopped"])
async def test_of_a_run_that_has_ended_only_the_models_stay(
    database: DatabaseManager, local: LocalBlobStore, state: str
) -> None:
    runs, lease = await live_run(database, local)
    await runs.finish(lease, state, "by the test")  # type: ignore[arg-type]

    await BlobSweeper(database, local).sweep(grace_seconds=ALL)

    assert await found(local) == [f"models/run-1 model {number}" for number in range(3)]
    assert not (await BlobSweeper(database, local).check()).problem_count


async def test_models_that_the_job_lets_go_are_neither_kept_nor_missed(
    database: DatabaseManager, local: LocalBlobStore
) -> None:
    await live_run(database, local, keep=2, rounds=4)
    sweeper = BlobSweeper(database, local)

    await sweeper.sweep(grace_seconds=ALL)

    models = [each for each in await found(local) if each.startswith("models")]
    assert models == [f"models/run-1 model {number}" for number in (0, 3, 4)]
    assert not (await sweeper.check()).problem_count


@pytest.mark.parametrize(
    ("last", "ends", "kept"),
    [(9, False, {0, 2, 3, 4, 5}), (5, False, {0, 4, 5}), (9, True, {0, 4, 5})],
    ids=["goes-on", "has-its-last-version", "was-stopped"],
)
async def test_versions_that_clients_may_train_from_stay_while_an_asynchronous_run_goes_on(
    database: DatabaseManager,
    local: LocalBlobStore,
    last: int,
    ends: bool,
    kept: set[int],
) -> None:
    runs = RunRepository(database)
    lease = await begin_run(
        runs,
        local,
        keep=2,
        rounds=last,
        more={"asynchronous": {"group_size": 1, "staleness_max": 3}},
    )
    for number in range(1, 6):
        await open_round(runs, lease, number)
        await publish_round(runs, local, lease, number)
    for _ in range(ends):
        await runs.finish(lease, "stopped", "enough")

    await BlobSweeper(database, local).sweep(grace_seconds=ALL)

    stored = [each for each in await found(local) if each.startswith("models/")]
    assert stored == [f"{model_namespace(RUN)} model {number}" for number in sorted(kept)]


async def test_a_job_that_says_nothing_of_versions_keeps_all(
    database: DatabaseManager, local: LocalBlobStore
) -> None:
    digest = await put(local, model_namespace("run-2"), "model 0")
    await RunRepository(database).create(
        new_run(run_id="run-2", job={"run": 3}, model_digest=digest, model_size_bytes=7)
    )

    await BlobSweeper(database, local).sweep(grace_seconds=ALL)

    assert await found(local) == ["models/run-2 model 0"]


async def test_a_database_that_knows_no_run_sweeps_nothing(
    blobs: SweptStore, sweeper: BlobSweeper
) -> None:
    await put(blobs, model_namespace(RUN), "of another database, surely")

    with pytest.raises(ConflictError, match="see that it is the database of this blob store"):
        await sweeper.sweep(grace_seconds=ALL)
    told = await sweeper.sweep(grace_seconds=ALL, is_dry_run=True)

    assert told.count == 1
    assert len(await found(blobs)) == 1


async def test_what_a_deleted_run_has_left_goes_without_waiting_for_a_sweep_of_all(
    sweeper: BlobSweeper, database: DatabaseManager, blobs: SweptStore
) -> None:
    runs = RunRepository(database)
    lease = await begin_run(runs, blobs)
    await put(blobs, model_namespace("run-2"), "another run's")
    early = await sweeper.sweep(grace_seconds=ALL, run_id=RUN)
    await runs.finish(lease, "finished", "done")
    await TrainingHistoryRepository(database).delete(RUN)

    report = await sweeper.sweep(grace_seconds=ALL, run_id=RUN)

    assert early.count == 0
    assert (report.seen, report.count, report.size_bytes) == (1, 1, len("model 0"))
    assert await found(blobs) == ["models/run-2 another run's"]


async def test_an_upload_goes_when_it_is_old_and_nobody_holds_it(
    database: DatabaseManager, blobs: SweptStore, sweeper: BlobSweeper
) -> None:
    await begin_run(RunRepository(database), blobs)
    left, held = digest_of([b"left"]), digest_of([b"held"])
    writer = await blobs.begin(update_namespace(RUN, 1, "a"), left, 4)
    await writer.write(b"le")
    await writer.suspend()
    writer = await blobs.begin(update_namespace(RUN, 1, "b"), held, 4)
    await writer.write(b"he")

    swept = [
        (await sweeper.sweep(grace_seconds=HOUR)).count,
        (await sweeper.sweep(grace_seconds=ALL)).count,
    ]

    assert swept == [0, 1]
    assert await blobs.received_bytes(update_namespace(RUN, 1, "a"), left) == 0
    await writer.write(b"ld")
    await writer.commit()
    assert await blobs.find_size(update_namespace(RUN, 1, "b"), held) == 4


async def test_two_sweepers_at_once_are_harmless(
    database: DatabaseManager, blobs: SweptStore, sweeper: BlobSweeper
) -> None:
    await live_run(database, blobs)
    other = BlobSweeper(database, blobs)
    for number in range(20):
        await put(blobs, model_namespace(RUN), f"garbage {number}")

    reports = await asyncio.gather(sweeper.sweep(grace_seconds=ALL), other.sweep(grace_seconds=ALL))

    assert 23 <= sum(report.count for report in reports) <= 46
    assert len(await found(blobs)) == 5
    assert not (await sweeper.check(reads_data=True)).problem_count


async def test_usage_is_told_by_run(
    database: DatabaseManager, blobs: SweptStore, sweeper: BlobSweeper
) -> None:
    await live_run(database, blobs)
    await put(blobs, model_namespace("run-9"), "unknown")
    writer = await blobs.begin(update_namespace(RUN, 3, "b"), "a" * 64, 9)
    await writer.write(b"12345")
    await writer.suspend()

    known, unknown = await sweeper.usage()

    assert (known.run_id, known.is_known) == (RUN, True)
    assert known.counts == {"models": 3, "states": 2, "updates": 3, "uploads": 1}
    assert known.size_bytes == {"models": 21, "states": 14, "updates": 300, "uploads": 5}
    assert known.reclaimable_bytes == 0
    assert (unknown.run_id, unknown.is_known, unknown.size_bytes) == ("run-9", False, {"models": 7})


async def test_a_check_names_what_is_missing_or_wrong(
    database: DatabaseManager, blobs: SweptStore, sweeper: BlobSweeper
) -> None:
    await live_run(database, blobs)
    needed = [each async for page in blobs.list_blobs("models") for each in page]
    gone = digest_of([b"model 1"])
    await blobs.delete(model_namespace(RUN), gone)

    report = await sweeper.check()

    assert len(needed) == 3
    assert (report.count, report.size_bytes, report.problem_count) == (5, 121, 1)
    assert str(report.problems[0]) == (
        f"model of round 1 of run run-1 (models/run-1/{gone}): missing"
    )


async def test_a_check_that_reads_finds_a_changed_byte(
    database: DatabaseManager, local: LocalBlobStore, tmp_path: Path
) -> None:
    await live_run(database, local)
    sweeper = BlobSweeper(database, local)
    digests = [digest_of([f"model {number}".encode()]) for number in range(3)]
    files = [tmp_path / "blobs" / "models" / RUN / digest for digest in digests]
    files[0].write_bytes(b"model X")
    files[1].write_bytes(b"model 1 and more")

    light, thorough = await sweeper.check(), await sweeper.check(reads_data=True)

    assert [each.problem for each in light.problems] == ["wrong size"]
    assert sorted(each.problem for each in thorough.problems) == ["wrong bytes", "wrong size"]


async def test_a_blob_that_goes_while_it_is_checked_because_its_round_ends_is_no_problem(
    database: DatabaseManager, local: LocalBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, lease = await live_run(database, local)
    sweeper = BlobSweeper(database, local)
    find_size = local.find_size

    async def end_the_run_first(namespace: str, digest: str) -> int | None:
        if namespace.startswith("updates"):
            await runs.finish(lease, "stopped", "by the test")
            await local.delete_namespace(update_namespace(RUN))
            await local.delete_namespace(state_namespace(RUN))
        return await find_size(namespace, digest)

    monkeypatch.setattr(local, "find_size", end_the_run_first)

    assert (await sweeper.check()).problem_count == 0


async def test_of_very_many_problems_a_hundred_are_told(
    database: DatabaseManager, local: LocalBlobStore
) -> None:
    runs = RunRepository(database)
    for number in range(210):  # more than one page of runs
        await runs.create(new_run(run_id=f"run-{number:03}", model_digest="a" * 64))

    report = await BlobSweeper(database, local).check()

    assert (report.problem_count, len(report.problems)) == (210, 100)


# ---------------------------------------------------------------- what a local store does besides


def make_old(root: Path, *names: str) -> None:
    for path in root.rglob("*"):
        if path.is_file() and (not names or path.name in names):
            os.utime(path, (SystemClock().now() - 2 * HOUR,) * 2)


async def sweep_all(store: LocalBlobStore) -> int:
    swept = 0
    async for page in store.list_blobs("models"):
        swept += len(await store.sweep(page, older_than_seconds=HOUR))
    return swept


async def test_a_blob_that_is_put_again_is_young_again(
    local: LocalBlobStore, tmp_path: Path
) -> None:
    digest = await put(local, "models/run-1", "model")
    make_old(tmp_path / "blobs")
    await put(local, "models/run-1", "model")
    swept = [await sweep_all(local)]

    make_old(tmp_path / "blobs")
    writer = await local.begin("models/run-1", digest, 5)
    swept.append(await sweep_all(local))
    await writer.commit()

    make_old(tmp_path / "blobs")
    swept.append(await sweep_all(local))
    assert swept == [0, 0, 1]
    assert list((tmp_path / "blobs").rglob("*")) == [tmp_path / "blobs" / "models"]


async def test_a_blob_is_young_from_its_commit_on_however_long_ago_its_bytes_came(
    local: LocalBlobStore, tmp_path: Path
) -> None:
    writer = await local.begin("models/run-1", digest_of([b"model"]), 5)
    await writer.write(b"model")
    await writer.suspend()
    make_old(tmp_path / "blobs")

    writer = await local.begin("models/run-1", digest_of([b"model"]), 5)
    await writer.commit()

    assert await sweep_all(local) == 0


async def test_what_was_put_again_after_the_listing_stays(
    local: LocalBlobStore, tmp_path: Path
) -> None:
    await put(local, "models/run-1", "model")
    make_old(tmp_path / "blobs")
    pages = [page async for page in local.list_blobs("models")]
    await put(local, "models/run-1", "model")

    assert await local.sweep(pages[0], older_than_seconds=HOUR) == []


async def test_what_has_gone_since_the_listing_is_no_error(
    local: LocalBlobStore, tmp_path: Path
) -> None:
    digest = await put(local, "models/run-1", "model")
    make_old(tmp_path / "blobs")
    pages = [page async for page in local.list_blobs("models")]
    await local.delete("models/run-1", digest)

    assert await local.sweep(pages[0], older_than_seconds=HOUR) == []


async def test_whoever_publishes_keeps_the_sweeper_out(
    local: LocalBlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_listing, "_CLOSING_SECONDS", 0.05)
    await put(local, "models/run-1", "model")
    make_old(tmp_path / "blobs")

    with blob_listing.open_gate(tmp_path / "blobs"):
        during = await sweep_all(local)

    assert (during, await sweep_all(local)) == (0, 1)


async def test_a_sweeper_that_waits_comes_through_at_last(
    local: LocalBlobStore, tmp_path: Path
) -> None:
    await put(local, "models/run-1", "model")
    make_old(tmp_path / "blobs")
    descriptor = os.open(tmp_path / "blobs", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)

    sweeping = asyncio.create_task(sweep_all(local))
    await asyncio.sleep(0.02)
    os.close(descriptor)

    assert await sweeping == 1


async def test_files_of_other_names_are_none_of_ours(local: LocalBlobStore, tmp_path: Path) -> None:
    await put(local, "models/run-1", "model")
    (tmp_path / "blobs" / "models" / "run-1" / "README").write_text("mine")
    (tmp_path / "blobs" / "models" / "run-1" / f".{'a' * 64}.1f.part").write_text("x")
    make_old(tmp_path / "blobs")

    assert await sweep_all(local) == 2
    assert [path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == ["README"]


async def test_a_long_listing_comes_in_pages(
    local: LocalBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_listing, "PAGE_BLOBS", 4)
    for number in range(10):
        await put(local, f"models/run-{number % 3}", f"{number}")

    pages = [page async for page in local.list_blobs("models")]

    assert [len(page) for page in pages] == [4, 4, 2]
    runs = [each.namespace for page in pages for each in page]
    assert runs == sorted(runs)


async def test_a_blob_put_again_beside_sweepers_is_never_lost(
    tmp_path: Path, sqlite_template: SQLiteTemplate
) -> None:
    # Each round: an old orphan; one who puts it again and then relies upon it; two sweepers.
    stores = [LocalBlobStore(tmp_path / "blobs") for _ in range(3)]
    content, digest = b"model", digest_of([b"model"])
    lost = 0
    for _ in range(150):
        await stores[0].put("models/run-1", [content])
        make_old(tmp_path / "blobs")
        await asyncio.gather(
            stores[0].put("models/run-1", [content]), *(sweep_all(each) for each in stores[1:])
        )
        lost += await stores[0].find_size("models/run-1", digest) is None

    for store in stores:
        await store.close()
    assert lost == 0
