"""One who puts and one who sweeps the same old blob of a bucket, in every order of their calls.

The server here is a dictionary whose calls take turns as a drawn schedule says: whoever's turn it
is makes one call. So the test meets orders that a real server shows once in a million runs.
"""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kumiai.core.digest import digest_of
from kumiai.storage import S3BlobStore, S3Place, StoredBlob, s3_blobs
from kumiai.storage.s3_bucket import S3Object

CONTENT = b"model"
DIGEST = digest_of([CONTENT])
SPACE = "models/run-1"
KEY = f"{SPACE}/{DIGEST}"
OLD_SECONDS = 1e6
GRACE = 3600.0


class Turns:
    """Lets two threads make calls one at a time, in a given order; then as they come."""

    def __init__(self, order: list[int]) -> None:
        self._order = list(order)
        self._changed = threading.Condition()
        self._ended: set[int] = set()

    def take(self, who: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_next(who), timeout=60)
            if self._order:
                self._order.pop(0)
            self._changed.notify_all()

    def end(self, who: int) -> None:
        with self._changed:
            self._ended.add(who)
            self._changed.notify_all()

    def _is_next(self, who: int) -> bool:
        while self._order and self._order[0] in self._ended:
            self._order.pop(0)
        return not self._order or self._order[0] == who


class Server:
    """The objects, and a clock that stands still but for what was put long ago."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.objects: dict[str, tuple[bytes, float]] = {}


class Bucket:
    """What `S3Bucket` offers, for one of the two."""

    def __init__(self, server: Server, turns: Turns, who: int) -> None:
        self._server = server
        self._turns = turns
        self._who = who
        self.place = S3Place("bucket")

    def find(self, key: str) -> S3Object | None:
        self._turns.take(self._who)
        found = self._server.objects.get(key)
        return None if found is None else S3Object(key, len(found[0]), found[1])

    def fetch(self, key: str, offset: int, length: int, descriptor: int) -> int | None:
        self._turns.take(self._who)
        found = self._server.objects.get(key)
        return None if found is None else os.pwrite(descriptor, found[0], offset)

    def create(self, key: str, content: memoryview) -> bool:
        self._turns.take(self._who)
        if key in self._server.objects:
            return False
        self._server.objects[key] = (bytes(content), self._server.now)
        return True

    def replace(self, key: str, content: memoryview) -> None:
        self._turns.take(self._who)
        self._server.objects[key] = (bytes(content), self._server.now)

    def delete(self, keys: list[str]) -> None:
        if keys:
            self._turns.take(self._who)
        for key in keys:
            self._server.objects.pop(key, None)

    def pages(self, prefix: str) -> Iterator[list[S3Object]]:
        self._turns.take(self._who)
        found = [
            S3Object(key, len(content), at)
            for key, (content, at) in sorted(self._server.objects.items())
            if key.startswith(f"{prefix}/")
        ]
        if found:
            yield found

    def close(self) -> None:
        pass


def store_on(server: Server, turns: Turns, who: int, folder: Path) -> S3BlobStore:
    place = S3Place("bucket", access_key_id="a", secret_access_key="b")
    store = S3BlobStore(place, folder)
    store._bucket = Bucket(server, turns, who)  # type: ignore[assignment]
    return store


def play(order: list[int], folder: Path, *, begins: bool, is_old: bool) -> dict[str, Any]:
    """Let both work in this order; return the objects that are left."""
    from kumiai.core.clock import SystemClock

    server, turns = Server(SystemClock().now()), Turns(order)
    if is_old:
        server.objects[KEY] = (CONTENT, server.now - OLD_SECONDS)
    putter = store_on(server, turns, 0, folder / "putter")
    sweeper = store_on(server, turns, 1, folder / "sweeper")
    failures: list[BaseException] = []

    def put() -> None:
        path = putter._spool.path_of(SPACE, DIGEST)
        if begins and putter._spool.claim(path):
            return
        putter._spool._put(SPACE, [CONTENT])

    def sweep() -> None:
        blob = StoredBlob(SPACE, DIGEST, len(CONTENT), OLD_SECONDS)
        sweeper._sweep([blob], GRACE)

    def run(who: int, work: Any) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)
        finally:
            turns.end(who)

    threads = [threading.Thread(target=run, args=pair) for pair in ((0, put), (1, sweep))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in (putter, sweeper):
        store._getters.shutdown()
        store._spool._threads.shutdown()
    if failures:
        raise failures[0]
    return server.objects


@settings(
    max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], print_blob=True
)
# The sweep looks before the put, deletes after it, and ends before the other looks for a sweep.
@example(order=[0, 0, 1, 1, 1, 1, 0, 1, 1], begins=False, is_old=True)
@given(
    order=st.lists(st.integers(0, 1), max_size=30),
    begins=st.booleans(),
    is_old=st.booleans(),
)
def test_whoever_has_put_a_blob_finds_it_whatever_a_sweep_did_meanwhile(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    *,
    order: list[int],
    begins: bool,
    is_old: bool,
) -> None:
    monkeypatch.setattr(s3_blobs, "_SWEEP_POLL_SECONDS", 0.0)

    objects = play(order, tmp_path_factory.mktemp("stores"), begins=begins, is_old=is_old)

    assert list(objects) == [KEY]
    assert objects[KEY][0] == CONTENT


def test_alone_a_sweep_deletes_what_is_old(tmp_path: Path) -> None:
    # Else the test above would show nothing: here the sweep ends before the put begins.
    server, turns = Server(2 * OLD_SECONDS), Turns([])
    server.objects[KEY] = (CONTENT, server.now - OLD_SECONDS)
    store = store_on(server, turns, 1, tmp_path)

    store._sweep([StoredBlob(SPACE, DIGEST, len(CONTENT), OLD_SECONDS)], GRACE)

    assert server.objects == {}
    store._getters.shutdown()
    store._spool._threads.shutdown()
