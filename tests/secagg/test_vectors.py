"""Uploads add up block by block, and nothing of a wrong one enters the sum."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from kumiai.core.digest import digest_of
from kumiai.core.errors import ProofError, SecureAggregationError
from kumiai.crypto.blindings import add_blinding_masks
from kumiai.crypto.group import ORDER
from kumiai.crypto.masks import add_masks
from kumiai.secagg.round_keys import blinding_mask, vector_mask
from kumiai.secagg.vectors import VectorLayout, VectorSum, vector_digest
from tests.secagg.rounds import blocks_of, describe, signers_of

LAYOUTS = [VectorLayout(5, 32, 2), VectorLayout(5, 64, 2), VectorLayout(3, 32, 0)]


def upload(layout: VectorLayout, numbers: Sequence[int], blindings: Sequence[int]) -> bytes:
    vector = layout.empty()
    layout.words(vector)[:] = np.array(numbers, np.int64).view(np.uint64)
    layout.write_blindings(vector, blindings)
    return vector.tobytes()


def digest(content: bytes) -> bytes:
    return bytes.fromhex(digest_of([content]))


def added(total: VectorSum, content: bytes, size: int = 8) -> None:
    total.add(blocks_of(content, size), digest(content))


def test_a_round_says_what_its_vectors_hold() -> None:
    descriptor = describe(signers_of(4), dimension=9, ring_bits=64)

    layout = VectorLayout.of(descriptor, 3)

    assert layout == VectorLayout(10, 64, 3)
    assert (layout.ring_size_bytes, layout.size_bytes) == (80, 80 + 96)
    assert layout.empty().tobytes() == bytes(176)
    assert VectorLayout(10, 32, 0).size_bytes == 40


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [8, 16, 24, 1000])
def test_the_sum_is_that_of_all_words_and_blindings(layout: VectorLayout, size: int) -> None:
    numbers = np.array([[1, -2, 3, -4, 5], [10, 20, -30, -40, -50]])[:, : layout.word_count]
    blindings = [[7, int(ORDER) - 1], [5, 3]]
    total = VectorSum(layout)

    for row, each in zip(numbers, blindings, strict=True):
        added(total, upload(layout, row.tolist(), each[: layout.blinding_count]), size)

    assert total.numbers().tolist() == numbers.sum(axis=0).tolist()
    vector = total.vector()
    assert layout.blindings(vector) == [12, 2][: layout.blinding_count]
    assert len(vector) == layout.size_bytes


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", [1, 2, 300])
def test_masks_are_taken_away_by_the_sign_with_which_they_came(
    layout: VectorLayout, count: int
) -> None:
    masks: list[tuple[bytes, Any]] = [
        (number.to_bytes(32, "little"), 1 if number % 3 else -1) for number in range(count)
    ]
    vector = layout.empty()
    add_masks(layout.words(vector), [vector_mask(*mask) for mask in masks])
    hidden = add_blinding_masks([9] * layout.blinding_count, [blinding_mask(*m) for m in masks])
    layout.write_blindings(vector, hidden)
    total = VectorSum(layout)
    added(total, vector.tobytes(), 1000)

    total.remove_masks(masks)

    assert total.numbers().tolist() == [0] * layout.word_count
    assert layout.blindings(total.vector()) == [9] * layout.blinding_count


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_upload_of_another_length_or_digest_leaves_the_sum_as_it_was(
    layout: VectorLayout,
) -> None:
    content = upload(layout, [1] * layout.word_count, [1] * layout.blinding_count)
    total = VectorSum(layout)
    word = layout.ring_bits // 8

    for wrong, problem in (
        (content[:-word], f"must be {layout.size_bytes} bytes, got {len(content) - word} or more"),
        (content + bytes(word), f"must be {layout.size_bytes} bytes, got"),
        (b"", f"must be {layout.size_bytes} bytes, got 0 or more"),
    ):
        with pytest.raises(SecureAggregationError, match=f"^upload {problem}"):
            total.add(blocks_of(wrong, word), digest(wrong))
    with pytest.raises(SecureAggregationError, match="upload must have the digest that its"):
        total.add(blocks_of(content, word), bytes(32))

    assert total.numbers().tolist() == [0] * layout.word_count
    assert layout.blindings(total.vector()) == [0] * layout.blinding_count


def test_of_an_upload_that_is_too_long_no_more_is_read() -> None:
    layout = VectorLayout(3, 32, 0)
    read = []

    def blocks() -> Any:
        for number in range(9):
            read.append(number)
            yield bytes(4)

    with pytest.raises(SecureAggregationError, match="upload must be 12 bytes, got 16 or more"):
        VectorSum(layout).add(blocks, bytes(32))

    assert read == [0, 1, 2, 3]


@pytest.mark.parametrize("bits", [32, 64])
def test_a_block_that_ends_within_a_word_is_refused(bits: int) -> None:
    layout = VectorLayout(4, bits, 0)
    content = bytes(layout.size_bytes)

    with pytest.raises(ValueError, match=f"^block must be a multiple of {bits // 8} bytes, got 6"):
        VectorSum(layout).add(blocks_of(content, 6), digest(content))


def test_a_blinding_beyond_the_order_is_refused_before_anything_is_added() -> None:
    layout = VectorLayout(2, 32, 1)
    content = upload(layout, [1, 1], [0])[:8] + int(ORDER).to_bytes(32, "big")
    total = VectorSum(layout)

    with pytest.raises(ProofError, match="blinding of row 0"):
        added(total, content)

    assert total.numbers().tolist() == [0, 0]
    with pytest.raises(ProofError):
        layout.blindings(np.frombuffer(content[:8] + b"\xff" * 32, np.uint8))


def test_a_vector_is_named_by_its_digest() -> None:
    vector = np.arange(12, dtype=np.uint8)

    assert vector_digest(vector) == digest(vector.tobytes())
