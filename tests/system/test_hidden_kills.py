"""Secure rounds survive kills: whoever dies between two steps, the sum is the same.

Quantisation rounds at random, so models are compared within what it may move them; each mistake
that matters (an update twice, one left out, a mask left in) moves them by far more.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kumiai as km
from kumiai.core.codec import decode
from kumiai.crypto.signatures import Ed25519Verifier
from kumiai.node.client.secure.known_peers import PEERS_FILE, KnownPeers, clients_of
from kumiai.node.coordinator.rounds import client_seed
from kumiai.secagg import verify_receipt
from kumiai.testing.databases import SQLiteTemplate
from tests.system import study
from tests.system.deaths import (
    SECONDS,
    died_at,
    with_a_killed_client,
    with_a_killed_coordinator,
)
from tests.system.federation import SITES, Federation, attempts_of
from tests.zygote import Zygote

# Others cover what it repeats, and to be watched would double its time.
pytestmark = pytest.mark.no_cover

RECEIPT_SECONDS = 60.0
ROUNDS = 2
JOB: dict[str, Any] = {
    "run": {"app": "wandering", "rounds": ROUNDS, "seed": 7},
    "cohort": {"size": 3, "min_reports": 3, "grace_seconds": 60.0},
    "secure_aggregation": {"mode": "masking", "value_bits": 20, "clip": 32.0, "phase_seconds": 80},
    "train": {"size": 2_000},
    "evaluation": {"every": 0},
}
STEP = 32.0 / 2**19

SECOND = "coordinator.round.opened:2"
COORDINATOR_DEATHS = [
    # The round is written down, then told.
    f"{SECOND}>storage.open_secure_round.commit.before",
    f"{SECOND}>storage.open_secure_round.commit.after",
    f"{SECOND}>coordinator.secure.opened",
    # Keys, shares, inputs, agreements, unmasking, confirmations: each step before it is told.
    f"{SECOND}>storage.append_secure_records.commit.before:3",
    f"{SECOND}>storage.append_secure_records.commit.after:2",
    f"{SECOND}>coordinator.secure.recorded:5",
    f"{SECOND}>coordinator.update.before_ack:2",
    "storage.close_round.commit.after:2",
    "coordinator.round.aggregated:2",
    "coordinator.round.published:2",
    # The model is out, the receipts are not.
    "storage.end_secure_round.commit.before:2",
    "storage.end_secure_round.commit.after:2",
]
CLIENT_DEATHS = [
    "client.secure.recorded:3",
    "client.secure.recorded:5",
    "client.secure.counted:1",
    "client.secure.counted:4",
    "client.secure.before_send:2",
    "client.secure.before_send:5",
]
MORE_COORDINATOR_DEATHS = [
    *(f"{SECOND}>storage.append_secure_records.commit.before:{number}" for number in (1, 6)),
    *(f"{SECOND}>storage.append_secure_records.commit.after:{number}" for number in (4, 7)),
    *(f"{SECOND}>coordinator.secure.recorded:{number}" for number in (1, 2, 8)),
]
MORE_CLIENT_DEATHS = [
    *(f"client.secure.recorded:{number}" for number in (1, 2, 4, 6, 7)),
    *(f"client.secure.counted:{number}" for number in (3, 5, 7)),
    *(f"client.secure.before_send:{number}" for number in (1, 4, 6)),
]
"""The same points at other steps; `make chaos` dies there too."""
WITH_A_NEW_ATTEMPT = ["storage.restart_round.commit.before", "storage.restart_round.commit.after"]

ENCRYPTED_JOB: dict[str, Any] = {
    **JOB,
    "secure_aggregation": {**JOB["secure_aggregation"], "mode": "paillier", "key_bits": 2048},
}
ENCRYPTED_COORDINATOR_DEATHS = [f"{SECOND}>coordinator.secure.recorded:{each}" for each in (2, 7)]
ENCRYPTED_CLIENT_DEATHS = ["client.secure.recorded:4", "client.secure.counted:6"]
MORE_ENCRYPTED_COORDINATOR_DEATHS = [
    *(f"{SECOND}>coordinator.secure.recorded:{number}" for number in (1, 3, 4, 5, 6, 8)),
    *(f"{SECOND}>storage.append_secure_records.commit.before:{number}" for number in (1, 5, 8)),
]
MORE_ENCRYPTED_CLIENT_DEATHS = [
    *(f"client.secure.recorded:{number}" for number in (1, 2, 3, 5, 6, 7)),
    *(f"client.secure.before_send:{number}" for number in (2, 3, 4)),
]

POINTS = {
    re.sub(r":\d+$", "", death.rpartition(">")[2])
    for death in (*COORDINATOR_DEATHS, *CLIENT_DEATHS, *WITH_A_NEW_ATTEMPT)
}


def chaotic(death: str) -> Any:
    return pytest.param(death, marks=pytest.mark.chaos)


@pytest.fixture
async def federation(
    tmp_path: Path, sqlite_template: SQLiteTemplate, zygote: Zygote
) -> AsyncIterator[Federation]:
    federation = Federation(tmp_path, sqlite_template.copy_to(tmp_path / "kumiai.db"), zygote)
    yield federation
    study.release_all()
    await federation.stop()


def expected() -> np.ndarray[Any, Any]:
    """Return what the same study gives in the clear, computed here."""
    model = study.model(JOB["train"])
    weights = np.array([10.0, 20.0, 30.0])
    for number in range(1, ROUNDS + 1):
        steps = []
        for index, site in enumerate(SITES, start=1):
            trained = {name: array.copy() for name, array in model.items()}
            context = study.app.context(
                km.Site(site, {"number": index}),
                round=number,
                rounds=ROUNDS,
                config=JOB["train"],
                seed=client_seed(7, number, site),
            )
            steps.append(study.app.train_function(trained, context).weights["w"] - model["w"])
        mean = np.average(np.stack(steps).astype(np.float64), axis=0, weights=weights)
        model["w"] = (model["w"] + mean).astype(np.float32)
    return model["w"]


async def model_of(federation: Federation, run_id: str) -> dict[str, np.ndarray[Any, Any]]:
    async with federation.http() as http:
        answer = await http.get(f"/api/v1/runs/{run_id}/models/latest/content")
    assert answer.status_code == 200, answer.text
    return dict(decode(answer.content).arrays)


async def verify_run(federation: Federation, run_id: str, *, receipts: tuple[str, ...]) -> None:
    model = await model_of(federation, run_id)
    np.testing.assert_allclose(model["w"], expected(), atol=2 * ROUNDS * STEP)
    assert model["steps"] == ROUNDS
    for site in receipts:
        await verify_receipts(federation.folder / "clients" / site / "secure", site, run_id)


async def verify_receipts(folder: Path, site: str, run_id: str) -> None:
    roster = clients_of(KnownPeers(folder / PEERS_FILE).load())
    for number in range(1, ROUNDS + 1):
        content = await receipt_in(folder / "receipts" / f"{run_id}.{number}.receipt")
        facts = verify_receipt(content, roster, verifier=Ed25519Verifier())
        assert (facts.client, facts.round_number, facts.survivors) == (site, number, SITES)
        assert facts.weight == 10 * int(site[-1])


async def receipt_in(path: Path) -> bytes:
    """Return a receipt, which comes after the model: later still to whoever was away then."""
    async with asyncio.timeout(RECEIPT_SECONDS):
        while not path.exists():
            await asyncio.sleep(0.05)
    return path.read_bytes()


@pytest.mark.parametrize(
    "death", [*COORDINATOR_DEATHS, *(chaotic(each) for each in MORE_COORDINATOR_DEATHS)]
)
async def test_a_killed_coordinator_goes_on_with_the_same_sum(
    federation: Federation, death: str
) -> None:
    run_id = await with_a_killed_coordinator(federation, JOB, death)

    assert set(await attempts_of(federation, run_id)) == {1}
    await verify_run(federation, run_id, receipts=SITES)


@pytest.mark.parametrize("death", [*CLIENT_DEATHS, *(chaotic(each) for each in MORE_CLIENT_DEATHS)])
async def test_a_killed_client_says_the_same_again(federation: Federation, death: str) -> None:
    run_id = await with_a_killed_client(federation, JOB, death)

    assert set(await attempts_of(federation, run_id)) == {1}
    await verify_run(federation, run_id, receipts=("site-1", "site-2"))


@pytest.mark.parametrize(
    "death",
    [*ENCRYPTED_COORDINATOR_DEATHS, *(chaotic(each) for each in MORE_ENCRYPTED_COORDINATOR_DEATHS)],
)
async def test_a_killed_coordinator_goes_on_with_the_same_encrypted_sum(
    federation: Federation, death: str
) -> None:
    run_id = await with_a_killed_coordinator(federation, ENCRYPTED_JOB, death)

    assert set(await attempts_of(federation, run_id)) == {1}
    await verify_run(federation, run_id, receipts=SITES)


@pytest.mark.parametrize(
    "death", [*ENCRYPTED_CLIENT_DEATHS, *(chaotic(each) for each in MORE_ENCRYPTED_CLIENT_DEATHS)]
)
async def test_a_killed_client_encrypts_the_same_bytes_again(
    federation: Federation, death: str
) -> None:
    run_id = await with_a_killed_client(federation, ENCRYPTED_JOB, death, name="site-1")

    assert set(await attempts_of(federation, run_id)) == {1}
    await verify_run(federation, run_id, receipts=("site-2", "site-3"))


@pytest.mark.parametrize("death", WITH_A_NEW_ATTEMPT)
async def test_a_coordinator_killed_while_a_round_begins_anew_begins_it_anew(
    federation: Federation, death: str
) -> None:
    study.hold_back("site-3", 2)
    await federation.start_coordinator(f"{SECOND}>{death}")
    federation.coordinator.on_death = study.release_all
    federation.start_living_clients(*SITES)
    async with federation.within(SECONDS):
        cohort = {**JOB["cohort"], "deadline_seconds": 2.0, "max_attempts": 100}
        run_id = await federation.submit({**JOB, "cohort": cohort})
        await federation.wait_for_end(run_id)

    died_at(federation.coordinator, death)
    await verify_run(federation, run_id, receipts=())
