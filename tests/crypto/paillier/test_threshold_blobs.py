import struct
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier import (
    PaillierCrypto,
    SlotLayout,
    ThresholdKey,
    ThresholdKeyShare,
    decryption_share_from_bytes,
    decryption_share_to_bytes,
    key_share_from_bytes,
    key_share_to_bytes,
    threshold_key_from_bytes,
    threshold_key_to_bytes,
)
from kumiai.crypto.paillier.decryption_proof import response_bits_max
from kumiai.crypto.paillier.threshold import deal_primes
from tests.crypto.paillier.some_keys import OTHER_SMALL_KEY, SMALL_SAFE_KEY, real_safe_key

KEY, SHARES = deal_primes(
    SMALL_SAFE_KEY.public_key, SMALL_SAFE_KEY.primes, threshold=2, share_count=3
)
NUMBER = PaillierCrypto(key=KEY.public_key).encrypt(42)
SHARE_BLOB = key_share_to_bytes(SHARES[1])
ANSWER_BLOB = decryption_share_to_bytes(SHARES[1].decryption_share(NUMBER), KEY)


@cache
def real_deal() -> tuple[ThresholdKey, tuple[ThresholdKeyShare, ...]]:
    key = real_safe_key()
    return deal_primes(key.public_key, key.primes, threshold=2, share_count=3)


def flipped(blob: bytes, bit: int) -> bytes:
    changed = bytearray(blob)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def test_a_key_its_shares_and_their_answers_come_back() -> None:
    key, shares = real_deal()
    number = PaillierCrypto(key=key.public_key).encrypt(-42)

    read_key = threshold_key_from_bytes(threshold_key_to_bytes(key))
    read_shares = [key_share_from_bytes(key_share_to_bytes(each), read_key) for each in shares[:2]]
    blobs = [decryption_share_to_bytes(each.decryption_share(number), key) for each in read_shares]
    answers = [decryption_share_from_bytes(each, read_key) for each in blobs]

    assert read_key == key
    assert read_key.public_key.is_blum
    assert [each.value for each in read_shares] == [each.value for each in shares[:2]]
    assert read_key.decrypt(number, answers) == -42


def test_an_answer_about_a_vector_comes_back() -> None:
    vector = PaillierCrypto(key=KEY.public_key).encrypt_many([1, 2, 3] * 30, SlotLayout())
    answer = SHARES[0].decryption_share(vector)

    assert decryption_share_from_bytes(decryption_share_to_bytes(answer, KEY), KEY) == answer


def test_the_longest_proof_comes_back() -> None:
    answer = SHARES[0].decryption_share(NUMBER)
    most = (1 << response_bits_max(KEY.secret_bits)) - 1
    longest = replace(answer, proof=replace(answer.proof, challenge=2**256 - 1, response=most))

    assert decryption_share_from_bytes(decryption_share_to_bytes(longest, KEY), KEY) == longest


@pytest.mark.parametrize("bit", [6 * 8, 38 * 8, 39 * 8, 43 * 8, 44 * 8, 200 * 8, 44 * 8 + 2047])
def test_a_damaged_key_is_refused(bit: int) -> None:
    blob = threshold_key_to_bytes(real_deal()[0])

    with pytest.raises(CryptoError):
        threshold_key_from_bytes(flipped(blob, bit))


def test_a_key_of_another_length_than_its_header_says_is_refused() -> None:
    blob = threshold_key_to_bytes(real_deal()[0])
    # 2047 bits take as many bytes as 2048.
    header = struct.pack(">H", 2047)

    with pytest.raises(CryptoError, match="what its header says"):
        threshold_key_from_bytes(blob[:38] + header + blob[40:])


@given(st.integers(0, len(SHARE_BLOB) * 8 - 1))
def test_a_key_share_with_one_changed_bit_is_refused(bit: int) -> None:
    with pytest.raises(CryptoError):
        key_share_from_bytes(flipped(SHARE_BLOB, bit), KEY)


@given(st.integers(0, len(ANSWER_BLOB) * 8 - 1))
def test_an_answer_with_one_changed_bit_is_refused(bit: int) -> None:
    def take(blob: bytes) -> None:
        KEY.verify_share(NUMBER, decryption_share_from_bytes(blob, KEY))

    take(ANSWER_BLOB)
    with pytest.raises(CryptoError):
        take(flipped(ANSWER_BLOB, bit))


READERS: list[tuple[bytes, Callable[[bytes], Any]]] = [
    (SHARE_BLOB, lambda blob: key_share_from_bytes(blob, KEY)),
    (ANSWER_BLOB, lambda blob: decryption_share_from_bytes(blob, KEY)),
    (threshold_key_to_bytes(KEY), threshold_key_from_bytes),
]


@pytest.mark.parametrize(("blob", "read"), READERS, ids=["share", "answer", "key"])
def test_a_blob_of_a_wrong_length_or_kind_is_refused(
    blob: bytes, read: Callable[[bytes], Any]
) -> None:
    for wrong in (b"", blob[:30], blob[:-1], blob + b"\0"):
        with pytest.raises(CryptoError, match=r"bytes|shorter"):
            read(wrong)
    with pytest.raises(CryptoError, match="must be of kind"):
        read(blob[:5] + b"\x01" + blob[6:])


def test_an_answer_that_claims_to_be_huge_is_refused_before_memory_is_taken() -> None:
    claimed = ANSWER_BLOB[:40] + struct.pack(">Q", 2**63) + ANSWER_BLOB[48:]

    with pytest.raises(CryptoError, match="is shorter"):
        decryption_share_from_bytes(claimed, KEY)


def test_a_share_of_another_key_is_refused() -> None:
    other, _ = deal_primes(
        OTHER_SMALL_KEY.public_key, OTHER_SMALL_KEY.primes, threshold=2, share_count=3
    )

    with pytest.raises(CryptoError, match="share must be of key"):
        key_share_from_bytes(SHARE_BLOB, other)
    with pytest.raises(CryptoError, match="share must be of key"):
        decryption_share_from_bytes(ANSWER_BLOB, other)
