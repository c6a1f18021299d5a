import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kumiai.core.errors import ProofError
from kumiai.crypto.blindings import sum_blindings
from kumiai.crypto.group import ORDER
from kumiai.crypto.pedersen import Commitments, Opening, PedersenRows
from kumiai.crypto.sum_check import verify_sum

ROWS = PedersenRows(16)


def federation(count: int, size: int, seed: int) -> tuple[np.ndarray, list[Opening]]:
    vectors = np.random.default_rng(seed).integers(-(2**31), 2**31, (count, size))
    return vectors, [ROWS.commit(vector) for vector in vectors]


def summed(openings: list[Opening]) -> list[int]:
    total = [0] * len(openings[0].blindings)
    for opening in openings:
        total = sum_blindings(total, opening.blindings)
    return total


def public(openings: list[Opening]) -> list[Commitments]:
    return [opening.commitments for opening in openings]


@given(st.integers(1, 6), st.integers(1, 50), st.integers(0, 2**32))
@settings(max_examples=20)
def test_the_sum_of_committed_vectors_passes(count: int, size: int, seed: int) -> None:
    vectors, openings = federation(count, size, seed)

    verify_sum(ROWS, public(openings), vectors.sum(axis=0), summed(openings))


def test_the_order_of_clients_does_not_matter() -> None:
    vectors, openings = federation(4, 40, 1)

    verify_sum(ROWS, public(openings)[::-1], vectors.sum(axis=0), summed(openings))


def test_zeros_pass_as_well() -> None:
    opening = ROWS.commit(np.zeros(20, np.int64))

    verify_sum(ROWS, [opening.commitments], np.zeros(20, np.int64), opening.blindings)


@given(st.integers(0, 39), st.sampled_from([1, -1, 2**32, -(2**32)]))
@settings(max_examples=20)
def test_a_sum_that_differs_in_one_coordinate_is_refused(index: int, change: int) -> None:
    vectors, openings = federation(3, 40, 2)
    total = vectors.sum(axis=0)
    total[index] += change

    with pytest.raises(ProofError, match="must be that of the committed vectors"):
        verify_sum(ROWS, public(openings), total, summed(openings))


def test_two_changes_that_cancel_out_are_found() -> None:
    vectors, openings = federation(3, 40, 3)
    total = vectors.sum(axis=0)
    total[3] += 1
    total[19] -= 1  # the same column, another row

    with pytest.raises(ProofError):
        verify_sum(ROWS, public(openings), total, summed(openings))


def test_blindings_that_differ_are_found() -> None:
    vectors, openings = federation(3, 40, 4)
    blindings = summed(openings)
    blindings[0], blindings[1] = blindings[1], blindings[0]

    with pytest.raises(ProofError):
        verify_sum(ROWS, public(openings), vectors.sum(axis=0), blindings)


def test_nobody_sums_up_to_nothing_but_zero() -> None:
    verify_sum(ROWS, [], np.zeros(4, np.int64), [0])

    with pytest.raises(ProofError):
        verify_sum(ROWS, [], np.array([0, 0, 1, 0]), [0])


def test_sizes_that_do_not_fit_are_named() -> None:
    vectors, openings = federation(2, 40, 5)
    total, blindings = vectors.sum(axis=0), summed(openings)
    short = Commitments(openings[1].commitments.points[:-1])

    with pytest.raises(ProofError, match="blindings must be of 3 rows, got 2"):
        verify_sum(ROWS, public(openings), total, blindings[:-1])
    with pytest.raises(ProofError, match="commitments of client 1 must be of 3 rows, got 2"):
        verify_sum(ROWS, [openings[0].commitments, short], total, blindings)
    with pytest.raises(ProofError, match="sum must be one of committed vectors"):
        verify_sum(ROWS, public(openings), np.full(40, 2**45), blindings)


def test_blindings_count_modulo_the_order() -> None:
    vectors, openings = federation(2, 20, 6)
    unreduced = [a + int(ORDER) for a in summed(openings)]

    verify_sum(ROWS, public(openings), vectors.sum(axis=0), unreduced)
