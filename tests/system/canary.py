"""A study whose updates are easy to find: each site's is a pattern that nothing else can hold."""

from collections.abc import Mapping
from typing import Any

import numpy as np

import kumiai as km

APP = "tests.system.canary:app"
SIZE = 1_000
LEVELS_PER_UNIT = 8_192
"""One unit of an update is so many steps of the quantisation: updates are quantised exactly."""

app = km.App("canary", data=lambda site: int(site.name.rpartition("-")[2]))


def update_of(number: int) -> np.ndarray[Any, Any]:
    """Return what a site adds to every model, float32."""
    steps = np.random.default_rng(number).integers(-30_000, 30_000, SIZE)
    return (steps / LEVELS_PER_UNIT).astype(np.float32)


@app.model
def model(config: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Return zeros."""
    return {"w": np.zeros(SIZE, np.float32)}


@app.train
def train(weights: dict[str, np.ndarray[Any, Any]], context: km.Context) -> km.Update:
    """Add the site's pattern."""
    weights["w"] = weights["w"] + update_of(int(context.data))
    return km.Update(weights, examples=1)
