"""Calls to one bucket of an S3-compatible server: what they need to be relied upon, and no more.

Synchronous, for threads. Rules kept here:

- A call is tried again, with pauses that grow, until its deadline; what trying again can not mend
  (a wrong key, a missing bucket) fails at once.
- Errors leave as `StorageError` in our words. What the server and the library say is never passed
  on: it quotes requests, and may quote what signs them.
- Objects above one part go in parts, which the server puts together at once; until then there is
  nothing to see, and of a caller that dies parts are left, which `s3_uploads` finds.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kumiai.core.errors import ConfigError, StorageError
from kumiai.core.failpoints import reach

if TYPE_CHECKING:
    from obstore.store import S3Store

__all__ = ["PART_BYTES", "S3Bucket", "S3Object", "S3Place"]

_Result = TypeVar("_Result")

PART_BYTES: Final = 16 << 20
_PARTS_MAX = 9000  # the servers' own limit is 10 000
_PARTS_AT_ONCE = 4
_PAGE_OBJECTS = 1000
_PIECE_BYTES = 1 << 18
_CONNECT_SECONDS = 5
_PAUSE_SECONDS = 0.1
_PAUSE_SECONDS_MAX = 5.0
# 409: two conditional puts at once; 408 and 429: later.
_WORTH_TRYING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>.*))?")
_PREFIX = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_KIND = re.compile(r"kind: (Connect|Timeout|Interrupted|Decode|Request)\b")


@dataclass(frozen=True, slots=True)
class S3Place:
    """A bucket, a prefix in it, and how to get there.

    Attributes:
        bucket: its name.
        prefix: what all our keys begin with; may be empty.
        endpoint: ``https://host[:port]``, or ``http://`` for a server at hand; ``None``: AWS.
        region: that the requests are signed for.
        access_key_id: with the next: signs requests; ``None``: what the machine is given by
            AWS (environment, role of the instance or the pod).
        secret_access_key: shown nowhere.
        session_token: of temporary keys.
        ca_pem: certificates to trust besides the system's, PEM.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str = "us-east-1"
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    ca_pem: bytes | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Return it as ``s3://bucket/prefix``."""
        return f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    @staticmethod
    def parse(url: str) -> tuple[str, str]:
        """Return bucket and prefix of ``s3://bucket[/prefix]``.

        Raises:
            ValueError: it is not of that form.
        """
        found = _URL.fullmatch(url)
        prefix = "" if found is None else (found["prefix"] or "").strip("/")
        if found is None or (
            prefix
            and (not _PREFIX.fullmatch(prefix) or not {".", ".."}.isdisjoint(prefix.split("/")))
        ):
            raise ValueError(f"must be s3://bucket or s3://bucket/prefix, got {url[:200]!r}")
        return found["bucket"], prefix


@dataclass(frozen=True, slots=True)
class S3Object:
    """What the server says of an object; ``modified_at`` is by its clock, to the second."""

    key: str
    size_bytes: int
    modified_at: float


class S3Bucket:
    """One prefix of one bucket.

    Args:
        place: where.
        deadline_seconds: after which no call is tried again, > 0; one that is under way then may
            take as long once more.

    Raises:
        ConfigError: the library is not installed, or the place can not be used.
    """

    def __init__(self, place: S3Place, *, deadline_seconds: float = 60.0) -> None:
        self.place = place
        self._deadline_seconds = deadline_seconds
        self._closed = threading.Event()
        try:
            import obstore  # noqa: PLC0415 - an extra: local blobs work without it
            from obstore import exceptions  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError(
                "storage.blobs must be a local folder, got s3 without its library; "
                "install kumiai[s3]"
            ) from error
        self._obs: Any = obstore
        self._exists: tuple[type[Exception], ...] = (exceptions.AlreadyExistsError,)
        self._errors: tuple[type[Exception], ...] = (exceptions.BaseError,)
        try:
            self._store = _new_store(place, deadline_seconds)
        except (*self._errors, ValueError, TypeError):
            # Without its cause: it may quote a key.
            raise ConfigError(
                f"object store {place} must be a place that can be used, got endpoint "
                f"{place.endpoint or 'AWS'!r} and region {place.region!r}; see that they and the "
                "file of trusted certificates are right"
            ) from None

    def find(self, key: str) -> S3Object | None:
        """Return what is known of an object, or ``None`` when there is none."""
        try:
            found = self._call(lambda: self._obs.head(self._store, key))
        except FileNotFoundError:
            return None
        return _object_of(found)

    def get(self, key: str, offset: int, length: int) -> bytes | memoryview | None:
        """Return ``length`` bytes from ``offset``, fewer at the end; ``None``: no such object."""
        try:
            return memoryview(
                self._call(
                    lambda: self._obs.get_range(self._store, key, start=offset, length=length)
                )
            )
        except FileNotFoundError:
            return None
        except _BeyondEndError:
            return b"" if self.find(key) is not None else None

    def fetch(self, key: str, offset: int, length: int, descriptor: int) -> int | None:
        """Write ``length`` bytes from ``offset`` to the same place of a file; say how many came.

        As they come, and not gathered first: fresh memory for it costs more than the bytes.
        """

        def work() -> int:
            wanted = {"range": (offset, offset + length)}
            place = offset
            answer = self._obs.get(self._store, key, options=wanted)
            for piece in answer.stream(min_chunk_size=_PIECE_BYTES):
                view = memoryview(piece)
                while view:
                    written = os.pwrite(descriptor, view[:_PIECE_BYTES], place)
                    view, place = view[written:], place + written
            return place - offset

        try:
            return self._call(work)
        except FileNotFoundError:
            return None
        except _BeyondEndError:
            return 0

    def create(self, key: str, content: bytes | memoryview) -> bool:
        """Put a small object if there is none; ``False``: there is one."""
        try:
            self._put(key, content, mode="create", use_multipart=False)
        except self._exists:
            return False
        return True

    def replace(self, key: str, content: bytes | memoryview) -> None:
        """Put an object of any size in the place of any other; whole or not at all."""
        if len(content) <= PART_BYTES:
            self._put(key, content, mode="overwrite", use_multipart=False)
            return
        part_bytes = max(PART_BYTES, -(-len(content) // _PARTS_MAX))
        self._call(
            lambda: self._obs.put(
                self._store,
                key,
                _parts(memoryview(content), part_bytes),
                use_multipart=True,
                chunk_size=part_bytes,
                max_concurrency=_PARTS_AT_ONCE,
            ),
            is_put=True,
        )

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; of those that are not there nothing is said."""
        if keys:
            self._call(lambda: self._obs.delete(self._store, list(keys)), is_put=True)

    def pages(self, prefix: str) -> Iterator[list[S3Object]]:
        """Give the objects below a prefix, up to 1000 at a time, in order of their keys."""
        last: str | None = None
        while page := self._call(partial(self._page, prefix, last), is_put=True):
            yield page
            last = page[-1].key

    def close(self) -> None:
        """Let no call be tried again."""
        self._closed.set()

    def _page(self, prefix: str, last: str | None) -> list[S3Object]:
        stream = self._obs.list(self._store, prefix, offset=last, chunk_size=_PAGE_OBJECTS)
        return [_object_of(each) for each in next(iter(stream), [])]

    def _put(self, key: str, content: bytes | memoryview, **options: Any) -> None:
        self._call(lambda: self._obs.put(self._store, key, content, **options), is_put=True)

    def _call(self, work: Callable[[], _Result], *, is_put: bool = False) -> _Result:
        """Do ``work``, again and again if need be.

        Raises:
            FileNotFoundError: there is no such object.
            StorageError: the server does not do it.
        """
        deadline = time.monotonic() + self._deadline_seconds
        pause = _PAUSE_SECONDS
        while True:
            try:
                return work()
            except FileNotFoundError as error:
                # A server that starts may not know its buckets yet; then nothing is missing.
                if not is_put and "NoSuchBucket" not in str(error):
                    raise
                if time.monotonic() + pause > deadline:
                    raise self._failed("status 404 (NoSuchBucket)", 404) from None
            except self._exists:
                raise
            except self._errors as error:
                reason, status = _reason_of(str(error))
                if status == 416:
                    raise _BeyondEndError from None
                is_final = status is not None and status not in _WORTH_TRYING
                if is_final or time.monotonic() + pause > deadline:
                    raise self._failed(reason, status) from None
            if self._closed.wait(pause):
                raise self._failed("the store was closed", None)
            pause = min(2 * pause, _PAUSE_SECONDS_MAX)

    def _failed(self, reason: str, status: int | None) -> StorageError:
        server = self.place.endpoint or "AWS"
        return StorageError(
            f"object store {self.place} must answer, got {reason} from {server}; "
            + _MENDS.get(status or 0, "see that the server runs and can be reached from here")
        )


_MENDS = {
    401: "see that the access key is right",
    403: "see that the access key is right, and may list, read, write and delete in the bucket",
    404: "create the bucket, or correct storage.blobs",
}


class _BeyondEndError(Exception):
    """The range begins where the object has ended."""


def _new_store(place: S3Place, deadline_seconds: float) -> "S3Store":
    from obstore.store import S3Store  # noqa: PLC0415 - an extra

    given: dict[str, Any] = {
        name: value
        for name, value in (
            ("endpoint", place.endpoint),
            ("access_key_id", place.access_key_id),
            ("secret_access_key", place.secret_access_key),
            ("session_token", place.session_token),
        )
        if value is not None
    }
    client: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
        # Of one request: a part at 0.3 MB/s.
        "timeout": timedelta(seconds=max(1.0, deadline_seconds)),
        "allow_http": place.endpoint is not None and place.endpoint.startswith("http://"),
    }
    if place.ca_pem is not None:
        client["root_certificate"] = place.ca_pem
    return S3Store(
        place.bucket,
        prefix=place.prefix or None,
        region=place.region,
        # The server compares, too, and keeps the sum.
        checksum_algorithm="sha256",
        client_options=client,  # type: ignore[arg-type]
        retry_config={
            # A few only: after them `S3Bucket` tries again, and notices when it is closed.
            "max_retries": 5,
            "retry_timeout": timedelta(seconds=min(10.0, deadline_seconds)),
            "backoff": {
                "init_backoff": timedelta(seconds=_PAUSE_SECONDS),
                "max_backoff": timedelta(seconds=_PAUSE_SECONDS_MAX),
                "base": 2,
            },
        },
        **given,
    )


def _parts(content: memoryview, part_bytes: int) -> Iterator[memoryview]:
    for start in range(0, len(content), part_bytes):
        reach("storage.blob.part.before")
        yield content[start : start + part_bytes]


def _object_of(meta: Any) -> S3Object:
    return S3Object(meta["path"], meta["size"], meta["last_modified"].timestamp())


def _reason_of(text: str) -> tuple[str, int | None]:
    """Return in our words why a call failed, and the status if there was an answer."""
    if found := _STATUS.search(text):
        status = int(found[1])
        code = _CODE.search(text)
        return (f"status {status}" + (f" ({code[1]})" if code else "")), status
    if "169.254.169.254" in text:
        return "no access key, and none from the machine's role", 401
    kind = _KIND.search(text)
    return {"Connect": "no connection", "Timeout": "no answer in time"}.get(
        kind[1] if kind else "", "an answer cut off"
    ), None
