"""The long vectors of a round with a Paillier key: where what stands, and what is added."""

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from kumiai.core.digest import digest_of
from kumiai.core.errors import CryptoError, SecureAggregationError
from kumiai.crypto.group import ORDER
from kumiai.crypto.paillier import PaillierPrivateKey
from kumiai.secagg.descriptor import Member
from kumiai.secagg.paillier_vectors import (
    CipherLayout,
    CiphertextSum,
    decrypt_sum,
    encrypt_vector,
)
from kumiai.secagg.vectors import VectorLayout
from tests.secagg.rounds import PAILLIER, blocks_of, describe, names_of, signers_of

CLIENTS = 3
WIDTH = 512
"""Bytes of a ciphertext under 2048 bits."""


@functools.cache
def key() -> PaillierPrivateKey:
    return PaillierPrivateKey.generate(2048)


def layout_of(dimension: int = 200, blinding_count: int = 7, scale: int = 1) -> CipherLayout:
    signers = signers_of(CLIENTS)
    roster = tuple(
        Member(name, signers[name].public, scale if index == 1 else 1)
        for index, name in enumerate(names_of(CLIENTS))
    )
    descriptor = describe(
        signers, **PAILLIER, threshold=2, minimum_survivors=3, dimension=dimension, roster=roster
    )
    return CipherLayout.of(
        descriptor, VectorLayout.of(descriptor, blinding_count), key().public_key
    )


def vector_of(
    layout: CipherLayout, words: Sequence[int], blindings: Sequence[int]
) -> NDArray[np.uint8]:
    vector = layout.plain.empty()
    layout.plain.words(vector)[:] = np.array(words, np.int32).view(np.uint32)
    layout.plain.write_blindings(vector, list(blindings))
    return vector


def digest(content: bytes) -> bytes:
    return bytes.fromhex(digest_of([content]))


def summed(layout: CipherLayout, uploads: Sequence[bytes]) -> CiphertextSum:
    total = CiphertextSum(layout)
    for upload in uploads:
        total.add(blocks_of(upload, 700), digest(upload))
    return total


def one_and(layout: CipherLayout, *plaintexts: int) -> NDArray[np.uint8]:
    """Return a vector of plaintexts as they are, and of zeros after them."""
    numbers = [*plaintexts, *(0,) * (layout.ciphertext_count - len(plaintexts))]
    public = layout.public_key
    content = b"".join(int(public.raw_encrypt(each, 1)).to_bytes(WIDTH, "big") for each in numbers)
    return np.frombuffer(content, np.uint8)


def test_slots_are_as_wide_as_the_sum_of_all_clients_largest_numbers() -> None:
    layout = layout_of()

    # 32767 steps times a weight of 8 are 18 bits, and 3 of them 20; 16 bits, of 3 clients 18.
    assert (layout.numbers.value_bits, layout.numbers.slot_bits) == (1 + 18, 1 + 20)
    assert (layout.pieces.value_bits, layout.pieces.slot_bits) == (1 + 16, 1 + 18)
    assert layout_of(scale=4).numbers.value_bits == 1 + 20


def test_an_upload_is_its_ciphertexts_and_nothing_else() -> None:
    layout = layout_of()

    assert layout.number_ciphertexts == 3  # 201 words, 97 in each
    assert layout.piece_count == 7 * 16
    assert layout.ciphertext_count == 3 + 2  # 112 pieces, 107 in each
    assert layout.size_bytes == 5 * WIDTH


@pytest.mark.parametrize("blinding_count", [0, 7])
def test_the_sum_of_ciphertexts_is_that_of_vectors(blinding_count: int) -> None:
    layout = layout_of(blinding_count=blinding_count)
    words = [[262136, -262136, *range(-100 * k, -100 * k + 199)] for k in range(CLIENTS)]
    blindings = [[ORDER - 1 - k, k, *range(5)][:blinding_count] for k in range(CLIENTS)]
    vectors = [vector_of(layout, *each) for each in zip(words, blindings, strict=True)]
    uploads = [encrypt_vector(layout, each, key()).tobytes() for each in vectors]

    content = summed(layout, uploads).vector()
    plain = decrypt_sum(layout, content, key(), summand_count=CLIENTS)

    assert {len(upload) for upload in uploads} == {layout.size_bytes}
    assert len(set(uploads)) == CLIENTS
    assert np.array_equal(layout.plain.words(plain).view(np.int32), np.sum(words, axis=0))
    assert layout.plain.blindings(plain) == [
        sum(each) % ORDER for each in zip(*blindings, strict=True)
    ]


def test_more_clients_than_a_slot_has_room_for_are_not_decrypted() -> None:
    layout = layout_of(blinding_count=0)
    content = summed(layout, []).vector()

    with pytest.raises(CryptoError, match="summand_count must be from 0 to 3"):
        decrypt_sum(layout, content, key(), summand_count=CLIENTS + 1)


@pytest.mark.parametrize("size", [1, 511, 512, 513, 1 << 20])
def test_blocks_of_any_length_give_the_same_sum(size: int) -> None:
    layout = layout_of()
    upload = encrypt_vector(layout, vector_of(layout, range(201), range(7)), key()).tobytes()
    total = CiphertextSum(layout)

    total.add(blocks_of(upload, size), digest(upload))

    assert total.vector().tobytes() == upload
    assert total.vector().dtype == np.uint8


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda whole: whole[:-1], "upload must be 2560 bytes, got 2559 or more"),
        (lambda whole: whole + b"\0", "upload must be 2560 bytes, got 2561 or more"),
        (lambda whole: whole + whole, "upload must be 2560 bytes, got 3072 or more"),
        (lambda whole: bytes(511) + b"\x02" + whole[512:], "upload must have the digest that"),
        (lambda whole: bytes(512) + whole[512:], "ciphertext"),
        (lambda whole: whole[:-512] + bytes(512), "ciphertext"),
    ],
)
def test_a_wrong_upload_leaves_the_sum_as_it_was(
    change: Callable[[bytes], bytes], problem: str
) -> None:
    layout = layout_of()
    upload = encrypt_vector(layout, vector_of(layout, range(201), range(7)), key()).tobytes()
    total = summed(layout, [upload])

    with pytest.raises((SecureAggregationError, CryptoError), match=problem):
        total.add(blocks_of(change(upload), 512), digest(upload))

    assert total.vector().tobytes() == upload


def test_an_upload_without_end_is_given_up_as_soon_as_it_is_too_long() -> None:
    layout = layout_of()
    upload = encrypt_vector(layout, vector_of(layout, range(201), range(7)), key()).tobytes()
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield upload

    with pytest.raises(SecureAggregationError, match="got 5120 or more"):
        CiphertextSum(layout).add(endless, bytes(32))

    assert taken == 2


@pytest.mark.parametrize("value", [2**31 - 1, 1 - 2**31])
def test_the_largest_sums_of_a_word_are_read(value: int) -> None:
    layout = layout_of(dimension=1, blinding_count=0, scale=2048)

    plain = decrypt_sum(layout, one_and(layout, value), key(), summand_count=CLIENTS)

    assert layout.plain.words(plain).view(np.int32).tolist()[0] == value


@pytest.mark.parametrize("value", [2**31, -(2**31)])
def test_sums_that_fit_no_word_are_refused(value: int) -> None:
    layout = layout_of(dimension=1, blinding_count=0, scale=2048)

    with pytest.raises(SecureAggregationError, match="sums must fit their words"):
        decrypt_sum(layout, one_and(layout, value), key(), summand_count=CLIENTS)
