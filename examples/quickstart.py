"""Handwritten digits at five sites: `python examples/quickstart.py`."""

import numpy as np

import kumiai as km

app = km.App("quickstart", data=km.datasets.digits)


@app.model
def model(config):
    return {"w": np.zeros((64, 10), np.float32)}


@app.train
def train(weights, context):
    x, y = context.data.x_train / 16, np.eye(10)[context.data.y_train]
    for _ in range(20):
        p = np.exp(x @ weights["w"])
        weights["w"] += x.T @ (y - p / p.sum(axis=1, keepdims=True)) / len(y)
    return km.Update(weights, examples=len(y))


@app.evaluate
def evaluate(weights, context):
    hits = (context.data.x_test @ weights["w"]).argmax(axis=1) == context.data.y_test
    return km.Evaluation(examples=len(hits), metrics={"accuracy": hits.mean()})


if __name__ == "__main__":
    print(km.run(app, sites=5, rounds=10).evaluation)
