from dataclasses import replace
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from kumiai import __version__
from kumiai.node.http.access import ROUTES
from kumiai.node.wire.channel import PROTOCOL_VERSION
from kumiai.storage import DatabaseManager, LocalBlobStore
from kumiai.testing.databases import SQLiteTemplate
from tests.node.http.api import (
    COORDINATOR,
    Certificates,
    RunningApi,
    error_of,
    raw_connection,
    running_api,
)


@pytest.fixture
def database_url(sqlite_template: SQLiteTemplate, tmp_path: Path) -> str:
    return sqlite_template.copy_to(tmp_path / "kumiai.db")


async def test_health_needs_nothing_but_a_living_process(
    api: RunningApi, database: DatabaseManager
) -> None:
    await database.close()

    answer = await api.caller(None).get("/healthz")

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_a_coordinator_with_its_stores_is_ready_and_leaves_no_trace(api: RunningApi) -> None:
    answer = await api.caller(None).get("/readyz")

    assert (answer.status_code, answer.json()) == (200, {"ready": True, "reasons": []})
    assert api.stored_files() == []


async def test_a_lost_database_is_a_reason_not_to_be_ready_and_tells_strangers_no_details(
    api: RunningApi, database: DatabaseManager
) -> None:
    await database.close()

    answer = await api.caller(None).get("/readyz")

    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "reasons": ["database must answer within 5 s"]}


async def test_a_blob_store_that_can_not_be_written_is_a_reason_not_to_be_ready(
    api: RunningApi,
) -> None:
    # A file where the folder should be: root may write into folders without permission.
    api.blob_folder.mkdir(parents=True, exist_ok=True)
    (api.blob_folder / "probes").write_text("in the way")

    answer = await api.caller(None).get("/readyz")

    assert answer.json() == {"ready": False, "reasons": ["blob store must take a write within 5 s"]}


async def test_background_work_that_ended_is_a_reason_not_to_be_ready(api: RunningApi) -> None:
    api.app.state.parts = replace(api.parts, unwell=lambda: ["audit signer"])

    answer = await api.caller(None).get("/readyz")

    assert answer.status_code == 503
    assert answer.json()["reasons"] == ["audit signer must go on, got its end by an error"]


async def test_readiness_is_looked_at_once_a_second_however_many_ask(
    api: RunningApi, database: DatabaseManager
) -> None:
    before = await api.caller(None).get("/readyz")
    await database.close()
    remembered = await api.caller(None).get("/readyz")
    api.clock.shift += 1.5
    after = await api.caller(None).get("/readyz")

    assert [before.status_code, remembered.status_code, after.status_code] == [200, 200, 503]


async def test_info_tells_who_answers(api: RunningApi, database: DatabaseManager) -> None:
    info = (await api.operator.get("/api/v1/info")).json()

    assert info.pop("uptime_seconds") >= 0
    assert info == {
        "coordinator_id": COORDINATOR,
        "version": __version__,
        "protocol_version": PROTOCOL_VERSION,
        "led_runs": [],
        "database": database.dialect,
        "can_evaluate": False,
    }


async def test_clients_are_told_with_their_session_if_they_have_one_here(api: RunningApi) -> None:
    await api.register("a", apps=("digits", "heart"))
    await api.register("b")
    await api.registry.detach("b", "b-1")
    session = api.attach("a", phase="round 1: computing (40%)")
    session.clock_skew_seconds = -2.5
    api.clock.shift += 3.0

    here, gone = (await api.operator.get("/api/v1/clients")).json()["clients"]

    assert (here["client_id"], here["state"], here["attached"]) == ("a", "attached", True)
    assert here["apps"] == ["digits", "heart"]
    assert here["phase"] == "round 1: computing (40%)"
    assert here["clock_skew_seconds"] == -2.5
    assert 3.0 <= here["heard_seconds_ago"] < 60.0
    assert (gone["client_id"], gone["state"], gone["attached"]) == ("b", "detached", False)
    assert gone["phase"] is gone["heard_seconds_ago"] is gone["attached_at"] is None


async def test_the_openapi_document_is_valid_and_names_the_error_of_every_route(
    api: RunningApi,
) -> None:
    document = (await api.operator.get("/openapi.json")).json()

    validate(document)
    responses = [
        method["responses"] for path in document["paths"].values() for method in path.values()
    ]
    assert len(responses) == len(ROUTES) - 1  # all but the document's own
    assert [each for each in responses if "default" not in each] == []
    assert document["paths"]["/api/v1/runs/{run_id}/model"]["put"]["requestBody"]["required"]


async def test_nothing_is_served_that_loads_scripts_from_elsewhere(api: RunningApi) -> None:
    for path in ("/docs", "/redoc", "/"):
        assert error_of(await api.operator.get(path)) == (404, "not_found", "no such route")


async def test_another_method_is_refused_in_the_same_manner(api: RunningApi) -> None:
    status, kind, _ = error_of(await api.operator.delete("/api/v1/runs"))

    assert (status, kind) == (405, "config")


async def test_every_answer_forbids_caches_and_guessing(api: RunningApi) -> None:
    for answer in (await api.operator.get("/api/v1/info"), await api.operator.get("/nowhere")):
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "server" not in answer.headers


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(api: RunningApi) -> None:
    async with raw_connection(api) as (reader, writer):
        writer.write(
            b"POST /api/v1/runs/run-x/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n"
        )
        answer = await reader.readuntil(b"\r\n")

    assert b" 413 " in answer


class _MistakenBlobs(LocalBlobStore):
    async def find_size(self, namespace: str, digest: str) -> int | None:
        raise ZeroDivisionError("/secret/path")


async def test_a_mistake_of_ours_is_an_internal_error_without_details(
    certificates: Certificates, database: DatabaseManager, tmp_path: Path
) -> None:
    blobs = _MistakenBlobs(tmp_path / "mistaken")
    async with running_api(certificates, database, tmp_path, blobs=blobs) as api:
        answer = await api.operator.put(
            "/api/v1/runs/run-x",
            json={"job": {"run": {"app": "digits"}}, "model_digest": "0" * 64},
        )

    status, kind, message = error_of(answer)
    assert (status, kind) == (500, "internal")
    assert "secret" not in message


async def test_a_lost_database_is_a_storage_error(
    api: RunningApi, database: DatabaseManager
) -> None:
    await database.close()

    assert error_of(await api.operator.get("/api/v1/runs"))[:2] == (503, "storage")
