"""Writes one blob into a folder or a bucket, until it is killed in the midst of it.

Arguments: where, as JSON (a folder alone, or the folder and the place of a bucket), the blob's
size, and ``put`` or ``upload``. The bytes are those of `content_of`.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from kumiai.core.digest import digest_of
from kumiai.storage import LocalBlobStore, S3BlobStore, S3Place
from kumiai.testing.crash import install_from_environment

__all__ = ["content_of", "main"]

_NAMESPACE = "updates/run-a/1/a"


def content_of(size: int) -> bytes:
    """Return the blob of this size."""
    return bytes(range(256)) * (size // 256)


async def _write(where: dict[str, Any], content: bytes, way: str) -> None:
    folder = Path(where["folder"])
    place = where.get("place")
    store = S3BlobStore(S3Place(**place), folder) if place else LocalBlobStore(folder)
    install_from_environment()
    if way == "put":
        await store.put(_NAMESPACE, [content])
    else:
        writer = await store.begin(_NAMESPACE, digest_of([content]), len(content))
        await writer.write(content[:5000])
        await writer.write(content[5000:])
        await writer.commit()


def main() -> None:
    where, size, way = sys.argv[1:]
    asyncio.run(_write(json.loads(where), content_of(int(size)), way))
