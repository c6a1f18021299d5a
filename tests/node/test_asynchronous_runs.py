"""Asynchronous runs in one process: nobody waits for a slow client, and sums stay exact."""

import threading
from typing import Any

import numpy as np
import pytest

import kumiai as km
from kumiai.node.job import parse_job
from kumiai.node.simulation import RoundResult, RunResult, simulate

SITES = ("a", "b", "c", "slow")


class Slow:
    """A study in which one site trains until so many versions are out; each adds its number."""

    def __init__(self, *, until: int) -> None:
        self.until = until
        self.is_due = threading.Event()
        self.bases: dict[str, list[int]] = {}
        self.app = km.App("slow", data=lambda site: SITES.index(site.name) + 1)
        self.app.model(lambda config: {"w": np.zeros(5, np.float32)})
        self.app.train(self.train)
        self.app.evaluate(self.evaluate)

    def train(self, weights: dict[str, Any], context: km.Context) -> km.Update:
        """Add the site's number, late at the slow site."""
        self.bases.setdefault(context.site, []).append(context.round - 1)
        if context.site == "slow" and not self.is_due.wait(60):
            raise TimeoutError("nobody went on without the slow site")
        return km.Update({"w": weights["w"] + np.float32(context.data)}, examples=10)

    def evaluate(self, weights: dict[str, Any], context: km.Context) -> km.Evaluation:
        """Report the first weight."""
        return km.Evaluation(examples=1, metrics={"first": float(weights["w"][0])})

    def note(self, result: RoundResult) -> None:
        """Let the slow site go on once enough versions are out."""
        if result.round >= self.until:
            self.is_due.set()


def job(rounds: int = 6, **tables: Any) -> Any:
    tables = {
        "run": {"app": "slow", "rounds": rounds},
        "cohort": {"min_reports": 3, "grace_seconds": 30},
        "asynchronous": {"group_size": 3},
        "evaluation": {"every": 1},
        **tables,
    }
    return parse_job(tables)


def ran(study: Slow, job: Any) -> RunResult:
    return simulate(study.app, job, sites=SITES, workers=4, on_round=study.note)


HIDDEN = {"mode": "masking", "value_bits": 20, "clip": 8.0}


@pytest.mark.parametrize(
    "secure",
    [
        {"mode": "none"},
        HIDDEN,
        {**HIDDEN, "verification": "norm", "norm_bound": 20.0},
        {"mode": "paillier", "key_bits": 2048, "clip": 8.0},
    ],
)
def test_versions_come_out_while_a_slow_site_still_trains(secure: dict[str, Any]) -> None:
    study = Slow(until=3)

    result = ran(study, job(secure_aggregation=secure))

    assert [each.reports for each in result.history] == [0, 3, 3, 3, 3, 3, 3]
    assert study.bases["slow"][0] == 0
    # Three fresh updates a version: the mean of 1, 2 and 3.
    for number in range(4):
        assert result.history[number].evaluation["first"] == pytest.approx(2 * number, abs=1e-3)


def test_patience_is_for_clients_to_come_and_not_for_their_training() -> None:
    study = Slow(until=1)

    result = ran(study, job(rounds=2, cohort={"min_reports": 3, "patience_seconds": 1e-6}))

    assert [each.reports for each in result.history] == [0, 3, 3]
