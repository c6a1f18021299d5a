"""``fold.py``, and its goal: the sum of updates at four fifths of the speed of BLAS."""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import fold
import numpy as np
from _measuring import at_least, load_line, print_goals

NUMBERS = 10_000_000


def ratio() -> float:
    """Return how fast two threads fold, over how fast BLAS adds the same bytes."""
    generator = np.random.default_rng(1)
    updates = [
        fold.new_update(generator.standard_normal(NUMBERS, dtype=np.float32), 10)
        for _ in range(fold.DISTINCT)
    ]
    ratios = []
    with ThreadPoolExecutor(2) as executor:
        for _ in range(fold.REPEATS):
            began = time.perf_counter()
            fold.limit(updates)
            between = time.perf_counter()
            fold.fold(updates, executor, 2)
            ratios.append((between - began) / (time.perf_counter() - between))
    return statistics.median(ratios)


def main() -> None:
    print(load_line())
    fold.main()
    print_goals([at_least("fold of updates, of BLAS axpy", 0.8, ratio(), "x")])


if __name__ == "__main__":
    main()
