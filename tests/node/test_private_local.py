"""Runs whose sites add all noise themselves, to each step of their training."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import kumiai as km
from kumiai.core.errors import ConfigError, KumiaiError
from kumiai.node.coordinator.local import new_local_rounds
from kumiai.node.job import JobSpec, parse_job
from kumiai.node.local_noise import local_plan_of, training_terms_of
from kumiai.node.noised_rounds import outlook_of
from kumiai.node.simulation import simulate
from kumiai.privacy import PoissonGaussianEvent, epsilon_of, rdp_of
from kumiai.privacy.rdp import DEFAULT_ORDERS
from kumiai.privacy.training import PrivateTraining, TrainingStep, TrainingTerms
from tests.privacy.auditing import audited_epsilon, rate_at_least

SIZE = 4_000
LOCAL: dict[str, Any] = {
    "noise": "local",
    "unit": "record",
    "clip": 2.0,
    "delta": 1e-5,
    "noise_multiplier": 3.0,
    "records": 200,
    "records_per_site": 50,
    "steps": 4,
    "sampling_rate": 0.5,
    "learning_rate": 0.25,
}


def app(records: int = 50) -> km.App:
    """Return a study in which each record pulls every number by one, far more than any clip."""
    app = km.App("pulling", data=lambda site: records)
    app.model(lambda config: {"w": np.zeros(SIZE, np.float32)})
    app.train(lambda weights, context: km.Update(weights, context.data, {"loss": 123.0}))

    @app.gradients
    def gradients(weights: dict[str, Any], context: km.Context) -> Any:
        for start in range(0, context.data, 20):
            yield {"w": np.ones((min(20, context.data - start), SIZE), np.float32)}

    return app


def job(mode: str = "none", *, rounds: int = 1, **privacy: Any) -> JobSpec:
    return parse_job(
        {
            "run": {"app": "pulling", "rounds": rounds},
            "cohort": {"size": 4, "min_reports": 3},
            "evaluation": {"every": 0},
            "secure_aggregation": {"mode": mode},
            "privacy": {**LOCAL, **privacy},
        }
    )


def moved_of(asked: JobSpec, study: km.App | None = None) -> NDArray[np.float64]:
    return np.asarray(simulate(study or app(), asked, sites=4).weights["w"], np.float64)


@pytest.mark.parametrize("mode", ["none", "masking", "paillier"])
def test_records_move_the_model_by_their_clip_and_each_step_has_its_noise(mode: str) -> None:
    moved = moved_of(job(mode))

    # Four steps of 0.25, each along half of the records over half of a site's: downhill.
    assert moved.mean() == pytest.approx(-2 / math.sqrt(SIZE), rel=0.35)
    # Four steps at each of four sites, of which the mean is taken.
    noise = 0.25 * 3.0 * 2.0 / 25 * math.sqrt(4) / math.sqrt(4) * 1.0079
    assert moved.std() == pytest.approx(noise, rel=0.06)


def test_small_sites_move_the_model_less() -> None:
    whole = moved_of(job(noise_multiplier=1e-3, sampling_rate=1.0))
    half = moved_of(job(noise_multiplier=1e-3, sampling_rate=1.0), app(25))

    assert half.mean() == pytest.approx(whole.mean() / 2, rel=0.01)


def test_two_runs_of_one_seed_have_noise_and_batches_of_their_own() -> None:
    once, again = moved_of(job()), moved_of(job())

    assert abs(np.corrcoef(once, again)[0, 1]) < 6 / math.sqrt(SIZE)


@pytest.mark.parametrize("mode", ["none", "masking"])
def test_nothing_of_the_data_is_told_beside_the_update(mode: str) -> None:
    result = simulate(app(), job(mode), sites=4)

    assert result.history[1].reports == 4
    assert not result.history[1].metrics


def test_a_study_that_trains_by_itself_without_private_steps_sends_nothing() -> None:
    plain = km.App("pulling")
    plain.model(lambda config: {"w": np.zeros(3, np.float32)})
    plain.train(lambda weights, context: km.Update(weights, 1))

    with pytest.raises(KumiaiError, match=r"must train by the steps of context\.privacy"):
        simulate(plain, job(), sites=4)


def test_a_study_may_take_the_steps_by_itself() -> None:
    own = km.App("pulling")
    own.model(lambda config: {"w": np.zeros(SIZE, np.float32)})

    @own.train
    def train(weights: dict[str, Any], context: km.Context) -> km.Update:
        assert context.privacy is not None
        for step in context.privacy.steps(SIZE):
            step.add(np.ones((50, SIZE))[step.picked(50)])
            weights["w"] -= step.mean()
        return km.Update(weights, 50)

    assert moved_of(job(noise_multiplier=1e-3), own).mean() < 0


@pytest.mark.parametrize("mode", ["none", "masking"])
def test_a_run_keeps_its_own_budget_to_the_last_round(mode: str) -> None:
    asked = job(mode, rounds=3, noise_multiplier=None, epsilon=4.0)

    result = simulate(app(), asked, sites=4)

    assert [each.round for each in result.history] == [0, 1, 2, 3]
    assert result.privacy is not None
    assert result.privacy.epsilon == pytest.approx(4.0, rel=1e-3)
    assert result.privacy.sampling == ("poisson",)


def test_the_epsilon_that_is_asked_for_is_what_all_steps_of_all_rounds_cost() -> None:
    asked = job(rounds=25, noise_multiplier=None, epsilon=2.0)
    assert asked.privacy is not None
    plan = local_plan_of(asked, asked.privacy, SIZE)

    assert 0.999 * 2.0 < plan.epsilon() <= 2.0
    # By another accountant's curve it is a little less: lines lie above curves.
    curve = 100 * rdp_of(PoissonGaussianEvent(0.5, plan.terms.noise_multiplier))
    assert 1.9 < epsilon_of(DEFAULT_ORDERS, curve, 1e-5) <= 2.0
    assert plan.terms.steps == 4
    assert plan.terms.batch == 25


def test_what_no_noise_can_keep_is_refused() -> None:
    asked = job(noise_multiplier=None, epsilon=1e-9, delta=1e-300)

    with pytest.raises(ConfigError, match=r"privacy cannot be kept: target_epsilon"):
        training_terms_of(asked)
    with pytest.raises(ConfigError, match=r"privacy cannot be kept: noise_multiplier"):
        training_terms_of(job(noise_multiplier=5000.0))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"unit": "client", "records": None, "records_per_site": None},
            'unit must be "record" with noise = "local"',
        ),
        ({"steps": None}, 'steps must be given with noise = "local", got nothing'),
        ({"sampling_rate": None}, 'sampling_rate must be given with noise = "local", got nothing'),
        (
            {"records_per_site": None},
            'records_per_site must be given with noise = "local", got nothing',
        ),
        ({"noise": "distributed"}, 'steps must be left out with noise = "distributed", got 4'),
        (
            {"noise": "distributed", "steps": None, "sampling_rate": None},
            'learning_rate must be left out with noise = "distributed", got 0.25',
        ),
        ({"steps": 0}, "privacy.steps must be"),
        ({"sampling_rate": 1.5}, "privacy.sampling_rate must be"),
    ],
)
def test_a_table_that_promises_nothing_is_refused(changes: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        job(**changes)

    assert problem in str(caught.value)


def test_measures_of_the_sites_are_refused_as_with_any_noise() -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.every must be 0 with privacy"):
        parse_job({"run": {"app": "pulling"}, "privacy": LOCAL})


@pytest.mark.parametrize(
    ("changes", "size", "warning"),
    [
        ({}, 40, None),
        ({}, 40_000, "the noise is 6.0 times what 200 records can add up to"),
        ({"delta": 0.01}, 40, "privacy.delta must lie below one over the 200 units"),
    ],
)
def test_a_run_that_cannot_learn_is_told_before_it_begins(
    changes: Mapping[str, Any], size: int, warning: str | None
) -> None:
    promise, *told = outlook_of(job(rounds=3, **changes), size)

    assert promise.startswith("privacy: epsilon ")
    assert "over 3 rounds of 4 steps at each site, each of them with a secret 0.5" in promise
    assert [warning is not None and warning in each for each in told] == [True] * (
        warning is not None
    )


def test_a_job_without_noise_at_its_sites_has_no_terms_of_training() -> None:
    plain = {"run": {"app": "pulling"}}

    assert training_terms_of(parse_job(plain)) is None


def test_a_coordinator_without_a_ledger_leads_no_such_run() -> None:
    engine: Any = SimpleNamespace(budgets=None, runs=None)
    lease: Any = None

    with pytest.raises(ConfigError, match="this coordinator keeps no ledger"):
        new_local_rounds(engine, lease, job())
    assert new_local_rounds(engine, lease, job("masking")) is None


# ------------------------------------------------------------------------------------------- audit

CANARIES = 3_000
WHOLE: dict[str, Any] = {
    **LOCAL,
    "clip": 1.0,
    "noise_multiplier": 2.5,
    "records": CANARIES,
    "records_per_site": CANARIES,
    "steps": 6,
    "sampling_rate": 1.0,
    "learning_rate": 1.0,
}
SAMPLED = {**WHOLE, "noise_multiplier": 0.8, "steps": 4, "sampling_rate": 0.02}


def canaries(is_there: NDArray[np.bool_]) -> km.App:
    """Return a study whose records each pull at a number of their own, if they are there."""
    app = km.App("pulling")
    app.model(lambda config: {"w": np.zeros(CANARIES)})
    app.train(lambda weights, context: km.Update(weights, 1))

    @app.gradients
    def gradients(weights: Any, context: km.Context) -> Any:
        for start in range(0, CANARIES, 100):
            rows = np.zeros((100, CANARIES), np.float32)
            own = np.arange(start, start + 100)
            rows[np.arange(100), own] = -30.0 * is_there[own]
            yield {"w": rows}

    return app


def heard(asked: Mapping[str, Any]) -> float:
    """Return what epsilon is at least, from how well the best guesses at the coins are right.

    No canary's number says anything of another one, so that one run is as good as many.
    """
    spec = parse_job(
        {"run": {"app": "pulling", "rounds": 1}, "evaluation": {"every": 0}, "privacy": asked}
    )
    is_there = np.random.default_rng().random(CANARIES) < 0.5
    scores = np.asarray(simulate(canaries(is_there), spec, sites=1).weights["w"])
    count = min(int(is_there.sum()), int((~is_there).sum()))
    with_it, without = scores[is_there][:count], scores[~is_there][:count]
    if asked is WHOLE:
        return audited_epsilon(with_it, without, 1e-5)
    best, half = 0.0, count // 2
    for threshold in np.quantile(without[:half], [0.9, 0.97, 0.99, 0.997]):
        found = rate_at_least(int((with_it[half:] > threshold).sum()), count - half)
        spared = rate_at_least(int((without[half:] <= threshold).sum()), count - half)
        best = max(best, math.log(max(found - 1e-5, 1e-9) / (1 - spared)))
    return best


def claimed(asked: Mapping[str, Any]) -> float:
    spec = job(**asked)
    assert spec.privacy is not None
    return local_plan_of(spec, spec.privacy, CANARIES).epsilon()


def with_everybody_in_every_step(patch: pytest.MonkeyPatch) -> None:
    def everybody(step: TrainingStep, count: int) -> NDArray[np.intp]:
        step._left += count
        return np.arange(count)

    patch.setattr(TrainingStep, "picked", everybody)


def with_a_third_of_the_noise(patch: pytest.MonkeyPatch) -> None:
    mechanism = TrainingTerms.mechanism

    def less(asked: TrainingTerms, dimension: int) -> Any:
        return mechanism(replace(asked, noise_multiplier=asked.noise_multiplier / 3), dimension)

    patch.setattr(TrainingTerms, "mechanism", less)


def with_steps_that_nobody_counts(patch: pytest.MonkeyPatch) -> None:
    counted = PrivateTraining.steps

    def many(training: PrivateTraining, dimension: int) -> Iterator[TrainingStep]:
        for _ in range(6):
            yield from counted(training, dimension)
            training._taken = 0

    patch.setattr(PrivateTraining, "steps", many)


@pytest.mark.parametrize("asked", [WHOLE, SAMPLED], ids=["whole", "sampled"])
def test_an_audit_of_a_run_hears_no_more_than_is_claimed(asked: Mapping[str, Any]) -> None:
    assert heard(asked) <= claimed(asked)


@pytest.mark.parametrize(
    ("plant", "asked"),
    [
        (with_a_third_of_the_noise, WHOLE),
        (with_steps_that_nobody_counts, WHOLE),
        (with_everybody_in_every_step, SAMPLED),
    ],
)
def test_an_audit_of_a_run_hears_each_planted_mistake(
    plant: Callable[[pytest.MonkeyPatch], None],
    asked: Mapping[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)

    assert heard(asked) > claimed(asked)
