"""Whole runs whose updates are encrypted with a key that clients share, over real mutual TLS."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from tests.integration import study
from tests.integration.eventually import eventually
from tests.integration.federation import Federation, job

STEP = 4 / (2**19 - 1)


@pytest.fixture
def site_settings() -> dict[str, Any]:
    return {"accepts_paillier": True}


def encrypted_job(rounds: int = 2, size: int = 3, **tables: Any) -> dict[str, Any]:
    secure = {"mode": "paillier", "key_bits": 2048, "value_bits": 20}
    secure |= tables.pop("secure_aggregation", {})
    cohort = {"size": size, "min_reports": size, **tables.pop("cohort", {})}
    run = {"rounds": rounds, **tables.pop("run", {})}
    return job(run=run, cohort=cohort, secure_aggregation=secure, **tables)


async def assert_model(federation: Federation, run_id: str, value: float) -> None:
    model = await federation.model(run_id)
    np.testing.assert_allclose(model["w"], np.full(model["w"].shape, value), atol=6 * STEP)


async def until_uploaded(federation: Federation, run_id: str, count: int) -> None:
    """Return once so many updates of the first round are in the sum."""
    async with federation.http() as http:

        async def look() -> Any:
            return (await http.get(f"/api/v1/runs/{run_id}/explain")).json()

        await eventually(look, lambda told: len(_answered(told)) >= count)


def _answered(told: Any) -> list[str]:
    hidden = told.get("hidden") or {}
    return hidden["answered"] if hidden.get("phase") == "collecting" else []


@pytest.mark.parametrize("verification", ["sum", "off"])
async def test_the_sum_of_encrypted_updates_trains_the_model(
    federation: Federation, verification: str
) -> None:
    federation.client_settings["requires_verification"] = verification == "sum"
    await federation.start_clients(4)

    run_id = await federation.submit(
        encrypted_job(size=4, secure_aggregation={"verification": verification}), study.app
    )
    await federation.wait_for(run_id, seconds=90)

    await assert_model(federation, run_id, 2 * 2.5)


async def test_uploads_of_several_ciphertexts_are_added_in_their_places(
    federation: Federation,
) -> None:
    await federation.start_clients(3)

    run_id = await federation.submit(encrypted_job(1, train={"size": 3000}), study.app)
    await federation.wait_for(run_id, seconds=120)

    await assert_model(federation, run_id, 2.0)


async def test_sites_take_no_part_that_have_not_said_that_they_accept_it(
    federation: Federation,
) -> None:
    federation.client_settings.clear()
    await federation.start_clients(3)

    run_id = await federation.submit(
        encrypted_job(1, cohort={"max_attempts": 1, "deadline_seconds": 20}), study.app
    )
    await federation.wait_for(run_id, "failed", seconds=60)

    async with federation.http() as http:
        events = (await http.get(f"/api/v1/runs/{run_id}/events")).json()["events"]
    assert any("client.accepts_paillier = true" in each["text"] for each in events)


async def test_a_site_that_vanishes_before_its_upload_is_left_out(federation: Federation) -> None:
    study.hold["site-4"] = threading.Event()
    await federation.start_clients(4)

    run_id = await federation.submit(
        encrypted_job(1, 4, cohort={"min_reports": 3, "grace_seconds": 0.1}), study.app
    )
    await federation.wait_for(run_id, seconds=60)

    await assert_model(federation, run_id, 2.0)


async def test_a_coordinator_that_restarts_in_a_round_goes_on_with_it(
    federation: Federation,
) -> None:
    study.hold["site-3"] = threading.Event()
    await federation.start_clients(3)
    run_id = await federation.submit(encrypted_job(1), study.app)
    await until_uploaded(federation, run_id, 2)

    assert federation.server is not None
    await federation.server.stop()
    await federation.start()
    study.hold["site-3"].set()
    run = await federation.wait_for(run_id, seconds=90)

    await assert_model(federation, run_id, 2.0)
    async with federation.http() as http:
        events = (await http.get(f"/api/v1/runs/{run_id}/events")).json()["events"]
    assert run["state"] == "finished"
    assert not any("anew" in each["text"] for each in events)


async def test_a_site_that_restarts_in_a_round_goes_on_with_it(federation: Federation) -> None:
    study.hold["site-3"] = threading.Event()
    await federation.start_clients(3)
    run_id = await federation.submit(encrypted_job(1), study.app)
    await until_uploaded(federation, run_id, 2)

    await federation.stop_client("site-1")
    federation.start_client("site-1", data={"number": 1})
    await asyncio.gather(*(agent.attached.wait() for agent in federation.agents.values()))
    study.hold["site-3"].set()
    await federation.wait_for(run_id, seconds=90)

    await assert_model(federation, run_id, 2.0)
