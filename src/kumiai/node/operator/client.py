"""The coordinator's HTTP API as calls that return plain JSON values, for the command line.

Synchronous: a command does one thing at a time. Answers of 400 and above become the errors they
were at the coordinator. No proxy and no other variable of the environment is looked at: the
coordinator is at ``operator.url`` or nowhere.
"""

import contextlib
import json
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from kumiai.core.arrays import NamedArrays
from kumiai.core.codec import chunks, encode
from kumiai.core.digest import StreamingDigest, digest_of
from kumiai.core.errors import (
    ConfigError,
    DeadlineError,
    IntegrityError,
    KumiaiError,
    StorageError,
    TransportError,
)
from kumiai.identity import bearer_context, client_context
from kumiai.node.operator.errors import find_error
from kumiai.node.operator.events import ServerSentEvent, parse_events
from kumiai.node.ports import diagnose_port
from kumiai.node.settings import Settings

__all__ = ["Listing", "OperatorClient", "UploadedModel", "address_of"]

Json = dict[str, Any]
Progress = Callable[[int], None]
"""Told how many bytes more have passed."""

_CHUNK_BYTES: Final = 1 << 20
_PAGE_ITEMS_MAX: Final = 500
_DIAGNOSIS_SECONDS: Final = 5.0
_CONNECT_SECONDS: Final = 10.0
# The server says something every ten seconds, or it is gone.
_STREAM_SILENCE_SECONDS: Final = 35.0
_FIRST_PAUSE_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 5.0
_STREAM_PATIENCE_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class UploadedModel:
    """What the coordinator has stored."""

    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Listing:
    """Some items of a list; ``cursor`` is where to go on, ``None`` at its end."""

    items: list[Json]
    cursor: str | None


class OperatorClient:
    """One operator's connection to one coordinator."""

    def __init__(
        self,
        *,
        url: str,
        context: ssl.SSLContext,
        timeout_seconds: float,
        diagnose: Callable[[], KumiaiError | None],
        token: str | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare; the first call connects.

        Args:
            url: ``https://host:port`` of the coordinator.
            context: with the operator's certificate, or none beside a token.
            timeout_seconds: how long one answer may take.
            diagnose: says why a connection fails, with the mend; ``None`` if it does not.
            token: shown with every request; ``None``: the certificate tells who calls.
            pause: waits between two tries.
        """
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._diagnose = diagnose
        self._pause = pause
        self._http = httpx.Client(
            base_url=url,
            verify=context,
            trust_env=False,
            timeout=httpx.Timeout(timeout_seconds, connect=min(timeout_seconds, _CONNECT_SECONDS)),
            headers={"User-Agent": "kumiai"}
            | ({} if token is None else {"Authorization": f"Bearer {token}"}),
        )

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return a client with the settings' token or certificate, for their coordinator.

        Raises:
            ConfigError: the URL can not be read.
            NotFoundError, StorageError, CertificateError: the certificate files, or the revocation
                list, can not be used.
        """
        identity, operator = settings.identity, settings.operator
        if operator.token is not None:
            return cls(
                url=operator.url,
                context=bearer_context(identity.ca, crl=identity.crl),
                timeout_seconds=operator.timeout_seconds,
                diagnose=lambda: None,
                token=operator.token.get_secret_value(),
            )
        files = (identity.certificate, identity.key, identity.ca)
        host, port = address_of(operator.url)
        return cls(
            url=operator.url,
            context=client_context(*files, crl=identity.crl),
            timeout_seconds=operator.timeout_seconds,
            diagnose=lambda: diagnose_port("operators", host, port, *files, _DIAGNOSIS_SECONDS),
        )

    def __enter__(self) -> Self:
        """Return the client; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._http.close()

    # Every method below raises the error that the coordinator answers with, `TransportError` when
    # it can not be reached, `CertificateError` when one side does not accept the other's
    # certificate, and `DeadlineError` when it does not answer in time.

    def info(self) -> Json:
        """Return who answers."""
        return self._json("GET", "/api/v1/info")

    def clients(self) -> list[Json]:
        """Return every client that ever attached, sorted by name."""
        found: list[Json] = self._json("GET", "/api/v1/clients")["clients"]
        return found

    def create_token(self, name: str, *, permissions: list[str], days: int) -> Json:
        """Make a token; ``token`` in the answer is its text, shown this once."""
        body = {"name": name, "permissions": permissions, "days": days}
        return self._json("POST", "/api/v1/tokens", body=body)

    def tokens(self) -> list[Json]:
        """Return one's own tokens, or everybody's for who may manage them."""
        found: list[Json] = self._json("GET", "/api/v1/tokens")["tokens"]
        return found

    def revoke_token(self, token_id: str) -> Json:
        """End a token."""
        return self._json("DELETE", f"/api/v1/tokens/{quote(token_id, safe='')}")

    def revoke_tokens_of(self, made_by: str, role: str | None) -> list[Json]:
        """End all good tokens of one maker; return them."""
        query = {"made_by": made_by} | ({} if role is None else {"role": role})
        ended: list[Json] = self._json("DELETE", "/api/v1/tokens", query=query)["tokens"]
        return ended

    def runs(self, *, limit: int = 50, cursor: str | None = None, **filters: Any) -> Listing:
        """Return runs, the newest first unless ``order`` says otherwise.

        Args:
            limit: how many at most.
            cursor: where to go on, of an earlier listing with the same filters.
            filters: the query of ``GET /api/v1/runs``; ``None`` and nothing leave one out.
        """
        return self._listing("/api/v1/runs", "runs", limit, cursor, filters)

    def all_models(self, *, limit: int = 50, cursor: str | None = None, **filters: Any) -> Listing:
        """Return models of all runs; like `runs`, over ``GET /api/v1/models``."""
        return self._listing("/api/v1/models", "models", limit, cursor, filters)

    def describe_run(self, ref: str, changes: Mapping[str, Any]) -> Json:
        """Change a run's description and tags: the body of ``PATCH /api/v1/runs/{ref}``."""
        return self._json("PATCH", _run_path(ref), body=dict(changes))

    def describe_model(self, model_id: str, changes: Mapping[str, Any]) -> Json:
        """Change a model's description and tags, as `describe_run` does a run's."""
        path = f"/api/v1/models/{quote(model_id, safe='')}"
        return self._json("PATCH", path, body=dict(changes))

    def run(self, ref: str) -> Json:
        """Return the run of this identifier, or the only one that begins with it."""
        return self._json("GET", _run_path(ref))

    def rounds(self, ref: str) -> list[Json]:
        """Return all rounds of a run, in order."""
        found: list[Json] = self._json("GET", _run_path(ref, "rounds"))["rounds"]
        return found

    def events(self, ref: str, *, after: int = 0) -> Iterator[Json]:
        """Give the events of a run that came after that number, in order."""
        while True:
            page = self._json("GET", _run_path(ref, "events"), query={"after": after})
            yield from page["events"]
            if not page["events"]:
                return
            after = page["after"]

    def explain_run(self, ref: str) -> Json:
        """Return why a run is where it is; ``lines`` tell it to people."""
        return self._json("GET", _run_path(ref, "explain"))

    def models(self, ref: str) -> list[Json]:
        """Return all versions of a run's model, the initial one first."""
        found: list[Json] = self._json("GET", _run_path(ref, "models"))["models"]
        return found

    def stop(self, ref: str, reason: str) -> Json:
        """Ask for a run to be stopped."""
        return self._json("POST", _run_path(ref, "stop"), body={"reason": reason})

    def audit_entries(
        self, *, limit: int = 50, cursor: str | None = None, **filters: Any
    ) -> Listing:
        """Return entries of the audit log; like `runs`, over ``GET /api/v1/audit``."""
        return self._listing("/api/v1/audit", "entries", limit, cursor, filters)

    def audit_proof(self, sequence: int) -> bytes:
        """Return the proof that an entry stands in the signed log."""
        with self._answer("GET", f"/api/v1/audit/{sequence}/proof") as response:
            return response.read()

    def audit_checkpoint(self) -> bytes:
        """Return the newest signed checkpoint of the audit log, with its key."""
        with self._answer("GET", "/api/v1/audit/checkpoint") as response:
            return response.read()

    def export_audit(self, write: Callable[[bytes], object]) -> None:
        """Hand all of the audit log to ``write``, in pieces of its lines."""
        with self._answer("GET", "/api/v1/audit/export") as response:
            for piece in response.iter_bytes(_CHUNK_BYTES):
                write(piece)

    def redact_audit(self, kind: str, name: str, reason: str) -> Json:
        """Make a person in the audit log unreadable: ``POST /api/v1/audit/redact``."""
        body = {"kind": kind, "name": name, "reason": reason}
        return self._json("POST", "/api/v1/audit/redact", body=body)

    def budgets(self, *, scope: str | None = None, delta: float | None = None) -> Json:
        """Return how privacy budgets stand: the answer of ``GET /api/v1/budgets``."""
        asked = {"scope": scope, "delta": delta}
        query = {name: value for name, value in asked.items() if value is not None}
        return self._json("GET", "/api/v1/budgets", query=query)

    def set_budget(self, budget: Json) -> Json:
        """Set a privacy budget; return how its scope stands."""
        return self._json("PUT", "/api/v1/budgets", body=budget)

    def drop_budget(self, scope: str, window_days: int) -> Json:
        """Take a privacy budget away; return how its scope stands."""
        query = {"scope": scope, "window_days": window_days}
        return self._json("DELETE", "/api/v1/budgets", query=query)

    def budget_history(self, scope: str, *, delta: float | None = None) -> Json:
        """Return how a scope's epsilon grew, and the forecast."""
        query: dict[str, Any] = {"scope": scope} | ({} if delta is None else {"delta": delta})
        return self._json("GET", "/api/v1/budgets/history", query=query)

    def check_budgets(self) -> Json:
        """Let the whole ledger be verified, and what is counted from it be rebuilt."""
        return self._json("POST", "/api/v1/budgets/check")

    def freeze_budgets(self, reason: str) -> Json:
        """Let nothing be charged until the ledger is reconciled."""
        return self._json("POST", "/api/v1/budgets/freeze", body={"reason": reason})

    def reconcile_budgets(self, copies: list[Json], assumed: Mapping[str, int]) -> Json:
        """Bring the ledger in line with the sites' ones; return what was charged."""
        body: Json = {"copies": copies, "assumed": dict(assumed)}
        return self._json("POST", "/api/v1/budgets/reconcile", body=body)

    def delete_run(self, run_id: str) -> Json:
        """Delete a run that has ended: the answer of ``DELETE /api/v1/runs/{run_id}``."""
        return self._json("DELETE", _run_path(run_id))

    def sites(self) -> list[Json]:
        """Return every site that was invited, got a certificate, or is denied, sorted by name."""
        found: list[Json] = self._json("GET", "/api/v1/sites")["sites"]
        return found

    def invite_site(self, name: str, *, role: str, lifetime_hours: float) -> Json:
        """Invite a site: the answer of ``POST /api/v1/sites/{name}/invite``."""
        body: Json = {"role": role, "lifetime_hours": lifetime_hours}
        return self._json("POST", f"/api/v1/sites/{quote(name, safe='')}/invite", body=body)

    def change_site(self, name: str, act: str, *, reason: str | None = None) -> Json:
        """Approve, suspend, resume or remove a site; a reason where one is taken."""
        body: Json | None = None if reason is None else {"reason": reason}
        return self._json("POST", f"/api/v1/sites/{quote(name, safe='')}/{act}", body=body)

    def submit(self, run_id: str, job: Mapping[str, Any], model_digest: str) -> Json:
        """Create a run; doing it again changes nothing."""
        return self._json(
            "PUT", _run_path(run_id), body={"job": dict(job), "model_digest": model_digest}
        )

    def upload_model(
        self, run_id: str, arrays: NamedArrays, progress: Progress | None = None
    ) -> UploadedModel:
        """Store a run's initial model at the coordinator; doing it again is free."""
        buffers = encode(arrays)
        size_bytes = sum(buffer.nbytes for buffer in buffers)
        digest = digest_of(buffers)
        answer = self._json(
            "PUT",
            _run_path(run_id, "model"),
            content=_counted(chunks(buffers, _CHUNK_BYTES), progress),
            headers={"X-Kumiai-Digest": digest, "Content-Length": str(size_bytes)},
        )
        return UploadedModel(answer["digest"], answer["size_bytes"])

    def download_model(
        self,
        ref: str,
        version: int | str,
        target: Path,
        *,
        begin: Callable[[int], Progress] | None = None,
    ) -> UploadedModel:
        """Write a model version into a file, whole and verified or not at all.

        Args:
            ref: the run.
            version: the number of its round, or ``latest``.
            target: the file; what is there is replaced.
            begin: told the size in bytes, returns who is told of the progress.

        Raises:
            IntegrityError: the bytes are not those that were announced.
            StorageError: the file can not be written.
        """
        partial = target.with_name(f".{target.name}.{os.getpid()}.part")
        path = _run_path(ref, f"models/{quote(str(version), safe='')}/content")
        try:
            with self._answer("GET", path) as response, partial.open("wb") as file:
                size_bytes, digest = self._announced(response)
                progress = begin(size_bytes) if begin is not None else None
                found = StreamingDigest()
                for chunk in response.iter_bytes(_CHUNK_BYTES):
                    found.update(chunk)
                    file.write(chunk)
                    if progress is not None:
                        progress(len(chunk))
                if (found.hexdigest(), found.size_bytes) != (digest, size_bytes):
                    raise IntegrityError(
                        f"model must have digest {digest[:12]}, got {found.hexdigest()[:12]}; "
                        "try again"
                    )
            partial.replace(target)
        except OSError as error:
            raise StorageError(f"cannot write {target}: {error.strerror}") from error
        finally:
            partial.unlink(missing_ok=True)
        return UploadedModel(digest, size_bytes)

    def _announced(self, response: httpx.Response) -> tuple[int, str]:
        try:
            return int(response.headers["Content-Length"]), response.headers["X-Kumiai-Digest"]
        except (KeyError, ValueError):
            raise self._foreign("a model without size and digest") from None

    def follow(self, ref: str, *, after: int = 0) -> Iterator[ServerSentEvent]:
        """Give what happens to a run, from the event after that number to the run's end.

        The kinds are ``event`` (a row of the run's history), ``progress`` (how the round stands)
        and ``end``; and ``lost``, our own: the connection broke, or the coordinator restarts. It
        is tried again for ten minutes, and no event is given twice or left out.

        Raises:
            TransportError: the coordinator could not be reached, at first or for ten minutes.
        """
        pause_seconds, waited_seconds, has_heard = _FIRST_PAUSE_SECONDS, 0.0, False
        while True:
            reason = "the coordinator has closed the connection"
            try:
                for event in self._stream(ref, after):
                    after = event.number or after
                    pause_seconds, waited_seconds, has_heard = _FIRST_PAUSE_SECONDS, 0.0, True
                    yield event
                    if event.kind == "end":
                        return
            except (TransportError, DeadlineError, StorageError) as error:
                if not has_heard or waited_seconds >= _STREAM_PATIENCE_SECONDS:
                    raise
                reason = str(error)
            yield ServerSentEvent(None, "lost", {"reason": reason})
            self._pause(pause_seconds)
            waited_seconds += pause_seconds
            pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)

    def _stream(self, ref: str, after: int) -> Iterator[ServerSentEvent]:
        timeout = httpx.Timeout(
            self._timeout_seconds, connect=_CONNECT_SECONDS, read=_STREAM_SILENCE_SECONDS
        )
        with self._answer(
            "GET", _run_path(ref, "stream"), query={"after": after}, timeout=timeout
        ) as response:
            yield from parse_events(response.iter_lines())

    def _listing(
        self, path: str, field: str, limit: int, cursor: str | None, filters: Mapping[str, Any]
    ) -> Listing:
        given = {name: value for name, value in filters.items() if value not in (None, [], ())}
        found: list[Json] = []
        while True:
            query = {**given, "limit": min(limit - len(found), _PAGE_ITEMS_MAX)}
            if cursor is not None:
                query["cursor"] = cursor
            page = self._json("GET", path, query=query)
            found += page[field]
            cursor = page["next"]
            if cursor is None or not page[field] or len(found) >= limit:
                return Listing(found, cursor)

    def _json(self, method: str, path: str, **request: Any) -> Json:
        with self._answer(method, path, **request) as response:
            text = response.read()
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._foreign(f"{len(text)} bytes that are no JSON object")
        return answer

    @contextlib.contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Json | None = None,
        content: Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: httpx.Timeout | None = None,
    ) -> Iterator[httpx.Response]:
        """Ask, and lend the answer, of which only the head has been read."""
        try:
            with self._http.stream(
                method,
                path,
                params=query,
                json=body,
                content=content,
                headers=headers,
                timeout=timeout or httpx.USE_CLIENT_DEFAULT,
            ) as response:
                if not response.is_success:
                    raise self._error_in(response)
                yield response
        except httpx.TransportError as error:
            raise self._error_of(error) from error

    def _error_in(self, response: httpx.Response) -> KumiaiError:
        """Return the error that an answer tells."""
        return find_error(response.read()) or self._foreign(
            f"status {response.status_code} without our kind of error"
        )

    def _foreign(self, found: str) -> TransportError:
        return TransportError(
            f"{self._url} must answer as a coordinator does, got {found}; "
            "see that operator.url is the coordinator's http_listen"
        )

    def _error_of(self, error: httpx.TransportError) -> KumiaiError:
        """Return what is behind a connection that failed, in words, with the mend."""
        if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout | httpx.PoolTimeout):
            return DeadlineError(
                f"{self._url} must answer within {self._timeout_seconds:g} s, got nothing; "
                "raise operator.timeout_seconds, or look at the coordinator's log"
            )
        # The connection is tried once more, slowly, only to say why it fails.
        return self._diagnose() or TransportError(
            f"{self._url} must stay connected, got {str(error) or type(error).__name__}; try again"
        )


def address_of(url: str) -> tuple[str, int]:
    """Return host and port of the coordinator's URL.

    Raises:
        ConfigError: it is no URL.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"operator.url must be https://host:port, got {url!r}: {error}") from None
    return parsed.host, parsed.port or 443


def _run_path(ref: str, rest: str = "") -> str:
    path = f"/api/v1/runs/{quote(ref, safe='')}"
    return f"{path}/{rest}" if rest else path


def _counted(pieces: Iterator[bytes], progress: Progress | None) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        if progress is not None:
            progress(len(piece))
