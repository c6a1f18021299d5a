import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier import (
    PaillierCrypto,
    PaillierPublicKey,
    SlotLayout,
    number_from_bytes,
    number_to_bytes,
    private_key_from_bytes,
    private_key_to_bytes,
    public_key_from_bytes,
    public_key_to_bytes,
    vector_from_bytes,
    vector_to_bytes,
)
from tests.crypto.paillier.some_keys import OTHER_SMALL_KEY, SMALL_KEY, real_key

CRYPTO = PaillierCrypto(key=SMALL_KEY)
KEY = CRYPTO.public_key
LAYOUT = SlotLayout.for_clip(1.0, value_bits=8, summand_count_max=10)
PUBLIC = public_key_to_bytes(real_key().public_key)
PRIVATE = private_key_to_bytes(real_key())
NUMBER = number_to_bytes(CRYPTO.encrypt(2.5))
VECTOR = vector_to_bytes(CRYPTO.encrypt_many([0.5, -1.0, 0.25], LAYOUT))
READERS: dict[str, tuple[bytes, Callable[[bytes], Any]]] = {
    "public key": (PUBLIC, public_key_from_bytes),
    "private key": (PRIVATE, private_key_from_bytes),
    "number": (NUMBER, lambda blob: number_from_bytes(blob, KEY)),
    "vector": (VECTOR, lambda blob: vector_from_bytes(blob, KEY)),
}
every_kind = pytest.mark.parametrize(("blob", "read"), READERS.values(), ids=READERS)


def flipped(blob: bytes, bit: int) -> bytes:
    changed = bytearray(blob)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def test_a_public_key_comes_back() -> None:
    came_back = public_key_from_bytes(PUBLIC)

    assert came_back == real_key().public_key
    assert came_back.is_blum
    assert not public_key_from_bytes(public_key_to_bytes(PaillierPublicKey(came_back.n))).is_blum


def test_a_private_key_comes_back() -> None:
    blob = private_key_to_bytes(real_key())

    assert blob == PRIVATE
    assert len(blob) == 6 + 35 + 2 * 128
    assert private_key_from_bytes(blob).primes == real_key().primes


@given(st.integers(-(2**700), 2**700))
def test_an_encrypted_integer_comes_back(value: int) -> None:
    blob = number_to_bytes(CRYPTO.encrypt(value))

    assert CRYPTO.decrypt(number_from_bytes(blob, KEY)) == value


def test_an_encrypted_float_comes_back_with_its_precision() -> None:
    came_back = number_from_bytes(number_to_bytes(CRYPTO.encrypt(2.5, fraction_bits=7)), KEY)

    assert came_back.fraction_bits == 7
    assert CRYPTO.decrypt(came_back) == 2.5


@pytest.mark.parametrize(
    "layout", [LAYOUT, SlotLayout(value_bits=2, summand_count_max=3), SlotLayout(step=0.125)]
)
@pytest.mark.parametrize("count", [0, 1, 200])
def test_an_encrypted_vector_comes_back_with_its_header(layout: SlotLayout, count: int) -> None:
    vector = CRYPTO.encrypt_many([1, -1, 0, 1] * (count // 4) + [1] * (count % 4), layout) * 2

    came_back = vector_from_bytes(vector_to_bytes(vector), KEY)

    assert (came_back.layout, came_back.count, came_back.summand_count) == (layout, count, 2)
    assert CRYPTO.decrypt_many(came_back).tolist() == CRYPTO.decrypt_many(vector).tolist()


def test_16_bits_for_a_hundred_clients_take_less_than_6_bytes_a_value() -> None:
    crypto = PaillierCrypto(key=real_key())

    blob = vector_to_bytes(crypto.encrypt_many([1] * 8800, SlotLayout()))

    assert len(blob) / 8800 < 5.83


def test_the_first_bytes_of_a_vector_are_those_of_the_format() -> None:
    assert VECTOR[:6] == b"KPAI\x01\x04"
    assert VECTOR[6:38] == KEY.fingerprint
    assert struct.unpack(">BBdQIQ", VECTOR[38:68]) == (8, 12, 1 / 127, 3, 10, 1)
    assert len(VECTOR) == 68 + KEY.ciphertext_size


@every_kind
def test_a_blob_of_a_wrong_length_is_refused(blob: bytes, read: Callable[[bytes], Any]) -> None:
    for wrong in (b"", blob[:5], blob[:20], blob[:-1], blob + b"\0", blob[: len(blob) // 2]):
        with pytest.raises(CryptoError, match="bytes"):
            read(wrong)


@every_kind
def test_a_blob_of_a_wrong_kind_or_version_is_refused(
    blob: bytes, read: Callable[[bytes], Any]
) -> None:
    with pytest.raises(CryptoError, match="begin with KPAI"):
        read(b"XPAI" + blob[4:])
    with pytest.raises(CryptoError, match="version 1, got 2"):
        read(blob[:4] + b"\x02" + blob[5:])
    with pytest.raises(CryptoError, match="must be of kind"):
        read(blob[:5] + b"\x09" + blob[6:])


@pytest.mark.parametrize("blob", [PUBLIC, NUMBER, VECTOR])
def test_a_private_key_is_not_read_from_something_else(blob: bytes) -> None:
    with pytest.raises(CryptoError, match=r"kind 2 \(private_key\)"):
        private_key_from_bytes(blob)


@given(st.integers(0, len(PRIVATE) * 8 - 1))
@example(41 * 8 + 851)  # makes another good prime
def test_a_private_key_with_one_changed_bit_is_refused(bit: int) -> None:
    with pytest.raises(CryptoError):
        private_key_from_bytes(flipped(PRIVATE, bit))


@given(st.integers(0, len(PUBLIC) * 8 - 1).filter(lambda bit: bit != 40 * 8))  # the flag
def test_a_public_key_with_one_changed_bit_is_refused(bit: int) -> None:
    with pytest.raises(CryptoError):
        public_key_from_bytes(flipped(PUBLIC, bit))


@given(st.integers(0, 68 * 8 - 1))
def test_no_changed_bit_of_a_header_goes_by_as_the_same(bit: int) -> None:
    whole = vector_from_bytes(VECTOR, KEY)

    try:
        read = vector_from_bytes(flipped(VECTOR, bit), KEY)
    except CryptoError:
        return

    # What may be changed without being seen here is what the receiver was told to compare.
    agreed = (whole.layout, whole.count, whole.summand_count)
    assert (read.layout, read.count, read.summand_count) != agreed


def test_a_ciphertext_of_another_key_is_refused() -> None:
    other = OTHER_SMALL_KEY.public_key

    with pytest.raises(CryptoError, match="must be of key"):
        number_from_bytes(NUMBER, other)
    with pytest.raises(CryptoError, match="must be of key"):
        vector_from_bytes(VECTOR, other)


@pytest.mark.parametrize("forged", [0, KEY.n, SMALL_KEY.primes[0] * 5, KEY.n**2, KEY.n**2 + 1])
def test_a_forged_ciphertext_is_refused(forged: int) -> None:
    end = forged.to_bytes(KEY.ciphertext_size, "big")

    with pytest.raises(CryptoError, match="ciphertext"):
        number_from_bytes(NUMBER[: -len(end)] + end, KEY)
    with pytest.raises(CryptoError, match="ciphertext"):
        vector_from_bytes(VECTOR[: -len(end)] + end, KEY)


def vector_with(**changes: float) -> bytes:
    header = {"value_bits": 8, "slot_bits": 12, "step": 1 / 127, "count": 3, "most": 10, "n": 1}
    packed = struct.pack(">BBdQIQ", *{**header, **changes}.values())
    return VECTOR[:38] + packed + VECTOR[68:]


def test_the_header_is_what_the_forger_below_changes() -> None:
    assert vector_with() == VECTOR


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"value_bits": 1}, "value_bits"),
        ({"value_bits": 33}, "value_bits"),
        ({"slot_bits": 13}, "slot_bits must be 12, got 13"),
        ({"step": -1.0}, "step"),
        ({"step": float("nan")}, "step"),
        ({"step": float("inf")}, "step"),
        ({"most": 0}, "summand_count_max"),
        ({"n": 11}, "summand_count must be from 0 to 10"),
        ({"n": 2**64 - 1}, "summand_count must be from 0 to 10"),
        ({"count": 2**64 - 1}, "ciphertexts must take"),
        ({"count": 0}, "ciphertexts must take 0 bytes"),
        ({"count": 22}, "ciphertexts must take 128 bytes, got 64"),
    ],
)
def test_a_header_that_cannot_be_is_refused(changes: dict[str, float], complaint: str) -> None:
    with pytest.raises(CryptoError, match=complaint):
        vector_from_bytes(vector_with(**changes), KEY)


@pytest.mark.parametrize(("blob", "read"), [READERS["public key"], READERS["private key"]])
@pytest.mark.parametrize("index", [6, 37, 40])  # both ends of the fingerprint, and the flag
def test_a_key_with_a_header_of_its_own_mind_is_refused(
    blob: bytes, read: Callable[[bytes], Any], index: int
) -> None:
    changed = bytearray(blob)
    changed[index] ^= 2

    with pytest.raises(CryptoError, match="what its header says"):
        read(bytes(changed))


def test_a_private_key_that_is_said_to_be_no_blum_key_is_refused() -> None:
    with pytest.raises(CryptoError, match="what its header says"):
        private_key_from_bytes(PRIVATE[:40] + b"\x00" + PRIVATE[41:])
