import asyncio
import json
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import load

from kumiai.core.codec import HEADER_SIZE_MAX, encode
from kumiai.core.digest import digest_of
from kumiai.core.ids import new_id
from kumiai.storage import DatabaseManager, LocalBlobStore
from kumiai.testing.databases import SQLiteTemplate
from tests.node.http.api import (
    Certificates,
    RunningApi,
    error_of,
    job_with,
    model_bytes,
    raw_connection,
    running_api,
)

CHUNK = 8 + HEADER_SIZE_MAX


@pytest.fixture
def database_url(sqlite_template: SQLiteTemplate, tmp_path: Path) -> str:
    return sqlite_template.copy_to(tmp_path / "kumiai.db")


def blob(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def put_head(run_id: str, digest: str, size_bytes: int) -> bytes:
    return (
        f"PUT /api/v1/runs/{run_id}/model HTTP/1.1\r\nHost: localhost\r\n"
        f"X-Kumiai-Digest: {digest}\r\nContent-Length: {size_bytes}\r\n\r\n"
    ).encode()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("size", [3, CHUNK // 4, CHUNK])
async def test_an_uploaded_model_is_stored_whole_and_uploading_it_again_is_free(
    api: RunningApi, size: int
) -> None:
    run_id, body = new_id("run"), model_bytes(0.5, size=size)

    first = await api.upload(run_id, body)
    again = await api.upload(run_id, body)

    assert first.status_code == again.status_code == 200
    assert first.json() == again.json() == {"digest": digest_of([body]), "size_bytes": len(body)}
    assert api.stored_files() == [digest_of([body])]
    assert api.parts.meter.received_bytes == len(body)


async def test_a_model_of_an_existing_run_may_be_uploaded_again_but_not_replaced(
    api: RunningApi,
) -> None:
    run_id = await api.submit()

    same = await api.upload(run_id, model_bytes())
    other = await api.upload(run_id, model_bytes(1.0))

    assert same.status_code == 200
    assert error_of(other)[:2] == (409, "conflict")
    assert api.stored_files() == [digest_of([model_bytes()])]


NAN = b"".join(encode({"w": np.array([1.0, np.nan], np.float32)}))
BOOL = b"".join(encode({"w": np.array([True])}))
ODD = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"abc", "8 bytes"),
        (b"\xff" * 100, "header"),
        (struct.pack("<Q", 2) + b"{]", "JSON"),
        (blob(ODD, b"\0" * 7), "by its own header"),
        (blob(ODD, b"\0" * 9), "by its own header"),
        (blob({"w": {**ODD["w"], "dtype": "F8"}}, b"\0" * 8), "dtypes"),
        (blob({}), "at least one array"),
        (BOOL, "numbers, got bool"),
        (NAN, "finite"),
        (model_bytes(size=CHUNK)[:-1], "by its own header"),
    ],
)
async def test_a_malformed_model_is_refused_and_leaves_nothing_behind(
    api: RunningApi, body: bytes, words: str
) -> None:
    answer = await api.upload(new_id("run"), body)

    status, kind, message = error_of(answer)
    assert (status, kind) == (400, "integrity")
    assert words in message
    assert api.stored_files() == []


async def test_a_model_that_does_not_match_its_digest_leaves_nothing_behind(
    api: RunningApi,
) -> None:
    answer = await api.operator.put(
        f"/api/v1/runs/{new_id('run')}/model",
        content=model_bytes(1.0),
        headers={"X-Kumiai-Digest": digest_of([model_bytes(2.0)])},
    )

    assert error_of(answer)[:2] == (400, "integrity")
    assert api.stored_files() == []


async def test_an_oversized_model_is_refused_before_its_body_is_read(
    certificates: Certificates, database: DatabaseManager, tmp_path: Path
) -> None:
    async with running_api(certificates, database, tmp_path, model_bytes_max=200) as api:
        run_id, body = new_id("run"), model_bytes(size=1000)
        async with raw_connection(api) as (reader, writer):
            writer.write(put_head(run_id, digest_of([body]), len(body)))
            answer = await reader.readuntil(b"\r\n")

        assert b" 400 " in answer
        assert api.stored_files() == []


async def test_a_truncated_upload_leaves_nothing_behind_and_can_be_made_again(
    api: RunningApi,
) -> None:
    run_id, body = new_id("run"), model_bytes(size=CHUNK)

    async with raw_connection(api) as (_, writer):
        writer.write(put_head(run_id, digest_of([body]), len(body)) + body[: CHUNK + 10])
        await until(lambda: api.stored_files() != [])
    await until(lambda: api.stored_files() == [])
    answer = await api.upload(run_id, body)

    assert answer.status_code == 200
    assert api.stored_files() == [digest_of([body])]
    assert api.app.state.uploads.newest == {}


async def test_a_newer_upload_takes_over_and_the_end_of_the_older_spares_it(
    api: RunningApi,
) -> None:
    run_id, body = new_id("run"), model_bytes(size=CHUNK)

    async with raw_connection(api) as (reader, writer):
        writer.write(put_head(run_id, digest_of([body]), len(body)) + body[: CHUNK + 10])
        await until(lambda: api.stored_files() != [])
        newer = await api.upload(run_id, body)
        writer.write(body[CHUNK + 10 :])
        older = await reader.readuntil(b"\r\n")

    assert newer.status_code == 200
    assert b" 409 " in older
    assert api.stored_files() == [digest_of([body])]


async def test_bytes_that_a_dead_process_left_are_not_trusted(api: RunningApi) -> None:
    run_id, body = new_id("run"), model_bytes(size=CHUNK)
    writer = await api.parts.blobs.begin(f"models/{run_id}", digest_of([body]), len(body))
    await writer.write(b"rubbish")
    await writer.suspend()

    answer = await api.upload(run_id, body)

    assert answer.status_code == 200
    assert api.stored_files() == [digest_of([body])]


async def test_an_upload_without_a_length_is_refused(api: RunningApi) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield model_bytes()

    answer = await api.operator.put(
        f"/api/v1/runs/{new_id('run')}/model",
        content=pieces(),
        headers={"X-Kumiai-Digest": digest_of([model_bytes()])},
    )

    assert error_of(answer)[:2] == (411, "config")


async def test_an_empty_upload_is_refused(api: RunningApi) -> None:
    async with raw_connection(api) as (reader, writer):
        writer.write(put_head(new_id("run"), digest_of([b""]), 0))
        answer = await reader.readuntil(b"\r\n")

    assert b" 400 " in answer


async def test_an_upload_that_announces_nothing_is_refused(api: RunningApi) -> None:
    async with raw_connection(api) as (reader, writer):
        head = put_head(new_id("run"), digest_of([b""]), 0)
        writer.write(head.replace(b"Content-Length: 0\r\n", b""))
        answer = await reader.readuntil(b"\r\n")

    assert b" 422 " in answer


@pytest.mark.parametrize(
    ("headers", "kind"),
    [({}, "config"), ({"X-Kumiai-Digest": "abc"}, "integrity")],
)
async def test_an_upload_without_a_digest_is_refused(
    api: RunningApi, headers: dict[str, str], kind: str
) -> None:
    answer = await api.operator.put(
        f"/api/v1/runs/{new_id('run')}/model", content=model_bytes(), headers=headers
    )

    assert answer.json()["error"]["kind"] == kind
    assert api.stored_files() == []


async def test_an_upload_to_an_odd_run_id_is_refused(api: RunningApi) -> None:
    answer = await api.upload("models", model_bytes())

    assert error_of(answer)[:2] == (422, "config")


async def published(api: RunningApi, count: int) -> tuple[str, Sequence[bytes]]:
    run_id = await api.submit(job=job_with(run={"rounds": count}))
    lease = await api.lead(run_id)
    bodies = [model_bytes()]
    for number in range(1, count + 1):
        bodies.append(model_bytes(float(number), size=CHUNK // 4 * number))
        await api.open_round(lease, number, ["a"])
        await api.publish_round(lease, number, bodies[number])
    return run_id, bodies


async def test_a_model_comes_out_as_it_went_in(api: RunningApi) -> None:
    run_id, bodies = await published(api, 2)

    answers = [
        await api.operator.get(f"/api/v1/runs/{run_id}/models/{version}/content")
        for version in ("0", "1", "latest")
    ]

    assert [answer.content for answer in answers] == bodies
    assert [answer.headers["X-Kumiai-Digest"] for answer in answers] == [
        digest_of([body]) for body in bodies
    ]
    assert [answer.headers["X-Kumiai-Round"] for answer in answers] == ["0", "1", "2"]
    assert [int(answer.headers["Content-Length"]) for answer in answers] == list(map(len, bodies))
    assert load(answers[0].content)["weights"].tolist() == [0.0, 0.0, 0.0]
    assert api.parts.meter.sent_bytes == sum(map(len, bodies))


async def test_a_forgotten_version_stays_in_the_list_and_its_absence_is_explained(
    api: RunningApi,
) -> None:
    run_id, bodies = await published(api, 2)
    await api.parts.blobs.delete(f"models/{run_id}", digest_of([bodies[1]]))

    models = (await api.operator.get(f"/api/v1/runs/{run_id}/models")).json()["models"]
    answer = await api.operator.get(f"/api/v1/runs/{run_id}/models/1/content")

    assert [(each["round"], each["is_kept"]) for each in models] == [
        (0, True),
        (1, False),
        (2, True),
    ]
    assert models[1]["size_bytes"] == len(bodies[1])
    status, kind, message = error_of(answer)
    assert (status, kind) == (404, "not_found")
    assert "keep_versions" in message


@pytest.mark.parametrize("version", ["7", "99999999999999999999"])
async def test_a_version_that_does_not_exist_is_not_found(api: RunningApi, version: str) -> None:
    run_id = await api.submit()

    answer = await api.operator.get(f"/api/v1/runs/{run_id}/models/{version}/content")

    assert error_of(answer)[:2] == (404, "not_found")


@pytest.mark.parametrize("version", ["newest", "-1", "1.0", "%D9%A3"])
async def test_an_odd_version_is_refused(api: RunningApi, version: str) -> None:
    run_id = await api.submit()

    answer = await api.operator.get(f"/api/v1/runs/{run_id}/models/{version}/content")

    assert error_of(answer)[:2] == (422, "config")


class _VanishingBlobs(LocalBlobStore):
    async def read(self, namespace: str, digest: str, offset: int, limit: int) -> bytes:
        if offset:
            await self.delete(namespace, digest)
        return await super().read(namespace, digest, offset, limit)


async def test_a_model_that_vanishes_under_way_is_cut_off_not_padded(
    certificates: Certificates, database: DatabaseManager, tmp_path: Path
) -> None:
    blobs = _VanishingBlobs(tmp_path / "vanishing")
    async with running_api(certificates, database, tmp_path, blobs=blobs) as api:
        run_id, _ = await published(api, 2)

        with pytest.raises(httpx.RemoteProtocolError):
            await api.operator.get(f"/api/v1/runs/{run_id}/models/2/content")


async def test_models_of_all_runs_are_found_page_by_page(api: RunningApi) -> None:
    first, second = await api.submit(), await api.submit()
    await api.runs.record_evaluation(await api.lead(first), 0, {"accuracy": 0.5}, 1)
    await api.runs.record_evaluation(await api.lead(second), 0, {"accuracy": 0.75}, 1)

    page = (await api.operator.get("/api/v1/models?limit=1")).json()
    rest = (await api.operator.get(f"/api/v1/models?cursor={page['next']}")).json()
    best = (await api.operator.get("/api/v1/models?order=highest&order_metric=accuracy")).json()
    good = (await api.operator.get("/api/v1/models?metric=accuracy&metric_min=0.6")).json()
    one = (await api.operator.get(f"/api/v1/models?run={first[:12]}")).json()

    assert [each["run_id"] for each in page["models"] + rest["models"]] == [second, first]
    assert rest["next"] is None
    assert [each["run_id"] for each in best["models"]] == [second, first]
    assert [each["model_id"] for each in good["models"]] == [f"{second}.0"]
    assert [each["run_id"] for each in one["models"]] == [first]
    assert all(each["is_kept"] for each in best["models"])


async def test_a_model_is_described_and_found_by_it(api: RunningApi) -> None:
    run_id = await api.submit()

    body = {"description": "good enough", "add_tags": ["approved"]}
    told = await api.operator.patch(f"/api/v1/models/{run_id}.0", json=body)
    missing = await api.operator.patch(f"/api/v1/models/{run_id}.9", json=body)
    found = (await api.operator.get("/api/v1/models?search=enough&tag=approved")).json()

    assert told.json()["tags"] == ["approved"]
    assert error_of(missing)[:2] == (404, "not_found")
    assert [each["model_id"] for each in found["models"]] == [f"{run_id}.0"]
