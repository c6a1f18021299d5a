"""Noised updates at a site: kept, paid for, and the same bytes however often they are asked."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kumiai.core.clock import SystemClock
from kumiai.core.errors import BudgetExhaustedError, ConfigError, ConflictError, StorageError
from kumiai.node.client.budget import SiteLedger, limits_of, read_copy
from kumiai.node.client.private_updates import PrivateUpdates
from kumiai.node.settings import ClientSettings
from kumiai.node.study import Update
from kumiai.privacy import TrainingTerms, event_to_json

TERMS = TrainingTerms(clip=1.0, noise_multiplier=2.0, sampling_rate=0.1, steps=20, batch=4.0)


class Site:
    """A site's ledger and its folder; opened again it is the same site after a restart."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        limits = limits_of(ClientSettings(**settings), "site-1")
        self.folder = folder / "private-updates"
        self.ledger = SiteLedger(folder, "site-1", SystemClock(), limits)
        self.updates = PrivateUpdates(self.folder, self.ledger)
        self.trained = 0

    def train(self) -> Update:
        self.trained += 1
        return Update({"w": np.random.default_rng().normal(size=5)}, 1)

    def paid(self, run_id: str = "run-1", number: int = 3) -> Any:
        return self.updates.paid(run_id, number, "heart", TERMS, self.train)["w"].tolist()

    def charged(self) -> list[tuple[str, list[dict[str, int]]]]:
        charges = read_copy(self.ledger.export()).charges
        return [(str(e.key), [dict(s.events) for s in e.charge.spends]) for e in charges]


def test_all_steps_are_paid_for_before_an_update_leaves(tmp_path: Path) -> None:
    site = Site(tmp_path)

    site.paid()

    assert site.charged() == [("run-1/3/1", [{event_to_json(TERMS.event): 20}])]


def test_a_task_that_comes_again_sends_the_same_noise_and_pays_once(tmp_path: Path) -> None:
    once = Site(tmp_path).paid()
    restarted = Site(tmp_path)

    again = restarted.paid()

    assert again == once
    assert restarted.trained == 0
    assert len(restarted.charged()) == 1


def test_a_crash_between_keeping_and_paying_costs_nothing_twice(tmp_path: Path) -> None:
    site = Site(tmp_path)
    failing = PrivateUpdates(site.folder, _Failing(tmp_path, "site-1", SystemClock()))
    with pytest.raises(StorageError):
        failing.paid("run-1", 3, "heart", TERMS, site.train)

    site.paid()

    assert site.trained == 1
    assert len(site.charged()) == 1


class _Failing(SiteLedger):
    def charge(self, *arguments: Any, **settings: Any) -> None:
        raise StorageError("the disk is full")


@pytest.mark.parametrize(
    ("app", "terms"), [("heart", replace(TERMS, noise_multiplier=9.0)), ("lungs", TERMS)]
)
def test_what_was_kept_unpaid_never_leaves_at_the_price_of_another_task(
    tmp_path: Path, app: str, terms: TrainingTerms
) -> None:
    site = Site(tmp_path)
    failing = PrivateUpdates(site.folder, _Failing(tmp_path, "site-1", SystemClock()))
    with pytest.raises(StorageError):
        failing.paid("run-1", 3, "heart", TERMS, site.train)

    site.updates.paid("run-1", 3, app, terms, site.train)

    assert site.trained == 2


def test_another_noise_at_the_same_price_never_leaves(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.paid()
    for file in site.folder.iterdir():
        file.unlink()

    with pytest.raises(ConflictError, match="must have the update that this site has paid for"):
        site.paid()

    assert site.paid(number=4)
    assert len(site.charged()) == 2


def test_a_site_that_can_not_pay_does_not_train(tmp_path: Path) -> None:
    site = Site(tmp_path, budget_epsilon=0.01, counters_dir=tmp_path)

    with pytest.raises(BudgetExhaustedError, match="client/site-1"):
        site.paid()

    assert site.trained == 0
    assert not site.charged()


def test_what_is_spent_in_one_run_is_spent_for_the_next(tmp_path: Path) -> None:
    site = Site(tmp_path, budget_epsilon=3.0, counters_dir=tmp_path)

    def pay_for_many() -> None:
        for number in range(1, 100):
            site.paid(f"run-{number}")

    with pytest.raises(BudgetExhaustedError):
        pay_for_many()

    (standing,) = site.ledger.standings()
    assert 1 < len(site.charged()) < 99
    assert 2.5 < standing.spent <= 3.0


def test_only_the_newest_updates_are_kept(tmp_path: Path) -> None:
    site = Site(tmp_path)

    for number in range(1, 8):
        site.paid(number=number)

    rounds = {int(file.name.split(".")[1]) for file in site.folder.iterdir()}
    assert rounds == {4, 5, 6, 7}


def test_a_run_whose_name_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run"):
        Site(tmp_path).paid("run*1")


def test_a_folder_that_can_not_be_read_is_told(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.paid()
    (kept,) = site.folder.iterdir()
    kept.unlink()
    kept.mkdir()

    with pytest.raises(StorageError, match="cannot read"):
        site.paid()
