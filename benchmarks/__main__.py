"""All benchmarks, or those that are named, one after the other; then one table of the goals.

``python benchmarks [--full] [NAME ...]``. The settings are short ones unless ``--full`` is given: a
few minutes, and good enough to see what is off by a lot. What is next to a goal needs a machine
with nothing else to do.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from _measuring import RESULTS_VARIABLE, Goal, load_line, print_goals

HERE = Path(__file__).resolve().parent
# The cheap ones first; memory moves the most bytes.
NAMES = (
    "accounting",
    "fold",
    "masks",
    "database",
    "audit",
    "ledger",
    "bulk_insert",
    "cache",
    "near_reads",
    "norm_proof",
    "noise",
    "private_runs",
    "paillier",
    "blobs",
    "simulation",
    "slow_site",
    "rounds",
    "transfer",
    "sessions",
    "flood",
    "memory",
)
PROGRAMS = {"fold": "_fold_goal"}
WITHOUT_OPTIONS = {"fold"}


def run(name: str, results: Path, *, full: bool) -> int:
    print(f"\n=== {name}", flush=True)
    options = [] if full or name in WITHOUT_OPTIONS else ["--short"]
    environment = {**os.environ, RESULTS_VARIABLE: str(results)}
    command = [sys.executable, str(HERE / f"{PROGRAMS.get(name, name)}.py"), *options]
    return subprocess.run(command, env=environment, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description="ratios, and goals met or not")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--full", action="store_true", help="as long as the figures deserve")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="kumiai-benchmarks-") as folder:
        results = Path(folder) / "goals.jsonl"
        results.touch()
        failed = [
            name
            for name in arguments.names or NAMES
            if run(name, results, full=arguments.full) != 0
        ]
        lines = results.read_text(encoding="utf-8").splitlines()
    goals = [Goal(**json.loads(line)) for line in lines]
    print(f"\n=== all; {load_line()}")
    print_goals(goals)
    met = sum(goal.is_met for goal in goals)
    print(f"\n{met} of {len(goals)} goals met")
    if failed:
        print(f"did not run to the end: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
