"""Models over HTTP: the initial one comes in, versions go out, both as they are on disk.

An upload that ends badly leaves nothing behind: its bytes are deleted unless a newer upload of
the same model is under way.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from kumiai.core.codec import HEADER_SIZE_MAX, decode, decode_header
from kumiai.core.digest import verify_digest_text
from kumiai.core.errors import ConfigError, ConflictError, IntegrityError, NotFoundError
from kumiai.identity.audit import Act, NewEntry
from kumiai.learning import nonfinite_count
from kumiai.node.auditing.actors import actor_of, subject_of
from kumiai.node.coordinator.namespaces import model_namespace
from kumiai.node.http.access import Caller, GuardedRouter
from kumiai.node.http.dependencies import ApiDependencies, Parts
from kumiai.node.http.lists import Filters, Limit
from kumiai.node.http.runs import find_run, verify_run_id
from kumiai.node.http.views import DescribeBody, ModelPageView, ModelsView, ModelView, UploadView
from kumiai.storage import BlobStore, BlobWriter, ModelOrder, ModelQuery, ModelRecord, RunRecord

__all__ = ["ModelUploads", "new_router"]

_CHUNK_BYTES: Final = 8 + HEADER_SIZE_MAX
"""The first chunk of this size holds the whole header of the largest legal blob."""

_LOOKS_AT_ONCE: Final = 32

_MEDIA_TYPE: Final = "application/octet-stream"
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "named arrays in the safetensors layout",
        "content": {_MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}


@dataclass(slots=True)
class ModelUploads:
    """The uploads that are under way, so that the end of an older one spares the newer."""

    newest: dict[tuple[str, str], object] = field(default_factory=dict)


def new_router() -> APIRouter:
    """Return the routes."""
    router = GuardedRouter("models")
    router.put("/api/v1/runs/{run_id}/model", openapi_extra=_BODY)(upload)
    router.get("/api/v1/models")(list_models)
    router.patch("/api/v1/models/{model_id}")(describe)
    router.get("/api/v1/runs/{ref}/models")(versions)
    router.get(
        "/api/v1/runs/{ref}/models/{version}/content",
        response_class=StreamingResponse,
        responses={200: {"content": {_MEDIA_TYPE: {}}}},
    )(content)
    return router


async def upload(
    run_id: str,
    request: Request,
    parts: Parts,
    digest: Annotated[str, Header(alias="X-Kumiai-Digest")],
) -> UploadView:
    """Store the initial model of a run that is about to be submitted; doing it again is free."""
    verify_run_id(run_id)
    verify_digest_text(digest)
    size_bytes = _verified_size(request, parts.model_bytes_max)
    namespace = model_namespace(run_id)
    await _verify_may_upload(parts, run_id, digest)
    if await parts.blobs.find_size(namespace, digest) == size_bytes:
        # The sender reads no answer before it has sent everything.
        async for _ in request.stream():
            pass
    else:
        await _Upload(parts, request, namespace, digest, size_bytes).receive()
    return UploadView(digest=digest, size_bytes=size_bytes)


async def list_models(
    parts: Parts,
    filters: Filters,
    *,
    run: str | None = None,
    order: ModelOrder = "newest",
    order_metric: str | None = None,
    limit: Limit = 50,
    cursor: str | None = None,
) -> ModelPageView:
    """Return the models that pass all filters; ``cursor`` takes the ``next`` of the page before.

    ``run`` is a run's id or a unique beginning of it. The orders ``highest`` and ``lowest`` go by
    ``order_metric``.
    """
    query = ModelQuery(
        run_id=None if run is None else (await find_run(parts, run)).run_id,
        order=order,
        order_metric=order_metric,
        **filters,
    )
    page = await parts.models.list_models(query, limit=limit, cursor=cursor)
    return ModelPageView(models=await _views(parts, page.items), next=page.next_cursor)


async def describe(model_id: str, body: DescribeBody, parts: Parts, caller: Caller) -> ModelView:
    """Change a model's description and tags."""
    model = await parts.models.update(
        model_id,
        body.changes(),
        expected_version=body.expected_version,
        entry=NewEntry(Act.MODEL_DESCRIBED, actor_of(caller), subject_of("model", model_id)),
    )
    return (await _views(parts, [model]))[0]


async def versions(ref: str, parts: Parts) -> ModelsView:
    """Return all versions of the run's model; the bytes of old ones may be gone."""
    run = await find_run(parts, ref)
    models = await parts.near.models(run)
    return ModelsView(models=await _views(parts, models))


async def content(ref: str, version: str, parts: Parts) -> StreamingResponse:
    """Send the bytes of one version: a round's number, or ``latest``."""
    run = await find_run(parts, ref)
    model = await _find_version(parts, run, version)
    namespace = model_namespace(run.run_id)
    size_bytes = await parts.blobs.find_size(namespace, model.digest)
    if size_bytes is None:
        raise NotFoundError(
            f"bytes of model {model.model_id} must still be kept, got a version that was "
            "forgotten; raise run.keep_versions in the job to keep more"
        )
    return StreamingResponse(
        _pieces(parts, namespace, model.digest, size_bytes),
        media_type=_MEDIA_TYPE,
        headers={
            "Content-Length": str(size_bytes),
            "Content-Disposition": f'attachment; filename="{model.model_id}.safetensors"',
            "X-Kumiai-Digest": model.digest,
            "X-Kumiai-Round": str(model.round),
        },
    )


async def _views(parts: ApiDependencies, models: Sequence[ModelRecord]) -> list[ModelView]:
    views: list[ModelView] = []
    for start in range(0, len(models), _LOOKS_AT_ONCE):
        # Some at once: each look may be a request to an object store.
        some = models[start : start + _LOOKS_AT_ONCE]
        sizes = await asyncio.gather(
            *(parts.blobs.find_size(model_namespace(each.run_id), each.digest) for each in some)
        )
        views += [
            ModelView.of(model, is_kept=size is not None)
            for model, size in zip(some, sizes, strict=True)
        ]
    return views


async def _find_version(parts: ApiDependencies, run: RunRecord, version: str) -> ModelRecord:
    if version != "latest" and not (version.isascii() and version.isdecimal()):
        raise ConfigError(f"version must be a round's number or 'latest', got {version[:80]!r}")
    # A number too large for the database is a round that does not exist, either.
    number = None if version == "latest" else min(int(version[:10]), 2**31 - 1)
    model = await parts.runs.find_model(run.run_id, number)
    if model is None:
        raise NotFoundError(f"model of round {version[:80]} of run {run.run_id} must exist")
    return model


async def _pieces(
    parts: ApiDependencies, namespace: str, digest: str, size_bytes: int
) -> AsyncIterator[bytes]:
    for offset in range(0, size_bytes, _CHUNK_BYTES):
        piece = await parts.blobs.read(namespace, digest, offset, _CHUNK_BYTES)
        parts.meter.sent_bytes += len(piece)
        yield piece


def _verified_size(request: Request, size_bytes_max: int) -> int:
    announced = request.headers.get("content-length")
    if announced is None:
        raise ConfigError("Content-Length must be given for a model, got none")
    size_bytes = int(announced)
    if not 0 < size_bytes <= size_bytes_max:
        raise IntegrityError(f"model must be 1 to {size_bytes_max} bytes, got {size_bytes}")
    return size_bytes


async def _verify_may_upload(parts: ApiDependencies, run_id: str, digest: str) -> None:
    if await parts.runs.find(run_id) is None:
        return
    initial = await parts.runs.find_model(run_id, 0)
    if initial is None or initial.digest != digest:
        raise ConflictError(
            f"run {run_id} must not exist yet when its model is uploaded, got a second model; "
            "use a new run id"
        )


class _Upload:
    """One model on its way in."""

    def __init__(
        self,
        parts: ApiDependencies,
        request: Request,
        namespace: str,
        digest: str,
        size_bytes: int,
    ) -> None:
        self._parts = parts
        self._request = request
        self._key = (namespace, digest)
        self._size_bytes = size_bytes
        self._received_bytes = 0
        uploads: ModelUploads = request.app.state.uploads
        self._newest = uploads.newest
        self._newest[self._key] = self

    async def receive(self) -> None:
        """Take the body in, check it, make it durable."""
        try:
            writer = await self._begin()
            try:
                await self._store(writer)
                await self._verify_content()
            except BaseException:
                await asyncio.shield(self._discard(writer))
                raise
        finally:
            if self._is_newest():
                del self._newest[self._key]

    async def _begin(self) -> BlobWriter:
        blobs = self._parts.blobs
        writer = await blobs.begin(*self._key, self._size_bytes)
        if writer.offset:
            # Left by a process that died. An upload begins at its beginning.
            await blobs.delete(*self._key)
            writer = await blobs.begin(*self._key, self._size_bytes)
        return writer

    async def _store(self, writer: BlobWriter) -> None:
        try:
            async for chunk in self._chunks():
                if self._received_bytes == 0:
                    self._verify_header(chunk)
                self._received_bytes += len(chunk)
                await writer.write(chunk)
        except ClientDisconnect:
            raise IntegrityError(
                f"model must be {self._size_bytes} bytes, got {self._received_bytes} before the "
                "connection ended"
            ) from None
        await writer.commit()

    async def _chunks(self) -> AsyncIterator[bytes]:
        """Yield the body in chunks of one size; only the last may be shorter."""
        pending = bytearray()
        async for piece in self._request.stream():
            self._parts.meter.received_bytes += len(piece)
            pending += piece
            while len(pending) >= _CHUNK_BYTES:
                yield bytes(pending[:_CHUNK_BYTES])
                del pending[:_CHUNK_BYTES]
        if pending:
            yield bytes(pending)

    def _verify_header(self, prefix: bytes) -> None:
        header = decode_header(prefix)
        if header.size_bytes != self._size_bytes:
            raise IntegrityError(
                f"model must be {header.size_bytes} bytes by its own header, got {self._size_bytes}"
            )
        if not header.layout:
            raise IntegrityError("model must hold at least one array, got none")
        for name, spec in header.layout.items():
            if spec.dtype == "bool":
                raise IntegrityError(f"array {name!r} must hold numbers, got bool")

    async def _verify_content(self) -> None:
        await asyncio.to_thread(_verify_finite, self._parts.blobs, *self._key)

    async def _discard(self, writer: BlobWriter) -> None:
        if self._is_newest():
            await self._parts.blobs.delete(*self._key)
        else:
            await writer.suspend()

    def _is_newest(self) -> bool:
        return self._newest.get(self._key) is self


def _verify_finite(blobs: BlobStore, namespace: str, digest: str) -> None:
    with blobs.open_buffer(namespace, digest) as buffer:
        for name, array in decode(buffer).arrays.items():
            if count := nonfinite_count(array):
                raise IntegrityError(
                    f"array {name!r} of the model must be finite, got {count} of {array.size} "
                    "numbers that are NaN or infinite"
                )
