"""Private runs of virtual clients: noise on every sum, and nothing told beside it."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

import kumiai as km
from kumiai.core.errors import BudgetExhaustedError, ConfigError, KumiaiError
from kumiai.node.contributions import Contribution
from kumiai.node.coordinator.budgets import BudgetDesk
from kumiai.node.job import CohortSpec, parse_job
from kumiai.node.noised_rounds import PrivateTerms, event_of_round, mean_of, outlook_of, plan_of
from kumiai.node.simulation import simulate
from kumiai.privacy import Adjacency, Sampling, event_to_json
from kumiai.privacy.budget import epsilon_spent
from kumiai.secagg import Outcome, RoundDescriptor
from kumiai.storage import RunRecord
from tests.secagg.rounds import describe, signers_of

SIZE = 4_000


def app(records: int = 50) -> km.App:
    """Return a study in which each record pulls every number by one, far more than any clip."""
    app = km.App("pulling", data=lambda site: records)

    @app.model
    def model(config: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
        return {"w": np.zeros(SIZE, np.float32)}

    @app.train
    def train(weights: dict[str, np.ndarray[Any, Any]], context: km.Context) -> km.Update:
        weights["w"] -= 1
        return km.Update(weights, examples=context.data, metrics={"loss": 123.0})

    @app.gradients
    def gradients(weights: dict[str, Any], context: km.Context) -> Any:
        for start in range(0, context.data, 20):
            count = min(20, context.data - start)
            yield {"w": np.ones((count, SIZE), np.float32)}

    return app


def job(privacy: Mapping[str, Any], *, rounds: int = 1, **secure: Any) -> Any:
    return parse_job(
        {
            "run": {"app": "pulling", "rounds": rounds},
            "cohort": {"size": 4, "min_reports": 3},
            "evaluation": {"every": 0},
            "secure_aggregation": {"mode": "masking", "colluders": 0, **secure},
            "privacy": {"clip": 2.0, "delta": 1e-5, **privacy},
        }
    )


RECORD = {"unit": "record", "records": 200, "records_per_site": 50, "noise_multiplier": 3.0}
CLIENT = {"unit": "client", "noise_multiplier": 0.5}


def moved_of(asked: Any) -> np.ndarray[Any, Any]:
    return np.asarray(simulate(app(), asked, sites=4).weights["w"], np.float64)


@pytest.mark.parametrize("verification", ["sum", "off"])
def test_records_move_the_model_by_their_clip_and_noise_lies_on_it(verification: str) -> None:
    asked = job(RECORD, verification=verification)

    moved = moved_of(asked)

    # 200 records of norm 2 each, over 200: downhill.
    assert moved.mean() == pytest.approx(-2 / math.sqrt(SIZE), abs=6 * 0.035 / math.sqrt(SIZE))
    # Planned for three survivors, of whom one may take its own share off; and all four came.
    expected = 3.0 * 2.0 / 200 * math.sqrt(4 / 2)
    bound = 1 + 0.5 * math.sqrt(SIZE) * plan_of(asked, asked.privacy, SIZE).terms.step / 2.0
    assert moved.std() == pytest.approx(expected * bound, rel=0.06)


@pytest.mark.parametrize(("privacy", "noise"), [(RECORD, 3.0 * 2.0 / 200), (CLIENT, 0.5 * 2.0 / 4)])
def test_noise_lies_on_a_sum_that_a_shared_key_hides(
    privacy: Mapping[str, Any], noise: float
) -> None:
    asked = job(privacy, mode="paillier", key_bits=2048)

    moved = moved_of(asked)

    bound = 1 + 0.5 * math.sqrt(SIZE) * plan_of(asked, asked.privacy, SIZE).terms.step / 2.0
    assert moved.mean() == pytest.approx(-2 / math.sqrt(SIZE), abs=10 * noise / math.sqrt(SIZE))
    assert moved.std() == pytest.approx(noise * math.sqrt(4 / 2) * bound, rel=0.06)


def test_clients_move_the_model_by_their_clip_and_noise_lies_on_it() -> None:
    asked = job(CLIENT)

    moved = moved_of(asked)

    assert moved.mean() == pytest.approx(-2 / math.sqrt(SIZE), abs=6 * 0.3 / math.sqrt(SIZE))
    bound = 1 + 0.5 * math.sqrt(SIZE) * plan_of(asked, asked.privacy, SIZE).terms.step / 2.0
    assert moved.std() == pytest.approx(0.5 * 2.0 / 4 * math.sqrt(4 / 2) * bound, rel=0.06)


@pytest.mark.parametrize(("privacy", "moved"), [(CLIENT, 0.5 * 60 / 4), (RECORD, -0.5 * 60 / 200)])
def test_a_sum_is_divided_by_what_everybody_knows_however_few_came(
    privacy: Mapping[str, Any], moved: float
) -> None:
    outcome = Outcome(np.array([60]), weight=3, step=0.5, survivors=("a", "b", "c"))

    mean = mean_of(outcome, job(privacy).privacy, invited=4)

    assert mean.tolist() == pytest.approx([moved])


def test_two_rounds_have_noise_of_their_own() -> None:
    once = moved_of(job(RECORD))
    again = moved_of(job(RECORD))

    assert abs(np.corrcoef(once, again)[0, 1]) < 6 / math.sqrt(SIZE)


@pytest.mark.parametrize("privacy", [RECORD, CLIENT])
def test_nothing_of_the_data_is_told_beside_the_sum(privacy: Mapping[str, Any]) -> None:
    result = simulate(app(), job(privacy), sites=4)

    assert result.history[1].reports == 4
    assert "loss" not in result.history[1].metrics


def test_a_study_without_gradients_says_what_it_lacks() -> None:
    plain = km.App("pulling")
    plain.model(lambda config: {"w": np.zeros(3, np.float32)})
    plain.train(lambda weights, context: km.Update(weights, 1))

    with pytest.raises(KumiaiError, match="must have a function gradients"):
        simulate(plain, job(RECORD), sites=4)


def test_the_epsilon_that_is_asked_for_is_what_all_rounds_cost() -> None:
    fields = {key: value for key, value in RECORD.items() if key != "noise_multiplier"}
    asked = job({**fields, "epsilon": 2.0}, rounds=25)
    plan = plan_of(asked, asked.privacy, SIZE)

    assert plan.epsilon() <= 2.0
    assert plan.epsilon() == pytest.approx(2.0, rel=1e-3)
    looser = job({**fields, "epsilon": 2.0}, rounds=24)
    assert plan_of(looser, looser.privacy, SIZE).noise_multiplier < plan.noise_multiplier


@pytest.mark.parametrize("rounds", [1, 7, 25, 1_000])
@pytest.mark.parametrize("epsilon", [0.3, 2.0, 8.0])
def test_a_ledger_lets_all_planned_rounds_pass_and_not_one_more(
    rounds: int, epsilon: float
) -> None:
    fields = {key: value for key, value in RECORD.items() if key != "noise_multiplier"}
    asked = job({**fields, "epsilon": epsilon}, rounds=rounds)
    event = event_to_json(plan_of(asked, asked.privacy, SIZE).event())

    assert epsilon_spent({event: rounds}, 1e-5) <= epsilon
    assert epsilon_spent({event: rounds + 1}, 1e-5) > epsilon


def test_a_run_ends_by_itself_when_its_epsilon_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {key: value for key, value in RECORD.items() if key != "noise_multiplier"}
    asked = job({**fields, "epsilon": 2.0}, rounds=3)
    opened = BudgetDesk.open_run

    async def opened_late(self: BudgetDesk, run: RunRecord) -> None:
        # As if attempts had been lost: less is left than the job names.
        privacy = {**run.job["privacy"], "epsilon": 1.9}
        await opened(self, replace(run, job={**run.job, "privacy": privacy}))

    monkeypatch.setattr(BudgetDesk, "open_run", opened_late)
    rounds: list[int] = []

    with pytest.raises(BudgetExhaustedError, match=r"budget of model/pulling/run-\w+ \(lifetime\)"):
        simulate(app(), asked, sites=4, on_round=lambda each: rounds.append(each.round))

    assert rounds == [0, 1, 2]


@pytest.mark.parametrize("privacy", [RECORD, CLIENT], ids=lambda each: each["unit"])
def test_a_run_tells_what_it_cost_with_unit_and_delta(privacy: Mapping[str, Any]) -> None:
    asked = job({**privacy, "noise_multiplier": None, "epsilon": 3.0}, rounds=2)

    told = simulate(app(), asked, sites=4).privacy

    assert told is not None
    assert told.epsilon == pytest.approx(3.0, rel=1e-3)
    assert told.epsilon <= 3.0
    assert (told.delta, told.unit) == (asked.privacy.delta, asked.privacy.unit)
    assert (told.adjacency, told.sampling) == (Adjacency.ZERO_OUT, (Sampling.NONE,))


def test_noise_that_is_too_large_to_count_is_refused() -> None:
    asked = job({**RECORD, "noise_multiplier": 1e5})

    with pytest.raises(ConfigError, match=r"privacy\.noise_multiplier must be less, got 100000"):
        plan_of(asked, asked.privacy, SIZE).variance_of_each(2)


def test_what_no_noise_can_keep_is_refused() -> None:
    fields = {key: value for key, value in CLIENT.items() if key != "noise_multiplier"}
    asked = job({**fields, "epsilon": 1e-9, "delta": 1e-300})

    with pytest.raises(ConfigError, match=r"privacy\.epsilon cannot be kept"):
        plan_of(asked, asked.privacy, SIZE)


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        ({"privacy": {"clip": 1.0, "delta": 1e-5, "epsilon": 1.0}}, "privacy.unit must be given"),
        (
            {"privacy": {"unit": "client", "clip": 1.0, "delta": 1e-5}},
            "epsilon must be given or else noise_multiplier, got nothing",
        ),
        (
            {"privacy": {**CLIENT, "clip": 1.0, "delta": 1e-5, "epsilon": 1.0}},
            "epsilon must be given or else noise_multiplier, got both",
        ),
        (
            {"privacy": {**RECORD, "clip": 1.0, "delta": 1e-5, "records": None}},
            "and with no other, got nothing with 'record'",
        ),
        (
            {"privacy": {**CLIENT, "clip": 1.0, "delta": 1e-5, "records": 5}},
            "and with no other, got 5 with 'client'",
        ),
        (
            {"privacy": {**CLIENT, "clip": 1.0, "delta": 1e-5, "records_per_site": 5}},
            "records_per_site must be left out without records, got 5",
        ),
        (
            {"privacy": {**RECORD, "clip": 1.0, "delta": 1e-5, "records_per_site": 201}},
            "records_per_site must be at most records (200), got 201",
        ),
        ({"secure_aggregation": {"mode": "none"}}, 'mode must be "masking" with privacy'),
        (
            {"secure_aggregation": {"mode": "masking", "verification": "norm", "norm_bound": 1.0}},
            "noise makes an update larger than its bound",
        ),
        ({"evaluation": {"every": 1}}, "evaluation.every must be 0 with privacy, got 1"),
    ],
)
def test_a_table_that_promises_nothing_is_refused(tables: dict[str, Any], problem: str) -> None:
    whole = {
        "run": {"app": "pulling"},
        "evaluation": {"every": 0},
        "secure_aggregation": {"mode": "masking"},
        "privacy": {**CLIENT, "clip": 1.0, "delta": 1e-5},
    }
    with pytest.raises(ConfigError) as caught:
        parse_job({**whole, **tables})

    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("privacy", "size", "warnings"),
    [
        (RECORD, 400, []),
        (CLIENT, 10, []),
        (RECORD, 40_000, ["the noise is 3.0 times what 200 records can add up to"]),
        (
            CLIENT,
            10_000,
            [
                "the noise is 12.5 times what 4 clients can add up to",
                "hide each record",
            ],
        ),
        ({**RECORD, "delta": 0.01}, 400, ["privacy.delta must lie below one over the 200 units"]),
    ],
)
def test_a_run_that_cannot_learn_is_told_before_it_begins(
    privacy: Mapping[str, Any], size: int, warnings: list[str]
) -> None:
    promise, *told = outlook_of(job(privacy), size)

    assert promise.startswith("privacy: epsilon ")
    assert f"for each {privacy['unit']}, over 1 rounds" in promise
    assert len(told) == min(len(warnings), 1)
    assert all(warning in told[0] for warning in warnings)


@pytest.mark.parametrize(
    ("privacy", "secure", "mend"),
    [
        ({**RECORD, "records": 10**7, "records_per_site": 10**6}, {}, "privacy.records_per_site"),
        ({**CLIENT, "noise_multiplier": 1e-3}, {"value_bits": 4}, "secure_aggregation.value_bits"),
    ],
)
def test_contributions_that_are_counted_too_coarsely_are_told_of(
    privacy: Mapping[str, Any], secure: Mapping[str, Any], mend: str
) -> None:
    asked = job(privacy, **secure)

    promise, warning = outlook_of(asked, SIZE)[:2]

    assert "is rounded to nothing" in warning
    assert mend in warning
    # And the noise that is told of is the one that is added.
    plan = plan_of(asked, asked.privacy, SIZE)
    added = math.sqrt(plan.variance) * plan.terms.step / plan.terms.clip
    assert f"the noise is {added:.3g} times the clip" in promise


def test_a_run_without_a_known_number_of_clients_promises_and_no_more() -> None:
    asked = job(CLIENT).model_copy(update={"cohort": CohortSpec()})

    assert len(outlook_of(asked, 10**6)) == 1
    assert outlook_of(asked.model_copy(update={"privacy": None}), 10) == []


@pytest.mark.parametrize("more", [0, 37])
def test_records_that_all_pull_alike_break_no_round_however_many_there_are(more: int) -> None:
    asked = job({**RECORD, "records_per_site": 12, "records": 48, "noise_multiplier": 0.01})

    (moved,) = simulate(lone_number_app(12 + more), asked, sites=4).weights["w"]

    # No site's sum is more than its records may come to by public knowledge.
    assert moved == pytest.approx(-2.0, rel=0.01)


def lone_number_app(records: int) -> km.App:
    """Return a study whose model is one number, so that each record is as large there as can be."""
    app = km.App("pulling")
    app.model(lambda config: {"w": np.zeros(1, np.float32)})
    app.train(lambda weights, context: km.Update(weights, 1))
    app.gradients(lambda weights, context: {"w": np.full((records, 1), 9.0)})
    return app


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_client_whose_update_is_no_number_is_hidden_like_any_other(bad: float) -> None:
    broken = km.App("pulling", data=lambda site: bad if site.name.endswith("1") else -1.0)
    broken.model(lambda config: {"w": np.zeros(SIZE, np.float32)})
    broken.train(
        lambda weights, context: km.Update({"w": weights["w"] + np.float32(context.data)}, 1)
    )

    result = simulate(broken, job({**CLIENT, "noise_multiplier": 0.01}), sites=4)

    assert result.history[1].reports == 4
    # Three of four pull as far as the clip lets them.
    assert result.weights["w"].mean() == pytest.approx(-2 / math.sqrt(SIZE) * 3 / 4, rel=0.05)


def described(signers: Any = None, **changes: Any) -> RoundDescriptor:
    fields = {"minimum_survivors": 4, "colluders": 0, "noise_variance": 10, "weight_bound": 1}
    return describe(
        signers or signers_of(5), **{"dimension": 9, "norm_bound": 2.0, **fields, **changes}
    )


@pytest.mark.parametrize(("colluders", "shares"), [(0, 3), (1, 3), (2, 2)])
def test_a_site_pays_for_what_others_see_who_know_their_own_noise(
    colluders: int, shares: int
) -> None:
    descriptor = described(colluders=colluders, threshold=4)
    terms = PrivateTerms("client", 2.0, descriptor.clip / descriptor.levels)

    assert event_of_round(descriptor, terms).variance == 10 * shares


def test_a_site_never_pays_for_more_noise_than_there_is() -> None:
    # Nineteen shares of it: the nearest float is more.
    variance = (1 << 51) - 6
    assert float(19 * variance) > 19 * variance
    descriptor = described(
        signers_of(20), noise_variance=variance, ring_bits=64, minimum_survivors=20, threshold=15
    )
    terms = PrivateTerms("client", 2.0, descriptor.clip / descriptor.levels)

    assert event_of_round(descriptor, terms).variance < 19 * variance


@pytest.mark.parametrize(
    ("changes", "terms", "problem"),
    [
        ({"noise_variance": 0}, {}, "round must have noise, got none"),
        ({}, {"step": 0.1}, "step of the round must be that of the task, 0.1"),
        ({"norm_bound": 2.1}, {}, "norm_bound of the round must be at most the task's clip 2.0"),
    ],
)
def test_a_round_that_is_less_private_than_its_task_is_refused(
    changes: Mapping[str, Any], terms: Mapping[str, Any], problem: str
) -> None:
    descriptor = described(**changes)
    step = descriptor.clip / descriptor.levels
    contribution = Contribution(
        np.zeros(9, np.float32), 1, {}, PrivateTerms("client", 2.0, terms.get("step", step))
    )

    with pytest.raises(ConfigError, match=problem):
        contribution.weight_in(descriptor, 1, client="a")


def test_records_whose_gradients_are_no_numbers_count_as_zero_and_only_the_site_hears_of_it() -> (
    None
):
    broken = km.App("pulling")
    broken.model(lambda config: {"w": np.zeros(SIZE, np.float32)})
    broken.train(lambda weights, context: km.Update(weights, 1))
    rows = np.ones((50, SIZE), np.float32)
    rows[::2, 7] = np.nan
    broken.gradients(lambda weights, context: {"w": rows})

    with capture_logs() as logged:
        result = simulate(broken, job({**RECORD, "noise_multiplier": 0.01}), sites=4)

    # Half of the records are left.
    assert result.weights["w"].mean() == pytest.approx(-1 / math.sqrt(SIZE), rel=0.01)
    told = [each for each in logged if "count as zero" in each["event"]]
    assert told
    assert all(each.keys() == {"app", "event", "log_level"} for each in told)
