"""How many tiny clients a second the simulation carries, with the coordinator's own run code.

Run ``python benchmarks/simulation.py``. 1 000 virtual clients, each a logistic regression over 200
examples of 20 features and a model of 10 000 numbers; a row and a digest for every update of every
round. The study's own work, done alone in a loop, stands beside it.
"""

import argparse
import os
import time
from typing import Any

import numpy as np
from _measuring import (
    CpuMeter,
    Load,
    at_least,
    load_line,
    megabytes,
    peak_rss_bytes,
    print_goals,
    print_table,
)

import kumiai as km

SITES = 1_000
EXAMPLES, FEATURES, STEPS = 200, 20, 5
NUMBERS = 10_000
GOAL_CLIENTS_PER_SECOND = 2_000
PFL_CLIENTS_PER_SECOND = 1_977
FLOWER_CLIENTS_PER_SECOND = 100


def load(site: km.Site) -> Any:
    generator = np.random.default_rng(int(site.options["partition"]))
    features = generator.standard_normal((EXAMPLES, FEATURES), dtype=np.float32)
    truth = np.linspace(-1, 1, FEATURES, dtype=np.float32)
    return features, (features @ truth > 0).astype(np.float32)


app = km.App("tiny", data=load)


@app.model
def model(_config: Any) -> Any:
    rest = NUMBERS - FEATURES
    return {"weights": np.zeros(FEATURES, np.float32), "rest": np.zeros(rest, np.float32)}


@app.train
def train(weights: Any, context: km.Context) -> km.Update:
    features, labels = context.data
    w = weights["weights"]
    for _ in range(STEPS):
        chances = 1 / (1 + np.exp(-features @ w))
        w -= 0.5 / EXAMPLES * (features.T @ (chances - labels))
    return km.Update(weights, examples=EXAMPLES)


def study_alone() -> tuple[float, float]:
    """Return wall and CPU seconds of a client's training and nothing else."""
    contexts = [
        app.context(km.Site(f"alone-{index}", {"partition": index, "partitions": SITES}))
        for index in range(SITES)
    ]
    base = app.model_function({})
    for context in contexts:
        _ = context.data
    meter, began = CpuMeter([os.getpid()]), time.monotonic()
    for context in contexts:
        app.train_function({name: array.copy() for name, array in base.items()}, context)
    return (time.monotonic() - began) / SITES, meter.seconds() / SITES


def main() -> None:
    parser = argparse.ArgumentParser(description="clients per second of the simulation")
    parser.add_argument("--rounds", type=int, help="of the measured run")
    parser.add_argument("--short", action="store_true", help="few rounds")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (5 if arguments.short else 10)
    print(load_line())
    km.run(app, sites=SITES, rounds=1, evaluate_every=0)  # loads the sites' data
    study_seconds, study_cpu = study_alone()
    meter, load = CpuMeter([os.getpid()]), Load(lambda: [os.getpid()])
    seconds = km.run(app, sites=SITES, rounds=rounds, evaluate_every=0).seconds
    clients = rounds * SITES
    cpu = meter.seconds() / clients
    speed = clients / seconds
    rows = [
        ["the study alone", f"{1 / study_seconds:,.0f}", "", f"{study_cpu * 1e3:.3f}", ""],
        [
            "Kumiai",
            f"{speed:,.0f}",
            f"{seconds / rounds:.3f}",
            f"{cpu * 1e3:.3f}",
            megabytes(peak_rss_bytes(os.getpid())),
        ],
        ["pfl (published for two cores)", f"{PFL_CLIENTS_PER_SECOND:,}", "0.506", "", "111"],
        ["Flower (the same)", f"{FLOWER_CLIENTS_PER_SECOND:,}", "10.0", "", "910"],
    ]
    headers = ["way", "clients/s", "round s", "CPU ms a client", "peak RSS MB"]
    print_table(f"{rounds} rounds of {SITES:,} virtual clients", headers, rows)
    print(
        f"{clients * NUMBERS * 4 / 1e6:,.0f} MB of updates; others' cores {load.other_cores():.1f}"
    )
    print_goals([at_least("simulated clients a second", GOAL_CLIENTS_PER_SECOND, speed)])
    print(load_line())


if __name__ == "__main__":
    main()
