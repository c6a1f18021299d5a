"""Uploads in parts that nobody finished: finding and ending them.

A process that dies while it sends an object in parts leaves them with the server, where no list
of objects shows them and the owner pays for them. The library that moves the bytes has no call
for that, so these two requests are signed here (AWS Signature Version 4, as the S3 API reference
describes it). That takes an access key, and the permission to list them; where the machine's role
is used instead, nothing is found, and a rule of the bucket (``AbortIncompleteMultipartUpload``)
must do it.
"""

import hashlib
import hmac
import html
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

from kumiai.core.clock import Clock, SystemClock
from kumiai.core.errors import StorageError
from kumiai.storage.s3_bucket import S3Place

__all__ = ["S3Upload", "S3Uploads", "signature"]

_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_UPLOAD = re.compile(r"<Upload>(.*?)</Upload>", re.DOTALL)
_PAGES_MAX = 1000
_MAY_NOT_LOOK = (403, 405, 501)


@dataclass(frozen=True, slots=True)
class S3Upload:
    """An upload in parts; ``begun_at`` is by the server's clock."""

    key: str
    upload_id: str
    begun_at: float


class S3Uploads:
    """The unfinished uploads below one prefix of a bucket.

    Args:
        place: the bucket; without keys of its own those of the environment are taken.
        timeout_seconds: of one request.
        clock: signs the requests' time.
    """

    def __init__(
        self, place: S3Place, *, timeout_seconds: float = 60.0, clock: Clock | None = None
    ) -> None:
        self._place = place
        self._clock = clock or SystemClock()
        self._timeout_seconds = timeout_seconds
        self._key_id = place.access_key_id or os.environ.get("AWS_ACCESS_KEY_ID")
        self._secret = place.secret_access_key or os.environ.get("AWS_SECRET_ACCESS_KEY")
        self._token = place.session_token
        if place.access_key_id is None:
            self._token = os.environ.get("AWS_SESSION_TOKEN")
        self._endpoint = place.endpoint or f"https://s3.{place.region}.amazonaws.com"

    @property
    def can_look(self) -> bool:
        """Whether there is a key to sign with."""
        return bool(self._key_id and self._secret)

    def list(self, prefix: str) -> list[S3Upload]:
        """Return the unfinished uploads of objects below ``prefix``.

        Without a key, or where the key or the server does not let us look, that is none.

        Raises:
            StorageError: the server does not tell.
        """
        if not self.can_look:
            return []
        begin = self._absolute(prefix) + "/"
        found: list[S3Upload] = []
        marker: dict[str, str] = {}
        for _ in range(_PAGES_MAX):
            query = {"uploads": "", "prefix": begin, "max-uploads": "1000", **marker}
            text = self._request("GET", "", query, fine=(200, *_MAY_NOT_LOOK))
            for body in _UPLOAD.findall(text):
                key = _tag(body, "Key")
                # Servers differ in how they read a prefix.
                if key.startswith(begin):
                    begun_at = datetime.fromisoformat(_tag(body, "Initiated")).timestamp()
                    found.append(S3Upload(self._relative(key), _tag(body, "UploadId"), begun_at))
            if _tag(text, "IsTruncated") != "true":
                break
            marker = {
                "key-marker": _tag(text, "NextKeyMarker"),
                "upload-id-marker": _tag(text, "NextUploadIdMarker"),
            }
        return found

    def abort(self, key: str, upload_id: str) -> None:
        """End an upload and delete its parts; one that has ended is no error.

        Raises:
            StorageError: the server does not do it.
        """
        self._request("DELETE", self._absolute(key), {"uploadId": upload_id}, fine=(204, 404))

    def _absolute(self, key: str) -> str:
        return f"{self._place.prefix}/{key}" if self._place.prefix else key

    def _relative(self, key: str) -> str:
        return key.removeprefix(f"{self._place.prefix}/") if self._place.prefix else key

    def _request(
        self, method: str, key: str, query: Mapping[str, str], *, fine: tuple[int, ...] = (200,)
    ) -> str:
        import httpx  # noqa: PLC0415 - seldom needed

        path = quote(f"/{self._place.bucket}/{key}".rstrip("/"))
        at = datetime.fromtimestamp(self._clock.now(), tz=UTC)
        headers = {
            "host": urlsplit(self._endpoint).netloc,
            "x-amz-content-sha256": _EMPTY_SHA256,
            "x-amz-date": f"{at:%Y%m%dT%H%M%SZ}",
        }
        if self._token:
            headers["x-amz-security-token"] = self._token
        scope = f"{at:%Y%m%d}/{self._place.region}/s3/aws4_request"
        signed = signature(
            str(self._secret), method, path, query, headers, scope=scope, region=self._place.region
        )
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self._key_id}/{scope}, "
            f"SignedHeaders={';'.join(sorted(headers))}, Signature={signed}"
        )
        url = f"{self._endpoint}{path}?{_canonical(query)}"
        try:
            answer = httpx.request(
                method,
                url,
                headers=headers,
                timeout=self._timeout_seconds,
                verify=self._context(),
            )
        except (httpx.HTTPError, OSError) as error:
            raise StorageError(
                f"object store {self._place} must list its unfinished uploads, got "
                f"{type(error).__name__} from {self._endpoint}"
            ) from None
        if answer.status_code not in fine:
            raise StorageError(
                f"object store {self._place} must list and end its unfinished uploads, got status "
                f"{answer.status_code} from {self._endpoint}; see that the access key may do that"
            )
        return answer.text

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._place.ca_pem is not None:
            context.load_verify_locations(cadata=self._place.ca_pem.decode())
        return context


def signature(
    secret: str,
    method: str,
    path: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    *,
    scope: str,
    region: str,
) -> str:
    """Return the signature of a request without a body, in hexadecimal digits.

    Args:
        secret: the secret access key.
        method: such as ``GET``.
        path: quoted.
        query: not quoted.
        headers: all that are signed, names in lower case, with ``x-amz-date``.
        scope: ``date/region/s3/aws4_request``.
        region: as in the scope.

    Source: AWS, "Signature Calculations for the Authorization Header" (Amazon S3 API Reference).
    """
    names = sorted(headers)
    request = "\n".join(
        [
            method,
            path,
            _canonical(query),
            *(f"{name}:{headers[name]}" for name in names),
            "",
            ";".join(names),
            headers["x-amz-content-sha256"],
        ]
    )
    text = "\n".join(
        [
            "AWS4-HMAC-SHA256",
            headers["x-amz-date"],
            scope,
            hashlib.sha256(request.encode()).hexdigest(),
        ]
    )
    key = f"AWS4{secret}".encode()
    for part in (scope.partition("/")[0], region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def _canonical(query: Mapping[str, str]) -> str:
    return "&".join(
        f"{quote(name, safe='-_.~')}={quote(query[name], safe='-_.~')}" for name in sorted(query)
    )


def _tag(text: str, name: str) -> str:
    found = re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
    return html.unescape(found[1]) if found else ""
