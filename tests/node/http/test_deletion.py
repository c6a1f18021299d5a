import os
from pathlib import Path
from typing import Never

import pytest

from kumiai.core.clock import SystemClock
from kumiai.core.errors import StorageError
from kumiai.core.ids import new_id
from kumiai.storage import LocalBlobStore
from tests.node.http.api import RunningApi, error_of, model_bytes

HOUR = 3600.0


async def ended_run(api: RunningApi) -> str:
    """Return a run that has published a round and ended."""
    run_id = await api.submit()
    lease = await api.lead(run_id)
    await api.open_round(lease, 1, ["a"])
    await api.publish_round(lease, 1)
    await api.runs.finish(lease, "finished", "done")
    return run_id


def make_old(folder: Path) -> None:
    """Let an hour pass for all that is stored."""
    then = SystemClock().now() - HOUR
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


async def test_a_run_that_has_ended_is_deleted_with_its_models(api: RunningApi) -> None:
    run_id, other = await ended_run(api), await ended_run(api)
    make_old(api.blob_folder)
    (await api.operator.get(f"/api/v1/runs/{run_id}")).raise_for_status()

    answer = await api.operator.delete(f"/api/v1/runs/{run_id}")
    again = await api.operator.delete(f"/api/v1/runs/{run_id}")

    size_bytes = len(model_bytes()) + len(model_bytes(1.0))
    assert answer.status_code == 200
    assert answer.json() == {
        "run_id": run_id, "count": 2, "size_bytes": size_bytes, "left_count": 0,
    }  # fmt: skip
    assert error_of(again)[:2] == (404, "not_found")
    assert (await api.operator.get(f"/api/v1/runs/{run_id}")).status_code == 404
    listed = (await api.operator.get("/api/v1/models")).json()["models"]
    assert {model["run_id"] for model in listed} == {other}
    files = (path for path in api.blob_folder.rglob("*") if path.is_file())
    assert {path.parent.name for path in files} == {other}


async def test_what_is_young_of_a_deleted_run_is_left_for_the_sweep(api: RunningApi) -> None:
    run_id = await ended_run(api)

    told = (await api.operator.delete(f"/api/v1/runs/{run_id}")).json()

    assert (told["count"], told["size_bytes"], told["left_count"]) == (0, 0, 2)
    assert len(api.stored_files()) == 2


@pytest.mark.parametrize("is_led", [False, True])
async def test_a_run_that_goes_on_is_not_deleted(api: RunningApi, is_led: bool) -> None:
    run_id = await api.submit()
    if is_led:
        await api.lead(run_id)
    make_old(api.blob_folder)

    status, kind, message = error_of(await api.operator.delete(f"/api/v1/runs/{run_id}"))

    assert (status, kind) == (409, "conflict")
    assert "stop it first" in message
    assert await api.runs.find(run_id) is not None
    assert len(api.stored_files()) == 1


async def test_a_beginning_of_an_id_deletes_nothing(api: RunningApi) -> None:
    run_id = await ended_run(api)

    answer = await api.operator.delete(f"/api/v1/runs/{run_id[:-1]}")

    assert error_of(answer)[:2] == (404, "not_found")
    assert await api.runs.find(run_id) is not None


async def test_a_deleted_run_s_id_can_be_used_again(api: RunningApi) -> None:
    run_id = await ended_run(api)
    (await api.operator.delete(f"/api/v1/runs/{run_id}")).raise_for_status()

    await api.submit(run_id)

    assert (await api.runs.get(run_id)).state == "submitted"
    assert [model.round for model in await api.runs.models(run_id)] == [0]


async def test_a_store_that_fails_leaves_the_rest_to_the_sweep_and_says_so(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await ended_run(api)

    def broken(*_: object) -> Never:
        raise StorageError("blob folder must be readable, got an I/O error")

    monkeypatch.setattr(LocalBlobStore, "list_blobs", broken)
    status, kind, message = error_of(await api.operator.delete(f"/api/v1/runs/{run_id}"))

    assert (status, kind) == (503, "storage")
    assert f"run {run_id} is deleted" in message
    assert "I/O error" in message
    assert await api.runs.find(run_id) is None


async def test_only_an_operator_deletes_a_run(api: RunningApi) -> None:
    run_id = await ended_run(api)

    answer = await api.caller(api.certificates.client).delete(f"/api/v1/runs/{run_id}")

    assert error_of(answer)[:2] == (403, "denied")
    assert await api.runs.find(run_id) is not None


async def test_a_run_that_never_was_can_not_be_deleted(api: RunningApi) -> None:
    answer = await api.operator.delete(f"/api/v1/runs/{new_id('run')}")

    assert error_of(answer)[:2] == (404, "not_found")
