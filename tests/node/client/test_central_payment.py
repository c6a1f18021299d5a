"""A site pays for what will be published of a round, once, however often it is asked to train."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kumiai.core.clock import SystemClock
from kumiai.core.errors import ConfigError, ConflictError
from kumiai.node.central_rounds import CentralTerms, new_central_round
from kumiai.node.client.budget import SiteLedger, read_copy
from kumiai.node.client.tasks import TaskRunner, _Task
from kumiai.node.study import Site
from kumiai.node.wire import kumiai_pb2 as pb

FIRST, SECOND = b"the first opening", b"after a restore"


def pay(folder: Path, opening: bytes, attempt: int, *, has_ledger: bool = True) -> None:
    ledger = SiteLedger(folder, "site-1", SystemClock()) if has_ledger else None
    parts: Any = {"apps": {}, "transfer": None, "send": None}
    runner = TaskRunner(site=Site("site-1", {}), state_dir=folder, ledger=ledger, **parts)
    key = pb.TaskKey(run_id="run-a", round=3, kind=pb.TASK_KIND_TRAIN)
    task = _Task(pb.Task(key=key, app="counting"), 0.0, attempt)
    this = new_central_round(clip=2.0, noise_multiplier=1.0, cohort_size=4, counts_unclipped=False)
    runner._pay_for_opening(task, attempt, CentralTerms(this, opening))


def paid(folder: Path) -> list[str]:
    copy = read_copy(SiteLedger(folder, "site-1", SystemClock()).export())
    return [str(each.key) for each in copy.charges]


@pytest.fixture(autouse=True)
async def loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def test_a_round_that_is_extended_costs_a_site_no_more(tmp_path: Path) -> None:
    pay(tmp_path, FIRST, 1)
    pay(tmp_path, FIRST, 1)
    pay(tmp_path, FIRST, 3)

    assert paid(tmp_path) == ["run-a/3/1"]


async def test_a_round_that_is_opened_again_is_paid_for_anew(tmp_path: Path) -> None:
    pay(tmp_path, FIRST, 1)

    with pytest.raises(ConflictError, match="asks twice for one price"):
        pay(tmp_path, SECOND, 1)
    pay(tmp_path, SECOND, 2)
    pay(tmp_path, SECOND, 3)

    assert paid(tmp_path) == ["run-a/3/1", "run-a/3/2"]


async def test_a_site_without_a_ledger_sends_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keeps no ledger"):
        pay(tmp_path, FIRST, 1, has_ledger=False)
