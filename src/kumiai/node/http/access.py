"""Who may call what: one table, and a route class that knows no other way in.

A certificate is optional in the handshake because two routes are open to everybody; it is judged
here, at every request, so that one that was revoked a second ago does not get in over a
connection that was opened before. A route that is not in the table can not be registered.
"""

from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, Final, cast

import structlog
from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from kumiai.core.errors import DeniedError, KumiaiError
from kumiai.identity import Identity, Role
from kumiai.node.http.dependencies import ApiDependencies
from kumiai.node.http.errors import internal_error
from kumiai.node.http.server import certificate_of

__all__ = ["ADMITTED", "Caller", "GuardedRoute"]

_OPERATORS: Final = frozenset({Role.OPERATOR})

ADMITTED: Final[Mapping[tuple[str, str], frozenset[Role] | None]] = {
    ("GET", "/healthz"): None,
    ("GET", "/readyz"): None,
    ("GET", "/metrics"): frozenset({Role.OPERATOR, Role.COORDINATOR}),
    ("GET", "/openapi.json"): _OPERATORS,
    ("GET", "/api/v1/info"): _OPERATORS,
    ("GET", "/api/v1/clients"): _OPERATORS,
    ("GET", "/api/v1/models"): _OPERATORS,
    ("PATCH", "/api/v1/models/{model_id}"): _OPERATORS,
    ("GET", "/api/v1/runs"): _OPERATORS,
    ("PUT", "/api/v1/runs/{run_id}"): _OPERATORS,
    ("DELETE", "/api/v1/runs/{run_id}"): _OPERATORS,
    ("PUT", "/api/v1/runs/{run_id}/model"): _OPERATORS,
    ("GET", "/api/v1/runs/{ref}"): _OPERATORS,
    ("PATCH", "/api/v1/runs/{ref}"): _OPERATORS,
    ("GET", "/api/v1/runs/{ref}/rounds"): _OPERATORS,
    ("GET", "/api/v1/runs/{ref}/events"): _OPERATORS,
    ("GET", "/api/v1/runs/{ref}/stream"): _OPERATORS,
    ("GET", "/api/v1/runs/{ref}/explain"): _OPERATORS,
    ("GET", "/api/v1/runs/{ref}/models"): _OPERATORS,
    ("GET", "/api/v1/runs/{ref}/models/{version}/content"): _OPERATORS,
    ("POST", "/api/v1/runs/{ref}/stop"): _OPERATORS,
}
"""The roles that each route admits; ``None``: everybody, without a certificate too."""

_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class GuardedRoute(APIRoute):
    """A route that lets in whom the table names, before it reads anything else."""

    def get_route_handler(self) -> _Handler:
        """Return the handler behind its guard.

        Raises:
            LookupError: the table does not name this route.
        """
        roles_by_method = {}
        for method in self.methods or ():
            if (method, self.path) not in ADMITTED:
                raise LookupError(f"ADMITTED must name every route, got {method} {self.path}")
            roles_by_method[method] = ADMITTED[method, self.path]
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                roles = roles_by_method[request.method]
                if roles is not None:
                    request.state.caller = _identify(request, roles)
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


async def _caller(request: Request) -> Identity:
    return cast("Identity", request.state.caller)


Caller = Annotated[Identity, Depends(_caller)]
"""How a route asks who calls."""


def _identify(request: Request, roles: frozenset[Role]) -> Identity:
    parts = cast("ApiDependencies", request.app.state.parts)
    identity = parts.authenticator.verify(certificate_of(request.scope), roles)
    _verify_same_site(request)
    return identity


def _verify_same_site(request: Request) -> None:
    # A browser shows an operator's certificate on behalf of any page that sends a request here.
    origin, host = request.headers.get("origin"), request.headers.get("host")
    if origin is not None and origin != f"https://{host}":
        raise DeniedError(
            f"request must come from this coordinator's own pages, got {origin[:200]}"
        )
