"""What every blob store promises, as tests: subclass `BlobStoreContract` and lend it a store.

class TestMemoryBlobStore(BlobStoreContract):
    @pytest.fixture
    async def store(self): ...
"""

# ruff: noqa: D102, S101 - the name of a test is its sentence, and a test asserts

import asyncio

import numpy as np
import pytest

from kumiai.core.digest import Buffer, digest_of
from kumiai.core.errors import ConflictError, IntegrityError, NotFoundError
from kumiai.storage import BlobStore

__all__ = ["BlobStoreContract"]

_SPACE = "updates/run-a/1/site.one"
_CHUNKS = (b"first " * 1000, b"second" * 5000, b"third")
_WHOLE = b"".join(_CHUNKS)
_DIGEST = digest_of(_CHUNKS)
_OTHER = digest_of([b"other"])


async def _upload(store: BlobStore, namespace: str = _SPACE) -> None:
    writer = await store.begin(namespace, _DIGEST, len(_WHOLE))
    for chunk in _CHUNKS:
        await writer.write(chunk)
    await writer.commit()


class BlobStoreContract:
    """The tests; a subclass has a fixture ``store`` that lends an empty store."""

    async def test_a_committed_blob_can_be_read(self, store: BlobStore) -> None:
        await _upload(store)

        assert await store.find_size(_SPACE, _DIGEST) == len(_WHOLE)
        assert await store.read(_SPACE, _DIGEST, 0, len(_WHOLE)) == _WHOLE
        with store.open_buffer(_SPACE, _DIGEST) as view:
            assert bytes(view) == _WHOLE

    async def test_a_blob_is_invisible_until_it_is_committed(self, store: BlobStore) -> None:
        writer = await store.begin(_SPACE, _DIGEST, len(_WHOLE))
        completeness = [writer.is_complete]
        for chunk in _CHUNKS:
            await writer.write(chunk)
            completeness.append(writer.is_complete)

        assert completeness == [False, False, False, True]
        assert await store.find_size(_SPACE, _DIGEST) is None
        with pytest.raises(NotFoundError):
            await store.read(_SPACE, _DIGEST, 0, 1)
        await writer.suspend()

    async def test_reading_is_short_only_at_the_end(self, store: BlobStore) -> None:
        await _upload(store)
        size = len(_WHOLE)

        assert await store.read(_SPACE, _DIGEST, 3, 5) == _WHOLE[3:8]
        assert await store.read(_SPACE, _DIGEST, size - 2, 5) == _WHOLE[-2:]
        assert await store.read(_SPACE, _DIGEST, size, 5) == b""
        assert await store.read(_SPACE, _DIGEST, size + 9, 5) == b""

    async def test_what_was_put_is_found_by_its_digest(self, store: BlobStore) -> None:
        buffers: list[Buffer] = [bytearray(b"one"), memoryview(b"two"), b"", b"three"]

        first = await store.put("models/run-a", buffers)
        again = await store.put("models/run-a", [b"onetwothree"])

        assert first == again == digest_of([b"onetwothree"])
        assert await store.read("models/run-a", first, 0, 100) == b"onetwothree"

    async def test_arrays_are_put_as_their_bytes(self, store: BlobStore) -> None:
        array = np.arange(12, dtype=np.float32).reshape(3, 4)

        digest = await store.put("models/run-a", [array.data])

        with store.open_buffer("models/run-a", digest) as view:
            found = np.frombuffer(view, dtype=np.float32)
        # The array outlives the context it was made in.
        assert found.tolist() == list(range(12))

    async def test_an_empty_blob_is_a_blob(self, store: BlobStore) -> None:
        digest = await store.put(_SPACE, [])
        writer = await store.begin("models/run-a", digest, 0)
        await writer.commit()

        for namespace in (_SPACE, "models/run-a"):
            assert await store.find_size(namespace, digest) == 0
            with store.open_buffer(namespace, digest) as view:
                assert len(view) == 0

    async def test_a_buffer_is_read_only(self, store: BlobStore) -> None:
        await _upload(store)

        with store.open_buffer(_SPACE, _DIGEST) as view:
            assert view.readonly

    async def test_namespaces_do_not_share_blobs(self, store: BlobStore) -> None:
        await _upload(store)

        assert await store.find_size("updates/run-a/1/site.two", _DIGEST) is None

    async def test_a_blob_that_is_not_there_is_not_found(self, store: BlobStore) -> None:
        assert await store.find_size(_SPACE, _DIGEST) is None
        assert await store.received_bytes(_SPACE, _DIGEST) == 0
        with pytest.raises(NotFoundError, match=_DIGEST):
            await store.read(_SPACE, _DIGEST, 0, 1)
        with pytest.raises(NotFoundError, match=_DIGEST):
            store.open_buffer(_SPACE, _DIGEST).__enter__()

    async def test_a_suspended_upload_goes_on_where_it_stood(self, store: BlobStore) -> None:
        first = await store.begin(_SPACE, _DIGEST, len(_WHOLE))
        await first.write(_CHUNKS[0])
        await first.suspend()
        await first.suspend()
        received = await store.received_bytes(_SPACE, _DIGEST)

        second = await store.begin(_SPACE, _DIGEST, len(_WHOLE))
        offset = second.offset
        await second.write(_WHOLE[offset:])
        await second.commit()

        assert received == offset == len(_CHUNKS[0])
        assert await store.read(_SPACE, _DIGEST, 0, len(_WHOLE)) == _WHOLE
        assert await store.received_bytes(_SPACE, _DIGEST) == len(_WHOLE)

    async def test_a_discarded_upload_leaves_nothing(self, store: BlobStore) -> None:
        writer = await store.begin(_SPACE, _DIGEST, len(_WHOLE))
        await writer.write(_WHOLE[:4])

        await writer.discard()
        await writer.discard()

        assert await store.received_bytes(_SPACE, _DIGEST) == 0
        with pytest.raises(ConflictError):
            await writer.write(_WHOLE[4:])

    async def test_discarding_takes_nothing_from_a_newer_writer(self, store: BlobStore) -> None:
        older = await store.begin(_SPACE, _DIGEST, len(_WHOLE))
        newer = await store.begin(_SPACE, _DIGEST, len(_WHOLE))
        await newer.write(_WHOLE[:4])

        await older.discard()

        await newer.write(_WHOLE[4:])
        await newer.commit()
        assert await store.find_size(_SPACE, _DIGEST) == len(_WHOLE)

    async def test_discarding_does_not_touch_what_is_committed(self, store: BlobStore) -> None:
        await _upload(store)
        writer = await store.begin(_SPACE, _DIGEST, len(_WHOLE))

        await writer.discard()

        assert await store.find_size(_SPACE, _DIGEST) == len(_WHOLE)

    async def test_a_suspended_writer_writes_no_more(self, store: BlobStore) -> None:
        writer = await store.begin(_SPACE, _DIGEST, len(_WHOLE))
        await writer.suspend()

        with pytest.raises(ConflictError, match="begin again"):
            await writer.write(b"x")
        with pytest.raises(ConflictError, match="begin again"):
            await writer.commit()

    async def test_a_newer_writer_ends_the_older(self, store: BlobStore) -> None:
        older = await store.begin(_SPACE, _DIGEST, len(_WHOLE))
        await older.write(_CHUNKS[0])

        newer = await store.begin(_SPACE, _DIGEST, len(_WHOLE))

        with pytest.raises(ConflictError):
            await older.write(_CHUNKS[1])
        await older.suspend()
        assert newer.offset == len(_CHUNKS[0])
        await newer.write(_WHOLE[newer.offset :])
        await newer.commit()
        assert await store.find_size(_SPACE, _DIGEST) == len(_WHOLE)

    async def test_of_many_that_begin_at_once_one_can_write(self, store: BlobStore) -> None:
        begun = await asyncio.gather(
            *(store.begin(_SPACE, _DIGEST, len(_WHOLE)) for _ in range(5)),
            return_exceptions=True,
        )

        written: list[int] = []
        for writer in begun:
            if isinstance(writer, BaseException):
                assert isinstance(writer, ConflictError)
                continue
            try:
                await writer.write(_WHOLE)
            except ConflictError:
                continue
            written.append(writer.offset)
            await writer.commit()
        assert written == [len(_WHOLE)]
        assert await store.read(_SPACE, _DIGEST, 0, len(_WHOLE)) == _WHOLE

    async def test_committing_again_does_nothing(self, store: BlobStore) -> None:
        writer = await store.begin(_SPACE, _DIGEST, len(_WHOLE))
        await writer.write(_WHOLE)

        await writer.commit()
        await writer.commit()

        assert await store.find_size(_SPACE, _DIGEST) == len(_WHOLE)

    async def test_an_upload_of_what_is_there_is_complete(self, store: BlobStore) -> None:
        await _upload(store)

        writer = await store.begin(_SPACE, _DIGEST, len(_WHOLE))

        assert (writer.offset, writer.is_complete) == (len(_WHOLE), True)
        await writer.commit()
        await writer.suspend()
        assert await store.read(_SPACE, _DIGEST, 0, 5) == b"first"

    async def test_a_blob_has_one_size(self, store: BlobStore) -> None:
        await _upload(store)

        with pytest.raises(IntegrityError, match="must be"):
            await store.begin(_SPACE, _DIGEST, len(_WHOLE) + 1)

    async def test_other_bytes_are_refused_and_thrown_away(self, store: BlobStore) -> None:
        writer = await store.begin(_SPACE, _DIGEST, len(_WHOLE))
        await writer.write(b"x" * len(_WHOLE))

        with pytest.raises(IntegrityError, match="must have the digest"):
            await writer.commit()

        assert await store.find_size(_SPACE, _DIGEST) is None
        assert await store.received_bytes(_SPACE, _DIGEST) == 0
        await _upload(store)

    async def test_missing_bytes_are_refused(self, store: BlobStore) -> None:
        writer = await store.begin(_SPACE, _DIGEST, len(_WHOLE))
        await writer.write(_CHUNKS[0])

        with pytest.raises(IntegrityError, match="must be"):
            await writer.commit()

        assert await store.find_size(_SPACE, _DIGEST) is None

    async def test_bytes_beyond_the_announced_size_are_refused_at_once(
        self, store: BlobStore
    ) -> None:
        writer = await store.begin(_SPACE, _DIGEST, len(_WHOLE))
        await writer.write(_WHOLE[:-1])

        with pytest.raises(IntegrityError, match="as announced"):
            await writer.write(b"xx")

        assert writer.offset == len(_WHOLE) - 1
        await writer.write(_WHOLE[-1:])
        await writer.commit()

    async def test_a_longer_upload_left_behind_is_begun_anew(self, store: BlobStore) -> None:
        liar = await store.begin(_SPACE, _DIGEST, 2 * len(_WHOLE))
        await liar.write(_WHOLE + b"more")
        await liar.suspend()

        writer = await store.begin(_SPACE, _DIGEST, len(_WHOLE))

        assert writer.offset == 0
        await writer.write(_WHOLE)
        await writer.commit()

    async def test_a_negative_size_is_refused(self, store: BlobStore) -> None:
        with pytest.raises(ValueError, match="size_bytes must not be negative"):
            await store.begin(_SPACE, _DIGEST, -1)

    @pytest.mark.parametrize(
        "namespace",
        ["", "/", "/models", "models/", "a//b", "..", "a/../b", ".hidden", "a/b c", "a\x00b",
         "a" * 64, "/".join("abcdefghi"), "models\\run", "a\n"],
    )  # fmt: skip
    async def test_what_is_no_namespace_is_refused(self, store: BlobStore, namespace: str) -> None:
        with pytest.raises(ValueError, match="namespace must be"):
            await store.begin(namespace, _DIGEST, 1)
        with pytest.raises(ValueError, match="namespace must be"):
            await store.put(namespace, [b"x"])
        with pytest.raises(ValueError, match="namespace must be"):
            await store.read(namespace, _DIGEST, 0, 1)
        with pytest.raises(ValueError, match="namespace must be"):
            await store.delete_namespace(namespace)

    @pytest.mark.parametrize("digest", ["", "abc", "../" * 21 + "x", "A" * 64, "a" * 65])
    async def test_what_is_no_digest_is_refused(self, store: BlobStore, digest: str) -> None:
        with pytest.raises(IntegrityError, match="digest must be"):
            await store.begin(_SPACE, digest, 1)
        with pytest.raises(IntegrityError, match="digest must be"):
            await store.find_size(_SPACE, digest)
        with pytest.raises(IntegrityError, match="digest must be"):
            await store.delete(_SPACE, digest)

    async def test_a_deleted_namespace_is_gone_with_all_below(self, store: BlobStore) -> None:
        below = ["updates/run-a/1/a", "updates/run-a/1/b", "updates/run-a/1"]
        beside = ["updates/run-a/10/a", "updates/run-a/2/a", "models/run-a"]
        for namespace in below + beside:
            await _upload(store, namespace)

        await store.delete_namespace("updates/run-a/1")
        await store.delete_namespace("updates/run-a/1")

        assert [await store.find_size(each, _DIGEST) for each in below] == [None] * 3
        assert [await store.find_size(each, _DIGEST) for each in beside] == [len(_WHOLE)] * 3
        await _upload(store, below[0])

    async def test_deleting_a_namespace_ends_its_uploads(self, store: BlobStore) -> None:
        writer = await store.begin(_SPACE, _DIGEST, len(_WHOLE))
        await writer.write(_CHUNKS[0])

        await store.delete_namespace("updates/run-a")

        with pytest.raises(ConflictError):
            await writer.write(_CHUNKS[1])
        await writer.suspend()
        assert await store.received_bytes(_SPACE, _DIGEST) == 0

    async def test_a_deleted_blob_is_gone_alone(self, store: BlobStore) -> None:
        await _upload(store)
        other = await store.put(_SPACE, [b"other"])

        await store.delete(_SPACE, _DIGEST)
        await store.delete(_SPACE, _DIGEST)

        assert await store.find_size(_SPACE, _DIGEST) is None
        assert await store.find_size(_SPACE, other) == len(b"other")
        assert other == _OTHER

    async def test_deleting_a_blob_ends_its_upload(self, store: BlobStore) -> None:
        writer = await store.begin(_SPACE, _DIGEST, len(_WHOLE))
        await writer.write(_CHUNKS[0])

        await store.delete(_SPACE, _DIGEST)

        with pytest.raises(ConflictError):
            await writer.commit()
        assert await store.received_bytes(_SPACE, _DIGEST) == 0

    async def test_deleting_does_not_take_away_what_is_being_read(self, store: BlobStore) -> None:
        await _upload(store)

        with store.open_buffer(_SPACE, _DIGEST) as view:
            await store.delete_namespace("updates/run-a")
            assert bytes(view) == _WHOLE

    async def test_closing_keeps_what_came(self, store: BlobStore) -> None:
        writer = await store.begin(_SPACE, _DIGEST, len(_WHOLE))
        await writer.write(_CHUNKS[0])

        await store.close()

        with pytest.raises(ConflictError):
            await writer.write(_CHUNKS[1])

    async def test_many_uploads_at_once_do_not_mix(self, store: BlobStore) -> None:
        generator = np.random.default_rng(7)
        blobs = [generator.bytes(50_000 + n) for n in range(8)]

        async def upload(number: int) -> str:
            blob = blobs[number]
            digest = digest_of([blob])
            writer = await store.begin(f"updates/run-a/1/site-{number}", digest, len(blob))
            for start in range(0, len(blob), 7_000):
                await writer.write(blob[start : start + 7_000])
            await writer.commit()
            return digest

        digests = await asyncio.gather(*map(upload, range(8)))

        for number, digest in enumerate(digests):
            found = await store.read(f"updates/run-a/1/site-{number}", digest, 0, 100_000)
            assert found == blobs[number]
