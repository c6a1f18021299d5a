"""Two coordinators race for the last of a budget while both are killed at random, again and again.

Whatever happens: nothing is published that was not paid for, no price pays for two sets of bytes,
no budget is exceeded, and the chain holds. A few seconds here; ``make chaos`` kills 500 times on
each database, or ``CHAOS_KILLS`` times.
"""

import asyncio
import os
import secrets
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from kumiai.privacy.ledger import EntryKind, LedgerEntry
from kumiai.storage import BudgetRepository, DatabaseManager, RunRepository
from tests.storage.programs.spender import SEEN, prepare
from tests.zygote import Child, Zygote

KILLS = int(os.environ.get("CHAOS_KILLS", "500"))
SECONDS_MAX = 0.5
"""The longest that a coordinator lives after it was started; it needs a tenth to release."""


class Spenders:
    """Two coordinators, each started again when it is killed."""

    def __init__(self, zygote: Zygote, url: str, folder: Path) -> None:
        self._zygote = zygote
        self._url = url
        self.folder = folder
        seed = int(os.environ.get("CHAOS_SEED", secrets.randbits(32)))
        print(f"\nCHAOS_SEED={seed}")
        self._random = np.random.default_rng(seed)
        self.kills = 0

    async def kill_often(self, count: int) -> None:
        await asyncio.gather(*(self._kill(name, count // 2) for name in ("first", "second")))

    async def _kill(self, name: str, count: int) -> None:
        for _ in range(count):
            child = await self.started(name)
            await asyncio.sleep(self._random.uniform(0.02, SECONDS_MAX))
            await child.kill()
            assert child.was_killed, child.last_lines()
            self.kills += 1

    async def started(self, name: str) -> Child:
        return await self._zygote.fork(
            [self._url, str(self.folder), name],
            program="tests.storage.programs.spender",
            environment={},
            log=self.folder / f"{name}.log",
        )


async def verify_nothing_was_given_away(
    url: str, folder: Path, *, releases_max: int
) -> Counter[EntryKind]:
    """Check the ledger against what a reader of models has seen; return its entries by kind."""
    database = DatabaseManager(url)
    await database.connect()
    budgets, runs = BudgetRepository(database), RunRepository(database)
    checked = await budgets.check()
    assert list(checked.mended) == []
    entries: list[LedgerEntry] = []
    while more := await budgets.entries(len(entries)):
        entries += more
    models = {each.round: each.digest for each in await runs.models("run-a")}
    await database.close()

    places = {(entry.key, entry.kind): entry.sequence for entry in entries}
    digests = {entry.key: entry.content["digest"] for entry in of_kind(entries, EntryKind.SEALED)}
    published = {}
    for entry in of_kind(entries, EntryKind.RELEASED):
        order = [places[entry.key, kind] for kind in (EntryKind.CHARGED, EntryKind.SEALED)]
        assert order[0] < order[1] < entry.sequence
        number = int(entry.key.split("/")[1])
        assert number not in published, "a round is published once"
        published[number] = (digests[entry.key], entry.content["model"])
    assert {number: model for number, (_, model) in published.items()} == {
        number: model for number, model in models.items() if number > 0
    }
    lines = (folder / SEEN).read_text(encoding="utf-8").splitlines(keepends=True)
    seen = [line.split() for line in lines if line.endswith("\n")]
    assert all(published[int(number)] == (noised, model) for number, noised, model in seen)
    kinds = Counter(entry.kind for entry in entries)
    assert kinds[EntryKind.CHARGED] <= releases_max
    return kinds


def of_kind(entries: list[LedgerEntry], kind: EntryKind) -> list[LedgerEntry]:
    return [entry for entry in entries if entry.kind is kind]


@pytest.mark.integration
async def test_killed_coordinators_publish_nothing_that_is_not_paid_for(
    zygote: Zygote, database_url: str, tmp_path: Path
) -> None:
    await prepare(database_url, 1000)
    spenders = Spenders(zygote, database_url, tmp_path)

    await spenders.kill_often(20)

    kinds = await verify_nothing_was_given_away(database_url, tmp_path, releases_max=1000)
    assert kinds[EntryKind.RELEASED] > 0


@pytest.mark.integration
async def test_racing_coordinators_spend_a_budget_to_its_end_and_no_further(
    zygote: Zygote, database_url: str, tmp_path: Path
) -> None:
    await prepare(database_url, 7)
    spenders = Spenders(zygote, database_url, tmp_path)
    children = [await spenders.started(name) for name in ("first", "second")]

    async with asyncio.timeout(30):
        while not (tmp_path / "exhausted").exists():
            await asyncio.sleep(0.02)
    for child in children:
        await child.kill()

    kinds = await verify_nothing_was_given_away(database_url, tmp_path, releases_max=7)
    assert kinds[EntryKind.CHARGED] == 7


@pytest.mark.chaos
async def test_coordinators_killed_hundreds_of_times_publish_nothing_that_is_not_paid_for(
    zygote: Zygote, database_url: str, tmp_path: Path
) -> None:
    await prepare(database_url, KILLS)
    spenders = Spenders(zygote, database_url, tmp_path)

    await spenders.kill_often(KILLS)

    kinds = await verify_nothing_was_given_away(database_url, tmp_path, releases_max=KILLS)
    print(f"{spenders.kills} kills: {dict(sorted(kinds.items()))}")
    assert kinds[EntryKind.RELEASED] > 0
