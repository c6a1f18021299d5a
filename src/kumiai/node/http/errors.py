"""From errors to answers: a status for each kind of error, one shape for the body.

``{"error": {"kind": …, "message": …}}``: the kind is for programs (the command line makes the
same error of it again), the message for people.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import structlog
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from kumiai.core.error_kinds import kind_of
from kumiai.identity import CallGate, PeerRefusedError, Principal, Refusal, RefusedCall

__all__ = [
    "STATUSES",
    "answer_http_error",
    "answer_invalid_request",
    "answer_kumiai_error",
    "internal_error",
    "refusal",
    "unlisted",
]

STATUSES: Final[Mapping[str, int]] = {
    "budget_exhausted": 409,
    "config": 422,
    "conflict": 409,
    "deadline": 504,
    "denied": 403,
    "diverged": 500,
    "integrity": 400,
    "internal": 500,
    "not_found": 404,
    "quorum_lost": 504,
    "storage": 503,
}
"""The status of each kind in `kumiai.core.error_kinds`."""

_TOO_MANY: Final = frozenset({Refusal.RATE_LIMITED, Refusal.LOCKED_OUT})

# Errors that the framework finds before a route is reached.
_KINDS_BY_STATUS: Final = {403: "denied", 404: "not_found"}


async def answer_kumiai_error(request: Request, error: Exception) -> JSONResponse:
    """Answer one of our errors by its kind."""
    kind = kind_of(error)
    status = STATUSES[kind]
    log = structlog.get_logger("kumiai.http").bind(method=request.method, path=request.url.path)
    if status >= 500:
        log.error("request failed", kind=kind, error=str(error))
    elif status == 403:
        await _tell_refused(request, error)
    return _answer(status, kind, str(error))


async def _tell_refused(request: Request, error: Exception) -> None:
    """Tell the gate of what a handler refused: it let the caller in."""
    caller: Principal | None = getattr(request.state, "caller", None)
    # Only joining lets in strangers.
    refusal = Refusal.BAD_ENROLMENT if caller is None else Refusal.MISSING_PERMISSION
    if not isinstance(error, PeerRefusedError):
        error = PeerRefusedError(refusal, str(error))
    address = request.client.host if request.client else "unknown"
    act = f"{request.method} {request.url.path}"
    gate: CallGate = request.app.state.parts.gate
    claimed = None if caller is None else caller.identity
    await gate.tell(RefusedCall(error, address, act, claimed, caller))


async def answer_http_error(_request: Request, error: Exception) -> JSONResponse:
    """Answer an error of the framework: no such route, another method, a body that is no JSON."""
    if not isinstance(error, HTTPException):
        raise TypeError(f"error must be an HTTPException, got {type(error).__name__}")
    kind = _KINDS_BY_STATUS.get(error.status_code, "config")
    return _answer(error.status_code, kind, _sentence(str(error.detail)), error.headers)


async def answer_invalid_request(_request: Request, error: Exception) -> JSONResponse:
    """Answer a query or a body that does not fit, one line per problem."""
    if not isinstance(error, RequestValidationError):
        raise TypeError(f"error must be a RequestValidationError, got {type(error).__name__}")
    lines = [
        f"{'.'.join(str(part) for part in problem['loc'])}: {_sentence(problem['msg'])}"
        for problem in error.errors()
    ]
    return _answer(422, "config", "\n".join(lines))


def internal_error() -> JSONResponse:
    """Return the answer for an error that nobody foresaw; the log has the details."""
    return _answer(500, "internal", "internal error; the coordinator's log has the details")


def refusal(error: PeerRefusedError) -> JSONResponse:
    """Return the answer to a caller whom the gate does not let in."""
    if error.refusal not in _TOO_MANY:
        return _answer(STATUSES["denied"], "denied", str(error))
    headers = {"Retry-After": str(math.ceil(error.retry_seconds or 1.0))}
    return _answer(429, "denied", str(error), headers)


def unlisted(methods: Sequence[str]) -> JSONResponse:
    """Return the answer to a request that no route is listed for.

    Args:
        methods: by which there is a route for its path.
    """
    if not methods:
        return _answer(404, "not_found", "no such route")
    return _answer(405, "config", "method not allowed", {"Allow": ", ".join(methods)})


def _answer(
    status: int, kind: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    body = {"error": {"kind": kind, "message": message}}
    return JSONResponse(body, status, headers=dict(headers or {}))


def _sentence(text: str) -> str:
    """Return the framework's words in our manner: lower case first, no full stop."""
    return text[:1].lower() + text[1:].removesuffix(".")
