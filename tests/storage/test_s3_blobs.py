"""Blobs in a real S3 server: the contract, and what happens when server, wire or writer fail."""

import asyncio
import contextlib
import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from kumiai.core import failpoints
from kumiai.core.clock import SystemClock
from kumiai.core.digest import digest_of
from kumiai.core.errors import (
    ConfigError,
    IntegrityError,
    NotFoundError,
    StorageError,
)
from kumiai.storage import S3BlobStore, S3Place, StoredBlob, s3_blobs
from kumiai.storage.s3_bucket import PART_BYTES, S3Bucket
from kumiai.storage.s3_uploads import S3Uploads, signature
from kumiai.testing.blob_contract import BlobStoreContract
from kumiai.testing.crash import KILL_AT, parse
from kumiai.testing.s3_server import S3Server
from kumiai.testing.tcp_proxy import TcpProxy
from tests.storage.programs.blob_writer import content_of
from tests.zygote import Zygote

pytestmark = pytest.mark.integration

NewStore = Callable[..., S3BlobStore]
SPACE = "updates/run-a/1/a"
SMALL = bytes(range(256)) * 400
LARGE = os.urandom(1 << 20) * 40  # three parts
ALL = -5.0


class TestS3BlobStore(BlobStoreContract):
    @pytest.fixture
    async def store(self, new_s3_store: NewStore) -> AsyncIterator[S3BlobStore]:
        return new_s3_store()


class TestS3BlobStoreWhoseBlobsAreAllOld(BlobStoreContract):
    """Whatever exists is put again; nobody may notice."""

    @pytest.fixture
    async def store(self, new_s3_store: NewStore) -> AsyncIterator[S3BlobStore]:
        return new_s3_store(fresh_seconds=ALL, cache_bytes=0)


async def listed(store: S3BlobStore, prefix: str = "updates") -> list[StoredBlob]:
    return [each async for page in store.list_blobs(prefix) for each in page]


async def upload(store: S3BlobStore, content: bytes, *, space: str = SPACE) -> str:
    digest = digest_of([content])
    writer = await store.begin(space, digest, len(content))
    for start in range(writer.offset, len(content), 1 << 20):
        await writer.write(content[start : start + (1 << 20)])
    await writer.commit()
    return digest


# ------------------------------------------------------------------------------- several replicas


async def test_what_one_replica_put_another_reads(new_s3_store: NewStore) -> None:
    one, other = new_s3_store("one"), new_s3_store("other")
    digest = await one.put("models/run-a", [LARGE])

    assert await other.find_size("models/run-a", digest) == len(LARGE)
    assert await other.read("models/run-a", digest, len(LARGE) - 3, 9) == LARGE[-3:]
    with other.open_buffer("models/run-a", digest) as view:
        assert view == LARGE


async def test_an_upload_goes_on_after_a_restart_and_begins_anew_elsewhere(
    new_s3_store: NewStore,
) -> None:
    digest = digest_of([SMALL])
    one = new_s3_store("one")
    writer = await one.begin(SPACE, digest, len(SMALL))
    await writer.write(SMALL[:5000])
    await one.close()
    restarted, other = new_s3_store("one"), new_s3_store("other")

    received = [await each.received_bytes(SPACE, digest) for each in (restarted, other)]
    writers = [await each.begin(SPACE, digest, len(SMALL)) for each in (other, restarted)]
    for writer in writers:
        await writer.write(SMALL[writer.offset :])
        await writer.commit()

    assert received == [5000, 0]
    assert await other.read(SPACE, digest, 0, 10) == SMALL[:10]
    assert [each.kind for each in await listed(restarted)] == ["blob"]


async def test_a_namespace_of_thousands_is_deleted_whole(
    new_s3_store: NewStore, s3_server: S3Server
) -> None:
    store = new_s3_store()
    bucket = S3Bucket(store.place)
    keys = [f"updates/run-a/{n % 7}/site-{n}/{n:064x}" for n in range(1100)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: bucket.replace(key, b"x"), [*keys, "updates/run-b/1/x/y"]))
    before = len(await listed(store, "updates/run-a"))

    await store.delete_namespace("updates/run-a")

    assert before == 1100
    assert [each.key for page in bucket.pages("updates") for each in page] == [
        "updates/run-b/1/x/y"
    ]


# --------------------------------------------------------------------------------- wrong contents


async def test_other_bytes_than_were_put_are_found_and_not_kept(new_s3_store: NewStore) -> None:
    store, other = new_s3_store(), new_s3_store("other")
    digest = await store.put("models/run-a", [SMALL])
    S3Bucket(store.place).replace(f"models/run-a/{digest}", b"x" * len(SMALL))

    for _ in range(2):
        with pytest.raises(IntegrityError, match=f"must have the digest {digest}"):
            other.open_buffer("models/run-a", digest).__enter__()
    assert list((other._cache._root).rglob("*.part")) == []


async def test_an_old_object_of_other_bytes_is_put_right_by_the_next_upload(
    new_s3_store: NewStore,
) -> None:
    store = new_s3_store(fresh_seconds=ALL)
    digest = digest_of([SMALL])
    S3Bucket(store.place).replace(f"{SPACE}/{digest}", b"x" * len(SMALL))

    await upload(store, SMALL)

    with new_s3_store("other").open_buffer(SPACE, digest) as view:
        assert view == SMALL


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_an_object_of_another_size_in_the_way_is_an_integrity_error(
    new_s3_store: NewStore, content: bytes
) -> None:
    store = new_s3_store()
    digest = digest_of([content])
    S3Bucket(store.place).replace(f"{SPACE}/{digest}", b"other")

    with pytest.raises(IntegrityError, match="must be 5 bytes, got an upload"):
        await store.begin(SPACE, digest, len(content))
    with pytest.raises(IntegrityError, match="somebody else has put it there"):
        store._upload(f"{SPACE}/{digest}", memoryview(content))


async def test_objects_of_other_names_are_none_of_ours(new_s3_store: NewStore) -> None:
    store = new_s3_store(fresh_seconds=ALL)
    bucket = S3Bucket(store.place)
    for key in ("updates/README", f"updates/run a/{'a' * 64}", f"updates/run-a/{'b' * 64}"):
        bucket.replace(key, b"x")

    found = await listed(store)

    assert [(each.namespace, each.digest[0], each.size_bytes) for each in found] == [
        ("updates/run-a", "b", 1)
    ]


# ------------------------------------------------------------------------------ the local folders


async def test_a_blob_that_was_read_is_read_again_without_the_server(
    new_s3_store: NewStore, s3_server: S3Server
) -> None:
    digest = await new_s3_store("one").put("models/run-a", [SMALL])
    store = new_s3_store("other")
    with store.open_buffer("models/run-a", digest) as view:
        kept = view[:10].tobytes()
    S3Bucket(store.place).delete([f"models/run-a/{digest}"])

    assert await store.read("models/run-a", digest, 0, 10) == kept == SMALL[:10]
    assert await store.find_size("models/run-a", digest) is None


async def test_the_cache_keeps_what_was_used_last(new_s3_store: NewStore) -> None:
    store = new_s3_store(cache_bytes=250)
    a, b, c = [await store.put("models/run-a", [letter * 100]) for letter in (b"a", b"b", b"c")]
    left = [store._cache.open("models/run-a", each) for each in (a, b, c)]
    with store.open_buffer("models/run-a", b), store.open_buffer("models/run-a", a) as view:
        assert view == b"a" * 100
    now = [store._cache.open("models/run-a", each) for each in (a, b, c)]

    for descriptor in (*left, *now):
        if descriptor is not None:
            os.close(descriptor)
    assert [each is not None for each in left] == [False, True, True]
    assert [each is not None for each in now] == [True, True, False]
    assert store._cache.size_bytes == 200


async def test_a_blob_larger_than_the_cache_can_be_read(new_s3_store: NewStore) -> None:
    digest = await new_s3_store("one").put("models/run-a", [SMALL])
    store = new_s3_store("other", cache_bytes=10)

    with store.open_buffer("models/run-a", digest) as view:
        assert view == SMALL


async def test_a_copy_that_was_damaged_while_nobody_looked_is_fetched_again(
    new_s3_store: NewStore, tmp_path: Path
) -> None:
    store = new_s3_store("one")
    digest = await store.put("models/run-a", [SMALL])
    other = await store.put("models/run-a", [b"sound"])
    await store.close()
    copy = tmp_path / "one" / "cache" / "models" / "run-a" / digest
    copy.write_bytes(b"\0" * len(SMALL))
    copy.with_name(f".{digest}.1f.part").write_bytes(b"left by a kill")

    store = new_s3_store("one")
    with store.open_buffer("models/run-a", digest) as view:
        assert view == SMALL
    assert await store.read("models/run-a", other, 0, 9) == b"sound"
    assert list((tmp_path / "one" / "cache").rglob("*.part")) == []


async def test_a_copy_that_was_deleted_by_hand_is_fetched_again(
    new_s3_store: NewStore, tmp_path: Path
) -> None:
    store = new_s3_store("one")
    digest = await store.put("models/run-a", [SMALL])
    (tmp_path / "one" / "cache" / "models" / "run-a" / digest).unlink()

    with store.open_buffer("models/run-a", digest) as view:
        assert view == SMALL


async def test_many_who_open_a_blob_at_once_fetch_it_once(
    new_s3_store: NewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = await new_s3_store("one").put("models/run-a", [SMALL])
    store = new_s3_store("other")
    fetches: list[str] = []
    fetch = store._fetch
    monkeypatch.setattr(store, "_fetch", lambda *given: (fetches.append("one"), fetch(*given))[1])

    def read() -> bytes:
        with store.open_buffer("models/run-a", digest) as view:
            return view.tobytes()

    found = await asyncio.gather(*(asyncio.to_thread(read) for _ in range(6)))

    assert found == [SMALL] * 6
    assert fetches == ["one"]


async def test_who_reads_on_has_the_blob_fetched_for_all(new_s3_store: NewStore) -> None:
    digest = await new_s3_store("one").put("models/run-a", [SMALL])
    store = new_s3_store("other")

    assert await store.read("models/run-a", digest, 0, 1000) == SMALL[:1000]
    assert store._cache.size_bytes == 0
    assert await store.read("models/run-a", digest, 1000, 1000) == SMALL[1000:2000]
    async with asyncio.timeout(30):
        while not store._cache.size_bytes:
            await asyncio.sleep(0.005)
    assert await store.read("models/run-a", digest, 2000, 1000) == SMALL[2000:3000]
    assert await store.read("models/run-a", digest, 0, 0) == b""


# ------------------------------------------------------------------------------ server and wire


@pytest.fixture
def own_server() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.remove()


async def test_acknowledged_blobs_survive_a_kill_of_the_server_and_the_next_call_works(
    own_server: S3Server, tmp_path: Path
) -> None:
    store = S3BlobStore(own_server.place("kill"), tmp_path / "one", cache_bytes=0)
    acknowledged: list[tuple[str, bytes]] = []
    stop = asyncio.Event()

    async def put_all() -> None:
        number = 0
        while not stop.is_set():
            content = SMALL + b"%d" % number
            acknowledged.append((await upload(store, content), content))
            number += 1

    putting = asyncio.create_task(put_all())
    for _ in range(2):
        count = len(acknowledged) + 5
        while len(acknowledged) < count:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(own_server.kill)
        await asyncio.to_thread(own_server.start)
    stop.set()
    await putting

    for digest, content in acknowledged:
        with store.open_buffer(SPACE, digest) as view:
            assert view == content
    await store.close()


async def test_a_large_upload_and_a_large_read_survive_a_kill_in_their_middle(
    own_server: S3Server, tmp_path: Path
) -> None:
    store = S3BlobStore(own_server.place("kill"), tmp_path / "one")
    arrived = threading.Event()

    def kill_once(name: str) -> None:
        if name == "storage.blob.part.before" and not arrived.is_set():
            arrived.set()
            own_server.kill()
            threading.Thread(target=own_server.start).start()

    failpoints.install(kill_once)
    try:
        digest = await upload(store, LARGE)
    finally:
        failpoints.install(None)

    reader = S3BlobStore(own_server.place("kill"), tmp_path / "two")

    def read() -> bool:
        with reader.open_buffer(SPACE, digest) as view:
            return bytes(view) == LARGE

    reading = asyncio.create_task(asyncio.to_thread(read))
    await asyncio.sleep(0.01)
    await asyncio.to_thread(own_server.kill)
    await asyncio.to_thread(own_server.start)
    assert await reading
    assert arrived.is_set()
    for each in (store, reader):
        await each.close()


async def test_a_wire_that_is_cut_again_and_again_only_takes_longer(
    s3_server: S3Server, new_s3_store: NewStore
) -> None:
    async with TcpProxy("127.0.0.1", s3_server.port) as proxy:
        seen = 0

        def cut_every_fifth(_direction: str, chunk: bytes) -> bool:
            nonlocal seen
            seen += 1
            return seen % 5 != 0

        store = new_s3_store(place={"endpoint": f"http://127.0.0.1:{proxy.port}"})
        proxy.on_chunk = cut_every_fifth
        digests = [await upload(store, SMALL + b"%d" % n) for n in range(6)]
        reader = new_s3_store("other", place={"endpoint": f"http://127.0.0.1:{proxy.port}"})
        found = [await reader.read(SPACE, each, 0, len(SMALL) + 9) for each in digests]
        proxy.on_chunk = None

    assert found == [SMALL + b"%d" % n for n in range(6)]


async def test_a_silent_server_is_given_up_and_nothing_is_half_visible(
    s3_server: S3Server, new_s3_store: NewStore
) -> None:
    digest = digest_of([SMALL])
    async with TcpProxy("127.0.0.1", s3_server.port) as proxy:
        store = new_s3_store(
            deadline_seconds=1, place={"endpoint": f"http://127.0.0.1:{proxy.port}"}
        )
        writer = await store.begin(SPACE, digest, len(SMALL))
        await writer.write(SMALL)
        proxy.stall()
        with pytest.raises(StorageError, match="see that the server runs") as told:
            await writer.commit()
        await proxy.cut()
        proxy.resume()

        assert s3_server.secret_key not in str(told.value)
        assert await new_s3_store("other").find_size(SPACE, digest) is None
        # The same bytes are still here: the commit alone is made again.
        assert await store.received_bytes(SPACE, digest) == len(SMALL)
        await writer.commit()
    assert await new_s3_store("other").find_size(SPACE, digest) == len(SMALL)


async def test_an_upload_whose_waiting_is_cancelled_ends_whole(new_s3_store: NewStore) -> None:
    store = new_s3_store()
    digest = digest_of([LARGE])
    writer = await store.begin(SPACE, digest, len(LARGE))
    await writer.write(LARGE)
    committing = asyncio.create_task(writer.commit())
    await asyncio.sleep(0.02)
    committing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await committing
    await writer.suspend()  # waits for the thread

    with new_s3_store("other").open_buffer(SPACE, digest) as view:
        assert view == LARGE


async def test_a_closed_store_fetches_no_more(new_s3_store: NewStore) -> None:
    digest = await new_s3_store("one").put("models/run-a", [SMALL])
    store = new_s3_store("other")
    await store.close()

    with pytest.raises(StorageError, match="must be open"):
        store.open_buffer("models/run-a", digest).__enter__()


async def test_a_closed_store_tries_no_more(tmp_path: Path) -> None:
    place = S3Place("bucket", endpoint="http://127.0.0.1:9", access_key_id="a",
                    secret_access_key="b")  # fmt: skip
    store = S3BlobStore(place, tmp_path)
    asking = asyncio.create_task(store.find_size(SPACE, "a" * 64))
    await asyncio.sleep(0.05)

    await store.close()

    with pytest.raises(StorageError, match=r"no connection|closed"):
        await asking


# ------------------------------------------------------------------------------------ kill -9

KILLS = [
    ("storage.blob.write.after", 102400, False),
    ("storage.blob.upload.before", 102400, False),
    ("storage.blob.upload.after", 102400, True),
    ("storage.blob.cached.after", 102400, True),
    ("storage.blob.part.before:3", 40 << 20, False),
    ("storage.blob.upload.after", 40 << 20, True),
]
POINTS = {step.name for point, _, _ in KILLS for step in parse(point)}


@pytest.mark.parametrize("way", ["upload", "put"])
@pytest.mark.parametrize(("point", "size", "is_visible"), KILLS)
async def test_a_killed_writer_leaves_a_whole_blob_or_none_and_only_what_a_sweep_finds(
    new_s3_store: NewStore,
    zygote: Zygote,
    tmp_path: Path,
    *,
    point: str,
    size: int,
    is_visible: bool,
    way: str,
) -> None:
    store = new_s3_store("other", fresh_seconds=ALL)
    content = content_of(size)
    digest = digest_of([content])
    place = {name: value for name, value in asdict(store.place).items() if value}

    killed = await zygote.fork(
        [json.dumps({"folder": str(tmp_path / "one"), "place": place}), str(size), way],
        program="tests.storage.programs.blob_writer",
        environment={KILL_AT: point},
        log=tmp_path / "log",
    )
    await killed.ended()

    assert killed.was_killed, killed.last_lines()
    found = await store.find_size(SPACE, digest)
    assert found == (size if is_visible else None)
    if is_visible:
        with store.open_buffer(SPACE, digest) as view:
            assert view == content
    left = new_s3_store("one", fresh_seconds=ALL)  # the same replica, started again
    for each in await listed(left):
        assert each.namespace == SPACE
        assert each.digest == digest
    swept = await left.sweep(await listed(left), older_than_seconds=ALL)
    assert swept
    assert await listed(left) == []
    spool = tmp_path / "one" / "spool"
    assert [path for path in spool.rglob("*") if path.is_file()] == []
    assert S3Uploads(store.place).list("updates") == []
    await upload(left, content)
    assert await store.find_size(SPACE, digest) == size


async def test_parts_of_an_upload_that_nobody_finished_are_found_and_ended_by_age(
    new_s3_store: NewStore,
) -> None:
    store = new_s3_store(fresh_seconds=1)

    digest = digest_of([LARGE])
    begin_upload(store.place, f"{SPACE}/{digest}")
    begin_upload(store.place, "updates/not-a-blob")

    young = [each for each in await listed(store) if each.kind == "upload"]
    kept = await store.sweep(young, older_than_seconds=3600)
    gone = await store.sweep([replace(young[0], age_seconds=9e9)], older_than_seconds=3600)

    assert [(each.namespace, each.digest) for each in young] == [(SPACE, digest)]
    assert (kept, len(gone)) == ([], 1)
    uploads = S3Uploads(store.place)
    assert [each.key for each in uploads.list("updates")] == ["updates/not-a-blob"]
    uploads.abort(f"{SPACE}/{digest}", "an-id-that-is-gone")


def begin_upload(place: S3Place, key: str) -> None:
    """Begin an upload in parts as another program would, and leave it."""
    S3Uploads(place)._request("POST", f"{place.prefix}/{key}", {"uploads": ""})


# ---------------------------------------------------------------------------- what is refused


async def test_a_sweep_of_what_may_be_young_is_refused(new_s3_store: NewStore) -> None:
    with pytest.raises(ValueError, match="must be at least 600"):
        await new_s3_store().sweep([], older_than_seconds=599)


@pytest.mark.parametrize(
    ("wrong", "mend"),
    [
        ({"secret_access_key": "another-secret"}, "see that the access key is right"),
        ({"bucket": "no-such-bucket"}, "create the bucket"),
        ({"endpoint": "http://127.0.0.1:9"}, "see that the server runs"),
    ],
)
async def test_what_is_wrong_about_the_place_is_told_at_once_without_the_secret(
    new_s3_store: NewStore, wrong: dict[str, str], mend: str
) -> None:
    store = new_s3_store(deadline_seconds=1, place=wrong)

    with pytest.raises(StorageError, match=mend) as told:
        await store.check()
    secret = str(store.place.secret_access_key)
    assert secret not in str(told.value) + repr(store.place) + str(store.place)
    assert told.value.__cause__ is None


async def test_a_place_that_can_not_be_used_is_a_config_error(tmp_path: Path) -> None:
    place = S3Place("bucket", access_key_id="key", secret_access_key="hush", ca_pem=b"no pem")

    with pytest.raises(ConfigError, match=r"s3://bucket must be .* got endpoint 'AWS'") as told:
        S3BlobStore(place, tmp_path)

    assert "hush" not in str(told.value)


async def test_without_the_library_it_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)

    with pytest.raises(ConfigError, match=r"install kumiai\[s3\]"):
        S3BlobStore(S3Place("bucket"), tmp_path)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("s3://bucket", ("bucket", "")),
        ("s3://bucket/", ("bucket", "")),
        ("s3://my.bucket/a/b-c_d.e/", ("my.bucket", "a/b-c_d.e")),
    ],
)
def test_a_bucket_is_named_by_its_url(url: str, place: tuple[str, str]) -> None:
    assert S3Place.parse(url) == place


@pytest.mark.parametrize(
    "url",
    ["", "s3://", "s3://B", "gs://bucket", "s3://bucket/../x", "s3://bucket/a//b", "s3://u:p@bucket",
     "s3://bucket/a b", "s3:/bucket"],
)  # fmt: skip
def test_what_is_no_url_of_a_bucket_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="must be s3://bucket"):
        S3Place.parse(url)


def test_the_signature_is_that_of_the_published_example() -> None:
    # "Example: GET Bucket Lifecycle" of the Amazon S3 API Reference.
    headers = {
        "host": "examplebucket.s3.amazonaws.com",
        "x-amz-content-sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "x-amz-date": "20130524T000000Z",
    }

    assert (
        signature(
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "GET",
            "/",
            {"lifecycle": ""},
            headers,
            scope="20130524/us-east-1/s3/aws4_request",
            region="us-east-1",
        )
        == "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
    )


async def test_without_a_key_no_unfinished_upload_is_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)

    uploads = S3Uploads(S3Place("bucket", endpoint="http://127.0.0.1:9"))

    assert not uploads.can_look
    assert uploads.list("updates") == []


async def test_uploads_that_can_not_be_listed_or_ended_are_a_storage_error(
    s3_server: S3Server,
) -> None:
    away = replace(s3_server.place("x"), endpoint="http://127.0.0.1:9")
    denied = replace(s3_server.place("x"), secret_access_key="another-secret")

    with pytest.raises(StorageError, match="ConnectError"):
        S3Uploads(away, timeout_seconds=2).list("updates")
    with pytest.raises(StorageError, match="status 403") as told:
        S3Uploads(denied).abort("updates/a", "id")

    assert "another-secret" not in str(told.value)
    # Who may not look has none to end, and all else goes on.
    assert S3Uploads(denied).list("updates") == []


# ------------------------------------------------------------------------- sweeping beside putting


async def test_a_put_waits_for_a_sweep_that_is_under_way(
    new_s3_store: NewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_s3_store(fresh_seconds=ALL)
    bucket = S3Bucket(store.place)
    bucket.replace("sweeps/one", b"sweeping")

    putting = asyncio.create_task(store.put(SPACE, [SMALL]))
    await asyncio.sleep(0.3)
    has_waited = not putting.done()
    bucket.delete([f"{SPACE}/{digest_of([SMALL])}"])  # as that sweep may do at its end
    bucket.delete(["sweeps/one"])
    digest = await putting

    assert has_waited
    assert await store.find_size(SPACE, digest) == len(SMALL)


async def test_nobody_waits_for_a_sweep_that_has_died(
    new_s3_store: NewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_blobs, "_SWEEP_SECONDS_MAX", -5.0)
    store = new_s3_store(fresh_seconds=ALL)
    bucket = S3Bucket(store.place)
    bucket.replace("sweeps/one", b"sweeping")

    digest = await store.put(SPACE, [SMALL])
    blobs = await listed(store)
    await store.sweep(blobs, older_than_seconds=ALL)

    assert [each.digest for each in blobs] == [digest]
    assert list(bucket.pages("sweeps")) == []


async def test_a_long_sweep_stops_in_time(
    new_s3_store: NewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_blobs, "_SWEEP_SECONDS", -1.0)
    store = new_s3_store(fresh_seconds=ALL)
    await store.put(SPACE, [SMALL])

    assert await store.sweep(await listed(store), older_than_seconds=ALL) == []


async def test_a_blob_that_is_gone_is_not_there(new_s3_store: NewStore) -> None:
    store = new_s3_store()

    with pytest.raises(NotFoundError):
        await store.read(SPACE, "a" * 64, 100, 9)
    assert SystemClock().now() > 0
    assert len(LARGE) > PART_BYTES
