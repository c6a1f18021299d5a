"""Private runs whose noise the coordinator adds: virtual clients, real ledger, real noise."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

import kumiai as km
from kumiai.core.codec import encode
from kumiai.core.errors import ConfigError, UpdateRejectedError
from kumiai.node import contributions
from kumiai.node.central_rounds import (
    CLIP_METRIC,
    UNCLIPPED_METRIC,
    central_plan_of,
    central_round_of,
    clip_after,
    opening_of,
)
from kumiai.node.coordinator import central
from kumiai.node.coordinator.central import contribution_in
from kumiai.node.job import parse_job
from kumiai.node.noised_rounds import outlook_of
from kumiai.node.simulation import simulate
from kumiai.privacy import ClippedSum, ClippingRound
from kumiai.privacy.clipping_round import STEPS
from kumiai.privacy.mechanisms import GaussianMechanism

SIZE = 4_000
CLIENT = {"unit": "client", "noise": "central", "clip": 2.0, "delta": 1e-5}


def job(
    privacy: Mapping[str, Any] | None = None,
    *,
    rounds: int = 1,
    cohort: Mapping[str, Any] | None = None,
    **tables: Any,
) -> Any:
    return parse_job(
        {
            "run": {"app": "pulling", "rounds": rounds},
            "cohort": {"size": 4, "min_reports": 3, **(cohort or {})},
            "evaluation": {"every": 0},
            "privacy": {**CLIENT, "noise_multiplier": 0.5, **(privacy or {})},
            **tables,
        }
    )


def app(norm: float = 100.0) -> km.App:
    """Return a study in which each site pulls every number down, by so long a vector in all."""
    app = km.App("pulling")

    @app.model
    def model(config: Mapping[str, Any]) -> dict[str, Any]:
        # The last number is an integer, as counters of models are.
        return {"w": np.zeros(SIZE - 1, np.float32), "steps": np.zeros((), np.int64)}

    @app.train
    def train(weights: dict[str, Any], context: km.Context) -> km.Update:
        weights["w"] -= np.float32(norm / math.sqrt(SIZE))
        return km.Update(weights, examples=10, metrics={"loss": 123.0})

    return app


def moved_of(asked: Any, study: km.App | None = None) -> np.ndarray[Any, Any]:
    return np.asarray(simulate(study or app(), asked, sites=4).weights["w"], np.float64)


def test_clients_move_the_model_by_their_clip_and_noise_lies_on_it_once() -> None:
    moved = moved_of(job())

    # Four clients of norm 2 each, over four.
    assert moved.mean() == pytest.approx(-2 / math.sqrt(SIZE), abs=6 * 0.25 / math.sqrt(SIZE))
    # Once, however many clients there are.
    assert moved.std() == pytest.approx(0.5 * 2.0 / 4, rel=0.06)


def test_two_runs_have_noise_of_their_own() -> None:
    assert abs(np.corrcoef(moved_of(job()), moved_of(job()))[0, 1]) < 6 / math.sqrt(SIZE)


def test_a_site_with_many_examples_weighs_no_more_than_any_other() -> None:
    lone = km.App("pulling")
    lone.model(app().model_function)

    @lone.train
    def train(weights: Any, context: km.Context) -> km.Update:
        is_large = context.site == "site-1"
        weights["w"] -= np.float32(is_large)
        return km.Update(weights, examples=10**6 if is_large else 1)

    moved = moved_of(job({"noise_multiplier": 1e-3}), lone)

    # One of four pulls as far as the clip lets it, and counts as one of four.
    assert moved.mean() == pytest.approx(-2 / math.sqrt(SIZE) / 4, rel=0.05)


def test_the_sum_is_divided_by_the_expected_cohort_whoever_comes() -> None:
    study = app()
    absent = km.App("pulling")
    absent.model(study.model_function)

    @absent.train
    def train(weights: Any, context: km.Context) -> km.Update:
        if context.site == "site-4":
            raise RuntimeError("away")
        return study.train_function(weights, context)

    result = simulate(absent, job({"noise_multiplier": 1e-3}), sites=4)

    assert result.history[1].reports == 3
    assert result.weights["w"].mean() == pytest.approx(-2 / math.sqrt(SIZE) * 3 / 4, rel=0.05)


def test_nothing_of_the_data_is_told_beside_the_sum() -> None:
    fixed = simulate(app(), job(), sites=4).history[1]
    adaptive = simulate(app(), job({"adaptive": {}}), sites=4).history[1]

    assert (fixed.reports, dict(fixed.metrics)) == (4, {})
    assert adaptive.metrics.keys() == {CLIP_METRIC, UNCLIPPED_METRIC}


def test_a_client_whose_update_is_no_number_is_hidden_like_any_other() -> None:
    broken = km.App("pulling")
    broken.model(lambda config: {"w": np.zeros(SIZE, np.float32)})
    broken.train(
        lambda weights, context: km.Update(
            {"w": weights["w"] - np.float32(np.nan if context.site == "site-1" else 1)}, 1
        )
    )

    with capture_logs() as logged:
        result = simulate(broken, job({"noise_multiplier": 1e-3}), sites=4)

    assert result.history[1].reports == 4
    assert result.weights["w"].mean() == pytest.approx(-2 / math.sqrt(SIZE) * 3 / 4, rel=0.05)
    assert [each for each in logged if "counts as zero" in each["event"]]


def test_an_update_that_is_longer_than_its_clip_is_refused_and_the_round_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = contributions.clipped_contribution_of

    def too_long(app: Any, base: Any, context: Any, terms: Any) -> Any:
        made = honest(app, base, context, terms)
        if context.site == "site-2":
            made["contribution"] -= 1
        return made

    monkeypatch.setattr("kumiai.node.simulation.clipped_contribution_of", too_long)

    result = simulate(app(), job({"noise_multiplier": 1e-3}), sites=4)

    assert result.history[1].reports == 3


FIXED = ClippedSum(clipping_norm=2.0, noise_multiplier=1.0, cohort_size=4)
COUNTED = ClippingRound(clipping_norm=2.0, noise_multiplier=1.0, cohort_size=4)


def sent(**arrays: Any) -> bytes:
    return b"".join(encode(arrays))


def test_contributions_within_the_clip_are_taken_as_they_are() -> None:
    fixed = np.array([STEPS, 0], np.int32)
    counted = np.array([0, -STEPS, -COUNTED.sign_steps], np.int32)

    assert contribution_in(sent(contribution=fixed), FIXED, 2).tolist() == fixed.tolist()
    assert contribution_in(sent(contribution=counted), COUNTED, 2).tolist() == counted.tolist()


@pytest.mark.parametrize(
    "arrays",
    [
        {"contribution": np.zeros(3, np.int32)},
        {"contribution": np.zeros(2, np.float32)},
        {"contribution": np.zeros(2, np.int32), "more": np.zeros(1, np.int32)},
        {"w": np.zeros(2, np.int32)},
    ],
)
def test_an_update_that_is_not_in_whole_steps_is_refused(arrays: Any) -> None:
    wanted = r"must be 'contribution' alone, int32 of shape \(2,\)"

    with pytest.raises(UpdateRejectedError, match=wanted):
        contribution_in(sent(**arrays), FIXED, 2)


@pytest.mark.parametrize("steps", [[STEPS, 1], [2**31 - 1, 0], [-(2**31), 0]])
def test_a_contribution_above_the_bound_is_refused_with_a_reason(steps: list[int]) -> None:
    found = np.array(steps, np.int32)

    with pytest.raises(UpdateRejectedError, match="breaks the clip that its round pays for"):
        contribution_in(sent(contribution=found), FIXED, 2)


@pytest.mark.parametrize("sign", [0, 1, COUNTED.sign_steps + 1])
def test_a_client_has_one_voice_in_the_count(sign: int) -> None:
    found = np.array([0, 0, sign], np.int32)

    with pytest.raises(UpdateRejectedError, match="must end with"):
        contribution_in(sent(contribution=found), COUNTED, 2)


# ------------------------------------------------------------------------------------ what it costs


def plan(asked: Any) -> Any:
    return central_plan_of(asked, asked.privacy, SIZE)


@pytest.mark.parametrize("adaptive", [None, {}])
def test_the_epsilon_that_is_asked_for_is_what_all_rounds_cost(adaptive: Any) -> None:
    fields = {"noise_multiplier": None, "epsilon": 2.0, "adaptive": adaptive}

    found = plan(job(fields, rounds=25))

    assert 2.0 * (1 - 1e-5) < found.epsilon() <= 2.0
    assert plan(job(fields, rounds=24)).round.noise_multiplier < found.round.noise_multiplier


@pytest.mark.parametrize("adaptive", [None, {}])
def test_a_run_keeps_its_own_budget_to_the_last_round(adaptive: Any) -> None:
    asked = job({"epsilon": 8.0, "noise_multiplier": None, "adaptive": adaptive}, rounds=4)

    result = simulate(app(), asked, sites=4)

    assert [each.round for each in result.history] == [0, 1, 2, 3, 4]


def test_what_no_noise_can_keep_and_what_none_can_draw_is_refused() -> None:
    never = {"noise_multiplier": None, "epsilon": 1e-9, "delta": 1e-300}

    with pytest.raises(ConfigError, match=r"privacy\.epsilon cannot be kept"):
        plan(job(never))
    with pytest.raises(ConfigError, match="noise_multiplier must be at most 4096"):
        plan(job({"noise_multiplier": 5e3}))


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        ({"privacy": {**CLIENT, "unit": "record", "records": 5}}, 'unit must be "client" with'),
        ({"secure_aggregation": {"mode": "masking"}}, 'secure_aggregation.mode must be "none"'),
        ({"cohort": {}}, 'cohort.size must be given with privacy.noise = "central"'),
        ({"evaluation": {"every": 1}}, "evaluation.every must be 0 with privacy, got 1"),
        ({"privacy": {**CLIENT, "adaptive": {"clip_min": 3.0}}}, "clip must be from adaptive"),
        (
            {"privacy": {**CLIENT, "adaptive": {}, "separation": 2}},
            "adaptive must be left out with",
        ),
        ({"privacy": {**CLIENT, "separation": 65}}, "separation must be less than or equal to 64"),
        (
            {
                "privacy": {**CLIENT, "noise": "distributed", "separation": 2},
                "secure_aggregation": {"mode": "masking"},
            },
            "separation must be left out with noise",
        ),
        ({"privacy": {**CLIENT, "adaptive": {"clip_max": 1.0}}}, "clip must be from adaptive"),
        (
            {
                "privacy": {**CLIENT, "noise": "distributed", "adaptive": {}},
                "secure_aggregation": {"mode": "masking"},
            },
            "adaptive must be left out with noise",
        ),
    ],
)
def test_a_table_that_promises_nothing_is_refused(tables: dict[str, Any], problem: str) -> None:
    if "privacy" in tables:
        tables["privacy"]["noise_multiplier"] = 1.0
    whole = {
        "run": {"app": "pulling"},
        "evaluation": {"every": 0},
        "cohort": {"size": 4},
        "privacy": {**CLIENT, "noise_multiplier": 1.0},
    }

    with pytest.raises(ConfigError) as caught:
        parse_job({**whole, **tables})

    assert problem in str(caught.value)


def test_a_run_that_cannot_learn_is_told_before_it_begins() -> None:
    promise, *told = outlook_of(job(), 10)
    _, warning = outlook_of(job(), 10_000)

    assert promise.startswith("privacy: epsilon ")
    assert promise.endswith("for each client, over 1 rounds; the noise is 0.5 times the clip")
    assert not told
    assert "the noise is 12.5 times what 4 clients can add up to" in warning


# -------------------------------------------------------------------------------- adaptive clipping


def clips_of(result: Any) -> list[float]:
    return [each.metrics[CLIP_METRIC] for each in result.history[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("first", [0.2, 20.0])
def test_the_clip_comes_to_the_norm_of_the_updates_from_both_sides(first: float) -> None:
    asked = job(
        {"clip": first, "noise_multiplier": 1.0, "adaptive": {}},
        rounds=40,
        cohort={"size": 40, "min_reports": 40},
    )
    study = app(norm=2.0)

    clips = clips_of(simulate(study, asked, sites=40))

    assert clips[0] == first
    assert 1.5 < clips[-1] < 2.5


def test_each_round_is_clipped_noised_and_divided_by_the_clip_that_its_clients_were_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[ClippedSum] = []
    summed: list[ClippedSum] = []
    drawn: list[GaussianMechanism] = []
    honest, release = contributions.clipped_contribution_of, GaussianMechanism.release
    of = central.central_round_of

    def noted(app: Any, base: Any, context: Any, terms: ClippedSum) -> Any:
        told.append(terms)
        return honest(app, base, context, terms)

    def led(*given: Any) -> ClippedSum:
        summed.append(of(*given))
        return summed[-1]

    def released(self: GaussianMechanism, total: Any) -> Any:
        drawn.append(self)
        return release(self, total)

    monkeypatch.setattr("kumiai.node.simulation.clipped_contribution_of", noted)
    monkeypatch.setattr(central, "central_round_of", led)
    monkeypatch.setattr(GaussianMechanism, "release", released)

    result = simulate(app(), job({"adaptive": {}}, rounds=3), sites=4)

    clips = clips_of(result)
    assert len(set(clips)) == 3
    assert [each.clipping_norm for each in told] == [clip for clip in clips for _ in range(4)]
    # Before each round it is asked whether it can be paid for, which no clip changes.
    assert summed[1::2] == told[::4]
    # Once for each round, and as strong as that round's price says.
    assert drawn == [each.mechanism for each in told[::4]]


def test_a_rounds_clip_follows_from_what_the_one_before_it_has_published() -> None:
    asked = job({"adaptive": {"quantile": 0.7, "learning_rate": 0.5, "clip_max": 3.0}}, rounds=5)

    history = simulate(app(norm=2.5), asked, sites=4).history

    for before, after in pairwise(history[1:]):
        clip, fraction = before.metrics[CLIP_METRIC], before.metrics[UNCLIPPED_METRIC]
        wanted = min(clip * math.exp(-0.5 * (fraction - 0.7)), 3.0)
        assert after.metrics[CLIP_METRIC] == pytest.approx(wanted, rel=1e-12)
    assert clip_after(asked.privacy, {CLIP_METRIC: 2.9, UNCLIPPED_METRIC: 0.0}) == 3.0
    assert clip_after(asked.privacy, None) == 2.0


def test_a_clip_that_stays_is_told_by_no_metric_and_counts_nobody() -> None:
    asked = job()

    assert clip_after(asked.privacy, {CLIP_METRIC: 9.0, UNCLIPPED_METRIC: 0.5}) == 2.0
    assert central_round_of(asked, asked.privacy, 2.0).sign_steps == 0


def test_the_count_of_a_round_is_as_long_whatever_the_clip() -> None:
    asked = job({"adaptive": {}})
    rounds = [central_round_of(asked, asked.privacy, clip) for clip in (1e-3, 2.0, 1e3)]

    assert len({(each.sign_steps, each.event) for each in rounds}) == 1
    assert all(isinstance(each, ClippingRound) for each in rounds)
    assert rounds[0].sign_steps < STEPS


def test_another_opening_of_a_round_is_told_from_the_first() -> None:
    openings = {
        opening_of("run-a", 1, 12.5),
        opening_of("run-a", 1, 12.500001),
        opening_of("run-a", 2, 12.5),
        opening_of("run-b", 1, 12.5),
    }

    assert len(openings) == 4
    assert all(len(each) == 32 for each in openings)


# ----------------------------------------------------------------------------------- on a schedule

SCHEDULED = {"separation": 4, "noise_multiplier": 0.5}


def test_nobody_takes_part_again_before_it_has_rested() -> None:
    seen: dict[str, list[int]] = {}
    study = km.App("pulling")
    study.model(lambda config: {"w": np.zeros(8, np.float32)})

    @study.train
    def train(weights: Any, context: km.Context) -> km.Update:
        seen.setdefault(context.site, []).append(context.round)
        return km.Update(weights, 1)

    asked = job(SCHEDULED, rounds=16, cohort={"size": 2, "min_reports": 2})
    result = simulate(study, asked, sites=9)

    gaps = [after - before for rounds in seen.values() for before, after in pairwise(rounds)]
    assert min(gaps) == 4
    assert sum(len(rounds) for rounds in seen.values()) == 32
    assert len(result.history) == 17


def test_a_round_that_is_extended_asks_nobody_who_rests() -> None:
    asked_for: dict[str, list[int]] = {}
    done: dict[str, list[int]] = {}
    study = km.App("pulling")
    study.model(lambda config: {"w": np.zeros(8, np.float32)})

    @study.train
    def train(weights: Any, context: km.Context) -> km.Update:
        asked_for.setdefault(context.site, []).append(context.round)
        if len(asked_for[context.site]) == 1:
            raise RuntimeError("not the first time")
        done.setdefault(context.site, []).append(context.round)
        return km.Update(weights, 1)

    asked = job(
        {"separation": 3}, rounds=6, cohort={"size": 1, "min_reports": 1, "max_attempts": 9}
    )
    simulate(study, asked, sites=5)

    assert sum(len(rounds) for rounds in asked_for.values()) > 6
    in_sums = [set(rounds) for rounds in done.values()]
    assert all(after >= before + 3 for each in in_sums for before, after in pairwise(sorted(each)))


def test_a_client_pays_in_full_whenever_it_takes_part_and_for_no_other_round() -> None:
    once = {"noise_multiplier": None, "epsilon": 2.0}

    always, scheduled = plan(job(once, rounds=5)), plan(job({**once, "separation": 4}, rounds=20))

    assert scheduled.releases(scheduled.rounds) == 5
    assert scheduled.round.noise_multiplier == always.round.noise_multiplier
    assert scheduled.epsilon() == pytest.approx(always.epsilon(), rel=1e-6)
    assert scheduled.epsilon() <= 2.0
    told = "for each client, over 20 rounds, at most 5 of them each, for 16 clients or more"
    assert told in outlook_of(job({**once, "separation": 4}, rounds=20), 10)[0]


@pytest.mark.slow
def test_the_noise_of_a_model_on_a_schedule_is_less_than_that_of_rounds_by_themselves() -> None:
    study = km.App("pulling")
    study.model(lambda config: {"w": np.zeros(SIZE, np.float32)})
    study.train(lambda weights, context: km.Update(weights, 1))
    cohort = {"size": 1, "min_reports": 1}

    def noise(**privacy: Any) -> float:
        asked = job({"noise_multiplier": 1.0, **privacy}, rounds=24, cohort=cohort)
        return float(simulate(study, asked, sites=8).weights["w"].std())

    # Of the last model alone; the gain on all of them together is greater.
    assert noise(separation=8) < 0.7 * noise()
    assert noise() == pytest.approx(math.sqrt(24) * 2.0, rel=0.06)


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_sums_on_a_schedule_move_the_model_as_they_do_without(strategy: str) -> None:
    asked = job(
        {"noise_multiplier": 1e-4, "separation": 2},
        rounds=6,
        cohort={"size": 2, "min_reports": 2},
        strategy={"name": strategy},
    )
    plain = job(
        {"noise_multiplier": 1e-4},
        rounds=6,
        cohort={"size": 2, "min_reports": 2},
        strategy={"name": strategy},
    )

    moved = [simulate(app(), each, sites=4).weights["w"].mean() for each in (asked, plain)]

    assert moved[0] == pytest.approx(moved[1], rel=0.02)
