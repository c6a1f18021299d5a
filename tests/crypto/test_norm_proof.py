import hashlib
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kumiai.core.errors import ProofError
from kumiai.crypto import norm_proof
from kumiai.crypto.norm_proof import prove_norm, verify_norm
from kumiai.crypto.norm_statement import NormStatement
from kumiai.crypto.pedersen import Commitments, PedersenRows
from kumiai.crypto.proof_layout import proof_size_bytes
from tests.crypto.known_answers import known_answers

ROWS = PedersenRows(16)
CONTEXT = b"round 1, client 1"


def weighted(update: list[int], weight: int) -> np.ndarray:
    return np.append(np.array(update, np.int64) * weight, weight)


def statement_for(update: list[int], weight: int = 1, room: int = 0) -> NormStatement:
    return NormStatement(
        dimension=len(update),
        bound_squared=sum(each * each for each in update) + room,
        weight=weight,
        row_length=16,
    )


def prove_and_verify(update: list[int], statement: NormStatement) -> bytes:
    opening = ROWS.commit(weighted(update, statement.weight))
    proof = prove_norm(ROWS, opening, statement, CONTEXT)
    verify_norm(ROWS, opening.commitments, proof, statement, CONTEXT)
    return proof


@given(
    st.lists(st.integers(-32767, 32767), min_size=1, max_size=70),
    st.integers(1, 64),
    st.sampled_from([0, 1, 2**30]),
)
@settings(max_examples=12)
def test_every_update_within_its_bound_is_proven(update: list[int], weight: int, room: int) -> None:
    prove_and_verify(update, statement_for(update, weight, room))


@pytest.mark.parametrize(
    "update",
    [
        pytest.param([0] * 20, id="zeros"),
        pytest.param([0], id="one zero"),
        pytest.param([2**21 - 1] + [0] * 30, id="all in one coordinate"),
        pytest.param([-(2**21)] + [0] * 30, id="all in one, negative"),
        pytest.param([1] * 15, id="rows that the weight fills"),
        pytest.param([1] * 16, id="a row for the weight alone"),
        pytest.param([1] * 31, id="two rows"),
        pytest.param([-7] * 32, id="three rows, not a power of two"),
        pytest.param([32767] * 100, id="the largest update of 16 bits"),
    ],
)
def test_updates_at_exactly_their_bound_are_proven(update: list[int]) -> None:
    prove_and_verify(update, statement_for(update, weight=5))


def test_a_bound_that_is_one_too_small_is_not_proven() -> None:
    update = [3, -4, 12]
    statement = NormStatement(dimension=3, bound_squared=168, row_length=16)
    opening = ROWS.commit(weighted(update, 1))

    with pytest.raises(ValueError, match="must be within its bound, and is not; clip it"):
        prove_norm(ROWS, opening, statement, CONTEXT)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([3, 4, 6], "must be followed by its weight and nothing else"),
        ([3, 4, 5, 1], "must be followed by its weight and nothing else"),
        ([3, 4], "must be followed by its weight and nothing else"),
        ([0] * 2 + [5] + [0] * 14, "opening must have 1 rows, got 2"),
    ],
)
def test_a_vector_of_another_form_is_not_proven(values: list[int], message: str) -> None:
    statement = NormStatement(dimension=2, bound_squared=100, weight=5, row_length=16)
    opening = ROWS.commit(np.array(values))

    with pytest.raises(ValueError, match=message):
        prove_norm(ROWS, opening, statement, CONTEXT)


def test_rows_of_another_length_are_refused() -> None:
    statement = NormStatement(dimension=2, bound_squared=100, row_length=32)
    opening = ROWS.commit(np.array([1, 2, 1]))

    with pytest.raises(ValueError, match="must be of rows of 16 numbers, got 32"):
        prove_norm(ROWS, opening, statement, CONTEXT)
    with pytest.raises(ValueError, match="must be of rows of 16 numbers, got 32"):
        verify_norm(ROWS, opening.commitments, b"", statement, CONTEXT)


def test_commitments_to_more_rows_are_refused() -> None:
    statement = statement_for([1, 2, 3])
    opening = ROWS.commit(weighted([1, 2, 3], 1))
    proof = prove_norm(ROWS, opening, statement, CONTEXT)
    doubled = Commitments(opening.commitments.points * 2)

    with pytest.raises(ProofError, match="commitments must be of 1 rows, got 2"):
        verify_norm(ROWS, doubled, proof, statement, CONTEXT)


def test_proofs_of_one_vector_have_nothing_in_common_and_one_length() -> None:
    update = [5, -6, 7]
    statement = statement_for(update)

    one, other = (prove_and_verify(update, statement) for _ in range(2))

    assert len(one) == len(other) == proof_size_bytes(statement)
    pieces = [{each[start : start + 32] for start in range(4, len(each))} for each in (one, other)]
    assert not pieces[0] & pieces[1]


def test_proofs_of_different_vectors_look_alike() -> None:
    statement = NormStatement(dimension=40, bound_squared=10**8, weight=3, row_length=16)

    proofs = [
        prove_and_verify(update, statement) for update in ([0] * 40, [1500] * 40, [9999] + [0] * 39)
    ]

    assert {len(proof) for proof in proofs} == {proof_size_bytes(statement)}


def test_responses_are_spread_over_the_whole_group() -> None:
    """The numbers in a proof of zeros are as large as any: nothing shines through."""
    statement = NormStatement(dimension=15, bound_squared=0, row_length=16)
    opening = ROWS.commit(weighted([0] * 15, 1))

    first = [
        norm_proof.NormProof.from_bytes(
            prove_norm(ROWS, opening, statement, CONTEXT), statement
        ).values.product_proof.responses
        for _ in range(8)
    ]

    numbers = [each for responses in first for each in responses]
    high = sum(each > norm_proof.ORDER // 2 for each in numbers)
    # 128 fair coins: fewer than 32 or more than 96 have a probability below 10^-8.
    assert 32 <= high <= 96


def counting() -> Iterator[int]:
    for index in range(10**6):
        yield int.from_bytes(hashlib.sha256(f"draw {index}".encode()).digest(), "big") >> 1


def test_a_proof_with_known_randomness_is_the_known_one() -> None:
    known = known_answers("norm_proof")
    values = weighted(known["update"], known["weight"])
    statement = NormStatement(
        dimension=len(known["update"]),
        bound_squared=known["bound_squared"],
        weight=known["weight"],
        row_length=16,
    )
    drawn = counting()
    opening = ROWS.commit_rows(ROWS.laid_out(values), lambda: next(drawn))
    bits = norm_proof._honest_bits(opening, statement)

    proof = norm_proof._prove(
        ROWS,
        opening,
        statement,
        known["context"].encode(),
        commit_bits=lambda seed: ROWS.commit_rows(bits(seed), lambda: next(drawn)),
        draw=lambda: next(drawn),
    )

    assert opening.commitments.to_bytes().hex() == known["commitments"]
    assert len(proof) == known["size_bytes"]
    assert hashlib.sha256(proof).hexdigest() == known["proof_sha256"]


def test_a_real_size_is_proven() -> None:
    rng = np.random.default_rng(7)
    rows = PedersenRows()
    update = rng.integers(-2000, 2000, 5000).tolist()
    statement = NormStatement(
        dimension=5000, bound_squared=sum(each * each for each in update), weight=9
    )
    opening = rows.commit(weighted(update, 9))

    proof = prove_norm(rows, opening, statement, CONTEXT)

    verify_norm(rows, opening.commitments, proof, statement, CONTEXT)
    assert len(proof) + len(opening.commitments.to_bytes()) <= 60_000
