"""A key of 256 bits is folded to 32 bits on its way into the mask.

A published implementation XORed the eight words of the shared key into one and seeded a generator
with it: 2^32 trials find the mask, and keys with the same fold have the same mask. Ours must have
nothing of the kind: every bit of the key changes every part of the mask.
"""

import secrets
import struct
from functools import reduce
from operator import xor

import numpy as np
import pytest

from kumiai.crypto.keys import derive
from kumiai.crypto.masks import Words, add_mask

KEY = bytes(range(100, 132))
SIZE = 4096


def fold(key: bytes) -> int:
    """Do what the attacked implementation did."""
    return reduce(xor, struct.unpack("<8I", key))


def mask_of(key: bytes) -> Words:
    buffer: Words = np.zeros(SIZE, np.uint32)
    add_mask(buffer, key)
    return buffer


def changed_bits(first: Words, second: Words) -> int:
    return int(np.bitwise_count(first ^ second).sum())


def with_flipped_bit(key: bytes, bit: int) -> bytes:
    return (int.from_bytes(key, "big") ^ 1 << bit).to_bytes(len(key), "big")


def derived(secret: bytes) -> int:
    return int.from_bytes(derive(secret, label="pair", context=b"round"))


def test_every_bit_of_the_key_changes_half_of_the_mask() -> None:
    mask = mask_of(KEY)

    changed = [changed_bits(mask, mask_of(with_flipped_bit(KEY, bit))) for bit in range(256)]

    # Half of 131 072 bits, within six standard deviations: two in a thousand million by chance.
    half, deviation = SIZE * 16, np.sqrt(SIZE * 8)
    assert [count for count in changed if abs(count - half) > 6 * deviation] == []


def test_every_bit_of_the_secret_changes_half_of_the_derived_key() -> None:
    changed = [
        (derived(KEY) ^ derived(with_flipped_bit(KEY, bit))).bit_count() for bit in range(256)
    ]

    # Six standard deviations of eight around 128.
    assert [count for count in changed if not 80 < count < 176] == []


def keys_with_the_same_fold() -> list[bytes]:
    first = struct.unpack("<8I", KEY)
    swapped = struct.pack("<8I", *first[::-1])
    moved = struct.pack("<8I", first[0] ^ 0xDEADBEEF, first[1] ^ 0xDEADBEEF, *first[2:])
    drawn = struct.unpack("<7I", secrets.token_bytes(28))
    drawn_to_fit = struct.pack("<8I", *drawn, reduce(xor, drawn, fold(KEY)))
    return [swapped, moved, drawn_to_fit]


@pytest.mark.parametrize("other", keys_with_the_same_fold(), ids=["swapped", "moved", "drawn"])
def test_two_keys_with_the_same_fold_have_unrelated_masks(other: bytes) -> None:
    assert fold(other) == fold(KEY)

    changed = changed_bits(mask_of(KEY), mask_of(other))

    assert abs(changed - SIZE * 16) < 6 * np.sqrt(SIZE * 8)


def test_a_folded_key_is_refused_as_a_seed() -> None:
    folded = struct.pack("<I", fold(KEY))

    with pytest.raises(ValueError, match="secret must be at least 32 bytes, got 4"):
        derive(folded, label="pair", context=b"round")
    with pytest.raises(ValueError, match="key must be 32 bytes, got 4"):
        add_mask(np.zeros(1, np.uint32), folded)
