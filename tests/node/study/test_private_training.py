"""Private training of a study: by each record's gradient, or by the steps of its context."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from kumiai.node.study import App, Context, StudyError, TaskCancelledError, Update, run_train
from kumiai.privacy import TrainingTerms

TERMS = TrainingTerms(
    clip=1.0, noise_multiplier=1e-6, sampling_rate=1.0, steps=5, batch=4.0, learning_rate=0.1
)
LOUD = TrainingTerms(
    clip=1.0, noise_multiplier=2.0, sampling_rate=0.5, steps=9, batch=4.0, learning_rate=0.1
)
MODEL: dict[str, Any] = {
    "w": np.zeros(3, np.float32),
    "b": np.zeros((), np.float64),
    "steps": np.array([7]),
}


def pulled(weights: dict[str, Any], context: Context) -> Iterator[dict[str, Any]]:
    """Yield four gradients, one of which is far beyond any clip, in two batches."""
    yield {"w": np.array([[1.0, 0, 0], [0, 3000.0, 0]])}
    yield {"w": np.zeros((2, 3)), "b": np.array([-0.5, np.nan])}


def app_of(
    train: Callable[..., Any] | None = None, gradients: Callable[..., Any] | None = None
) -> App:
    app = App("toy", data=lambda site: 100)
    app.train(train or (lambda weights, context: Update(weights, 100, {"loss": 1.0})))
    if gradients is not None:
        app.gradients(gradients)
    return app


def test_a_study_that_gives_gradients_is_trained_by_them_step_by_step() -> None:
    app = app_of(gradients=pulled)

    update = run_train(app, MODEL, app.context("s", privacy=TERMS))

    # Five steps of 0.1 along the mean over four, each record cut to the norm 1.
    assert update.weights["w"] == pytest.approx([-0.125, -0.125, 0], abs=1e-4)
    assert update.weights["b"] == pytest.approx(0.0625, abs=1e-4)
    assert update.weights["b"].shape == ()
    assert [update.weights[name].dtype for name in MODEL] == [np.float32, np.float64, np.int64]
    assert update.weights["steps"].tolist() == [7]
    assert MODEL["w"].tolist() == [0, 0, 0]


def test_each_step_sees_the_model_that_the_one_before_made() -> None:
    seen = []

    def gradients(weights: dict[str, Any], context: Context) -> dict[str, Any]:
        seen.append(float(weights["w"][0]))
        return {"w": np.ones((4, 1)) * (weights["w"] - 1)}

    app = app_of(gradients=gradients)
    base = {"w": np.zeros(1, ml_dtypes.bfloat16)}

    update = run_train(app, base, app.context("s", privacy=TERMS))

    assert seen == pytest.approx([1 - 0.9**n for n in range(5)], abs=0.02)
    assert update.weights["w"].dtype == ml_dtypes.bfloat16


def test_the_noise_of_the_steps_adds_up_and_covers_every_number() -> None:
    size = 40_000
    app = app_of(gradients=lambda weights, context: {"w": np.zeros((30, size), np.float32)})

    update = run_train(app, {"w": np.zeros(size)}, app.context("s", privacy=LOUD))

    assert update.weights["w"].std() == pytest.approx(0.1 * 2.0 / 4 * math.sqrt(9), rel=0.04)


@pytest.mark.parametrize("by_gradients", [True, False])
def test_nothing_is_told_beside_the_weights(by_gradients: bool) -> None:
    def train(weights: dict[str, Any], context: Context) -> Update:
        assert context.privacy is not None
        for step in context.privacy.steps(3):
            weights["w"] -= step.mean()
        return Update(weights, 100, {"loss": 0.25})

    app = app_of(train, pulled if by_gradients else None)

    update = run_train(app, MODEL, app.context("s", privacy=TERMS))

    assert update.examples == 1
    assert update.metrics == {}


def test_a_study_that_never_took_a_private_step_sends_nothing() -> None:
    app = app_of()

    with pytest.raises(StudyError, match=r"must train by the steps of context\.privacy"):
        run_train(app, MODEL, app.context("s", privacy=TERMS))


def test_a_study_can_not_take_more_steps_than_are_paid_for() -> None:
    taken: list[Any] = []

    def train(weights: dict[str, Any], context: Context) -> Update:
        assert context.privacy is not None
        for _ in range(3):
            taken.extend(step.mean() for step in context.privacy.steps(3))
        return Update(weights, 1)

    app = app_of(train)
    run_train(app, MODEL, app.context("s", privacy=TERMS))

    assert len(taken) == TERMS.steps


def test_a_private_training_ends_when_its_task_is_withdrawn() -> None:
    steps = []

    def gradients(weights: dict[str, Any], context: Context) -> dict[str, Any]:
        steps.append(1)
        return {"w": np.zeros((1, 3))}

    app = app_of(gradients=gradients)
    context = app.context("s", privacy=LOUD, cancelled=lambda: len(steps) == 2)

    with pytest.raises(TaskCancelledError):
        run_train(app, MODEL, context)

    assert len(steps) == 2


def test_without_private_terms_a_context_has_none() -> None:
    app = app_of(gradients=pulled)

    update = run_train(app, MODEL, app.context("s"))

    assert app.context("s").privacy is None
    assert update.examples == 100
