"""Coordinators with a cache: what their readers see while Redis dies, and after each change."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from kumiai.testing.redis_server import RedisServer
from tests.integration import study
from tests.integration.federation import Federation, job


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """Lend a Redis of this test's own, for it is killed."""
    server = RedisServer({"appendonly": "yes", "appendfsync": "always"})
    yield server
    server.remove()


@pytest.fixture
async def federation(
    tmp_path: Path, redis: RedisServer, database_url: str
) -> AsyncIterator[Federation]:
    federation = Federation(tmp_path, database_url, storage={"redis": f"{redis.url}/0"})
    await federation.start()
    yield federation
    await federation.stop()


async def hits(federation: Federation) -> float:
    async with federation.http() as http:
        page = (await http.get("/metrics")).text
    return next(
        float(line.split()[1])
        for line in page.splitlines()
        if line.startswith("kumiai_cache_hits_total ")
    )


async def shown(federation: Federation, path: str) -> Any:
    async with federation.http() as http:
        answer = await http.get(f"/api/v1/{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()


async def described(federation: Federation, run_id: str, text: str) -> None:
    async with federation.http() as http:
        answer = await http.patch(f"/api/v1/runs/{run_id}", json={"description": text})
        assert answer.status_code == 200, answer.text


async def test_a_run_that_has_ended_is_read_from_redis_and_its_changes_at_once(
    federation: Federation,
) -> None:
    await federation.start_clients(2)
    run_id = await federation.submit(job(cohort={"size": 2}), study.app)
    await federation.wait_for(run_id)
    first = await shown(federation, f"runs/{run_id}/rounds")

    before = await hits(federation)
    assert await shown(federation, f"runs/{run_id}/rounds") == first
    assert await hits(federation) > before

    for text in ("one", "two", "three"):
        await described(federation, run_id, text)
        assert (await shown(federation, f"runs/{run_id}"))["description"] == text


async def test_redis_killed_in_the_middle_of_a_run_disturbs_nobody(
    federation: Federation, redis: RedisServer
) -> None:
    await federation.start_clients(2)
    ended = await federation.submit(job(cohort={"size": 2}), study.app)
    await federation.wait_for(ended)
    await shown(federation, f"runs/{ended}")
    run_id = await federation.submit(job(run={"rounds": 6}, cohort={"size": 2}), study.app)
    await federation.until_round(run_id, 2)

    redis.kill()
    await described(federation, ended, "while redis was away")
    assert (await shown(federation, f"runs/{ended}"))["description"] == "while redis was away"
    redis.start()

    run = await federation.wait_for(run_id)
    assert run["round"] == 6
    for _ in range(5):  # Redis is back with what it remembers from before
        assert (await shown(federation, f"runs/{ended}"))["description"] == "while redis was away"
        await asyncio.sleep(0)
    names = {each["client_id"] for each in (await shown(federation, "clients"))["clients"]}
    assert names == {"site-1", "site-2"}


async def test_a_coordinator_starts_without_redis_and_takes_it_up_later(
    federation: Federation, redis: RedisServer
) -> None:
    await federation.stop()
    redis.kill()

    await federation.start()
    await federation.start_clients(2)
    run_id = await federation.submit(job(cohort={"size": 2}), study.app)
    await federation.wait_for(run_id)
    redis.start()

    before = await hits(federation)
    async with asyncio.timeout(30):
        while await hits(federation) == before:
            await shown(federation, f"runs/{run_id}/rounds")
