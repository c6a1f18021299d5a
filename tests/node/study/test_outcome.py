"""Update and Evaluation: what a study may return."""

from typing import Any

import numpy as np
import pytest

from kumiai.node.study import Evaluation, Update

WEIGHTS = {"w": np.zeros(3, np.float32)}


def test_an_update_holds_plain_numbers_whatever_scalars_it_was_given() -> None:
    update = Update(WEIGHTS, np.int64(7), {"loss": np.float32(0.5), "seen": 3})

    assert (update.examples, type(update.examples)) == (7, int)
    assert update.metrics == {"loss": 0.5, "seen": 3.0}
    assert {type(value) for value in update.metrics.values()} == {float}


def test_an_update_keeps_the_arrays_and_not_the_mapping_it_was_given() -> None:
    weights = dict(WEIGHTS)

    update = Update(weights, 1)
    weights.clear()

    assert update.weights["w"] is WEIGHTS["w"]
    assert update.metrics == {}


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([1.0], TypeError, "weights must be a mapping from names to numpy arrays, got list"),
        ({}, ValueError, "weights must hold at least one array, got none"),
        ({3: np.zeros(1)}, TypeError, "names in weights must be strings, got int"),
        ({"": np.zeros(1)}, ValueError, "names in weights must not be empty, got ''"),
        ({"w": [1.0]}, TypeError, r"weights\['w'\] must be a numpy array, got list"),
    ],
)
def test_weights_that_are_no_named_arrays_are_refused(
    weights: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Update(weights, 1)


@pytest.mark.parametrize(
    ("examples", "error", "message"),
    [
        (0, ValueError, "examples must be > 0, got 0"),
        (-3, ValueError, "examples must be > 0, got -3"),
        (2.0, TypeError, "examples must be an integer, got float"),
        (True, TypeError, "examples must be an integer, got bool"),
    ],
)
def test_example_counts_that_are_no_positive_integers_are_refused(
    examples: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Update(WEIGHTS, examples)
    with pytest.raises(error, match=message):
        Evaluation(examples, {})


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        ({"loss": float("nan")}, ValueError, "metric 'loss' must be finite, got nan"),
        ({"loss": float("-inf")}, ValueError, "metric 'loss' must be finite, got -inf"),
        ({"loss": "0.5"}, TypeError, "metric 'loss' must be a number, got str"),
        ({"loss": np.ones(1)}, TypeError, "metric 'loss' must be a number, got ndarray"),
        ({"a b": 1.0}, ValueError, "metric name must be 1 to 63 letters"),
        ({1: 1.0}, TypeError, "metric name must be a string, got int"),
        ([("loss", 1.0)], TypeError, "metrics must be a mapping from names to numbers, got list"),
        ({f"m{i}": 1.0 for i in range(65)}, ValueError, "metrics must be at most 64, got 65"),
    ],
)
def test_metrics_that_are_not_a_few_finite_named_numbers_are_refused(
    metrics: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Evaluation(1, metrics)
    with pytest.raises(error, match=message):
        Update(WEIGHTS, 1, metrics)


def test_sixty_four_metrics_are_allowed() -> None:
    assert len(Evaluation(1, {f"m{i}": np.array(i) for i in range(64)}).metrics) == 64
