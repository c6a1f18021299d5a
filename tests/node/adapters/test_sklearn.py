"""The scikit-learn adapter: estimators become studies."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import kumiai
from kumiai.core.errors import ConfigError
from kumiai.node.adapters import sklearn as adapter
from kumiai.node.datasets import SiteData, breast_cancer, digits
from kumiai.node.study import (
    App,
    Site,
    StudyError,
    TaskCancelledError,
    initial_model,
    run_evaluate,
    run_train,
)

linear_model = pytest.importorskip("sklearn.linear_model")
neural_network = pytest.importorskip("sklearn.neural_network")


def scaled(site: Site) -> SiteData:
    data = breast_cancer(site)
    # By the site's own middle and width: nothing has to leave it.
    middle, width = data.x_train.mean(axis=0), data.x_train.std(axis=0)
    return SiteData(
        (data.x_train - middle) / width,
        data.y_train,
        (data.x_test - middle) / width,
        data.y_test,
    )


def sites_of(count: int) -> list[Site]:
    return [Site(f"s{i}", {"partition": i, "partitions": count}) for i in range(count)]


def federated(app: App, sites: list[Site], rounds: int) -> dict[str, Any]:
    weights = initial_model(app, {})
    for number in range(rounds):
        updates = [
            run_train(app, weights, app.context(site, seed=number)).weights for site in sites
        ]
        weights = {name: np.mean([u[name] for u in updates], axis=0) for name in weights}
    return weights


ESTIMATORS: dict[str, Callable[[], Any]] = {
    "logistic": lambda: linear_model.LogisticRegression(max_iter=5),
    "sgd": lambda: linear_model.SGDClassifier(loss="log_loss"),
    "perceptron": linear_model.Perceptron,
    "mlp": lambda: neural_network.MLPClassifier((16,), learning_rate_init=0.01),
}


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_averaged_estimators_learn_two_classes(kind: str) -> None:
    app = kumiai.sklearn(
        kind, ESTIMATORS[kind](), data=scaled, features=30, classes=(0, 1), epochs=3
    )
    sites = sites_of(4)

    weights = federated(app, sites, 10)

    accuracies = [
        run_evaluate(app, weights, app.context(site)).metrics["accuracy"] for site in sites
    ]
    assert np.mean(accuracies) > 0.9


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_a_site_that_lacks_classes_trains_all_the_same(kind: str) -> None:
    def load(site: Site) -> SiteData:
        data = digits(site)
        few = data.y_train < 3
        return SiteData(data.x_train[few] / 16, data.y_train[few], data.x_test, data.y_test)

    app = kumiai.sklearn(
        kind, ESTIMATORS[kind](), data=load, features=64, classes=range(10), epochs=10
    )
    model = initial_model(app, {})

    update = run_train(app, model, app.context("s"))

    # At least the classes that it has.
    assert update.metrics["accuracy"] > 0.9
    assert {name: array.shape for name, array in update.weights.items()} == {
        name: array.shape for name, array in model.items()
    }


def test_a_site_with_a_single_class_of_two_trains_all_the_same() -> None:
    x, y = np.zeros((6, 2)), np.ones(6, np.int64)
    app = kumiai.sklearn(
        "a", ESTIMATORS["logistic"](), data=lambda _site: (x, y), features=2, classes=(0, 1)
    )

    update = run_train(app, initial_model(app, {}), app.context("s"))

    assert update.weights["coef"].shape == (1, 2)
    # Were the missing class given a row that counts, the intercept would end at log(6 / 1).
    assert update.weights["intercept"][0] > np.log(6) + 0.5


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_a_task_repeated_gives_the_same_update_to_the_bit(kind: str) -> None:
    app = kumiai.sklearn(kind, ESTIMATORS[kind](), data=scaled, features=30, classes=(0, 1))
    site = sites_of(4)[0]
    model = initial_model(app, {}, seed=4)

    one, two = (run_train(app, model, app.context(site, seed=2**63 - 1)) for _ in range(2))

    assert all(np.array_equal(one.weights[name], two.weights[name]) for name in model)
    assert all(array.dtype == np.float64 for array in model.values())


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_training_begins_where_the_model_stands(kind: str) -> None:
    app = kumiai.sklearn(kind, ESTIMATORS[kind](), data=scaled, features=30, classes=(0, 1))
    site = sites_of(4)[0]
    model = initial_model(app, {})
    moved = {name: array + 0.25 for name, array in model.items()}

    here = run_train(app, model, app.context(site)).weights
    there = run_train(app, moved, app.context(site)).weights

    assert not all(np.allclose(here[name], there[name]) for name in model)


def test_warm_started_logistic_regression_reaches_what_it_reaches_at_once() -> None:
    data = scaled(Site("s"))
    app = kumiai.sklearn("a", ESTIMATORS["logistic"](), data=scaled, features=30, classes=(0, 1))
    weights: Any = initial_model(app, {})

    for _ in range(80):
        weights = run_train(app, weights, app.context("s")).weights

    oracle = linear_model.LogisticRegression(max_iter=5000, tol=1e-8).fit(
        data.x_train.astype(np.float64),
        data.y_train,
    )
    np.testing.assert_allclose(weights["coef"], oracle.coef_, rtol=0.05, atol=0.05)


def test_epochs_come_from_the_job_and_are_reported() -> None:
    reports: list[tuple[float, str]] = []
    app = kumiai.sklearn("a", ESTIMATORS["sgd"](), data=scaled, features=30, classes=(0, 1))
    context = app.context(
        sites_of(4)[0], config={"epochs": 2}, report=lambda *report: reports.append(report)
    )

    run_train(app, initial_model(app, {}), context)

    assert reports == [(0.5, "epoch 1 of 2"), (1.0, "epoch 2 of 2")]


def test_a_withdrawn_task_stops() -> None:
    app = kumiai.sklearn("a", ESTIMATORS["sgd"](), data=scaled, features=30, classes=(0, 1))

    with pytest.raises(TaskCancelledError):
        run_train(app, initial_model(app, {}), app.context("s", cancelled=lambda: True))


@pytest.mark.parametrize("epochs", [0, 1.5, True, "2"])
def test_epochs_that_are_no_positive_integer_are_refused(epochs: object) -> None:
    app = kumiai.sklearn("a", ESTIMATORS["sgd"](), data=scaled, features=30, classes=(0, 1))

    with pytest.raises(StudyError, match="epochs must be an integer >= 1, got"):
        run_train(app, initial_model(app, {}), app.context("s", config={"epochs": epochs}))


def test_a_proximal_term_is_refused_and_not_ignored() -> None:
    app = kumiai.sklearn("a", ESTIMATORS["sgd"](), data=scaled, features=30, classes=(0, 1))

    with pytest.raises(StudyError, match="strategy must not ask for a proximal term"):
        run_train(app, initial_model(app, {}), app.context("s", config={"proximal_mu": 0.1}))


def test_data_of_another_shape_are_refused() -> None:
    app = kumiai.sklearn(
        "a", ESTIMATORS["sgd"](), data=lambda _site: [1, 2], features=30, classes=(0, 1)
    )

    with pytest.raises(StudyError, match=r"data loader must return a .*SiteData or a pair .* list"):
        run_train(app, initial_model(app, {}), app.context("s"))


@pytest.mark.parametrize(
    "estimator",
    [
        object(),
        linear_model.LinearRegression(),
        linear_model.SGDRegressor(),
        pytest.importorskip("sklearn.naive_bayes").GaussianNB(),
        pytest.importorskip("sklearn.tree").DecisionTreeClassifier(),
    ],
)
def test_an_estimator_without_coefficients_to_average_is_refused(estimator: Any) -> None:
    with pytest.raises(ConfigError, match="estimator must be a LogisticRegression, or a classif"):
        kumiai.sklearn("a", estimator, data=scaled, features=30, classes=(0, 1))


def test_the_estimator_that_was_given_is_never_changed() -> None:
    estimator = ESTIMATORS["logistic"]()
    app = kumiai.sklearn("a", estimator, data=scaled, features=30, classes=(0, 1))

    run_train(app, initial_model(app, {}), app.context("s"))

    assert not hasattr(estimator, "coef_")
    assert estimator.warm_start is False


def test_threads_that_overlap_do_not_switch_the_warning_on_for_each_other() -> None:
    import warnings

    before = list(warnings.filters)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with adapter._unfinished:
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(10)
    with adapter._unfinished:
        pass
    held = list(warnings.filters)
    leave.set()
    thread.join(10)

    assert held != before
    assert list(warnings.filters) == before


def test_without_scikit_learn_the_mend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.base", None)

    with pytest.raises(ConfigError, match=r"got none: pip install 'kumiai\[sklearn\]'"):
        kumiai.sklearn("a", object(), data=scaled, features=1, classes=(0, 1))
