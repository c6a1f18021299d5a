"""What the blob stores cost beside what they are made of, in one run: ratios.

Run ``python benchmarks/blobs.py`` (``--short``: fewer repeats). One blob of 100 MB is put and read,
each time as a new one: in a local folder beside a plain file that is written, synced and read, and
in a bucket of an S3 server on this machine beside the bare library (obstore). The stores hash what
they take and what they fetch; the bare ways do not, so each stands there a second time with the
hashing. The server runs on the same cores and is most of the time.
"""

import argparse
import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import obstore
from _measuring import CpuMeter, Goal, at_least, load_line, print_goals, print_table
from obstore.store import S3Store

from kumiai.core.digest import digest_of
from kumiai.storage import BlobStore, LocalBlobStore, S3BlobStore
from kumiai.testing.s3_server import S3Server

SIZE_BYTES = 100_000_000
CHUNK_BYTES = 1 << 20
PART_BYTES = 16 << 20
SPACE = "models/run-1"


class Bench:
    def __init__(self, folder: Path, server: S3Server) -> None:
        self.folder = folder
        self.content = np.random.default_rng(1).integers(0, 256, SIZE_BYTES, np.uint8)
        self.local = LocalBlobStore(folder / "local")
        place = server.place("blobs")
        self.writing = S3BlobStore(place, folder / "one")
        # Keeps nothing: each read is one from the server.
        self.reading = S3BlobStore(place, folder / "two", cache_bytes=0)
        self.bare = S3Store(
            place.bucket,
            prefix="bare",
            region=place.region,
            endpoint=place.endpoint or "",
            access_key_id=place.access_key_id or "",
            secret_access_key=place.secret_access_key or "",
            client_options={"allow_http": True},
        )
        self.digest = ""
        self.number = 0

    def renew(self) -> memoryview:
        """Return other bytes than before, so that nothing is there already."""
        self.number += 1
        self.content[:8] = np.frombuffer(self.number.to_bytes(8, "little"), np.uint8)
        return self.content.data

    async def put_local(self) -> None:
        self.digest = await self.local.put(SPACE, [self.content.data])

    async def upload_local(self) -> None:
        await self._upload(self.local)

    async def get_local(self) -> None:
        with self.local.open_buffer(SPACE, self.digest) as view:
            digest_of([view])

    async def put_s3(self) -> None:
        self.digest = await self.writing.put(SPACE, [self.content.data])

    async def upload_s3(self) -> None:
        await self._upload(self.writing)

    async def get_s3(self) -> None:
        with self.reading.open_buffer(SPACE, self.digest) as view:
            len(view)

    async def get_s3_cached(self) -> None:
        with self.writing.open_buffer(SPACE, self.digest) as view:
            digest_of([view])

    async def _upload(self, store: BlobStore) -> None:
        self.digest = digest_of([self.content.data])
        writer = await store.begin(SPACE, self.digest, SIZE_BYTES)
        for start in range(0, SIZE_BYTES, CHUNK_BYTES):
            await writer.write(self.content[start : start + CHUNK_BYTES].tobytes())
        await writer.commit()

    async def write_file(self) -> None:
        await asyncio.to_thread(self._write_file, hashes=False)

    async def write_file_hashed(self) -> None:
        await asyncio.to_thread(self._write_file, hashes=True)

    def _write_file(self, *, hashes: bool) -> None:
        if hashes:
            digest_of([self.content.data])
        with (self.folder / "plain").open("wb", buffering=0) as file:
            for start in range(0, SIZE_BYTES, CHUNK_BYTES):
                file.write(self.content[start : start + CHUNK_BYTES].data)
            os.fdatasync(file.fileno())

    async def read_file(self) -> None:
        digest_of([np.memmap(self.folder / "plain", np.uint8, "r").data])

    async def put_bare(self) -> None:
        await obstore.put_async(
            self.bare, "plain", self._parts(), use_multipart=True, chunk_size=PART_BYTES,
            max_concurrency=4,
        )  # fmt: skip

    async def put_bare_hashed(self) -> None:
        digest_of([self.content.data])
        await self.put_bare()

    def _parts(self) -> list[memoryview]:
        starts = range(0, SIZE_BYTES, PART_BYTES)
        return [self.content[start : start + PART_BYTES].data for start in starts]

    async def get_bare(self) -> bytes:
        return bytes(await (await obstore.get_async(self.bare, "plain")).bytes_async())

    async def get_bare_hashed(self) -> None:
        digest_of([await self.get_bare()])

    async def close(self) -> None:
        for store in (self.local, self.writing, self.reading):
            await store.close()


async def measure(bench: Bench, repeats: int) -> dict[str, tuple[float, float]]:
    ways: dict[str, Callable[[], Awaitable[object]]] = {
        "local: write a file, sync": bench.write_file,
        "local: the same, hashed": bench.write_file_hashed,
        "local: put": bench.put_local,
        "local: upload in 1 MiB chunks": bench.upload_local,
        "local: map a file, hash": bench.read_file,
        "local: open_buffer, hash": bench.get_local,
        "S3: obstore put": bench.put_bare,
        "S3: the same, hashed": bench.put_bare_hashed,
        "S3: put": bench.put_s3,
        "S3: upload in 1 MiB chunks": bench.upload_s3,
        "S3: obstore get": bench.get_bare,
        "S3: the same, hashed ": bench.get_bare_hashed,
        "S3: open_buffer, fetched": bench.get_s3,
        "S3: open_buffer, cached, hashed": bench.get_s3_cached,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):  # in turns, so that a busy moment hits all ways alike
        for name, way in ways.items():
            if "put" in name or "upload" in name or "write" in name:
                bench.renew()
            meter, began = CpuMeter([os.getpid()]), time.perf_counter()
            await way()
            seconds[name].append(time.perf_counter() - began)
            cpu[name].append(meter.seconds())
        await bench.local.delete_namespace("models")
        await bench.writing.delete_namespace("models")
    return {name: (statistics.median(seconds[name]), statistics.median(cpu[name])) for name in ways}


def goals_of(found: dict[str, tuple[float, float]]) -> list[Goal]:
    def ratio(bare: str, ours: str) -> float:
        return found[bare][0] / found[ours][0]

    return [
        at_least("local put beside a hashed, synced file", 0.7,
                 ratio("local: the same, hashed", "local: put"), " x"),
        at_least("local read beside a mapped, hashed file", 0.8,
                 ratio("local: map a file, hash", "local: open_buffer, hash"), " x"),
        at_least("S3 put beside obstore with the hashing", 0.7,
                 ratio("S3: the same, hashed", "S3: put"), " x"),
        at_least("S3 read beside obstore with the hashing", 0.7,
                 ratio("S3: the same, hashed ", "S3: open_buffer, fetched"), " x"),
    ]  # fmt: skip


async def run(repeats: int) -> None:
    server = S3Server()
    folder = Path(tempfile.mkdtemp(prefix="kumiai-blobs-"))
    try:
        bench = Bench(folder, server)
        found = await measure(bench, repeats)
        await bench.close()
    finally:
        server.remove()
        shutil.rmtree(folder, ignore_errors=True)
    rows = [
        (name, f"{SIZE_BYTES / 1e6 / wall:,.0f}", f"{cpu / (SIZE_BYTES / 1e9):.2f}")
        for name, (wall, cpu) in found.items()
    ]
    print(f"{SIZE_BYTES / 1e6:.0f} MB, median of {repeats}; {load_line()}")
    print_table("One blob", ("way", "MB/s", "CPU s per GB, without the server's"), rows)
    print_goals(goals_of(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer repeats")
    asyncio.run(run(3 if parser.parse_args().short else 9))


if __name__ == "__main__":
    main()
