"""What an operator asks of a coordinator, for programs of ours with an event loop.

The asynchronous, smaller twin of `OperatorClient`: it knows of no person to tell what is wrong
and never tries again. Answers are the API's JSON; one of 400 or above is raised as the error that
it was at the coordinator.
"""

import ssl
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Any, Self

import httpx

from kumiai.core.arrays import NamedArrays
from kumiai.core.codec import chunks, encode
from kumiai.core.digest import digest_of
from kumiai.core.errors import IntegrityError, KumiaiError, TransportError
from kumiai.core.ids import new_id
from kumiai.node.job import JobSpec
from kumiai.node.operator.errors import find_error
from kumiai.node.operator.events import ServerSentEvent, parse_events

__all__ = ["CoordinatorApi"]


class CoordinatorApi:
    """A coordinator's HTTP side; open it with ``async with``."""

    def __init__(self, url: str, context: ssl.SSLContext, *, timeout_seconds: float = 30.0) -> None:
        """Name the coordinator; nothing is connected yet.

        Args:
            url: where it is, without a path.
            context: made by ``kumiai.identity.client_context``.
            timeout_seconds: how long one answer may take.
        """
        # trust_env: a proxy of the shell must not stand between two programs of one machine.
        self._http = httpx.AsyncClient(
            base_url=url, verify=context, timeout=timeout_seconds, trust_env=False
        )

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; safe to repeat."""
        await self._http.aclose()

    async def is_ready(self) -> bool:
        """Return whether the coordinator answers and can do its work."""
        try:
            return (await self._http.get("/readyz")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    async def clients(self) -> list[dict[str, Any]]:
        """Return every client that ever attached."""
        found: list[dict[str, Any]] = (await self._get("/clients"))["clients"]
        return found

    async def submit(self, job: JobSpec, model: NamedArrays) -> str:
        """Upload the initial model, create the run and return its id.

        Raises:
            KumiaiError: the coordinator refuses, or can not be reached.
        """
        run_id, buffers = new_id("run"), encode(model)
        digest = digest_of(buffers)
        size_bytes = sum(buffer.nbytes for buffer in buffers)
        headers = {"X-Kumiai-Digest": digest, "Content-Length": str(size_bytes)}
        await self._json(
            "PUT", f"/runs/{run_id}/model", content=_each(chunks(buffers)), headers=headers
        )
        body = {"job": job.model_dump(mode="json"), "model_digest": digest}
        await self._json("PUT", f"/runs/{run_id}", json=body)
        return run_id

    async def run(self, run_id: str) -> dict[str, Any]:
        """Return a run with its current round."""
        return await self._get(f"/runs/{run_id}")

    async def rounds(self, run_id: str) -> list[dict[str, Any]]:
        """Return a run's rounds in order; the first is round 0, the initial model."""
        found: list[dict[str, Any]] = (await self._get(f"/runs/{run_id}/rounds"))["rounds"]
        return found

    async def explain(self, run_id: str) -> dict[str, Any]:
        """Return why a run is where it is, and what each client does."""
        return await self._get(f"/runs/{run_id}/explain")

    async def model(self, run_id: str, version: int | str = "latest") -> bytes:
        """Return a model's bytes as safetensors, checked against their digest.

        Raises:
            IntegrityError: they were damaged on their way.
            KumiaiError: the coordinator refuses, or can not be reached.
        """
        answer = await self._answer("GET", f"/runs/{run_id}/models/{version}/content")
        digest = answer.headers.get("X-Kumiai-Digest")
        if digest is not None and digest_of([answer.content]) != digest:
            raise IntegrityError(f"model {version} of run {run_id} must match its digest")
        return answer.content

    async def stream(self, run_id: str) -> AsyncIterator[ServerSentEvent]:
        """Yield what happens in a run from its beginning to its end.

        Raises:
            TransportError: the connection broke before the end.
            KumiaiError: the coordinator refuses.
        """
        path = f"/api/v1/runs/{run_id}/stream"
        try:
            # A comment comes every ten seconds: silence for as long as a time-out is the end.
            async with self._http.stream("GET", path) as answer:
                if answer.is_error:
                    await answer.aread()
                    raise _error_of(answer)
                async for event in _events(answer.aiter_lines()):
                    yield event
                    if event.kind == "end":
                        return
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        raise TransportError(f"stream of run {run_id} must reach its end, got cut off")

    async def _get(self, path: str) -> dict[str, Any]:
        return await self._json("GET", path)

    async def _json(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        found: dict[str, Any] = (await self._answer(method, path, **content)).json()
        return found

    async def _answer(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            answer = await self._http.request(method, f"/api/v1{path}", **content)
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        if answer.is_error:
            raise _error_of(answer)
        return answer


async def _each(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def _events(lines: AsyncIterator[str]) -> AsyncIterator[ServerSentEvent]:
    block: list[str] = []
    async for line in lines:
        block.append(line)
        if not line:
            for event in parse_events(block):
                yield event
            block.clear()


def _error_of(answer: httpx.Response) -> KumiaiError:
    return find_error(answer.content) or KumiaiError(
        f"the coordinator answered {answer.status_code} to {answer.url.path}"
    )


def _unreachable(error: httpx.HTTPError) -> TransportError:
    return TransportError(
        f"the coordinator can not be reached: {str(error) or type(error).__name__}"
    )
