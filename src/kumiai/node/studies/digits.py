"""Handwritten digits: a small network in numpy, classes spread unevenly over the sites.

The network is 64 pixels, 64 hidden units (ReLU), 10 classes (softmax), trained by plain stochastic
gradient descent. Sites are partitions of one data set; ``dirichlet`` in a site's options says how
unevenly, 0.3 unless it says otherwise.

Entries of the job's ``train`` table: ``epochs`` (2), ``batch_size`` (16), ``learning_rate`` (0.2),
``hidden`` (64). With a strategy that sends ``proximal_mu``, FedProx's term is added.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

import kumiai as km


def load(site: km.Site) -> km.datasets.SiteData:
    """Return the site's digits; a few classes make up most of them."""
    return km.datasets.digits(site, dirichlet=0.3)


app = km.App("digits", data=load)


@app.model
def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return random weights (He et al. 2015) and biases of zero."""
    rng = np.random.default_rng(config["seed"])
    hidden = config.get("hidden", 64)
    return {
        "hidden.weight": (rng.standard_normal((64, hidden)) * (2 / 64) ** 0.5).astype(np.float32),
        "hidden.bias": np.zeros(hidden, np.float32),
        "output.weight": (rng.standard_normal((hidden, 10)) * hidden**-0.5).astype(np.float32),
        "output.bias": np.zeros(10, np.float32),
    }


@app.train
def train(weights: dict[str, Any], context: km.Context) -> km.Update:
    """Run some epochs of stochastic gradient descent in place."""
    x, y = context.data.x_train / 16, context.data.y_train
    epochs = context.config.get("epochs", 2)
    batch_size = context.config.get("batch_size", 16)
    rate = context.config.get("learning_rate", 0.2)
    mu = context.config.get("proximal_mu", 0.0)
    base = {name: array.copy() for name, array in weights.items()}
    total = 0.0
    for epoch in range(epochs):
        context.check_cancelled()
        order = context.rng.permutation(len(y))
        total = 0.0
        for start in range(0, len(y), batch_size):
            rows = order[start : start + batch_size]
            loss, gradients = _loss_and_gradients(weights, x[rows], y[rows])
            for name, gradient in gradients.items():
                weights[name] -= rate * (gradient + mu * (weights[name] - base[name]))
            total += loss * len(rows)
        context.report((epoch + 1) / epochs, f"epoch {epoch + 1} of {epochs}")
    return km.Update(weights, len(y), {"loss": total / len(y)})


@app.evaluate
def evaluate(weights: dict[str, Any], context: km.Context) -> km.Evaluation:
    """Return loss and accuracy on the site's held-out digits."""
    x, y = context.data.x_test / 16, context.data.y_test
    _, probabilities = _forward(weights, x)
    return km.Evaluation(
        len(y),
        {
            "loss": _cross_entropy(probabilities, y),
            "accuracy": np.mean(probabilities.argmax(axis=1) == y),
        },
    )


def _forward(weights: Mapping[str, Any], x: Any) -> tuple[Any, Any]:
    hidden = np.maximum(x @ weights["hidden.weight"] + weights["hidden.bias"], 0)
    scores = hidden @ weights["output.weight"] + weights["output.bias"]
    scores -= scores.max(axis=1, keepdims=True)  # exp() then stays in range
    probabilities = np.exp(scores)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return hidden, probabilities


def _cross_entropy(probabilities: Any, y: Any) -> float:
    chosen = probabilities[np.arange(len(y)), y]
    return -float(np.mean(np.log(np.maximum(chosen, 1e-12))))


def _loss_and_gradients(weights: Mapping[str, Any], x: Any, y: Any) -> tuple[float, dict[str, Any]]:
    hidden, probabilities = _forward(weights, x)
    loss = _cross_entropy(probabilities, y)
    # d loss / d scores of softmax with cross entropy: probabilities minus the one-hot labels.
    scores = probabilities
    scores[np.arange(len(y)), y] -= 1
    scores /= len(y)
    below = (scores @ weights["output.weight"].T) * (hidden > 0)
    return loss, {
        "hidden.weight": x.T @ below,
        "hidden.bias": below.sum(axis=0),
        "output.weight": hidden.T @ scores,
        "output.bias": scores.sum(axis=0),
    }
