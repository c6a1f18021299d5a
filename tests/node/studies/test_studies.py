"""The built-in studies: they learn, they are deterministic, federating pays."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from kumiai.node.datasets import SiteData, load_heart, load_rand_hie
from kumiai.node.studies import STUDIES, baselines, logistic
from kumiai.node.studies import digits as digits_study
from kumiai.node.studies import heart as heart_study
from kumiai.node.studies import rand as rand_study
from kumiai.node.study import (
    App,
    Evaluation,
    Site,
    TaskCancelledError,
    Update,
    initial_model,
    run_evaluate,
    run_train,
)

digits, heart, rand = digits_study.app, heart_study.app, rand_study.app
Arrays = Mapping[str, Any]


def sites_of(count: int, **options: Any) -> list[Site]:
    return [Site(f"s{i}", {"partition": i, "partitions": count, **options}) for i in range(count)]


def federated(app: App, sites: list[Site], rounds: int, **config: Any) -> Arrays:
    """Plain federated averaging, the slow and obvious way."""
    weights: Arrays = initial_model(app, config)
    for number in range(1, rounds + 1):
        updates = [
            run_train(app, weights, app.context(site, config=config, seed=1000 * number + index))
            for index, site in enumerate(sites)
        ]
        total = sum(update.examples for update in updates)
        weights = {
            name: sum(
                update.weights[name].astype(np.float64) * (update.examples / total)
                for update in updates
            ).astype(array.dtype)
            for name, array in weights.items()
        }
    return weights


def everywhere(app: App, weights: Arrays, sites: list[Site], metric: str) -> float:
    results = [run_evaluate(app, weights, app.context(site)) for site in sites]
    return float(
        np.average([r.metrics[metric] for r in results], weights=[r.examples for r in results])
    )


def test_the_studies_are_known_by_name() -> None:
    assert {"digits": digits, "heart": heart, "rand": rand} == STUDIES


def test_federated_digits_come_close_to_pooled_ones_and_far_above_local_ones() -> None:
    sites = sites_of(5)

    accuracy = everywhere(digits, federated(digits, sites, 20), sites, "accuracy")
    yardsticks = baselines(digits, sites, rounds=20)

    assert accuracy > 0.95
    assert yardsticks.pooled > 0.965
    assert yardsticks.local_mean < 0.75
    assert list(yardsticks.local) == ["s0", "s1", "s2", "s3", "s4"]


@pytest.mark.parametrize(
    ("app", "count", "local_max", "federated_min"),
    [(heart, 4, 0.87, 0.885), (rand, 6, 0.70, 0.705)],
)
def test_federating_natural_sites_ranks_patients_better_than_a_site_alone(
    app: App, count: int, local_max: float, federated_min: float
) -> None:
    sites = sites_of(count)

    area = everywhere(app, federated(app, sites, 10), sites, "auc")
    yardsticks = baselines(app, sites, rounds=10, metric="auc")

    assert area > federated_min
    assert yardsticks.local_mean < local_max
    assert yardsticks.pooled == pytest.approx(area, abs=0.02)


@pytest.mark.parametrize(("app", "count"), [(digits, 5), (heart, 4), (rand, 6)])
def test_a_task_repeated_gives_the_same_update_to_the_bit(app: App, count: int) -> None:
    site = sites_of(count)[1]

    def attempt() -> Update:
        return run_train(app, initial_model(app, {}, seed=3), app.context(site, seed=9))

    one, two = attempt(), attempt()

    assert all(np.array_equal(one.weights[name], two.weights[name]) for name in one.weights)
    assert (one.examples, one.metrics) == (two.examples, two.metrics)


@pytest.mark.parametrize("app", [digits, heart, rand])
def test_the_proximal_term_keeps_an_update_near_its_base(app: App) -> None:
    site = Site("all", {"partition": 0, "partitions": 4})
    base = initial_model(app, {})

    def distance(**config: float) -> float:
        update = run_train(app, base, app.context(site, config=config))
        return float(sum(np.square(update.weights[n] - base[n]).sum() for n in base))

    assert distance(proximal_mu=1.0) < 0.7 * distance()


def test_epochs_and_other_settings_come_from_the_job() -> None:
    site = sites_of(4)[0]
    reports: list[tuple[float, str]] = []
    context = heart.context(
        site, config={"epochs": 4}, report=lambda *report: reports.append(report)
    )

    run_train(heart, initial_model(heart, {}), context)

    assert reports[0] == (0.25, "epoch 1 of 4")
    assert reports[-1] == (1.0, "epoch 4 of 4")


def test_the_width_of_the_network_comes_from_the_job() -> None:
    model = initial_model(digits, {"hidden": 8})

    update = run_train(digits, model, digits.context(sites_of(5)[0], config={"epochs": 1}))

    assert update.weights["hidden.weight"].shape == (64, 8)


@pytest.mark.parametrize("app", [digits, heart, rand])
def test_a_study_stops_between_epochs_when_its_task_is_withdrawn(app: App) -> None:
    site = Site("all", {"partition": 0, "partitions": 2})
    answers = itertools.chain([False], itertools.repeat(True))
    reports: list[float] = []
    context = app.context(
        site,
        config={"epochs": 5},
        cancelled=lambda: next(answers),
        report=lambda progress, _text: reports.append(progress),
    )

    with pytest.raises(TaskCancelledError):
        run_train(app, initial_model(app, {}), context)

    assert reports == [0.2]


def test_the_gradients_of_the_network_are_those_of_finite_differences() -> None:
    rng = np.random.default_rng(0)
    weights = {n: a.astype(np.float64) for n, a in initial_model(digits, {"hidden": 5}).items()}
    x, y = rng.random((7, 64)), rng.integers(0, 10, 7)

    _, gradients = digits_study._loss_and_gradients(weights, x, y)

    for name, array in weights.items():
        for index in list(np.ndindex(array.shape))[:: max(array.size // 5, 1)]:
            moved = {n: a.copy() for n, a in weights.items()}
            moved[name][index] += 1e-6
            above = digits_study._loss_and_gradients(moved, x, y)[0]
            moved[name][index] -= 2e-6
            below = digits_study._loss_and_gradients(moved, x, y)[0]
            assert gradients[name][index] == pytest.approx((above - below) / 2e-6, abs=1e-6)


def test_the_area_under_the_curve_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")

    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    probability = np.round(rng.random(200) + 0.3 * y, 1)  # rounded: many ties

    assert logistic._auc(probability, y) == pytest.approx(metrics.roc_auc_score(y, probability))


def test_a_site_whose_held_out_rows_are_of_one_class_reports_no_area() -> None:
    x, y = np.zeros((3, 2), np.float32), np.ones(3, np.int64)
    context = App("x", data=lambda _site: SiteData(x, y, x, y)).context("s")

    assert set(logistic.evaluate(logistic.model(2), context).metrics) == {"loss", "accuracy"}


def test_missing_findings_become_columns_and_leave_no_gaps() -> None:
    x = np.array([[40.0, 2.0], [np.nan, np.nan]], np.float32)

    y = np.zeros(2)

    coded = logistic.standardized(
        SiteData(x, y, x[:1], y[:1], ("age", "kind")),
        scales={"age": (50, 10)},
        categories={"kind": (1, 2)},
        missing=("age",),
    )

    np.testing.assert_array_equal(coded.x_train, [[-1, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(coded.x_test, [[-1, 0, 1, 0]])
    assert coded.x_train.dtype == coded.x_test.dtype == np.float32


def test_every_finding_of_the_data_is_used() -> None:
    assert {*heart_study.SCALES, *heart_study.CATEGORIES} == set(load_heart().features)
    assert {*rand_study.SCALES, *rand_study.CATEGORIES} == set(load_rand_hie().features)


def test_baselines_of_no_sites_or_an_unknown_metric_are_refused() -> None:
    with pytest.raises(ValueError, match="sites must be at least one, got none"):
        baselines(heart, [], rounds=1)
    with pytest.raises(ValueError, match="metric must be one that the study returns, got 'f1'"):
        baselines(heart, sites_of(4), rounds=1, metric="f1")


def test_baselines_weigh_sites_by_their_held_out_rows() -> None:
    sizes = {"a": 1, "b": 3}

    def load(site: Site) -> SiteData:
        x = np.full(sizes[site.name], float(site.name == "a"))
        return SiteData(x, x, x, x)

    app = App("mean", data=load)
    app.model(lambda _config: {"w": np.zeros(1)})
    app.train(lambda _w, c: Update({"w": c.data.x_train.mean(keepdims=True)}, len(c.data.x_train)))
    app.evaluate(
        lambda w, c: Evaluation(len(c.data.x_test), {"accuracy": w["w"][0] == c.data.x_test[0]})
    )

    result = baselines(app, [Site("a"), Site("b")], rounds=2)

    assert result.local == {"a": 0.25, "b": 0.75}
    assert (result.local_mean, result.pooled) == (0.5, 0.0)
