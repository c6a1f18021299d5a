"""Whole runs in which the coordinator sees the sum and no update, over real mutual TLS."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kumiai.testing.databases import SQLiteTemplate
from tests.integration import study
from tests.integration.federation import Federation, job


@pytest.fixture
async def federation(tmp_path: Path, sqlite_template: SQLiteTemplate) -> AsyncIterator[Federation]:
    federation = Federation(tmp_path, sqlite_template.copy_to(tmp_path / "kumiai.db"))
    await federation.start()
    yield federation
    study.hold.clear()
    await federation.stop()


def hidden_job(**tables: Any) -> dict[str, Any]:
    secure = {"mode": "masking", "value_bits": 20, **tables.pop("secure_aggregation", {})}
    return job(secure_aggregation=secure, **tables)


async def test_the_sum_of_hidden_updates_trains_the_model(federation: Federation) -> None:
    await federation.start_clients(4)

    run_id = await federation.submit(hidden_job(cohort={"size": 4, "min_reports": 4}), study.app)
    await federation.wait_for(run_id, seconds=90)

    model = await federation.model(run_id)
    # Each update is off by less than a step of the quantisation, 4 / 2**19.
    np.testing.assert_allclose(model["w"], np.full(8, 7.5), atol=3e-5)
    assert model["steps"] == 3
