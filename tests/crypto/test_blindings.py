import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import ProofError
from kumiai.crypto.blindings import (
    add_blinding_masks,
    decode_blindings,
    encode_blindings,
    sum_blindings,
)
from kumiai.crypto.group import ORDER
from kumiai.crypto.masks import Mask

Q = int(ORDER)
BLINDINGS = st.lists(st.integers(0, Q - 1), max_size=5)
KEYS = [bytes([index]) * 32 for index in range(3)]


@given(BLINDINGS)
def test_masks_that_are_taken_away_again_leave_what_was_there(blindings: list[int]) -> None:
    masked = add_blinding_masks(blindings, [Mask(KEYS[0]), Mask(KEYS[1], -1)])

    assert add_blinding_masks(masked, [Mask(KEYS[1]), Mask(KEYS[0], -1)]) == blindings


@given(st.lists(st.tuples(st.integers(0, Q - 1), st.integers(0, Q - 1)), min_size=1, max_size=4))
def test_masks_of_two_clients_cancel_out_in_the_sum(pairs: list[tuple[int, int]]) -> None:
    left, right = ([pair[index] for pair in pairs] for index in range(2))

    total = sum_blindings(
        add_blinding_masks(left, [Mask(KEYS[2])]), add_blinding_masks(right, [Mask(KEYS[2], -1)])
    )

    assert total == [(a + b) % Q for a, b in pairs]


def test_a_mask_is_the_keystream_in_words_of_48_bytes() -> None:
    stream = Cipher(algorithms.AES(KEYS[1]), modes.CTR(bytes(16))).encryptor().update(bytes(96))

    masked = add_blinding_masks([5, Q - 1], [Mask(KEYS[1])])

    words = [int.from_bytes(stream[:48], "little"), int.from_bytes(stream[48:], "little")]
    assert masked == [(5 + words[0]) % Q, (Q - 1 + words[1]) % Q]


def test_every_bit_of_the_key_changes_the_mask() -> None:
    plain = add_blinding_masks([0], [Mask(KEYS[1])])
    masked = {
        add_blinding_masks([0], [Mask((int.from_bytes(KEYS[1], "big") ^ 1 << bit).to_bytes(32))])[0]
        for bit in range(256)
    }

    assert len(masked | set(plain)) == 257


@given(BLINDINGS)
def test_blindings_survive_their_bytes(blindings: list[int]) -> None:
    assert decode_blindings(encode_blindings(blindings), len(blindings)) == blindings


@pytest.mark.parametrize("size", [0, 63, 65, 32, 96])
def test_blindings_of_another_length_are_refused(size: int) -> None:
    with pytest.raises(ProofError, match=f"must have 64 bytes for 2 rows, got {size}"):
        decode_blindings(bytes(size), 2)


def test_a_blinding_that_is_not_below_the_order_is_named() -> None:
    with pytest.raises(ProofError, match="blinding of row 1 must be below the order"):
        decode_blindings(bytes(32) + Q.to_bytes(32, "big"), 2)


def test_sums_of_unequally_many_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        sum_blindings([1], [1, 2])
