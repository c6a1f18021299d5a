"""A federation in one process: what goes wrong at a virtual site is met as at a real one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

import kumiai as km
from kumiai.core.errors import ConfigError, DivergedError, QuorumLostError
from kumiai.node.coordinator.intake import FinishedUpdate, IntakeResult, UpdateIntake
from kumiai.node.job import StrategySpec, parse_job
from kumiai.node.simulation import simulate
from kumiai.storage import AcceptOutcome, DatabaseManager
from tests.integration.eventually import eventually


def diverging_app(times: int) -> km.App:
    """Return a study whose second site diverges so many times, and then trains."""
    app = km.App("diverging", data=lambda site: site.options["partition"])
    left = [times]

    @app.model
    def model(config: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
        return {"w": np.zeros(4, np.float32)}

    @app.train
    def train(weights: dict[str, np.ndarray[Any, Any]], context: km.Context) -> km.Update:
        diverges = context.data == 1 and left[0] > 0
        left[0] -= diverges
        weights["w"] += np.nan if diverges else 1.0
        return km.Update(weights, examples=1)

    return app


def job(**cohort: Any) -> Any:
    return parse_job(
        {
            "run": {"app": "diverging", "rounds": 1},
            "cohort": {"size": 2, "min_reports": 2, "deadline_seconds": 4, **cohort},
            "evaluation": {"every": 0},
        }
    )


@pytest.mark.parametrize("mode", ["masking", "paillier"])
def test_too_few_sites_to_hide_an_update_are_refused_at_once(mode: str) -> None:
    hidden = parse_job({"run": {"app": "diverging"}, "secure_aggregation": {"mode": mode}})

    with pytest.raises(ConfigError, match=f'sites must be at least 3 with .*"{mode}", got 2'):
        simulate(diverging_app(times=0), hidden, sites=2)


def test_a_refused_site_is_asked_again_when_the_round_is_extended() -> None:
    result = simulate(diverging_app(times=1), job(), sites=2)

    np.testing.assert_array_equal(result.weights["w"], np.ones(4))


def test_a_site_that_is_always_refused_fails_the_run_without_waiting_for_its_deadline() -> None:
    with pytest.raises(QuorumLostError) as caught:
        simulate(diverging_app(times=100), job(max_attempts=2), sites=2)

    assert "are in, 1 failed or were refused" in str(caught.value)
    assert "NaN" in str(caught.value)


@pytest.mark.parametrize(
    "secure", [{"mode": "none"}, {"mode": "masking", "value_bits": 5, "clip": 15.0}]
)
def test_an_update_that_its_round_has_overtaken_goes_into_the_next_attempt(
    monkeypatch: pytest.MonkeyPatch, secure: Mapping[str, Any]
) -> None:
    counted, became = UpdateIntake.finish, list[AcceptOutcome | None]()

    async def overtaken(self: UpdateIntake, update: FinishedUpdate) -> IntakeResult:
        if update.attempt > 1:
            return await counted(self, update)
        async with self._runs._database.transaction() as connection:
            await connection.execute(text("UPDATE rounds SET deadline_at = 0 WHERE attempt = 1"))
        await eventually(
            lambda: self._runs.round(update.run_id, update.round), lambda now: now.attempt == 2
        )
        result = await counted(self, update)
        became.append(result.outcome)
        return result

    monkeypatch.setattr(UpdateIntake, "finish", overtaken)
    asked = parse_job(
        {
            "run": {"app": "diverging", "rounds": 1},
            "cohort": {"size": 3, "min_reports": 3, "max_attempts": 2},
            "evaluation": {"every": 0},
            "secure_aggregation": secure,
        }
    )

    result = simulate(diverging_app(times=0), asked, sites=3)

    assert set(became) == {AcceptOutcome.OVERTAKEN}
    np.testing.assert_array_equal(result.weights["w"], np.ones(4))


def test_a_model_that_overflows_is_not_told_as_a_lost_quorum() -> None:
    overflowing = job().model_copy(
        update={"strategy": StrategySpec(name="fedavgm", learning_rate=1e39)}
    )

    with pytest.raises(DivergedError, match="model of round 1 must be finite"):
        simulate(diverging_app(times=0), overflowing, sites=2)


def test_a_job_is_taken_from_the_file_it_stands_in(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text('run = { app = "diverging", rounds = 3 }\nevaluation = { every = 0 }\n')

    result = simulate(diverging_app(times=0), str(file), sites=2)

    np.testing.assert_array_equal(result.weights["w"], np.full(4, 3.0))


def test_a_file_without_a_job_is_refused_by_name(tmp_path: Path) -> None:
    missing, wrong = tmp_path / "missing.toml", tmp_path / "wrong.toml"
    wrong.write_text("run = { app = 1 }\n")

    with pytest.raises(
        ConfigError, match=r"job must be a TOML file that can be read, got .*missing"
    ):
        simulate(diverging_app(times=0), missing, sites=2)
    with pytest.raises(ConfigError, match=r"wrong\.toml: run\.app must be"):
        simulate(diverging_app(times=0), wrong, sites=2)


def test_the_second_simulation_of_a_process_migrates_no_database_and_finds_none_of_the_firsts_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = simulate(diverging_app(0), job(), sites=2)
    migrated: list[object] = []
    monkeypatch.setattr(DatabaseManager, "migrate", lambda *_: migrated.append(_))

    second = simulate(diverging_app(0), job(), sites=2)

    assert migrated == []
    assert [each.round for each in second.history] == [each.round for each in first.history]
