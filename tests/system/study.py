"""A study that shows every mistake in its bits.

What a site adds depends on the model it started from, on the task's seed and on the site. A round
repeated from an older model, an update counted twice or left out, a strategy's state applied
twice, a task begun with another seed: each gives another final model.
"""

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

import kumiai as km

APP = "tests.system.study:app"

app = km.App("wandering", data=lambda site: site.options["number"])

hold: dict[tuple[str, int], threading.Event] = {}
"""Sites that wait in this round's training until the test lets them go (in the test's process)."""

waiting: dict[tuple[str, int], threading.Event] = {}
"""Set once such a site has come there."""


def hold_back(site: str, round: int) -> threading.Event:  # noqa: A002 - the glossary's word
    """Let the site wait in this round; return what is set once it does."""
    hold[site, round] = threading.Event()
    waiting[site, round] = threading.Event()
    return waiting[site, round]


def release_all() -> None:
    """Let all sites go on."""
    for event in hold.values():
        event.set()
    hold.clear()


@app.model
def model(config: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Return zeros; the default size travels as two chunks."""
    size = int(config.get("size", 300_000))
    return {"w": np.zeros(size, np.float32), "steps": np.zeros((), np.int64)}


@app.train
def train(weights: dict[str, np.ndarray[Any, Any]], context: km.Context) -> km.Update:
    """Take a step that depends on where it starts, who takes it and which task it is."""
    here = (context.site, context.round)
    if (event := hold.get(here)) is not None:
        waiting[here].set()
        while not event.wait(0.01):
            context.check_cancelled()
    loss = float(np.abs(weights["w"]).mean(dtype=np.float64))
    noise = context.rng.standard_normal(weights["w"].shape, np.float32)
    weights["w"] *= np.float32(0.9)
    weights["w"] += np.float32(context.data) * noise
    weights["steps"] += 1
    return km.Update(weights, examples=10 * int(context.data), metrics={"loss": loss})


@app.gradients
def gradients(weights: dict[str, Any], context: km.Context) -> dict[str, Any]:
    """Return two records that pull alike."""
    return {"w": np.ones((2, weights["w"].size), np.float32)}


@app.evaluate
def evaluate(weights: dict[str, np.ndarray[Any, Any]], context: km.Context) -> km.Evaluation:
    """Report how far the model has wandered."""
    distance = float(np.abs(weights["w"]).mean(dtype=np.float64))
    return km.Evaluation(examples=10, metrics={"distance": distance})
