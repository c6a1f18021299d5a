"""A study that trains nothing: it adds one, so that a round costs what the federation costs."""

from typing import Any

import kumiai as km

app = km.App("constant")


@app.model
def model(config: Any) -> Any:
    raise NotImplementedError("the benchmark submits the model itself")


@app.train
def train(weights: Any, context: km.Context) -> km.Update:
    for array in weights.values():
        array += 1
    return km.Update(weights, examples=1)
