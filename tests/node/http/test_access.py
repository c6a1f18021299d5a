import asyncio
import contextlib
import ssl
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter

from kumiai.core.clock import SystemClock
from kumiai.identity import IssuedCertificate, Requirement, Role
from kumiai.identity.permissions import PERMISSIONS
from kumiai.node.http import access
from kumiai.node.http.access import ROUTES, GuardedRoute
from kumiai.storage import DatabaseManager
from kumiai.testing.databases import SQLiteTemplate
from tests.node.http.api import COORDINATOR, Certificates, RunningApi, error_of, running_api

RUN = "run-aaaaaaaaaaaaaaaa"


@pytest.fixture
def database_url(sqlite_template: SQLiteTemplate, tmp_path: Path) -> str:
    return sqlite_template.copy_to(tmp_path / "kumiai.db")


def filled(path: str) -> str:
    return path.format(
        run_id=RUN,
        ref=RUN,
        version="latest",
        model_id=f"{RUN}.0",
        sequence=0,
        name="a",
        token_id="t",
    )


def guarded_routes(api: RunningApi) -> set[tuple[str, str]]:
    document = api.app.openapi()
    listed = {
        (method.upper(), path) for path, methods in document["paths"].items() for method in methods
    }
    return listed | {("GET", "/openapi.json")}


async def test_every_route_is_in_the_table_and_the_table_names_no_other(api: RunningApi) -> None:
    assert guarded_routes(api) == set(ROUTES)


async def test_no_route_came_in_beside_the_guard(api: RunningApi) -> None:
    pending, found = list(api.app.routes), []
    while pending:
        route = pending.pop()
        inner = getattr(route, "original_router", None)
        if inner is not None:
            pending += inner.routes
        else:
            found.append(route)

    assert len(found) == len(ROUTES)
    assert [route for route in found if not isinstance(route, GuardedRoute)] == []


async def test_two_coordinators_share_their_routes_and_each_serves_its_own(
    api: RunningApi, certificates: Certificates, database: DatabaseManager, tmp_path: Path
) -> None:
    folder = tmp_path / "second"
    async with running_api(certificates, database, folder, coordinator_id="second") as second:
        answers = [await each.operator.get("/api/v1/info") for each in (api, second)]

    assert [answer.json()["coordinator_id"] for answer in answers] == [COORDINATOR, "second"]
    assert [*map(id, second.app.routes)] == [*map(id, api.app.routes)]


def test_a_route_that_the_table_does_not_name_can_not_be_made() -> None:
    router = APIRouter(route_class=GuardedRoute)

    with pytest.raises(LookupError, match="GET /api/v1/secrets"):
        router.get("/api/v1/secrets")(lambda: None)


@pytest.mark.parametrize(("method", "path"), sorted(ROUTES))
async def test_each_route_answers_only_those_whom_the_table_admits(
    api: RunningApi, method: str, path: str
) -> None:
    needed = ROUTES[method, path]
    certificates = api.certificates
    issued: dict[Role | None, IssuedCertificate | None] = {
        None: None,
        Role.CLIENT: certificates.client,
        Role.COORDINATOR: certificates.coordinator,
        Role.OPERATOR: certificates.operator,
        Role.DATA_SCIENTIST: certificates.scientist,
        Role.AUDITOR: certificates.auditor,
        Role.RECOVERY_OPERATOR: certificates.recoverer,
    }
    assert {role for role in issued if role} == set(Role)

    for role, certificate in issued.items():
        answer = await api.caller(certificate).request(method, filled(path))
        is_denied = answer.status_code == 403 and answer.json()["error"]["kind"] == "denied"
        may = needed is None or (role is not None and needed in PERMISSIONS[role])
        assert is_denied == (not may), role


async def test_only_health_and_the_way_in_are_open_and_clients_get_in_nowhere() -> None:
    is_open = {path for (_, path), needed in ROUTES.items() if needed is None}

    assert is_open == {"/healthz", "/readyz", "/api/v1/trust", "/api/v1/join"}
    assert PERMISSIONS[Role.CLIENT] & set(ROUTES.values()) == set()


async def test_who_lacks_a_permission_is_told_which_and_who_has_it(api: RunningApi) -> None:
    answer = await api.caller(api.certificates.auditor).post(f"/api/v1/runs/{RUN}/stop", json={})

    assert error_of(answer)[2] == (
        "caller must have the permission runs.stop, which the role data-scientist or operator "
        "has, got auditor 'aude' without it; ask one of these"
    )


async def test_a_handler_that_its_gate_was_not_opened_for_does_not_run(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if two routes fitted one path, and the gate had looked at the other.
    wrong = (("GET", access.pattern_of("/api/v1/info"), Requirement(None)), *access.PATTERNS)
    monkeypatch.setattr(access, "PATTERNS", wrong)

    answer = await api.caller(None).get("/api/v1/info")

    assert error_of(answer)[:2] == (500, "internal")


async def test_a_caller_without_a_certificate_is_told_what_is_missing(api: RunningApi) -> None:
    status, kind, message = error_of(await api.caller(None).get("/api/v1/info"))

    assert (status, kind) == (403, "denied")
    assert "certificate" in message


async def test_a_stranger_is_refused_before_the_body_is_read(api: RunningApi) -> None:
    answer = await api.caller(None).put(
        f"/api/v1/runs/{RUN}", content=b"{", headers={"Content-Type": "application/json"}
    )

    assert error_of(answer)[:2] == (403, "denied")


async def test_a_certificate_of_another_authority_ends_in_the_handshake(api: RunningApi) -> None:
    with pytest.raises(httpx.TransportError):
        await api.caller(api.certificates.foreigner).get("/healthz")


@pytest.mark.parametrize(
    ("newest", "expectation"),
    [
        (ssl.TLSVersion.TLSv1_2, pytest.raises(OSError)),  # noqa: PT011 - an alert or a reset
        (ssl.TLSVersion.TLSv1_3, contextlib.nullcontext()),
    ],
)
async def test_tls_1_2_ends_in_the_handshake_and_tls_1_3_does_not(
    api: RunningApi,
    newest: ssl.TLSVersion,
    expectation: contextlib.AbstractContextManager[object],
) -> None:
    context = ssl.create_default_context(cafile=api.certificates.coordinator.ca)
    context.maximum_version = newest
    host, port = api.url.removeprefix("https://").split(":")

    with expectation:
        _, writer = await asyncio.open_connection(host, int(port), ssl=context)
        writer.close()


async def test_plain_http_gets_no_answer(api: RunningApi) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        with pytest.raises(httpx.TransportError):
            await client.get(api.url.replace("https://", "http://") + "/healthz")


async def test_a_certificate_revoked_meanwhile_is_refused_on_the_open_connection(
    database: DatabaseManager, tmp_path: Path
) -> None:
    certificates = Certificates(tmp_path / "own")
    async with running_api(certificates, database, tmp_path) as api:
        before = await api.operator.get("/api/v1/info")
        certificates.authority.revoke("olivia")
        # The list is looked at every few seconds.
        api.clock.shift = 60.0
        after = await api.operator.get("/api/v1/info")

    assert before.status_code == 200
    assert error_of(after)[:2] == (403, "denied")
    assert "revoked" in error_of(after)[2]


async def test_a_certificate_that_expires_is_refused_on_the_open_connection(
    api: RunningApi,
) -> None:
    before = await api.operator.get("/api/v1/info")
    api.clock.shift = 400 * 86_400.0

    after = await api.operator.get("/api/v1/info")

    assert before.status_code == 200
    assert error_of(after)[:2] == (403, "denied")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1"])
async def test_a_page_from_elsewhere_can_not_use_an_operators_browser(
    api: RunningApi, origin: str
) -> None:
    answer = await api.operator.post(
        f"/api/v1/runs/{RUN}/stop", json={}, headers={"Origin": origin}
    )

    assert error_of(answer)[:2] == (403, "denied")


async def test_an_own_page_may_call(api: RunningApi) -> None:
    answer = await api.operator.get("/api/v1/info", headers={"Origin": api.url})

    assert answer.status_code == 200


async def test_the_name_of_another_federation_does_not_help(
    api: RunningApi, tmp_path: Path
) -> None:
    other = type(api.certificates.authority)(tmp_path / "other", clock=SystemClock())
    other.create("banks")
    issued = other.issue(Role.OPERATOR, "olivia", out_dir=tmp_path / "out")

    with pytest.raises(httpx.TransportError):
        await api.caller(issued).get("/api/v1/info")
