"""Logistic regression in numpy, and standardizing with published constants.

Both studies of natural sites share it. Scaling is a part of the model, so it must be the same
everywhere and may not be computed from one site's patients. The constants here are round numbers
that anyone can write down without seeing a row (a middle and a width for each measure), so nothing
about the data has to leave a site to agree on them.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

import kumiai as km

__all__ = ["evaluate", "gradients", "model", "standardized", "train"]


def standardized(
    data: km.datasets.SiteData,
    *,
    scales: Mapping[str, tuple[float, float]],
    categories: Mapping[str, tuple[int, ...]],
    missing: tuple[str, ...] = (),
) -> km.datasets.SiteData:
    """Return a site's data with the columns that a linear model can use, float32.

    Args:
        data: as loaded, NaN where a value is missing.
        scales: measure to (middle, width): the column becomes (value - middle) / width, and 0
            where the value is missing.
        categories: code to its known values: the column becomes one of 0 and 1 for each value, all
            0 where it is missing.
        missing: the columns for which "is missing" becomes a column of 0 and 1 as well.
    """

    def coded(x: Any) -> Any:
        column = {name: x[:, index] for index, name in enumerate(data.features)}
        columns = [
            np.nan_to_num((column[name] - middle) / width)
            for name, (middle, width) in scales.items()
        ]
        columns += [
            column[name] == value for name, values in categories.items() for value in values
        ]
        columns += [np.isnan(column[name]) for name in missing]
        return np.stack(columns, axis=1).astype(np.float32)

    return replace(data, x_train=coded(data.x_train), x_test=coded(data.x_test))


def model(columns: int) -> dict[str, Any]:
    """Return the model that knows nothing: all zero."""
    return {"weight": np.zeros(columns, np.float32), "bias": np.zeros(1, np.float32)}


def train(
    weights: dict[str, Any], context: km.Context, *, epochs: int, batch_size: int, rate: float
) -> km.Update:
    """Run some epochs of stochastic gradient descent in place.

    ``epochs``, ``batch_size`` and ``learning_rate`` in the job's ``train`` table win over the
    arguments; ``proximal_mu`` adds FedProx's term and ``l2`` (0.001) a penalty.
    """
    x, y = context.data.x_train, context.data.y_train.astype(np.float32)
    epochs = context.config.get("epochs", epochs)
    batch_size = context.config.get("batch_size", batch_size)
    rate = context.config.get("learning_rate", rate)
    mu = context.config.get("proximal_mu", 0.0)
    l2 = context.config.get("l2", 0.001)
    base = {name: array.copy() for name, array in weights.items()}
    for epoch in range(epochs):
        context.check_cancelled()
        order = context.rng.permutation(len(y))
        for start in range(0, len(y), batch_size):
            rows = order[start : start + batch_size]
            error = (_probability(weights, x[rows]) - y[rows]) / len(rows)
            gradients = {"weight": error @ x[rows] + l2 * weights["weight"], "bias": error.sum()}
            for name, gradient in gradients.items():
                weights[name] -= rate * (gradient + mu * (weights[name] - base[name]))
        context.report((epoch + 1) / epochs, f"epoch {epoch + 1} of {epochs}")
    return km.Update(weights, len(y), {"loss": _loss(_probability(weights, x), y)})


def gradients(weights: Mapping[str, Any], context: km.Context) -> dict[str, Any]:
    """Return the gradient of each patient's or family's loss."""
    x, y = context.data.x_train, context.data.y_train.astype(np.float32)
    error = _probability(weights, x) - y
    return {"weight": error[:, None] * x, "bias": error[:, None]}


def evaluate(weights: dict[str, Any], context: km.Context) -> km.Evaluation:
    """Return loss, accuracy and, where both classes occur, area under the ROC curve."""
    x, y = context.data.x_test, context.data.y_test
    probability = _probability(weights, x)
    metrics = {
        "loss": _loss(probability, y),
        "accuracy": float(np.mean((probability > 0.5) == y)),
    }
    if 0 < y.sum() < len(y):
        metrics["auc"] = _auc(probability, y)
    return km.Evaluation(len(y), metrics)


def _probability(weights: Mapping[str, Any], x: Any) -> Any:
    # Clipped: beyond 30 the result is 0 or 1 to float32's last digit, and exp() stays in range.
    scores = np.clip(x @ weights["weight"] + weights["bias"], -30, 30)
    return 1 / (1 + np.exp(-scores))


def _loss(probability: Any, y: Any) -> float:
    p = np.clip(probability, 1e-7, 1 - 1e-7)
    return -float(np.mean(np.where(y > 0, np.log(p), np.log1p(-p))))


def _auc(probability: Any, y: Any) -> float:
    # The share of (positive, negative) pairs in the right order, ties counting half.
    negative = np.sort(probability[y == 0])
    below = np.searchsorted(negative, probability[y == 1], side="left")
    not_above = np.searchsorted(negative, probability[y == 1], side="right")
    return float(np.mean(below + not_above) / (2 * len(negative)))
