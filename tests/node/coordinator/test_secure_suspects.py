"""Who is in the wrong sums of a run, whoever else is in them, is left out; until they go on."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.node.coordinator.secure.summing import SumParts
from kumiai.node.coordinator.secure.sums import SecureSums
from kumiai.storage import DatabaseManager, RunRepository, SecureRoundRepository
from kumiai.testing.databases import SQLiteTemplate
from tests.storage.leading import TTL_SECONDS, Leading, new_run

NOT_USED: Any = None


class Trail:
    """Keeps what was written into the audit log of whom."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []

    async def append(self, connection: AsyncConnection, entry: Any) -> int:
        self.told.append((str(entry.act), entry.actor.name, str(entry.outcome)))
        return 0


@pytest.fixture
async def database(
    sqlite_template: SQLiteTemplate, tmp_path: Path
) -> AsyncIterator[DatabaseManager]:
    database = DatabaseManager(sqlite_template.copy_to(tmp_path / "kumiai.db"))
    await database.connect()
    yield database
    await database.close()


@pytest.fixture
async def leading(database: DatabaseManager) -> Leading:
    runs = RunRepository(database)
    await runs.create(new_run())
    lease = await runs.acquire_lease("run-a", "leader-1", TTL_SECONDS)
    assert lease is not None
    await runs.start(lease)
    leading = Leading(runs, lease)
    await leading.open()
    return leading


async def test_a_client_is_left_out_while_the_wrong_sums_point_to_it(
    database: DatabaseManager, leading: Leading
) -> None:
    trail = Trail()
    secure = SecureRoundRepository(database, trail=trail)
    current = await leading.runs.round("run-a", 1)
    with ThreadPoolExecutor(1) as worker:
        sums = SecureSums(
            SumParts(secure, NOT_USED, NOT_USED, worker),
            members=NOT_USED,
            mailbox=NOT_USED,
            own_key=NOT_USED,
            verifier=NOT_USED,
            proofs=NOT_USED,
            facts=NOT_USED,
        )

        async def after(*groups: tuple[str, ...]) -> frozenset[str]:
            await sums.blame(leading.lease, current, groups)
            return await sums.suspects("run-a")

        assert await after(("liar", "victim", "c")) == frozenset()
        assert await after(("accomplice", "victim", "d")) == {"victim"}
        assert await after(("accomplice", "victim", "d")) == {"victim"}
        assert await after(("liar", "e", "f")) == frozenset()
        assert await after(("liar", "g", "c"), ("accomplice", "h", "f")) == {"accomplice", "liar"}

    kinds = [(each.kind, each.client_id) for each in await leading.runs.events("run-a")]
    assert [each for each in kinds if each[1] is not None] == [
        ("client_suspected", "victim"),
        ("client_cleared", "victim"),
        ("client_suspected", "accomplice"),
        ("client_suspected", "liar"),
    ]
    assert [each for each in trail.told if each[0] != "sum.refused"] == [
        ("client.excluded", "victim", "refused"),
        ("client.readmitted", "victim", "done"),
        ("client.excluded", "accomplice", "refused"),
        ("client.excluded", "liar", "refused"),
    ]
    assert len(trail.told) == 5 + 4
