"""An audit of whole private runs, by canaries: what comes out of one tells no more than it claims.

Each of seven thousand records pulls at a number of its own, far harder than its clip, and is there
or not by a coin. Whoever has the model guesses the coins. Two bounds follow from how often that is
right: one that holds whatever the run does with the records among each other, and one that takes
the numbers for as many releases, of which each hides one record; the latter is close.

Source: Steinke, Nasr, Jagielski 2023, "Privacy Auditing with One (1) Training Run", theorem 5.2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import kumiai as km
from kumiai.node import contributions
from kumiai.node.job import JobSpec, parse_job
from kumiai.node.noised_rounds import plan_of
from kumiai.node.simulation import simulate
from kumiai.privacy import RecordSum
from kumiai.secagg import quantizing
from tests.privacy.auditing import audited_epsilon, halved

SITES, RECORDS_PER_SITE = 10, 700
CANARIES = SITES * RECORDS_PER_SITE
DELTA = 1e-5
DELTA_OF_ONE_RUN = 1e-7
"""That bound loses this much for each canary."""
GUESSES = CANARIES // 20
CHANCE = 1e-3
"""Of a false alarm of the bound that assumes nothing."""

Planted = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Run:
    """What came of a run.

    Attributes:
        is_there: of each canary, its coin.
        scores: how far each canary's number moved its way.
    """

    is_there: NDArray[np.bool_]
    scores: NDArray[np.float64]

    def bound_of_one_run(self) -> float:
        """Return the epsilon that the best guesses show at least, whatever the run is."""
        order = np.argsort(self.scores)
        half = GUESSES // 2
        right = int((~self.is_there[order[:half]]).sum() + self.is_there[order[-half:]].sum())
        return halved(lambda epsilon: chance_of(right, epsilon) < CHANCE, 0.0, 20.0)

    def bound_of_many(self) -> float:
        """Return the epsilon that all guesses show at least, where no canary moves another's."""
        count = min(int(self.is_there.sum()), int((~self.is_there).sum()))
        with_it, without = self.scores[self.is_there], self.scores[~self.is_there]
        return audited_epsilon(with_it[:count], without[:count], DELTA)


def chance_of(right: int, epsilon: float) -> float:
    """Return how likely so many of the guesses are right, at most, if epsilon is true."""
    rate = 1 / (1 + math.exp(-epsilon))
    counts = np.arange(GUESSES + 1)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, GUESSES + 1)))])
    logarithms = log_factorials[-1] - log_factorials - log_factorials[::-1]
    logarithms += counts * math.log(rate) + (GUESSES - counts) * math.log1p(-rate)
    chances = np.exp(logarithms)
    fewer = np.cumsum(chances[:right][::-1]) / np.arange(1, right + 1)
    lost = 2 * CANARIES * DELTA_OF_ONE_RUN * float(fewer.max())
    return min(1.0, float(chances[right:].sum()) + lost)


def canaries(is_there: NDArray[np.bool_]) -> km.App:
    app = km.App("canaries")

    @app.model
    def model(_config: Any) -> dict[str, NDArray[Any]]:
        return {"w": np.zeros(CANARIES, np.float32)}

    @app.train
    def train(weights: Any, context: km.Context) -> km.Update:
        return km.Update(weights, 1)

    @app.gradients
    def gradients(_weights: Any, context: km.Context) -> Any:
        own = np.flatnonzero(is_there)
        own = own[own % SITES == int(context.site.rpartition("-")[2]) % SITES]
        for start in range(0, own.size, 100):
            some = own[start : start + 100]
            rows = np.zeros((some.size, CANARIES), np.float32)
            rows[np.arange(some.size), some] = -30.0
            yield {"w": rows}

    return app


def asked() -> JobSpec:
    return parse_job(
        {
            "run": {"app": "canaries", "rounds": 1},
            "cohort": {"size": SITES, "min_reports": SITES},
            "strategy": {"name": "fedavgm", "momentum": 0.0, "learning_rate": 1.0},
            "evaluation": {"every": 0},
            "secure_aggregation": {"mode": "masking", "verification": "off", "colluders": 0},
            "privacy": {
                "unit": "record",
                "clip": 1.0,
                "noise_multiplier": 2.0,
                "delta": DELTA,
                "records": CANARIES,
                "records_per_site": RECORDS_PER_SITE,
            },
        }
    )


def ran() -> Run:
    is_there = np.random.default_rng().random(CANARIES) < 0.5
    weights = simulate(canaries(is_there), asked(), sites=SITES).weights
    return Run(is_there, np.asarray(weights["w"], np.float64))


def claimed(delta: float = DELTA) -> float:
    job = asked()
    assert job.privacy is not None
    return replace(plan_of(job, job.privacy, CANARIES), delta=delta).epsilon()


def with_noise_over(divisor: int) -> Planted:
    """Plant a mistake: so much less deviation than was asked for."""
    drawn = quantizing.skellam_again

    def less(key: bytes, size: int, variance: int) -> NDArray[np.int64]:
        return drawn(key, size, variance // divisor**2 // 2 * 2)

    return lambda patch: patch.setattr(quantizing, "skellam_again", less)


def with_a_wide_clip(patch: pytest.MonkeyPatch) -> None:
    """Plant a mistake: records are cut to twice the norm."""

    def wide(dimension: int, *, clip: float, step: float) -> RecordSum:
        return RecordSum(dimension, clip=2 * clip, step=step)

    patch.setattr(contributions, "RecordSum", wide)


def test_one_run_tells_no_more_of_its_records_than_it_claims() -> None:
    run = ran()

    assert run.bound_of_one_run() <= claimed(DELTA_OF_ONE_RUN)
    # And it does hear the canaries.
    assert 0.1 < run.bound_of_many() <= claimed()


@pytest.mark.parametrize("plant", [with_noise_over(2), with_a_wide_clip])
def test_half_the_noise_and_a_clip_that_is_too_wide_are_heard(
    plant: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)

    assert ran().bound_of_many() > claimed()


def test_a_quarter_of_the_noise_is_heard_whatever_the_run_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_noise_over(4)(monkeypatch)

    assert ran().bound_of_one_run() > claimed(DELTA_OF_ONE_RUN)
