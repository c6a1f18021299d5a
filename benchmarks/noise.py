"""How fast exact noise is made, against the bare keystream, numpy's normal numbers and OpenDP.

Run ``python benchmarks/noise.py``: a minute; ``--short`` for some seconds. The scale is that of a
real round: a clipping norm of 2^16 steps and a noise multiplier of 1.1. The bare keystream is
as many bytes of AES-256-CTR as the sampler uses, and nothing else. All ways take their turns in one
run of one thread, and times are its CPU time, so that the ratios hold on a busy machine.

OpenDP is run by the interpreter that KUMIAI_OPENDP_PYTHON names, in an environment of its own with
``pip install opendp``; without one, a figure measured once is shown.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
from _measuring import Goal, at_least, at_most, load_line, print_goals, print_table

from kumiai.privacy.clipping_round import ClippingRound
from kumiai.privacy.keystream import Keystream
from kumiai.privacy.sampler import discrete_gaussian, skellam

OPENDP_VARIABLE = "KUMIAI_OPENDP_PYTHON"
OPENDP_ONCE = 14.1
"""CPU seconds for a million numbers, measured once with opendp 0.16.0 on an EPYC of 2025."""
OPENDP_COUNT = 100_000
ROUND = ClippingRound(clipping_norm=1.0, noise_multiplier=1.1, cohort_size=10)
VARIANCE = ROUND.mechanism.variance
BYTES_PER_NUMBER = {"discrete Gaussian": 16, "Skellam": 32}
MILLION = 1_000_000


def keystream(count: int) -> None:
    words = np.empty(1 << 15, "<u8")
    stream = Keystream.fresh()
    for start in range(0, count, words.size):
        stream.fill(words[: count - start])


def ways(count: int) -> dict[str, Callable[[], object]]:
    deviation = VARIANCE**0.5
    update = {0: np.random.default_rng(1).normal(size=count).astype(np.float32)}
    total = np.zeros(count + 1, np.int64)
    return {
        "AES-256-CTR alone, 16 bytes": lambda: keystream(2 * count),
        "AES-256-CTR alone, 32 bytes": lambda: keystream(4 * count),
        "discrete Gaussian": lambda: discrete_gaussian(
            Keystream.fresh(), count, Fraction(VARIANCE)
        ),
        "Skellam": lambda: skellam(Keystream.fresh(), count, VARIANCE & ~1),
        "a client's contribution": lambda: ROUND.contribution(update),
        "a round's release": lambda: ROUND.release(total),
        "PCG64 normal, not exact": lambda: np.random.default_rng(1).normal(0, deviation, count),
        "MT19937 normal, not exact": lambda: mersenne_twister(deviation, count),
    }


def mersenne_twister(deviation: float, count: int) -> object:
    return np.random.RandomState(1).normal(0, deviation, count)  # noqa: TID251 - to compare with


def opendp_seconds() -> tuple[float, str]:
    """Return the CPU seconds of OpenDP for a million, and where they come from."""
    python = os.environ.get(OPENDP_VARIABLE)
    if not python:
        return OPENDP_ONCE, "OpenDP, measured once"
    program = Path(__file__).with_name("_opendp_noise.py")
    command = [python, str(program), str(VARIANCE**0.5), str(OPENDP_COUNT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)), "OpenDP, exact"


def measure(count: int, repeats: int, opendp: tuple[float, str]) -> list[Goal]:
    candidates = ways(count)
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, act in candidates.items():
            began = time.thread_time()
            act()
            seconds[name].append(time.thread_time() - began)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    medians[opendp[1]] = opendp[0] * count / MILLION
    print_table(
        f"{count:,} numbers",
        ["way", "CPU ms", "million/s", "of OpenDP's speed"],
        [
            [
                name,
                f"{1e3 * each:,.0f}",
                f"{count / each / 1e6:,.2f}",
                f"{medians[opendp[1]] / each:,.1f}x",
            ]
            for name, each in medians.items()
        ],
    )
    goals = [
        at_least(f"{name}, {count:,}, millions a second", 5, count / medians[name] / 1e6)
        for name in BYTES_PER_NUMBER
    ]
    goals += [
        at_most(
            f"{name}, {count:,}, of the keystream's time",
            20,
            medians[name] / medians[f"AES-256-CTR alone, {size} bytes"],
            "x",
        )
        for name, size in BYTES_PER_NUMBER.items()
    ]
    of_opendp = medians[opendp[1]] / medians["discrete Gaussian"]
    goals.append(at_least(f"discrete Gaussian, {count:,}, of OpenDP's speed", 100, of_opendp, "x"))
    return goals


def main() -> None:
    parser = argparse.ArgumentParser(description="exact noise, against the cipher and OpenDP")
    parser.add_argument("--short", action="store_true", help="fewer repeats")
    arguments = parser.parse_args()
    print(load_line())
    opendp = opendp_seconds()
    repeats = 3 if arguments.short else 15
    goals = [goal for count in (MILLION, 10 * MILLION) for goal in measure(count, repeats, opendp)]
    print_goals(goals)


if __name__ == "__main__":
    main()
