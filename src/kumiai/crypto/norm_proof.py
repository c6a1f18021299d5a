"""Zero-knowledge proofs that a committed update is no longer than its bound, exactly.

Nothing is revealed beside the statement, the bound holds over the integers, honest clients never
fail, and who proves something false succeeds with probability about 2^-128. `norm_statement` says
what is proven, `norm_relation` by which equation, `docs/explanation/norm-proof.md` why that is
enough. Multiplications of points take a time that depends on secrets: prove where no stranger
can measure.

Source: after Wahby et al. 2018 (Hyrax); the projections against wrap-around after Gentry, Halevi
and Lyubashevsky 2022, section 3.
"""

from collections.abc import Callable

import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from kumiai.core.errors import ProofError
from kumiai.crypto import projections
from kumiai.crypto.group import (
    ORDER,
    Draw,
    Point,
    draw_scalar,
    encode_point,
    multiply_many,
)
from kumiai.crypto.norm_relation import Relation, begin, linear_relation
from kumiai.crypto.norm_statement import NormStatement
from kumiai.crypto.pedersen import Commitments, Opening, PedersenRows
from kumiai.crypto.proof_layout import FoldedProof, NormProof
from kumiai.crypto.sigma import (
    Committed,
    commit_numbers,
    prove_linear,
    prove_product,
    prove_square,
    verify_linear,
    verify_product,
    verify_square,
)
from kumiai.crypto.sumcheck import Scalars, equality_vector, prove_bits, prove_squares
from kumiai.crypto.transcript import Transcript

__all__ = ["prove_norm", "verify_norm"]

CommitBits = Callable[[bytes], Opening]
"""Takes the seed of the projections; commits to the bits of these and of the slack."""


def prove_norm(
    rows: PedersenRows, opening: Opening, statement: NormStatement, context: bytes
) -> bytes:
    """Prove that a committed, weighted update is no longer than its bound.

    Args:
        rows: the generators that the update was committed with.
        opening: of `rows.commit`, for the weighted update and then its weight.
        statement: what to prove.
        context: everything that the proof must be good for alone: the round's descriptor, the
            client.

    Returns:
        The proof, of a size that follows from the statement.

    Raises:
        ValueError: the statement is of other rows, or not true of the opening.
    """
    _check_fit(rows, statement)
    bits = _honest_bits(opening, statement)
    return _prove(
        rows,
        opening,
        statement,
        context,
        commit_bits=lambda seed: rows.commit_rows(bits(seed), draw_scalar),
        draw=draw_scalar,
    )


def _check_fit(rows: PedersenRows, statement: NormStatement) -> None:
    if rows.row_length != statement.row_length:
        raise ValueError(
            f"statement must be of rows of {rows.row_length} numbers, got {statement.row_length}"
        )


def _honest_bits(
    opening: Opening, statement: NormStatement
) -> Callable[[bytes], NDArray[np.int64]]:
    values = opening.rows.reshape(-1)
    if len(opening.rows) != statement.row_count:
        raise ValueError(f"opening must have {statement.row_count} rows, got {len(opening.rows)}")
    if values[statement.dimension] != statement.weight or values[statement.length :].any():
        raise ValueError("the update must be followed by its weight and nothing else")
    slack = statement.total - sum(value * value for value in values.tolist())
    if slack < 0:
        raise ValueError("the update must be within its bound, and is not; clip it")

    def bits(seed: bytes) -> NDArray[np.int64]:
        shifted = projections.project(seed, values) + (1 << (statement.projection_bits - 1))
        size = statement.bit_row_count * statement.bit_row_length
        flat = np.zeros(size, np.int64)
        places = np.arange(statement.projection_bits)
        projected = ((shifted[:, None] >> places) & 1).reshape(-1)
        flat[: projected.size] = projected
        rest = [(slack >> place) & 1 for place in range(statement.slack_bits)]
        flat[projected.size : statement.bit_count] = rest
        return flat.reshape(-1, statement.bit_row_length)

    return bits


class _Rounds:
    """Commits to the polynomials of a sumcheck, and draws its challenges."""

    def __init__(self, rows: PedersenRows, transcript: Transcript, draw: Draw) -> None:
        self.committed: list[Committed] = []
        self._rows, self._transcript, self._draw = rows, transcript, draw

    def __call__(self, coefficients: Scalars) -> mpz:
        committed = commit_numbers(self._rows, coefficients, self._draw)
        self.committed.append(committed)
        return _round_challenge(self._transcript, committed.point)

    def points(self) -> tuple[Point, ...]:
        return tuple(each.point for each in self.committed)


def _round_challenge(transcript: Transcript, point: Point) -> mpz:
    transcript.append("round", encode_point(point))
    return transcript.challenge("round")


def _prove(
    rows: PedersenRows,
    opening: Opening,
    statement: NormStatement,
    context: bytes,
    *,
    commit_bits: CommitBits,
    draw: Draw,
) -> bytes:
    """Prove without asking whether it is true: what is not true does not verify."""
    transcript = begin(rows, opening.commitments, statement, context)
    seed = _seed(transcript)
    bits = commit_bits(seed)
    bit_rows = bits.commitments.points
    relation = Relation.drawn(statement, seed, bit_rows, transcript)

    values, value_weights = opening.numbers(1 << statement.row_bits), relation.value_weights()
    claim = commit_numbers(rows, [_claim(values, value_weights, relation.norm)], draw)
    transcript.append("claim", encode_point(claim.point))
    value_rounds = _Rounds(rows, transcript, draw)
    value_point, value, value_weight = prove_squares(
        values, value_weights, relation.norm, value_rounds
    )
    bit_rounds = _Rounds(rows, transcript, draw)
    bit_point, bit = prove_bits(
        bits.numbers(1 << statement.bit_row_bits),
        relation.bit_weights(),
        equality_vector(relation.bit_point),
        relation.bitness,
        bit_rounds,
    )

    folded = [commit_numbers(rows, [number], draw) for number in (value, bit)]
    squares = [prove_square(rows, each, transcript, draw) for each in folded]
    committed = [*value_rounds.committed, *bit_rounds.committed, claim]
    for each, (square, _) in zip(folded, squares, strict=True):
        committed += [each, square]
    theta = transcript.challenge("theta")
    weights, _ = linear_relation(relation, value_point, bit_point, value_weight, theta)
    linear = prove_linear(rows, committed, weights, transcript, draw)
    products = [
        prove_product(
            rows,
            each.combined(equality_vector(point[:row_bits])[: len(each.blindings)]),
            equality_vector(point[row_bits:]),
            number,
            transcript=transcript,
            draw=draw,
        )
        for each, point, row_bits, number in (
            (opening, value_point, statement.row_bits, folded[0]),
            (bits, bit_point, statement.bit_row_bits, folded[1]),
        )
    ]
    shown_values, shown_bits = (
        FoldedProof(each.point, square.point, square_proof, product)
        for each, (square, square_proof), product in zip(folded, squares, products, strict=True)
    )
    return NormProof(
        bit_rows=bit_rows,
        claim=claim.point,
        value_rounds=value_rounds.points(),
        bit_rounds=bit_rounds.points(),
        values=shown_values,
        bits=shown_bits,
        linear=linear,
    ).to_bytes()


def _seed(transcript: Transcript) -> bytes:
    return transcript.challenge_bytes("projections")[: projections.SEED_BYTES]


def _claim(values: Scalars, weights: Scalars, norm: mpz) -> mpz:
    pairs = zip(values, weights, strict=True)
    return sum((value * (norm * value - weight) for value, weight in pairs), mpz(0)) % ORDER


def verify_norm(
    rows: PedersenRows,
    commitments: Commitments,
    proof: bytes,
    statement: NormStatement,
    context: bytes,
) -> None:
    """Check a proof from outside.

    Args:
        rows: the generators.
        commitments: the prover's, of `Commitments.from_bytes`.
        proof: of `prove_norm`.
        statement: what must be proven.
        context: as the prover's: the round's descriptor, the client.

    Raises:
        ProofError: the proof is malformed, or does not prove the statement about these
            commitments in this context.
        ValueError: the statement is of other rows.
    """
    _check_fit(rows, statement)
    if len(commitments.points) != statement.row_count:
        raise ProofError(
            f"commitments must be of {statement.row_count} rows, got {len(commitments.points)}"
        )
    read = NormProof.from_bytes(proof, statement)
    transcript = begin(rows, commitments, statement, context)
    seed = _seed(transcript)
    relation = Relation.drawn(statement, seed, read.bit_rows, transcript)
    transcript.append("claim", encode_point(read.claim))
    value_point = [_round_challenge(transcript, point) for point in read.value_rounds]
    bit_point = [_round_challenge(transcript, point) for point in read.bit_rounds]
    for each in (read.values, read.bits):
        verify_square(rows, each.folded, each.square, each.square_proof, transcript)

    theta = transcript.challenge("theta")
    row_point = equality_vector(value_point[: statement.row_bits])
    column_point = equality_vector(value_point[statement.row_bits :])
    value_weight = relation.value_weights_at(row_point, column_point)
    weights, total = linear_relation(relation, value_point, bit_point, value_weight, theta)
    points = [*read.value_rounds, *read.bit_rounds, read.claim]
    points += [read.values.folded, read.values.square, read.bits.folded, read.bits.square]
    verify_linear(rows, points, weights, total, proof=read.linear, transcript=transcript)
    for each, committed, point, row_bits in (
        (read.values, commitments.points, value_point, statement.row_bits),
        (read.bits, read.bit_rows, bit_point, statement.bit_row_bits),
    ):
        combined = multiply_many(committed, equality_vector(point[:row_bits])[: len(committed)])
        columns = equality_vector(point[row_bits:])
        verify_product(
            rows,
            combined,
            columns,
            each.folded,
            proof=each.product_proof,
            transcript=transcript,
        )
