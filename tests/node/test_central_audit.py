"""An audit of whole centrally noised runs: what comes out tells no more of a client than it claims.

Each of fifteen hundred clients pulls at a number of its own, far harder than the clip, or not at
all, by a coin. Whoever has the model guesses the coins. No client moves another's number, so that
a run is as many releases, of which each hides one client; those give a bound on its epsilon.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import kumiai as km
from kumiai.node.central_rounds import central_plan_of
from kumiai.node.coordinator import central
from kumiai.node.job import JobSpec, parse_job
from kumiai.node.simulation import simulate
from kumiai.privacy import ClippedSum
from kumiai.privacy.mechanisms import GaussianMechanism
from tests.privacy.auditing import audited_epsilon

CLIENTS = 1500
DELTA = 1e-5

Planted = Callable[[pytest.MonkeyPatch], None]


def canaries(is_there: NDArray[np.bool_]) -> km.App:
    app = km.App("canaries")

    @app.model
    def model(_config: Any) -> dict[str, NDArray[Any]]:
        return {"w": np.zeros(CLIENTS, np.float32)}

    @app.train
    def train(weights: Any, context: km.Context) -> km.Update:
        own = int(context.site.rpartition("-")[2]) - 1
        weights["w"][own] += 30.0 * is_there[own]
        # Of many examples, as one who wants to weigh much says.
        return km.Update(weights, 1000)

    return app


def asked() -> JobSpec:
    return parse_job(
        {
            "run": {"app": "canaries", "rounds": 1},
            "cohort": {"size": CLIENTS, "min_reports": CLIENTS},
            "evaluation": {"every": 0},
            "privacy": {
                "unit": "client",
                "noise": "central",
                "clip": 1.0,
                "noise_multiplier": 1.0,
                "delta": DELTA,
            },
        }
    )


def claimed() -> float:
    job = asked()
    assert job.privacy is not None
    return central_plan_of(job, job.privacy, CLIENTS).epsilon()


def heard() -> float:
    """Return the epsilon that guessing the coins from one run's model shows at least."""
    is_there = np.random.default_rng().random(CLIENTS) < 0.5
    weights = simulate(canaries(is_there), asked(), sites=CLIENTS).weights
    scores = np.asarray(weights["w"], np.float64)
    count = min(int(is_there.sum()), int((~is_there).sum()))
    return audited_epsilon(scores[is_there][:count], scores[~is_there][:count], DELTA)


def with_a_third_of_the_noise(patch: pytest.MonkeyPatch) -> None:
    """Plant a mistake: the noise of a clip that has shrunk since."""
    release = GaussianMechanism.release

    def less(self: GaussianMechanism, total: Any) -> Any:
        return release(replace(self, noise_multiplier=self.noise_multiplier / 3), total)

    patch.setattr(GaussianMechanism, "release", less)


def with_weights(patch: pytest.MonkeyPatch) -> None:
    """Plant a mistake: who says to have more examples is counted more often."""
    checked = central.contribution_in

    def weighted(content: Any, this: ClippedSum, dimension: int) -> Any:
        return 3 * checked(content, this, dimension)

    patch.setattr(central, "contribution_in", weighted)


def with_the_noise_of_a_retry(patch: pytest.MonkeyPatch) -> None:
    """Plant a mistake: noise is drawn nine times, and whoever reads takes the mean."""
    release = GaussianMechanism.release

    def often(self: GaussianMechanism, total: Any) -> Any:
        return sum(release(self, total) for _ in range(9)) // 9

    patch.setattr(GaussianMechanism, "release", often)


def test_a_run_tells_no_more_of_its_clients_than_it_claims() -> None:
    # And it does hear the canaries.
    assert 0.1 < heard() <= claimed()


@pytest.mark.parametrize(
    "plant", [with_a_third_of_the_noise, with_weights, with_the_noise_of_a_retry]
)
def test_each_planted_mistake_is_heard(plant: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)

    assert heard() > claimed()
