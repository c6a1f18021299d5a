"""The contract of blobs on the object store that obstore keeps in memory: no server, no wire.

What the server, the wire and a kill may do is in ``test_s3_blobs.py``.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from kumiai.core.digest import digest_of
from kumiai.core.errors import IntegrityError
from kumiai.storage import S3BlobStore, S3Place, s3_bucket
from kumiai.testing.blob_contract import BlobStoreContract

NewStore = Callable[..., S3BlobStore]
SPACE = "updates/run-a/1/a"
PLACE = S3Place(bucket="bucket", prefix="federation")
LARGE = bytes(range(256)) * 4 * 20_480  # two parts


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """Put an object store of obstore's in the place of the one that needs a server."""
    memory = MemoryStore()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(s3_bucket, "_new_store", lambda _place, _seconds: memory)
    return memory


@pytest.fixture
async def new_store(objects: MemoryStore, tmp_path: Path) -> AsyncIterator[NewStore]:
    """Lend replicas that share the objects; each has a folder of its own."""
    async with AsyncExitStack() as stack:

        def new_store(replica: str = "one", **options: object) -> S3BlobStore:
            store = S3BlobStore(PLACE, tmp_path / replica, **options)  # type: ignore[arg-type]
            stack.push_async_callback(store.close)
            return store

        yield new_store


class TestS3BlobStore(BlobStoreContract):
    @pytest.fixture
    async def store(self, new_store: NewStore) -> S3BlobStore:
        return new_store()


class TestS3BlobStoreWithoutCache(BlobStoreContract):
    @pytest.fixture
    async def store(self, new_store: NewStore) -> S3BlobStore:
        return new_store(fresh_seconds=-5.0, cache_bytes=0)


async def test_what_one_replica_put_another_reads(new_store: NewStore) -> None:
    one, other = new_store("one"), new_store("other")

    digest = await one.put("models/run-a", [LARGE])

    assert await other.find_size("models/run-a", digest) == len(LARGE)
    assert await other.read("models/run-a", digest, len(LARGE) - 3, 9) == LARGE[-3:]
    with other.open_buffer("models/run-a", digest) as view:
        assert view == LARGE


async def test_an_object_whose_bytes_were_changed_is_not_handed_out(
    new_store: NewStore, objects: MemoryStore
) -> None:
    digest = await new_store("one").put("models/run-a", [b"right"])
    (found,) = [each for page in objects.list() for each in page]
    objects.put(found["path"], b"wrong")

    with pytest.raises(IntegrityError):
        await asyncio.to_thread(
            lambda: new_store("other").open_buffer("models/run-a", digest).__enter__()
        )


async def test_a_large_model_leaves_the_cache_when_a_newer_one_needs_the_room(
    new_store: NewStore, tmp_path: Path
) -> None:
    store = new_store("one", cache_bytes=len(LARGE) + 10)

    for content in (LARGE, LARGE[::-1]):
        digest = await store.put("models/run-a", [content])
        with store.open_buffer("models/run-a", digest) as view:
            assert view == content

    cached = sum(p.stat().st_size for p in (tmp_path / "one" / "cache").rglob("*") if p.is_file())
    assert cached <= len(LARGE) + 10
    assert await store.find_size("models/run-a", digest_of([LARGE])) == len(LARGE)


async def test_what_nobody_needs_is_listed_and_swept_by_age(new_store: NewStore) -> None:
    store = new_store(fresh_seconds=-5.0)
    await store.put(SPACE, [b"one"])
    await store.put("models/run-a", [b"model"])

    listed = [each async for page in store.list_blobs("updates") for each in page]
    young = await store.sweep(listed, older_than_seconds=3600)
    swept = await store.sweep(listed, older_than_seconds=-5.0)

    assert [each.namespace for each in listed] == [SPACE]
    assert (len(young), len(swept)) == (0, 1)
    assert [each async for page in store.list_blobs("updates") for each in page] == []
