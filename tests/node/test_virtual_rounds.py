"""Secure rounds of virtual clients: the same sums as in the clear, and the same refusals."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import kumiai as km
from kumiai.core.errors import ConfigError, KumiaiError
from kumiai.node.job import parse_job
from kumiai.node.simulation import simulate

STEP = 4 / (2**19 - 1)


def adding_app(broken: int | None = None, examples: int | None = None) -> km.App:
    """Return a study in which each site adds its number; one may be broken."""
    app = km.App("adding", data=lambda site: int(site.options["partition"]))

    @app.model
    def model(config: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
        return {"w": np.zeros(50, np.float32), "count": np.zeros((), np.int64)}

    @app.train
    def train(weights: dict[str, np.ndarray[Any, Any]], context: km.Context) -> km.Update:
        if context.data == broken:
            raise RuntimeError("this site is broken")
        weights["w"] += np.float32(context.data) / 4
        weights["count"] += 1
        return km.Update(weights, examples=examples or 1 + context.data, metrics={"loss": 1.0})

    return app


def job(secure: Mapping[str, Any] | None = None, **tables: Any) -> Any:
    settings = {"mode": "masking", "value_bits": 20, **(secure or {})}
    run = {"app": "adding", "rounds": 2}
    return parse_job(
        {"run": run, "evaluation": {"every": 0}, "secure_aggregation": settings, **tables}
    )


@pytest.mark.parametrize("verification", ["sum", "off"])
def test_a_hidden_sum_trains_the_same_model(verification: str) -> None:
    result = simulate(adding_app(), job({"verification": verification}), sites=5)

    weights = np.arange(1.0, 6.0)
    mean = np.average(np.arange(5) / 4, weights=weights)
    np.testing.assert_allclose(result.weights["w"], np.full(50, 2 * mean), atol=4 * STEP)
    assert result.weights["count"] == 2
    assert [each.reports for each in result.history[1:]] == [5, 5]


def test_numbers_that_a_round_cuts_to_its_clip_are_told_once() -> None:
    words = r"^secure_aggregation\.clip must be larger .*, got 1\.2: round 1 cut 50 of 51 numbers"

    with pytest.warns(UserWarning, match=words) as told:
        simulate(adding_app(), job({"clip": 1.2}), sites=6)

    assert len(told) == 1


@pytest.mark.parametrize("verification", ["sum", "off"])
def test_a_sum_of_encrypted_updates_trains_the_same_model(verification: str) -> None:
    settings = {"mode": "paillier", "key_bits": 2048, "verification": verification}

    result = simulate(adding_app(), job(settings), sites=4)

    mean = np.average(np.arange(4) / 4, weights=np.arange(1.0, 5.0))
    np.testing.assert_allclose(result.weights["w"], np.full(50, 2 * mean), atol=4 * STEP)
    assert [each.reports for each in result.history[1:]] == [4, 4]


def test_the_norm_of_each_update_can_be_proven() -> None:
    settings = {"verification": "norm", "norm_bound": 10.0}

    result = simulate(adding_app(), job(settings, run={"app": "adding", "rounds": 1}), sites=3)

    assert result.history[1].reports == 3


def test_uniform_weights_are_all_one() -> None:
    result = simulate(adding_app(), job(strategy={"weighting": "uniform"}), sites=4)

    np.testing.assert_allclose(result.weights["w"], np.full(50, 2 * 1.5 / 4), atol=4 * STEP)


def test_a_site_that_fails_is_left_out_of_the_sum() -> None:
    cohort = {"min_reports": 4, "grace_seconds": 0.1}

    result = simulate(adding_app(broken=4), job(cohort=cohort), sites=5)

    mean = np.average(np.arange(4) / 4, weights=np.arange(1.0, 5.0))
    np.testing.assert_allclose(result.weights["w"], np.full(50, 2 * mean), atol=4 * STEP)
    assert [each.reports for each in result.history[1:]] == [4, 4]


def test_two_sites_are_too_few_to_hide_in() -> None:
    with pytest.raises(KumiaiError, match=r"3|clients"):
        simulate(adding_app(), job(cohort={"patience_seconds": 1.0, "max_attempts": 1}), sites=2)


def test_too_many_examples_for_the_ring_are_told_with_the_mend() -> None:
    few = {"value_bits": 24, "phase_seconds": 1.0}
    app = adding_app(examples=1_000)

    with pytest.raises(KumiaiError, match="examples_per_weight must be at least 12"):
        simulate(app, job(few, cohort={"max_attempts": 1}), sites=3)


def test_a_norm_bound_without_its_proof_is_refused() -> None:
    with pytest.raises(ConfigError, match="norm_bound must be given with verification"):
        job({"norm_bound": 1.0})
    with pytest.raises(ConfigError, match=r"norm_bound must be given.*, got nothing with 'norm'"):
        job({"verification": "norm"})
