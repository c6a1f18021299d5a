import math
import pickle  # noqa: TID251 - a mask must refuse it
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kumiai.crypto import masks
from kumiai.crypto.masks import Mask, Words, add_mask, add_masks
from tests.crypto.known_answers import known_answers

KEY = bytes(range(32))
OTHER = bytes(range(32, 64))
PIECE = masks._PIECE_SIZE_BYTES
P_VALUE_MIN = 1e-6

words = st.sampled_from([np.uint32, np.uint64])
vectors = words.flatmap(lambda kind: arrays.arrays(kind, st.integers(0, 50)))


def keystream(key: bytes, size_bytes: int) -> bytes:
    """Return the stream as one encryption of zeros: another way to the same bytes."""
    cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return cipher.update(bytes(size_bytes))


def mask_of(key: bytes, size: int, kind: Any = np.uint32) -> Words:
    buffer: Words = np.zeros(size, kind)
    add_mask(buffer, key)
    return buffer


def tail_of_chi_square(value: float, half_degrees: int) -> float:
    """Return how likely a larger value is, for 2 * half_degrees degrees of freedom.

    Source: Abramowitz and Stegun 1964, 26.4.5: a sum of Poisson's terms, here in logarithms.
    """
    half = value / 2
    terms = [-half + n * math.log(half) - math.lgamma(n + 1) for n in range(half_degrees)]
    return math.fsum(math.exp(term) for term in terms)


def p_value_of_uniform(cells: Any, cell_count: int) -> float:
    """Return how likely counts as uneven as these are; ``cell_count`` is odd."""
    counts = np.bincount(cells, minlength=cell_count)
    expected = len(cells) / cell_count
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    return tail_of_chi_square(chi_square, (cell_count - 1) // 2)


# ------------------------------------------------------------------------------------ what is added


@pytest.mark.parametrize("kind", [np.uint32, np.uint64])
def test_a_mask_is_the_keystream_of_nist_at_any_counter(kind: Any) -> None:
    (vector,) = known_answers("aes256_ctr")["vectors"]
    plaintext, ciphertext = (bytes.fromhex(vector[name]) for name in ("plaintext", "ciphertext"))
    buffer: Words = np.zeros(len(plaintext) // np.dtype(kind).itemsize, kind)

    add_mask(buffer, bytes.fromhex(vector["key"]), offset_bytes=16 * int(vector["counter"], 16))

    stream = bytes(a ^ b for a, b in zip(plaintext, ciphertext, strict=True))
    assert buffer.astype(buffer.dtype.newbyteorder("<")).tobytes() == stream


@pytest.mark.parametrize(
    ("pieces", "more_bytes"), [(0, 0), (0, 8), (0, 24), (1, -8), (1, 0), (1, 8), (2, 1000)]
)
@pytest.mark.parametrize("kind", ["<u4", "<u8"])
def test_a_mask_does_not_depend_on_the_pieces_it_is_made_in(
    pieces: int, more_bytes: int, kind: str
) -> None:
    expected = np.frombuffer(keystream(KEY, pieces * PIECE + more_bytes), kind)

    assert np.array_equal(mask_of(KEY, len(expected), np.dtype(kind)), expected)


@given(vectors)
def test_a_mask_is_added_modulo_the_size_of_a_word(vector: Words) -> None:
    masked = vector.copy()

    add_mask(masked, KEY)

    modulus = 1 << 8 * vector.itemsize
    mask = mask_of(KEY, vector.size, vector.dtype)
    expected = [(int(x) + int(m)) % modulus for x, m in zip(vector, mask, strict=True)]
    assert masked.tolist() == expected


@given(vectors)
def test_a_mask_that_is_taken_away_again_leaves_what_was_there(vector: Words) -> None:
    masked = vector.copy()

    add_mask(masked, KEY, sign=1)
    add_mask(masked, KEY, sign=-1)

    assert np.array_equal(masked, vector)


@given(vectors)
def test_taking_away_comes_before_adding_as_well(vector: Words) -> None:
    masked = vector.copy()

    add_mask(masked, KEY, sign=-1)
    assert vector.size == 0 or not np.array_equal(masked, vector)
    add_mask(masked, KEY, sign=1)

    assert np.array_equal(masked, vector)


@given(vectors, st.permutations([Mask(KEY), Mask(OTHER, -1), Mask(KEY[::-1])]))
def test_several_masks_at_once_are_those_one_by_one(vector: Words, several: list[Mask]) -> None:
    at_once, one_by_one = vector.copy(), vector.copy()

    add_masks(at_once, several)
    for mask in several[::-1]:
        add_mask(one_by_one, mask.key, sign=mask.sign)

    assert np.array_equal(at_once, one_by_one)


def test_several_masks_go_through_all_pieces() -> None:
    size = PIECE // 4 * 2 + 3
    buffer: Words = np.zeros(size, np.uint32)

    add_masks(buffer, [Mask(KEY), Mask(OTHER, -1)])

    assert np.array_equal(buffer, mask_of(KEY, size) - mask_of(OTHER, size))


def test_no_masks_change_nothing() -> None:
    buffer = np.arange(5, dtype=np.uint32)

    add_masks(buffer, [])

    assert buffer.tolist() == [0, 1, 2, 3, 4]


@given(words, st.integers(0, 60), st.integers(0, 60))
def test_a_vector_may_be_masked_in_two_parts(kind: Any, first: int, second: int) -> None:
    buffer: Words = np.zeros(first + second, kind)

    add_mask(buffer[first:], KEY, offset_bytes=first * buffer.itemsize)
    add_mask(buffer[:first], KEY)

    assert np.array_equal(buffer, mask_of(KEY, first + second, kind))


def test_pairwise_masks_cancel_in_the_sum() -> None:
    sums = []
    for sign in (1, -1):
        vector = np.arange(1000, dtype=np.uint32)
        add_mask(vector, KEY, sign=sign)
        sums.append(vector)

    assert np.array_equal(sums[0] + sums[1], 2 * np.arange(1000, dtype=np.uint32))


# -------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("kind", [np.uint32, np.uint64])
def test_masks_are_uniform(kind: Any) -> None:
    mask = mask_of(KEY, 1_000_000, kind)
    bits = 8 * mask.itemsize

    # 257 equal parts of the range; its even number of degrees of freedom has an exact tail.
    top = (mask >> kind(bits - 32)).astype(np.uint64)

    assert p_value_of_uniform((top * 257) >> np.uint64(32), 257) > P_VALUE_MIN


@pytest.mark.parametrize("shift", range(0, 32, 8))
def test_each_byte_of_a_mask_is_uniform(shift: int) -> None:
    mask = mask_of(OTHER, 1_000_000)
    # Two neighbours together, so that 65 536 values are spread on 255 parts of 257 each.
    byte = (mask >> np.uint32(shift)) & np.uint32(255)
    pairs = byte[0::2] * np.uint32(256) + byte[1::2]

    assert p_value_of_uniform(pairs[pairs < 255 * 257] // 257, 255) > P_VALUE_MIN


def test_neighbours_in_a_mask_do_not_foretell_each_other() -> None:
    mask = mask_of(KEY, 1_000_001)
    larger = int((mask[1:] > mask[:-1]).sum())

    # Runs up: the mean is half, the variance a twelfth of the count (Knuth, 3.3.2 G).
    distance = abs(larger - 500_000) / math.sqrt(1_000_000 / 12)
    assert math.erfc(distance / math.sqrt(2)) > P_VALUE_MIN


def test_the_tail_of_chi_square_is_that_of_the_tables() -> None:
    # Abramowitz and Stegun, table 26.8: 5 % and 0.1 % for 10 and 30 degrees of freedom.
    assert tail_of_chi_square(18.3070, 5) == pytest.approx(0.05, rel=1e-4)
    assert tail_of_chi_square(59.7031, 15) == pytest.approx(0.001, rel=1e-4)


def test_an_uneven_mask_would_be_noticed() -> None:
    uneven = np.arange(1_000_000) % 257
    uneven[:3000] = 0

    assert p_value_of_uniform(uneven, 257) < P_VALUE_MIN


# -------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"key must be 32 bytes, got {size}"):
        add_mask(np.zeros(1, np.uint32), bytes(size))


@pytest.mark.parametrize("sign", [0, 2, -2])
def test_another_sign_is_refused(sign: Any) -> None:
    with pytest.raises(ValueError, match=f"sign must be 1 or -1, got {sign}"):
        Mask(KEY, sign)


@pytest.mark.parametrize("kind", [np.int32, np.float32, np.uint16, np.int64])
def test_a_buffer_of_another_kind_is_refused(kind: Any) -> None:
    buffer: Any = np.zeros(4, kind)

    with pytest.raises(ValueError, match=f"buffer must be of uint32 or uint64, got {buffer.dtype}"):
        add_mask(buffer, KEY)


def read_only() -> Words:
    buffer: Words = np.zeros(4, np.uint32)
    buffer.flags.writeable = False
    return buffer


@pytest.mark.parametrize(
    "buffer",
    [np.zeros((2, 2), np.uint32), np.zeros(8, np.uint32)[::2], read_only()],
    ids=["two dimensions", "gaps", "read-only"],
)
def test_a_buffer_that_is_no_plain_vector_is_refused(buffer: Words) -> None:
    with pytest.raises(ValueError, match="buffer must be a vector without gaps that can be"):
        add_mask(buffer, KEY)

    assert not buffer.any()


@pytest.mark.parametrize("offset_bytes", [-4, 2, 2**132 - 4, 2**132])
def test_an_offset_that_is_no_place_of_a_word_is_refused(offset_bytes: int) -> None:
    with pytest.raises(
        ValueError, match=f"offset_bytes must be a multiple of 4 from 0 on, got {offset_bytes}"
    ):
        add_mask(np.zeros(2, np.uint32), KEY, offset_bytes=offset_bytes)


def test_the_last_place_of_the_stream_serves() -> None:
    buffer: Words = np.zeros(2, np.uint32)

    add_mask(buffer, KEY, offset_bytes=2**132 - 8)

    assert buffer.all()


def test_an_offset_within_a_long_word_is_refused() -> None:
    with pytest.raises(ValueError, match="offset_bytes must be a multiple of 8 from 0 on, got 4"):
        add_mask(np.zeros(2, np.uint64), KEY, offset_bytes=4)


def test_a_mask_does_not_show_its_key() -> None:
    assert repr(Mask(KEY, -1)) == "Mask(sign=-1)"


def test_a_mask_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="a Mask cannot be pickled"):
        pickle.dumps(Mask(KEY))


# ----------------------------------------------------------------------------------------- threads


def test_the_cipher_works_without_the_interpreters_lock() -> None:
    began, seen = threading.Event(), threading.Event()

    def wake() -> None:
        began.wait()
        seen.set()

    other = threading.Thread(target=wake)
    other.start()
    stream, scratch = masks._keystream(KEY, 0), bytearray(PIECE)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # so that the lock changes hands only where it is let go
    try:
        deadline = time.monotonic() + 30
        began.set()
        while not seen.is_set() and time.monotonic() < deadline:
            stream.update_into(masks._ZEROS, scratch)
        was_seen = seen.is_set()
    finally:
        sys.setswitchinterval(interval)
    other.join()

    assert was_seen


def test_two_threads_make_the_mask_that_one_makes() -> None:
    size = PIECE
    buffer: Words = np.zeros(2 * size, np.uint32)
    parts = [
        threading.Thread(
            target=add_mask, args=(part, KEY), kwargs={"offset_bytes": number * size * 4}
        )
        for number, part in enumerate((buffer[:size], buffer[size:]))
    ]

    for part in parts:
        part.start()
    for part in parts:
        part.join()

    assert np.array_equal(buffer, mask_of(KEY, 2 * size))
