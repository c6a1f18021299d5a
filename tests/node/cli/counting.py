"""A study whose sums are known: each site adds one to every weight."""

from collections.abc import Mapping
from typing import Any

import numpy as np

import kumiai as km

app = km.App("counting")


@app.model
def model(config: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Return zeros."""
    return {"w": np.zeros(int(config.get("size", 8)), np.float32)}


@app.train
def train(weights: dict[str, np.ndarray[Any, Any]], context: km.Context) -> km.Update:
    """Add one."""
    if context.config.get("broken"):
        raise RuntimeError("this site is broken")
    return km.Update({"w": weights["w"] + 1}, examples=10, metrics={"loss": 1 / context.round})


@app.evaluate
def evaluate(weights: dict[str, np.ndarray[Any, Any]], context: km.Context) -> km.Evaluation:
    """Report the first weight."""
    return km.Evaluation(examples=10, metrics={"first": float(weights["w"][0])})
