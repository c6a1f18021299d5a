"""Paillier beside ``phe``, with the same key in the same run.

Ratios of CPU seconds on one core; the ways take turns, so that a busy moment hits all alike.
*Anybody* has only the public key, *holder* the private one, too, as clients do that share a key.
``phe`` encrypts one value per ciphertext; a gradient of ours is packed, 16 bits a value with
head-room for 100 clients.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import phe
from _measuring import (
    Goal,
    Load,
    MemoryWatch,
    at_least,
    at_most,
    load_line,
    print_goals,
    print_table,
)

from kumiai.crypto.paillier import (
    Exponents,
    PaillierCrypto,
    PaillierPrivateKey,
    SlotLayout,
    vector_to_bytes,
)
from kumiai.crypto.paillier.randomisers import draw_many

KEY_SIZES = (2048, 3072)
LAYOUT = SlotLayout.for_clip(1.0, value_bits=16, summand_count_max=100)
MEMORY_VALUES = 1_000_000
Way = tuple[Callable[[], object], int]
"""What to do, and how often for one sample."""


def microseconds(ways: dict[str, Way], turns: int) -> dict[str, float]:
    """Return the median CPU time of one call of each way."""
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, (act, count) in ways.items():
            began = time.process_time()
            for _ in range(count):
                act()
            samples[name].append((time.process_time() - began) / count)
    return {name: statistics.median(each) * 1e6 for name, each in samples.items()}


def gradient(count: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, count).astype(np.float32)


def measure(key_size: int, turns: int, values: int) -> list[Goal]:
    key = PaillierPrivateKey.generate(key_size)
    public_key = key.public_key
    their_key = phe.PaillierPublicKey(public_key.n)
    their_private_key = phe.PaillierPrivateKey(their_key, *key.primes)
    plaintext = public_key.plaintext_max // 3
    cryptos = {
        f"{who}, {exponents.value} exponents": PaillierCrypto(key=which, exponents=exponents)
        for who, which in (("anybody", public_key), ("holder", key))
        for exponents in (Exponents.FULL, Exponents.HALF, Exponents.SHORT)
    }
    encrypting: dict[str, Way] = {"phe": (lambda: their_key.raw_encrypt(plaintext), 3)}
    for name, crypto in cryptos.items():
        crypto.encrypt(0)  # makes its table
        encrypting[name] = (partial(crypto.encrypt, plaintext), 10)
    ahead = iter(draw_many(public_key, Exponents.SHORT, 100 * turns))
    encrypting["randomiser at hand"] = (
        lambda: public_key.raw_encrypt(plaintext, next(ahead)),
        100,
    )
    ours = cryptos["anybody, half exponents"].encrypt(plaintext)
    ciphertext = ours.limbs[0]
    theirs = phe.EncryptedNumber(their_key, int(ciphertext))
    decrypting: dict[str, Way] = {
        "phe": (partial(their_private_key.raw_decrypt, int(ciphertext)), 5),
        "ours": (partial(key.raw_decrypt, ciphertext), 5),
    }
    adding: dict[str, Way] = {
        "phe": (lambda: theirs + theirs, 1000),
        "ours": (lambda: ours + ours, 1000),
    }
    figures = {
        "encrypt": microseconds(encrypting, turns),
        "decrypt": microseconds(decrypting, turns),
        "add": microseconds(adding, turns),
    }
    for act, times in figures.items():
        show(f"{key_size} bits, {act}", times)
    return [
        *goals_of_ciphertexts(key_size, figures["encrypt"]),
        *packed(key_size, cryptos, figures, values),
    ]


def show(title: str, times: dict[str, float]) -> None:
    rows = [[name, f"{each:,.1f}", f"{times['phe'] / each:.2f}"] for name, each in times.items()]
    print_table(title, ["", "CPU us", "times phe"], rows)


def goals_of_ciphertexts(key_size: int, times: dict[str, float]) -> list[Goal]:
    default = times["phe"] / times["anybody, half exponents"]
    short = times["phe"] / times["anybody, short exponents"]
    return [
        at_least(f"{key_size}: ciphertexts, as delivered, times phe", 10, default),
        at_least(f"{key_size}: ciphertexts, short exponents, times phe", 40, short),
    ]


def packed(
    key_size: int,
    cryptos: dict[str, PaillierCrypto],
    figures: dict[str, dict[str, float]],
    count: int,
) -> list[Goal]:
    values = gradient(count)
    rows: list[Sequence[str]] = []
    ratios: dict[str, float] = {}
    for name, crypto in cryptos.items():
        if "full" in name:
            continue
        began = time.process_time()
        vector = crypto.encrypt_many(values, LAYOUT)
        each = (time.process_time() - began) / count * 1e6
        ratios[name] = figures["encrypt"]["phe"] / each
        rows.append([f"encrypt, {name}", f"{each:.2f}", f"{ratios[name]:,.0f}"])
    holder = cryptos["holder, half exponents"]
    few = holder.encrypt_many(values[:4000], LAYOUT)
    began = time.process_time()
    holder.decrypt_many(few)
    each = (time.process_time() - began) / 4000 * 1e6
    rows.append(["decrypt", f"{each:.2f}", f"{figures['decrypt']['phe'] / each:,.0f}"])
    began = time.process_time()
    _ = vector + vector
    each = (time.process_time() - began) / count * 1e6
    rows.append(["add", f"{each:.3f}", f"{figures['add']['phe'] / each:,.0f}"])
    size = len(vector_to_bytes(vector)) / count
    rows.append(["bytes", f"{size:.2f}", f"{key_size // 4 / size:.0f} (bytes)"])
    title = f"{key_size} bits, a value of a packed gradient of {count:,}"
    print_table(title, ["", "CPU us", "times phe"], rows)
    worst = ratios["anybody, half exponents"]
    return [
        at_least(f"{key_size}: packed values, as delivered, times phe", 1000, worst),
        at_most(f"{key_size}: bytes a value", 6, size),
    ]


def memory(count: int) -> list[Goal]:
    crypto = PaillierCrypto(key=PaillierPrivateKey.generate(2048).public_key)
    values = gradient(count)
    with MemoryWatch(os.getpid()) as watch:
        time.sleep(0.1)
        before = watch.peak_bytes
        vector = crypto.encrypt_many(values, LAYOUT)
    grown = (watch.peak_bytes - before) / 1e6
    size = len(vector_to_bytes(vector)) / 1e6
    print(f"\n{count:,} values: {size:.1f} MB of ciphertexts, memory rose by {grown:.0f} MB")
    return [at_most(f"memory for {count:,} values, table and result included, MB", 64, grown)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer turns and values")
    arguments = parser.parse_args()
    turns, values = (3, 20_000) if arguments.short else (9, 100_000)
    load = Load(list)
    # First, while no memory lies free that another measurement has left.
    goals = memory(MEMORY_VALUES // 10 if arguments.short else MEMORY_VALUES)
    goals += [goal for key_size in KEY_SIZES for goal in measure(key_size, turns, values)]
    print(f"\n{load_line()}; others used {load.other_cores():.1f} cores meanwhile")
    print_goals(goals)


if __name__ == "__main__":
    main()
