"""How fast a vector is masked, against the bare cipher and against masks from MT19937.

Run ``python benchmarks/masks.py``: half a minute; ``--short`` for some seconds. The limit is the
keystream of AES-256 into one buffer and nothing else. MT19937 is what another framework draws its
masks with: int64 numbers below the modulus from a seed of 32 bits, added, reduced at the end.
All ways take their turns in one run, and times of one thread are its CPU time, so that the ratios
hold on a busy machine; those of two threads are of the clock.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from _measuring import Goal, at_least, load_line, print_goals, print_table
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from kumiai.crypto.masks import Mask, Words, add_mask, add_masks

SIZES = (100_000, 1_000_000)
KEYS = [bytes([number]) * 32 for number in range(10)]
MASKS = [Mask(key, 1 if number % 2 else -1) for number, key in enumerate(KEYS)]
ZEROS = bytes(1 << 20)
BUFFER = memoryview(bytearray(len(ZEROS)))
KINDS = ("uint32", "uint64")


@dataclass(frozen=True, slots=True)
class Way:
    """One way to ten masks, all together as long as those of the other ways.

    Attributes:
        kind: the words that the masks are for.
        act: makes them and, but for the bare cipher, adds them to a vector.
        threads: how many threads it uses.
    """

    kind: str
    act: Callable[[], object]
    threads: int = 1

    def seconds(self) -> float:
        clock = time.thread_time if self.threads == 1 else time.perf_counter
        began = clock()
        self.act()
        return clock() - began


def keystreams(size_bytes: int) -> None:
    for key in KEYS:
        stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
        for start in range(0, size_bytes, len(ZEROS)):
            stream.update_into(ZEROS[: size_bytes - start], BUFFER)


def mersenne_twister(vector: np.ndarray[Any, Any], modulus: int) -> np.ndarray[Any, Any]:
    for seed in range(len(KEYS)):
        generator = np.random.RandomState(seed)  # noqa: TID251 - the one to compare with
        vector = vector + generator.randint(0, modulus - 1, vector.size, dtype=np.int64)
    return vector % modulus


def one_by_one(vector: Words) -> None:
    for mask in MASKS:
        add_mask(vector, mask.key, sign=mask.sign)


def in_two_threads(vector: Words, executor: ThreadPoolExecutor) -> None:
    half = vector.size // 2
    parts = ((vector[:half], 0), (vector[half:], half * vector.itemsize))
    futures = [
        executor.submit(add_masks, part, MASKS, offset_bytes=offset) for part, offset in parts
    ]
    for future in futures:
        future.result()


def ways(size: int, executor: ThreadPoolExecutor) -> dict[str, Way]:
    found = {}
    # The sums of int64 cannot be taken modulo 2^64; 2^62 takes as many draws.
    for kind, modulus in zip(KINDS, (1 << 32, 1 << 62), strict=True):
        vector: Words = np.ones(size, kind)
        signed = np.ones(size, np.int64)
        found |= {
            f"{kind}: AES-256-CTR alone": Way(kind, partial(keystreams, vector.nbytes)),
            f"{kind}: MT19937": Way(kind, partial(mersenne_twister, signed, modulus)),
            f"{kind}: add_mask": Way(kind, partial(one_by_one, vector)),
            f"{kind}: add_masks": Way(kind, partial(add_masks, vector, MASKS)),
            f"{kind}: add_masks, 2 threads": Way(
                kind, partial(in_two_threads, vector, executor), threads=2
            ),
        }
    return found


def measure(size: int, executor: ThreadPoolExecutor, repeats: int) -> list[Goal]:
    candidates = ways(size, executor)
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, way in candidates.items():
            seconds[name].append(way.seconds())
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    numbers = size * len(KEYS)

    def ratio(kind: str, of: str, way: str) -> float:
        return medians[f"{kind}: {of}"] / medians[f"{kind}: {way}"]

    print_table(
        f"{len(KEYS)} masks of {size:,} numbers",
        ["way", "ns a number", "GB/s of mask", "of AES alone", "of MT19937"],
        [
            [
                name,
                f"{1e9 * medians[name] / numbers:.2f}",
                f"{numbers * np.dtype(way.kind).itemsize / medians[name] / 1e9:.1f}",
                f"{medians[f'{way.kind}: AES-256-CTR alone'] / medians[name]:.0%}",
                f"{medians[f'{way.kind}: MT19937'] / medians[name]:.1f}x",
            ]
            for name, way in candidates.items()
        ],
    )
    goals = []
    for kind in KINDS:
        for way in ("add_mask", "add_masks"):
            of_aes = ratio(kind, "AES-256-CTR alone", way)
            goals.append(at_least(f"{way}, {kind}, {size:,}, of AES-256-CTR", 0.7, of_aes, "x"))
        of_twister = ratio(kind, "MT19937", "add_masks")
        goals.append(at_least(f"add_masks, {kind}, {size:,}, of MT19937", 4, of_twister, "x"))
    return goals


def main() -> None:
    parser = argparse.ArgumentParser(description="masks, against the cipher and MT19937")
    parser.add_argument("--short", action="store_true", help="fewer repeats")
    arguments = parser.parse_args()
    print(load_line())
    repeats = 5 if arguments.short else 25
    with ThreadPoolExecutor(2) as executor:
        goals = [goal for size in SIZES for goal in measure(size, executor, repeats)]
    print_goals(goals)


if __name__ == "__main__":
    main()
