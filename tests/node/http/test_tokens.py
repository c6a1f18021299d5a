"""Tokens over HTTP, from their making to their end, with the real server and database."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from kumiai.identity import Permission, bearer_context, permissions_of
from kumiai.node.operator.client import OperatorClient
from kumiai.storage import DatabaseManager
from kumiai.testing.databases import SQLiteTemplate
from tests.node.http.api import RunningApi, error_of


@pytest.fixture
def database_url(sqlite_template: SQLiteTemplate, tmp_path: Path) -> str:
    return sqlite_template.copy_to(tmp_path / "kumiai.db")


async def made(
    api: RunningApi, *permissions: str, by: httpx.AsyncClient | None = None, **changes: Any
) -> dict[str, Any]:
    body = {"name": "nightly", "permissions": permissions or ["runs.read"], **changes}
    answer = await (by or api.operator).post("/api/v1/tokens", json=body)
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


def bearer(api: RunningApi, token: str) -> httpx.AsyncClient:
    """Return a client without a certificate; closed with the server."""
    client = httpx.AsyncClient(
        base_url=api.url,
        verify=bearer_context(api.certificates.coordinator.ca),
        trust_env=False,
        timeout=60,
        headers={"Authorization": f"Bearer {token}"},
    )
    api.clients[token] = client
    return client


async def test_a_token_calls_what_it_was_made_for_and_nothing_else(api: RunningApi) -> None:
    client = bearer(api, (await made(api, "runs.read"))["token"])

    assert (await client.get("/api/v1/runs")).status_code == 200
    status, kind, message = error_of(await client.get("/api/v1/clients"))
    assert (status, kind) == (403, "denied")
    assert "must have the permission clients.read" in message
    assert "make a token with it" in message


async def test_nobody_gives_a_token_what_he_has_not(api: RunningApi) -> None:
    scientist = api.caller(api.certificates.scientist)
    mine = permissions_of(api.certificates.scientist.identity.role)

    for permission in Permission:
        body = {"name": "greedy", "permissions": [permission]}
        answer = await scientist.post("/api/v1/tokens", json=body)
        assert (answer.status_code == 201) == (permission in mine), permission


async def test_a_token_makes_no_other_token(api: RunningApi) -> None:
    client = bearer(api, (await made(api, "tokens.use", "runs.read"))["token"])

    answer = await client.post(
        "/api/v1/tokens", json={"name": "child", "permissions": ["runs.read"]}
    )

    assert error_of(answer)[:2] == (403, "denied")
    assert "a token makes no others" in error_of(answer)[2]


async def test_a_token_is_not_good_for_longer_than_the_setting_allows(api: RunningApi) -> None:
    body = {"name": "old", "permissions": ["runs.read"], "days": 91}

    status, _, message = error_of(await api.operator.post("/api/v1/tokens", json=body))

    assert (status, message) == (422, "days must be at most 90, got 91")


@pytest.mark.parametrize(
    "body",
    [
        {"name": "", "permissions": ["runs.read"]},
        {"name": "x", "permissions": []},
        {"name": "x", "permissions": ["runs.fly"]},
        {"name": "x", "permissions": ["runs.read"], "role": "operator"},
        {"name": "x", "permissions": ["runs.read"], "days": 0},
        {"name": "x y", "permissions": ["runs.read"]},
    ],
)
async def test_a_token_that_makes_no_sense_is_not_made(
    api: RunningApi, body: dict[str, Any]
) -> None:
    assert error_of(await api.operator.post("/api/v1/tokens", json=body))[:2] == (422, "config")


async def test_a_revoked_token_is_refused_within_seconds(api: RunningApi) -> None:
    token = await made(api)
    client = bearer(api, token["token"])
    before = await client.get("/api/v1/runs")

    ended = await api.operator.delete(f"/api/v1/tokens/{token['made']['token_id']}")
    api.clock.shift += 5.0

    assert before.status_code == 200
    assert ended.json()["revoked_by"] == "olivia"
    assert "olivia revoked" in error_of(await client.get("/api/v1/runs"))[2]


async def test_one_sees_and_revokes_ones_own_tokens_and_operators_all(api: RunningApi) -> None:
    scientist = api.caller(api.certificates.scientist)
    of_operator = (await made(api))["made"]["token_id"]
    of_scientist = (await made(api, by=scientist))["made"]["token_id"]

    seen = [each["token_id"] for each in (await scientist.get("/api/v1/tokens")).json()["tokens"]]
    all_of_them = (await api.operator.get("/api/v1/tokens")).json()["tokens"]
    foreign = await scientist.delete(f"/api/v1/tokens/{of_operator}")
    own = await scientist.delete(f"/api/v1/tokens/{of_scientist}")

    assert seen == [of_scientist]
    assert {each["token_id"] for each in all_of_them} == {of_operator, of_scientist}
    assert error_of(foreign)[:2] == (404, "not_found")
    assert own.status_code == 200
    assert error_of(await scientist.delete("/api/v1/tokens/none"))[0] == 404


async def test_the_secret_stands_nowhere_but_in_the_answer(
    api: RunningApi, database: DatabaseManager, tmp_path: Path
) -> None:
    with capture_logs() as logged:
        token = (await made(api))["token"]
        client = bearer(api, token)
        await client.get("/api/v1/runs")
        await client.get("/api/v1/clients")
        bad = bearer(api, token[:-1] + ("A" if token[-1] != "A" else "B"))
        refused = await bad.get("/api/v1/runs")
        listed = (await api.operator.get("/api/v1/tokens")).text
        audit = (await api.operator.get("/api/v1/audit")).text

    secret = token[-43:-1]
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("kumiai.db*"))
    assert secret.encode() not in files
    assert secret not in listed + refused.text + audit + repr(logged)
    assert "token.created" in audit


async def test_the_command_lines_client_shows_the_token(api: RunningApi) -> None:
    token = (await made(api))["token"]

    def runs() -> list[Any]:
        with OperatorClient(
            url=api.url,
            context=bearer_context(api.certificates.coordinator.ca),
            timeout_seconds=10.0,
            diagnose=lambda: None,
            token=token,
        ) as client:
            return client.runs().items

    assert await asyncio.to_thread(runs) == []


async def test_who_manages_tokens_ends_all_of_somebody_and_others_only_their_own(
    api: RunningApi,
) -> None:
    scientist = api.caller(api.certificates.scientist)
    name = api.certificates.scientist.identity.name
    first = await made(api, by=scientist)
    await made(api)

    own = (await scientist.delete(f"/api/v1/tokens?made_by={name}")).json()["tokens"]
    denied = await scientist.delete("/api/v1/tokens?made_by=olivia")
    other_role = await scientist.delete(f"/api/v1/tokens?made_by={name}&role=operator")
    second = await made(api, by=scientist)
    managed = (await api.operator.delete(f"/api/v1/tokens?made_by={name}")).json()["tokens"]
    entries = (await api.operator.get("/api/v1/audit?act=token.revoked")).json()["entries"]

    ids = [each["made"]["token_id"] for each in (first, second)]
    assert [each["token_id"] for each in own] == ids[:1]
    assert [each["token_id"] for each in managed] == ids[1:]
    assert [denied.status_code, other_role.status_code] == [403, 403]
    assert [each["subject"] for each in entries] == [f"token/{each}" for each in reversed(ids)]
    good = (await api.operator.get("/api/v1/tokens")).json()["tokens"]
    assert [each["revoked_at"] is None for each in good].count(True) == 1


@pytest.mark.parametrize("query", ["", "?made_by=", "?made_by=ann&role=king"])
async def test_whose_tokens_are_to_end_must_be_said(api: RunningApi, query: str) -> None:
    assert (await api.operator.delete(f"/api/v1/tokens{query}")).status_code == 422
