import pickle  # noqa: TID251 - an opening must refuse it
from collections.abc import Iterator

import numpy as np
import pytest
from gmpy2 import mpz
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kumiai.core.errors import ProofError
from kumiai.crypto import group
from kumiai.crypto.group import ORDER
from kumiai.crypto.pedersen import Commitments, Opening, PedersenRows, row_length_for
from tests.crypto.known_answers import known_answers
from tests.crypto.plain_curve import Affine, affine, plain_add, plain_multiply

ROWS = PedersenRows(16)
LARGEST = 2**45 - 1
KNOWN = known_answers("pedersen_generators")
VALUES = st.one_of(st.integers(-LARGEST, LARGEST), st.integers(-300, 300))
VECTORS = arrays.arrays(np.int64, st.integers(1, 40), elements=VALUES)


def counting() -> Iterator[int]:
    yield from range(1000, 2000)


def plain_commitment(row: list[int], blinding: int) -> Affine:
    total = plain_multiply(affine(group.base_multiple(1)), blinding)
    for value, generator in zip(row, ROWS.generators, strict=False):
        total = plain_add(total, plain_multiply(affine(generator), value))
    return total


def test_a_commitment_is_what_the_definition_says() -> None:
    row = np.array([[1, -1, 127, 128, -128, -129, 300, LARGEST, -LARGEST, 0]])
    drawn = counting()

    opening = ROWS.commit_rows(row, lambda: next(drawn))

    (point,) = opening.commitments.points
    assert affine(point) == plain_commitment(row[0].tolist(), 1000)
    assert opening.blindings == (1000,)


@given(VECTORS)
@settings(max_examples=20)
def test_scalars_and_integers_have_the_same_commitment(values: np.ndarray) -> None:
    opening = ROWS.commit(values)

    for row, blinding, point in zip(
        opening.rows, opening.blindings, opening.commitments.points, strict=True
    ):
        scalars = [mpz(value) % ORDER for value in row.tolist()]
        assert group.same(ROWS.point_of(scalars, blinding), point)


@given(st.data(), st.integers(1, 40))
@settings(max_examples=20)
def test_commitments_add_up(data: st.DataObject, size: int) -> None:
    elements = st.integers(1 - 2**44, 2**44 - 1)
    left, right = (data.draw(arrays.arrays(np.int64, size, elements=elements)) for _ in range(2))

    one, other = ROWS.commit(left), ROWS.commit(right)

    whole = ROWS.laid_out(left + right)
    for index, row in enumerate(whole):
        both = group.add(each.commitments.points[index] for each in (one, other))
        blinding = one.blindings[index] + other.blindings[index]
        scalars = [mpz(value) % ORDER for value in row.tolist()]
        assert group.same(both, ROWS.point_of(scalars, blinding))


def test_the_same_vector_never_has_the_same_commitments() -> None:
    values = np.arange(100)

    openings = [ROWS.commit(values) for _ in range(8)]

    seen = {each.commitments.to_bytes() for each in openings}
    blindings = [blinding for each in openings for blinding in each.blindings]
    assert len(seen) == 8
    assert len(set(blindings)) == len(blindings) == 8 * 7


@pytest.mark.parametrize(("size", "count"), [(1, 1), (16, 1), (17, 2), (32, 2), (33, 3)])
def test_a_vector_takes_as_many_rows_as_it_needs(size: int, count: int) -> None:
    opening = ROWS.commit(np.ones(size, np.int64))

    assert len(opening.commitments.points) == ROWS.row_count(size) == count
    assert opening.rows.shape == (count, 16)
    assert opening.rows.sum() == size


@pytest.mark.parametrize(
    "values",
    [
        np.array([], np.int64),
        np.zeros((2, 2), np.int64),
        np.array([1.5]),
        np.array([True]),
        np.array([2**45]),
        np.array([2**45, 0]),
        np.array([0, -(2**45)]),
        np.array([np.iinfo(np.int64).min]),
        np.array([2**63], np.uint64),
    ],
    ids=lambda values: f"{values.dtype} {values.shape} {values.sum()}",
)
def test_what_is_no_vector_of_small_integers_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="values must be"):
        ROWS.commit(values)


@pytest.mark.parametrize("length", [0, 1, 8, 24, 1000, 2048, -16])
def test_rows_of_an_odd_length_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match="row_length must be a power of two from 16 to 1024"):
        PedersenRows(length)


def test_generators_are_those_that_everybody_has() -> None:
    assert [group.encode_point(each).hex() for each in ROWS.generators[:2]] == KNOWN["first"]
    assert ROWS.digest.hex() == KNOWN["digests"]["16"]


def test_rows_are_1024_long_unless_somebody_wants_it_otherwise() -> None:
    rows = PedersenRows()

    assert rows.row_length == 1024
    assert rows.digest.hex() == KNOWN["digests"]["1024"]


@pytest.mark.parametrize(
    ("length", "row_length"),
    [(1, 16), (640, 16), (641, 32), (4_851, 128), (20_480, 512), (20_481, 1024), (10**8, 1024)],
)
def test_short_vectors_have_short_rows(length: int, row_length: int) -> None:
    assert row_length_for(length) == row_length
    assert row_length == 1024 or length <= 40 * row_length


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64])
def test_integers_of_any_kind_are_taken(kind: type) -> None:
    opening = ROWS.commit(np.array([1, 2, 3], kind))

    assert opening.rows.dtype == np.int64
    assert opening.rows[0, :4].tolist() == [1, 2, 3, 0]


def test_the_table_is_built_once() -> None:
    assert ROWS._built_table() is ROWS._built_table()


def test_generators_are_all_different_and_none_is_the_blinding_s() -> None:
    encoded = {group.encode_point(each) for each in ROWS.generators}

    assert len(encoded) == 16
    assert group.encode_point(group.base_multiple(1)) not in encoded


def test_longer_rows_begin_with_the_same_generators() -> None:
    longer = PedersenRows(32)

    assert all(map(group.same, longer.generators, ROWS.generators))
    assert longer.digest.hex() == KNOWN["digests"]["32"]


def test_commitments_survive_their_bytes() -> None:
    commitments = ROWS.commit(np.arange(40)).commitments

    read = Commitments.from_bytes(commitments.to_bytes(), 3)

    assert all(map(group.same, read.points, commitments.points))
    assert len(commitments.to_bytes()) == 3 * 33


@pytest.mark.parametrize("change", [-1, 1, -33, 33])
def test_commitments_of_another_length_are_refused(change: int) -> None:
    content = ROWS.commit(np.arange(40)).commitments.to_bytes()
    changed = content[:change] if change < 0 else content + content[:change]

    with pytest.raises(ProofError, match=f"must have 99 bytes for 3 rows, got {99 + change}"):
        Commitments.from_bytes(changed, 3)


def test_a_commitment_that_is_no_point_is_named() -> None:
    content = ROWS.commit(np.arange(40)).commitments.to_bytes()

    with pytest.raises(ProofError, match="commitment of row 1 must be a compressed point"):
        Commitments.from_bytes(content[:33] + bytes(33) + content[66:], 3)


def test_an_opening_tells_nothing_and_cannot_be_pickled() -> None:
    opening = ROWS.commit(np.array([4711, 4712]))

    assert repr(opening) == "Opening(row_count=1)"
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(opening)


def test_an_opening_gives_its_numbers_filled_with_rows_of_zeros() -> None:
    opening = Opening(np.array([[1, -2], [3, 4]]), [10, 20], Commitments(()))

    assert opening.numbers(3) == [1, -2, 3, 4, 0, 0]
    assert opening.combined([mpz(5), mpz(7)]) == ([26, 18], 190)
