"""How many versions of the model a minute, while one site trains ten times as long as the others.

Run ``python benchmarks/slow_site.py``. Six sites in one process, with the coordinator's own run
code; five train for a fifth of a second, the sixth for two seconds. Rounds that wait for everybody,
rounds that close a second after two thirds have reported, and groups of three of those who are
ready (`[asynchronous]`); each with open updates and with masks. Beside it: in how many of the
versions the slow site is.
"""

import argparse
import time
from typing import Any, Final

import numpy as np
from _measuring import at_least, load_line, print_goals, print_table

import kumiai as km
from kumiai.node.job import parse_job
from kumiai.node.simulation import simulate

SITES: Final = 6
GROUP: Final = 3
FAST_SECONDS, SLOW_SECONDS = 0.2, 2.0
GOAL: Final = 3.0
"""Groups give so many times the versions of rounds that wait for everybody."""

WAITING: Final[dict[str, dict[str, Any]]] = {
    "rounds, all awaited": {"cohort": {"size": SITES, "min_reports": SITES}},
    "rounds, a second of grace": {"cohort": {"size": SITES, "grace_seconds": 1.0}},
    f"groups of {GROUP}": {"asynchronous": {"group_size": GROUP}},
}

app = km.App("waiting", data=lambda site: site.options["partition"])


@app.model
def model(_config: Any) -> Any:
    return {"w": np.zeros(10_000, np.float32)}


@app.train
def train(weights: Any, context: km.Context) -> km.Update:
    is_slow = context.data == 0
    time.sleep(SLOW_SECONDS if is_slow else FAST_SECONDS)
    weights["w"] += np.float32(0.01)
    return km.Update(weights, examples=10, metrics={"slow": float(is_slow)})


def measured(tables: dict[str, Any], mode: str, rounds: int) -> tuple[float, float]:
    """Return versions a minute, and in which part of them the slow site is."""
    job = parse_job(
        {
            "run": {"app": "waiting", "rounds": rounds},
            "evaluation": {"every": 0},
            "secure_aggregation": {"mode": mode},
            **tables,
        }
    )
    result = simulate(app, job, sites=SITES, workers=SITES)
    with_slow = sum(each.metrics.get("slow", 0.0) > 0 for each in result.history)
    return 60 * rounds / result.seconds, with_slow / rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="fewer versions")
    rounds = 10 if parser.parse_args().short else 30
    rows, versions = [], {}
    for mode in ("none", "masking"):
        for name, tables in WAITING.items():
            asked = rounds if "asynchronous" in tables else max(3, rounds // 5)
            per_minute, part = measured(tables, mode, asked)
            versions[mode, name] = per_minute
            rows.append([mode, name, f"{per_minute:.0f}", f"{part:.0%}"])
    print(load_line())
    print_table(
        "one of six sites trains ten times as long",
        ["updates", "who is waited for", "versions/min", "with the slow site"],
        rows,
    )
    first, _, last = WAITING
    print_goals(
        [
            at_least(
                f"updates {mode}: groups to rounds",
                GOAL,
                versions[mode, last] / versions[mode, first],
                "x",
            )
            for mode in ("none", "masking")
        ]
    )


if __name__ == "__main__":
    main()
