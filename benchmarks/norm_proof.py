"""What it costs to commit to an update, to prove its norm, to verify that, and to check a sum.

Run ``python benchmarks/norm_proof.py``: two minutes, most of them for the million; ``--short`` for
100 000 numbers alone. Times are CPU time of one process, the median of some turns. Beside them
stands what one multiplication of a point for each number would take, which is the least that proofs
without tables and sums begin with.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from _measuring import Goal, at_most, load_line, print_goals, print_table

from kumiai.crypto.blindings import sum_blindings
from kumiai.crypto.group import draw_scalar, multiply
from kumiai.crypto.norm_proof import prove_norm, verify_norm
from kumiai.crypto.norm_statement import NormStatement
from kumiai.crypto.pedersen import Opening, PedersenRows
from kumiai.crypto.sum_check import verify_sum

CLIENTS = 3
WEIGHT = 3
DEVIATION = 600
CONTEXT = b"a benchmark"
MULTIPLICATIONS = 2000
SECONDS_MAX = {"prove": 1.5, "verify": 0.3}
BYTES_MAX = 60_000


def cpu_seconds(act: Callable[[], object], repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        began = time.process_time()
        act()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def set_up() -> PedersenRows:
    began = time.process_time()
    rows = PedersenRows()
    hashed = time.process_time() - began
    built = cpu_seconds(lambda: rows.commit(np.ones(1, np.int64)), 1)
    print_table(
        "once per process",
        ["", "CPU s"],
        [["hash the generators", f"{hashed:.2f}"], ["build the table", f"{built:.2f}"]],
    )
    return rows


def multiplications(rows: PedersenRows) -> float:
    """Return the CPU seconds of one multiplication."""
    scalars = [draw_scalar() for _ in range(MULTIPLICATIONS)]
    point = rows.generators[0]
    return cpu_seconds(lambda: [multiply(point, each) for each in scalars], 3) / MULTIPLICATIONS


def measure(rows: PedersenRows, size: int, repeats: int) -> list[Goal]:
    rng = np.random.default_rng(5)
    update = np.rint(rng.standard_normal(size - 1) * DEVIATION).astype(np.int64)
    values = np.append(update * WEIGHT, WEIGHT)
    statement = NormStatement(
        dimension=size - 1, bound_squared=int((update * update).sum()), weight=WEIGHT
    )
    openings: list[Opening] = []
    proofs: list[bytes] = []

    def prove() -> None:
        proofs.append(prove_norm(rows, openings[0], statement, CONTEXT))

    seconds = {"commit": cpu_seconds(lambda: openings.append(rows.commit(values)), repeats)}
    seconds["prove"] = seconds["commit"] + cpu_seconds(prove, repeats)
    commitments = openings[0].commitments
    seconds["verify"] = cpu_seconds(
        lambda: verify_norm(rows, commitments, proofs[0], statement, CONTEXT), repeats
    )
    size_bytes = len(proofs[0]) + len(commitments.to_bytes())
    clients = [rows.commit(values) for _ in range(CLIENTS)]
    blindings = [0] * statement.row_count
    for client in clients:
        blindings = sum_blindings(blindings, client.blindings)
    public = [client.commitments for client in clients]
    seconds[f"check the sum of {CLIENTS}"] = cpu_seconds(
        lambda: verify_sum(rows, public, CLIENTS * values, blindings), repeats
    )
    seconds["one multiplication a number, extrapolated"] = size * multiplications(rows)
    names = {"prove": "commit and prove"}
    print_table(
        f"{size:,} numbers, {size_bytes / 1000:.1f} kB of commitments and proof",
        ["", "CPU s", "of multiplications"],
        [
            [
                names.get(name, name),
                f"{taken:.3f}",
                f"{taken / seconds['one multiplication a number, extrapolated']:.0%}",
            ]
            for name, taken in seconds.items()
        ],
    )
    if size > 100_000:
        return []
    return [
        *(
            at_most(f"{names.get(name, name)}, {size:,} numbers", limit, seconds[name], " CPU s")
            for name, limit in SECONDS_MAX.items()
        ),
        at_most(
            f"commitments and proof, {size:,} numbers", BYTES_MAX / 1000, size_bytes / 1000, " kB"
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="commitments, norm proofs, sum checks")
    parser.add_argument("--short", action="store_true", help="100 000 numbers alone")
    arguments = parser.parse_args()
    print(load_line())
    rows = set_up()
    goals = measure(rows, 100_000, 3 if arguments.short else 5)
    if not arguments.short:
        goals += measure(rows, 1_000_000, 1)
    print_goals(goals)


if __name__ == "__main__":
    main()
