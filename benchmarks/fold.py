"""How fast updates are added up, against BLAS axpy and plain numpy over the same bytes.

Run ``python benchmarks/fold.py``: a few seconds. The figure that counts is the ratio to axpy, the
fastest known way to read an update once and add it to an accumulator; without scipy the unweighted
``np.add(out=)`` stands in as the limit. Bytes are those of the updates.
"""

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from kumiai.core.arrays import layout_of
from kumiai.core.codec import decode, encode
from kumiai.learning import mean_of_updates, nonfinite_count

try:
    from scipy.linalg.blas import saxpy
except ImportError:
    saxpy = None

CASES = [(10_000_000, 1), (10_000_000, 50), (1_000_000, 2000)]  # numbers, in so many arrays
UPDATES = 32
DISTINCT = 4  # updates in memory; together they are far larger than the caches
REPEATS = 3
WEIGHT = 1 / UPDATES

Arrays = dict[str, np.ndarray[Any, Any]]


def new_update(flat: np.ndarray[Any, Any], arrays: int) -> Arrays:
    parts = np.array_split(flat, arrays)
    return decode(b"".join(encode({f"a{i:05}": part for i, part in enumerate(parts)}))).arrays


def limit(updates: list[Arrays]) -> None:
    accumulator = np.zeros(sum(array.size for array in updates[0].values()), np.float32)
    for index in range(UPDATES):
        start = 0
        for array in updates[index % len(updates)].values():
            target = accumulator[start : start + array.size]
            if saxpy is not None:
                saxpy(array.reshape(-1), target, a=WEIGHT)
            else:
                np.add(target, array.reshape(-1), out=target)
            start += array.size


def plain(updates: list[Arrays]) -> None:
    total = {name: np.zeros_like(array) for name, array in updates[0].items()}
    for index in range(UPDATES):
        for name, array in updates[index % len(updates)].items():
            total[name] += WEIGHT * array


def fold(updates: list[Arrays], executor: ThreadPoolExecutor, threads: int) -> None:
    weighted = ((updates[index % len(updates)], WEIGHT) for index in range(UPDATES))
    mean_of_updates(weighted, layout_of(updates[0]), executor=executor, threads=threads)


def finite(updates: list[Arrays]) -> None:
    for index in range(UPDATES):
        for array in updates[index % len(updates)].values():
            nonfinite_count(array)


def measure(title: str, updates: list[Arrays], executor: ThreadPoolExecutor) -> None:
    ways: dict[str, Callable[[], None]] = {
        "BLAS axpy" if saxpy is not None else "np.add(out=), unweighted": lambda: limit(updates),
        "numpy, total += weight * array": lambda: plain(updates),
        "mean_of_updates, 1 thread": lambda: fold(updates, executor, 1),
        "mean_of_updates, 2 threads": lambda: fold(updates, executor, 2),
        "nonfinite_count": lambda: finite(updates),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):  # in turns, so that a busy moment hits all ways alike
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    size = UPDATES * sum(array.nbytes for array in updates[0].values())
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    best = next(iter(medians.values()))
    print(f"\n{title}")
    print(f"{'way':32} {'seconds':>8} {'GB/s':>6} {'of the limit':>13}")
    for name, median in medians.items():
        print(f"{name:32} {median:8.3f} {size / median / 1e9:6.1f} {best / median:12.0%}")


def main() -> None:
    generator = np.random.default_rng(1)
    flats = [generator.standard_normal(CASES[0][0], dtype=np.float32) for _ in range(DISTINCT)]
    with ThreadPoolExecutor(2) as executor:
        for numbers, arrays in CASES:
            updates = [new_update(flat[:numbers], arrays) for flat in flats]
            title = f"{UPDATES} updates of {numbers:,} float32 in {arrays} arrays"
            measure(title, updates, executor)


if __name__ == "__main__":
    main()
