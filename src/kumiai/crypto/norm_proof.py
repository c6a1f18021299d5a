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
from dataclasses import dataclass

import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from kumiai.core.errors import ProofError
from kumiai.crypto import projections
from kumiai.crypto.group import (
    ORDER,
    Draw,
    Point,
    dot,
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
    LinearProof,
    SquareProof,
    commit_numbers,
    prove_linear,
    prove_product,
    prove_square,
    verify_linear,
    verify_product,
    verify_square,
)
from kumiai.crypto.sumcheck import CommitRound, Scalars, equality_vector, prove_bits, prove_squares
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
    values = opening.rows.ravel()
    if len(opening.rows) != statement.row_count:
        raise ValueError(f"opening must have {statement.row_count} rows, got {len(opening.rows)}")
    if values[statement.dimension] != statement.weight or values[statement.length :].any():
        raise ValueError("the update must be followed by its weight and nothing else")
    slack = statement.total - sum(value * value for value in values.tolist())
    if slack < 0:
        raise ValueError("the update must be within its bound, and is not; clip it")

    def bits(seed: bytes) -> NDArray[np.int64]:
        # Flipping the sign's bit adds half of the interval, so that no number is negative.
        shifted = projections.project(seed, values) ^ (1 << (statement.projection_bits - 1))
        size = statement.bit_row_count * statement.bit_row_length
        flat = np.zeros(size, np.int64)
        places = np.arange(statement.projection_bits)
        projected = ((shifted[:, None] >> places) & 1).ravel()
        flat[: projected.size] = projected
        rest = [(slack >> place) & 1 for place in range(statement.slack_bits)]
        flat[projected.size : statement.bit_count] = rest
        return flat.reshape(statement.bit_row_count, statement.bit_row_length)

    return bits


@dataclass(frozen=True, slots=True)
class _Sum:
    """A sumcheck that was run: over which rows, what was said, at which point it ended in what."""

    opening: Opening
    row_bits: int
    rounds: list[Committed]
    point: Scalars
    end: Committed


class _Prover:
    """What every step of a proof needs."""

    def __init__(self, rows: PedersenRows, transcript: Transcript, draw: Draw) -> None:
        self._rows, self._transcript, self._draw = rows, transcript, draw

    def _into(self, rounds: list[Committed]) -> CommitRound:
        def commit(coefficients: Scalars) -> mpz:
            rounds.append(commit_numbers(self._rows, coefficients, self._draw))
            return _round_challenge(self._transcript, rounds[-1].point)

        return commit

    def claim(self, values: Scalars, weights: Scalars, norm: mpz) -> Committed:
        number = _claim(values, weights, norm)
        committed = commit_numbers(self._rows, [number], self._draw)
        self._transcript.append("claim", encode_point(committed.point))
        return committed

    def sum_values(self, opening: Opening, relation: Relation) -> tuple[_Sum, Committed, mpz]:
        """Run the first sumcheck; return it, its claim and what the public weights fold to."""
        row_bits = relation.statement.row_bits
        values, weights = opening.numbers(1 << row_bits), relation.value_weights()
        claim = self.claim(values, weights, relation.norm)
        rounds: list[Committed] = []
        point, value, weight = prove_squares(values, weights, relation.norm, self._into(rounds))
        end = commit_numbers(self._rows, [value], self._draw)
        return _Sum(opening, row_bits, rounds, point, end), claim, weight

    def sum_bits(self, bits: Opening, relation: Relation) -> _Sum:
        row_bits = relation.statement.bit_row_bits
        rounds: list[Committed] = []
        point, bit = prove_bits(
            bits.numbers(1 << row_bits),
            relation.bit_weights(),
            equality_vector(relation.bit_point),
            relation.bitness,
            self._into(rounds),
        )
        end = commit_numbers(self._rows, [bit], self._draw)
        return _Sum(bits, row_bits, rounds, point, end)

    def square(self, run: _Sum) -> tuple[Committed, SquareProof]:
        return prove_square(self._rows, run.end, self._transcript, self._draw)

    def linear(self, committed: list[Committed], weights: list[Scalars]) -> LinearProof:
        return prove_linear(self._rows, committed, weights, self._transcript, self._draw)

    def folded(self, run: _Sum, square: tuple[Committed, SquareProof]) -> FoldedProof:
        """Show that what the sumcheck ended in is what the committed rows give."""
        row_weights = equality_vector(run.point[: run.row_bits])[: len(run.opening.blindings)]
        product = prove_product(
            self._rows,
            run.opening.combined(row_weights),
            equality_vector(run.point[run.row_bits :]),
            run.end,
            transcript=self._transcript,
            draw=self._draw,
        )
        return FoldedProof(run.end.point, square[0].point, square[1], product)


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
    prover = _Prover(rows, transcript, draw)

    value_sum, claim, value_weight = prover.sum_values(opening, relation)
    bit_sum = prover.sum_bits(bits, relation)
    value_square, bit_square = prover.square(value_sum), prover.square(bit_sum)
    theta = transcript.challenge("theta")
    weights, _ = linear_relation(relation, value_sum.point, bit_sum.point, value_weight, theta)
    committed = [*value_sum.rounds, *bit_sum.rounds, claim]
    committed += [value_sum.end, value_square[0], bit_sum.end, bit_square[0]]
    linear = prover.linear(committed, weights)
    return NormProof(
        bit_rows=bit_rows,
        claim=claim.point,
        value_rounds=tuple(each.point for each in value_sum.rounds),
        bit_rounds=tuple(each.point for each in bit_sum.rounds),
        values=prover.folded(value_sum, value_square),
        bits=prover.folded(bit_sum, bit_square),
        linear=linear,
    ).to_bytes()


def _round_challenge(transcript: Transcript, point: Point) -> mpz:
    transcript.append("round", encode_point(point))
    return transcript.challenge("round")


def _seed(transcript: Transcript) -> bytes:
    return transcript.challenge_bytes("projections")[: projections.SEED_BYTES]


def _claim(values: Scalars, weights: Scalars, norm: mpz) -> mpz:
    return (norm * dot(values, values) - dot(values, weights)) % ORDER


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
