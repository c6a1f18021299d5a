"""What lies under a key: an entry with its times and tags, or a marker that one is being made.

Strategy: the marker lies in the entry's own key. Whoever makes a value puts its marker there first
and then replaces just this marker by the entry, in one step of the store. An invalidation deletes
the key, and with it the marker: a value that was loaded before can then not be put back. Nothing
depends on the store keeping anything: a marker that is forgotten means only that the value is
loaded once more.

Bytes that do not read as one of the two are taken as absent.
"""

import secrets
import struct
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from kumiai.core.errors import IntegrityError

__all__ = [
    "MISSING",
    "CacheEntry",
    "Frame",
    "FrameKind",
    "Missing",
    "frame_of",
    "marker_bytes",
    "packed",
]

# kind, created, expires, seconds that the load took, version, bytes of tags
_HEADER = struct.Struct(">BdddQI")
_TAGS_BYTES_MAX = 2**16


class Missing:
    """The type of `MISSING`."""

    def __repr__(self) -> str:
        """Return its name."""
        return "MISSING"

    def __bool__(self) -> bool:
        """Return ``False``: there is nothing."""
        return False


MISSING: Final = Missing()
"""What a loader returns when there is no such thing; not the same as a cached ``None``."""


class FrameKind:
    """The first byte of what lies under a key."""

    VALUE = 1
    NOTHING = 2
    MARKER = 3


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A cached value and what is known about it.

    Attributes:
        value: the value, or `MISSING` when it is known that there is none.
        created: when it was stored, seconds since 1970-01-01 UTC.
        expires: until when it may be used, likewise.
        tags: what it depends on.
        version: a number of its own; another value under the same key has another.
        load_seconds: how long its loader took; 0 when it was set.
    """

    value: Any
    created: float
    expires: float
    tags: tuple[str, ...]
    version: int
    load_seconds: float


class Frame(NamedTuple):
    """Bytes under a key, taken apart; the value is still packed.

    Attributes:
        kind: one of `FrameKind`.
        tag_versions: the version of each tag when the making of the value began.
    """

    kind: int
    created: float
    expires: float
    load_seconds: float
    version: int
    tag_versions: tuple[tuple[str, str], ...]
    payload: bytes

    @property
    def is_marker(self) -> bool:
        """Whether somebody makes the value just now."""
        return self.kind == FrameKind.MARKER


def packed(
    kind: int,
    payload: bytes,
    *,
    created: float,
    expires: float,
    load_seconds: float = 0.0,
    tag_versions: tuple[tuple[str, str], ...] = (),
) -> bytes:
    """Return the bytes of an entry; its version is drawn at random.

    Raises:
        ValueError: the tags take more than 64 KiB.
    """
    tags = orjson.dumps(tag_versions) if tag_versions else b""
    if len(tags) > _TAGS_BYTES_MAX:
        raise ValueError(f"tags must take at most {_TAGS_BYTES_MAX} bytes, got {len(tags)}")
    version = secrets.randbits(63)
    header = _HEADER.pack(kind, created, expires, load_seconds, version, len(tags))
    return b"".join((header, tags, payload))


def marker_bytes(now: float) -> bytes:
    """Return the bytes of a marker that is like no other."""
    return _HEADER.pack(FrameKind.MARKER, now, 0.0, 0.0, secrets.randbits(63), 0)


def frame_of(data: bytes) -> Frame:
    """Return what the bytes say.

    Raises:
        IntegrityError: they were not written by this code.
    """
    try:
        kind, created, expires, load_seconds, version, tags_bytes = _HEADER.unpack_from(data)
    except struct.error as error:
        raise IntegrityError(
            f"cache entry must have a header, got {len(data)} bytes without one"
        ) from error
    start = _HEADER.size + tags_bytes
    tag_versions: tuple[tuple[str, str], ...] = ()
    if tags_bytes:
        tag_versions = _tag_versions(data[_HEADER.size : start])
    if kind not in {FrameKind.VALUE, FrameKind.NOTHING, FrameKind.MARKER} or start > len(data):
        raise IntegrityError(f"cache entry must be of a known kind, got {kind}")
    return Frame(kind, created, expires, load_seconds, version, tag_versions, data[start:])


def _tag_versions(data: bytes) -> tuple[tuple[str, str], ...]:
    try:
        return tuple((str(tag), str(version)) for tag, version in orjson.loads(data))
    except (ValueError, TypeError) as error:
        raise IntegrityError("tags of a cache entry must be pairs, got something else") from error
