"""A study whose sums are known: each site adds its number to every weight."""

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

import kumiai as km

app = km.App("counting", data=lambda site: site.options["number"])

hold: dict[str, threading.Event] = {}
"""Sites that wait in their training until the test lets them go."""


def wait_if_held(context: km.Context) -> None:
    """Let a site that is held wait, or stop once its task is withdrawn."""
    if event := hold.get(context.site):
        while not event.wait(0.02):
            context.check_cancelled()


@app.model
def model(config: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Return zeros."""
    size = int(config.get("size", 8))
    return {"w": np.zeros(size, np.float32), "steps": np.zeros((), np.int64)}


@app.train
def train(weights: dict[str, np.ndarray[Any, Any]], context: km.Context) -> km.Update:
    """Add the site's number."""
    wait_if_held(context)
    if context.config.get("broken") == context.site:
        raise RuntimeError("this site is broken")
    if context.config.get("diverges") == context.site:
        weights["w"][0] = np.nan
    weights["w"] += np.float32(context.data)
    weights["steps"] += 1
    examples = 2**70 if context.config.get("boasts") == context.site else 10
    return km.Update(weights, examples=examples, metrics={"loss": float(context.data)})


@app.evaluate
def evaluate(weights: dict[str, np.ndarray[Any, Any]], context: km.Context) -> km.Evaluation:
    """Report the first weight."""
    if context.config.get("blind") == context.site:
        raise RuntimeError("this site is blind")
    name = "central.first" if context.config.get("poses") == context.site else "first"
    return km.Evaluation(examples=10, metrics={name: float(weights["w"][0])})


@app.gradients
def gradients(weights: dict[str, Any], context: km.Context) -> dict[str, Any]:
    """Return ten records whose gradients are larger than most clips."""
    wait_if_held(context)
    return {"w": np.full((10, weights["w"].size), -10 * context.data, np.float32)}
