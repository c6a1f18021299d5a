"""What each route needs: one table, the gate in front of the API, and a route class to match.

A certificate is optional in the handshake because two routes are open to everybody and tokens
need none; who calls is decided at every request, before anything of it is read. A route that is
not in the table can not be registered, and a request that no entry fits reaches no route.
"""

import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, Final, cast

import structlog
from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute, APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from kumiai.core.errors import DeniedError, KumiaiError
from kumiai.identity import Permission, Principal, Requirement
from kumiai.node.http.errors import internal_error
from kumiai.node.http.views import ErrorView

__all__ = ["ROUTES", "Caller", "GuardedRoute", "GuardedRouter", "methods_of", "requirement_of"]

ROUTES: Final[Mapping[tuple[str, str], Permission | None]] = {
    ("GET", "/healthz"): None,
    ("GET", "/readyz"): None,
    ("GET", "/metrics"): Permission.METRICS_READ,
    ("GET", "/openapi.json"): Permission.INFO_READ,
    ("GET", "/api/v1/info"): Permission.INFO_READ,
    ("GET", "/api/v1/clients"): Permission.CLIENTS_READ,
    ("GET", "/api/v1/trust"): None,
    ("POST", "/api/v1/join"): None,
    ("GET", "/api/v1/sites"): Permission.SITES_MANAGE,
    ("POST", "/api/v1/sites/{name}/invite"): Permission.SITES_MANAGE,
    ("POST", "/api/v1/sites/{name}/approve"): Permission.SITES_MANAGE,
    ("POST", "/api/v1/sites/{name}/suspend"): Permission.SITES_MANAGE,
    ("POST", "/api/v1/sites/{name}/resume"): Permission.SITES_MANAGE,
    ("POST", "/api/v1/sites/{name}/remove"): Permission.SITES_MANAGE,
    ("GET", "/api/v1/audit"): Permission.AUDIT_READ,
    ("GET", "/api/v1/audit/checkpoint"): Permission.AUDIT_READ,
    ("GET", "/api/v1/audit/export"): Permission.AUDIT_READ,
    ("POST", "/api/v1/audit/redact"): Permission.AUDIT_REDACT,
    ("GET", "/api/v1/audit/{sequence}/proof"): Permission.AUDIT_READ,
    ("POST", "/api/v1/tokens"): Permission.TOKENS_USE,
    ("GET", "/api/v1/tokens"): Permission.TOKENS_USE,
    ("DELETE", "/api/v1/tokens"): Permission.TOKENS_USE,
    ("DELETE", "/api/v1/tokens/{token_id}"): Permission.TOKENS_USE,
    ("GET", "/api/v1/budgets"): Permission.BUDGETS_READ,
    ("PUT", "/api/v1/budgets"): Permission.BUDGETS_MANAGE,
    ("DELETE", "/api/v1/budgets"): Permission.BUDGETS_MANAGE,
    ("GET", "/api/v1/budgets/history"): Permission.BUDGETS_READ,
    ("POST", "/api/v1/budgets/check"): Permission.BUDGETS_MANAGE,
    ("POST", "/api/v1/budgets/freeze"): Permission.BUDGETS_MANAGE,
    ("POST", "/api/v1/budgets/reconcile"): Permission.BUDGETS_MANAGE,
    ("GET", "/api/v1/models"): Permission.MODELS_READ,
    ("PATCH", "/api/v1/models/{model_id}"): Permission.MODELS_DESCRIBE,
    ("GET", "/api/v1/runs"): Permission.RUNS_READ,
    ("PUT", "/api/v1/runs/{run_id}"): Permission.RUNS_SUBMIT,
    ("DELETE", "/api/v1/runs/{run_id}"): Permission.RUNS_DELETE,
    ("PUT", "/api/v1/runs/{run_id}/model"): Permission.RUNS_SUBMIT,
    ("GET", "/api/v1/runs/{ref}"): Permission.RUNS_READ,
    ("PATCH", "/api/v1/runs/{ref}"): Permission.RUNS_DESCRIBE,
    ("GET", "/api/v1/runs/{ref}/rounds"): Permission.RUNS_READ,
    ("GET", "/api/v1/runs/{ref}/events"): Permission.RUNS_READ,
    ("GET", "/api/v1/runs/{ref}/stream"): Permission.RUNS_READ,
    ("GET", "/api/v1/runs/{ref}/explain"): Permission.RUNS_READ,
    ("GET", "/api/v1/runs/{ref}/models"): Permission.MODELS_READ,
    ("GET", "/api/v1/runs/{ref}/models/{version}/content"): Permission.MODELS_DOWNLOAD,
    ("POST", "/api/v1/runs/{ref}/stop"): Permission.RUNS_STOP,
}
"""The permission that each route needs; ``None``: everybody may call it, without a certificate."""

_PARAMETER: Final = re.compile(r"\\\{\w+\\\}")
_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def pattern_of(path: str) -> re.Pattern[str]:
    """Return what the paths of a route look like."""
    return re.compile(_PARAMETER.sub("[^/]+", re.escape(path)), re.DOTALL)


PATTERNS: Final = tuple(
    (method, pattern_of(path), Requirement(permission))
    for (method, path), permission in ROUTES.items()
)


def requirement_of(method: str, path: str) -> Requirement | None:
    """Return what a request needs; ``None`` if no route is listed for it."""
    for listed, pattern, requirement in PATTERNS:
        if listed == method and pattern.fullmatch(path):
            return requirement
    return None


def methods_of(path: str) -> list[str]:
    """Return the methods that are listed for a path, sorted."""
    return sorted(method for method, pattern, _ in PATTERNS if pattern.fullmatch(path))


class GuardedRoute(APIRoute):
    """A route of the table, which the gate has opened for what the table says and nothing else."""

    def get_route_handler(self) -> _Handler:
        """Return the handler behind its guard.

        Raises:
            LookupError: the table does not name this route.
        """
        needed = {}
        for method in self.methods or ():
            if (method, self.path) not in ROUTES:
                raise LookupError(f"ROUTES must name every route, got {method} {self.path}")
            needed[method] = ROUTES[method, self.path]
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                _verify_opened_for(request, needed[request.method])
                _verify_same_site(request)
                return await handle(request)
            except (KumiaiError, HTTPException, RequestValidationError, ClientDisconnect):
                raise
            except Exception:  # noqa: BLE001 - see below
                # The outermost place that still can answer; what is behind it is a mistake of ours.
                structlog.get_logger("kumiai.http").exception(
                    "request broke", method=request.method, path=self.path
                )
                return internal_error()

        return guarded


class GuardedRouter(APIRouter):
    """The routes of one subject.

    Args:
        tag: the subject, as the OpenAPI document names it.
    """

    def __init__(self, tag: str) -> None:
        super().__init__(
            route_class=GuardedRoute,
            tags=[tag],
            responses={"default": {"model": ErrorView, "description": "Why it failed"}},
        )


async def _caller(request: Request) -> Principal:
    return cast("Principal", request.state.caller)


Caller = Annotated[Principal, Depends(_caller)]
"""How a route asks who calls."""


def _verify_opened_for(request: Request, permission: Permission | None) -> None:
    # Two entries of the table may fit one path: what the gate asked for must be this route's.
    opened = getattr(request.state, "requirement", None)
    if opened != Requirement(permission):
        raise LookupError(f"{request.method} {request.url.path} must pass its gate, got {opened}")


def _verify_same_site(request: Request) -> None:
    # A browser shows an operator's certificate on behalf of any page that sends a request here.
    if request.state.requirement.permission is None:
        return
    origin, host = request.headers.get("origin"), request.headers.get("host")
    if origin is not None and origin != f"https://{host}":
        raise DeniedError(
            f"request must come from this coordinator's own pages, got {origin[:200]}"
        )
