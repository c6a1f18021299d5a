"""What differential privacy costs: accuracy at several epsilons, and time in a round.

Run ``python benchmarks/private_runs.py``. Accuracy is measured on the held-out rows of all sites,
as means over several runs of real simulated rounds: keys, masks and noise as in production. Records
of the four hospitals and of the six insurance sites; clients of the digits, forty sites of
forty-five images each. The settings were chosen once, for all epsilons alike.
"""

import argparse
import statistics
from collections.abc import Mapping
from typing import Any

from _measuring import Goal, at_most, load_line, print_goals, print_table
from _noise_overhead import overhead

import kumiai as km
from kumiai.node.job import parse_job
from kumiai.node.studies import STUDIES, measured_everywhere
from kumiai.node.study import Site

DELTA = 1e-4
EPSILONS = (0.5, 1.0, 1.7, 4.0, 8.0, None)
NO_NOISE = {"noise_multiplier": 1e-6}

HEART = {"records": 920, "records_per_site": 303, "clip": 1.0}
RAND = {"records": 20_190, "records_per_site": 4_500, "clip": 1.0}


def job(app: str, rounds: int, sites: int, privacy: Mapping[str, Any], **strategy: Any) -> Any:
    return parse_job(
        {
            "run": {"app": app, "rounds": rounds},
            "cohort": {"size": sites, "min_reports": sites},
            "strategy": {"name": "fedavgm", "momentum": 0.0, **strategy},
            "evaluation": {"every": 0},
            "secure_aggregation": {"mode": "masking", "verification": "off", "colluders": 0},
            "privacy": {"delta": DELTA, **privacy},
        }
    )


def noise_of(epsilon: float | None) -> Mapping[str, Any]:
    return NO_NOISE if epsilon is None else {"epsilon": epsilon}


def reached(asked: Any, sites: Mapping[str, Mapping[str, Any]], metric: str) -> float:
    app = STUDIES[asked.run.app]
    result = km.simulate(app, asked, sites=sites)
    places = [Site(name, options) for name, options in sites.items()]
    return measured_everywhere(app, places, result.weights, config=asked.train, metric=metric)


def partitions(count: int, **options: Any) -> dict[str, dict[str, Any]]:
    return {
        f"site-{index:03}": {"partition": index, "partitions": count, **options}
        for index in range(count)
    }


def accuracy_tables(runs: int) -> list[Goal]:
    heart = {"unit": "record", **HEART}
    rand = {"unit": "record", **RAND}
    digits = {"unit": "client", "clip": 1.0}
    studies = {
        "heart, records": ("heart", 20, partitions(4), "accuracy", 2.5, heart),
        "rand, records": ("rand", 20, partitions(6), "auc", 4.0, rand),
        "digits, clients": ("digits", 15, partitions(40), "accuracy", 1.0, digits),
    }
    rows, goals = [], []
    for name, (app, rounds, sites, metric, rate, privacy) in studies.items():
        row = [f"{name}, {len(sites)} sites, {metric}"]
        means = {}
        for epsilon in EPSILONS:
            asked = job(
                app, rounds, len(sites), {**privacy, **noise_of(epsilon)}, learning_rate=rate
            )
            found = [reached(asked, sites, metric) for _ in range(runs if epsilon else 1)]
            means[epsilon] = statistics.fmean(found)
            spread = f" ± {100 * statistics.pstdev(found):.1f}" if len(found) > 1 else ""
            row.append(f"{100 * means[epsilon]:.1f}{spread}")
        rows.append(row)
        if app == "heart":
            lost = 100 * (means[None] - means[1.7])
            goals.append(at_most("points lost at the hospitals at epsilon 1.7", 2.0, lost))
    head = ["", *(f"eps {each:g}" if each else "no noise" for each in EPSILONS)]
    print_table(f"percent, delta {DELTA:g}, mean of {runs} runs", head, rows)
    return goals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=10, help="how often each is repeated")
    parser.add_argument("--short", action="store_true", help="time alone, no accuracy")
    chosen = parser.parse_args()
    print(load_line())
    print_goals(
        [
            *overhead(repeats=2 if chosen.short else 7, rounds=6),
            *([] if chosen.short else accuracy_tables(chosen.runs)),
        ]
    )


if __name__ == "__main__":
    main()
