"""Proofs about what is inside Pedersen commitments, made non-interactive by a transcript.

Three relations: a committed number is the square of another; committed numbers satisfy a linear
equation; a committed vector's product with a public one is a committed number. The prover commits
to random masks, the transcript answers with a challenge, and the responses hide the secrets behind
the masks. Two accepted conversations with one commitment and different challenges give the secrets
away, which is why only who knows them can answer.

A commitment to a vector is the sum of its numbers times the first generators, and of a blinding
times the standard generator of the curve.

Source: Schnorr 1989; Cramer and Damgård 1998; Wahby et al. 2018 (Hyrax), appendix A.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import add as add_numbers
from typing import NoReturn

from gmpy2 import mpz

from kumiai.core.errors import ProofError
from kumiai.crypto.group import (
    ORDER,
    Draw,
    Point,
    add,
    base_multiple,
    certain,
    dot,
    draw_scalar,
    encode_point,
    encode_scalar,
    multiply,
    multiply_many,
    same,
)
from kumiai.crypto.pedersen import PedersenRows
from kumiai.crypto.transcript import Transcript

__all__ = [
    "Committed",
    "LinearProof",
    "ProductProof",
    "SquareProof",
    "commit_numbers",
    "prove_linear",
    "prove_product",
    "prove_square",
    "verify_linear",
    "verify_product",
    "verify_square",
]


@dataclass(frozen=True, slots=True, repr=False)
class Committed:
    """Numbers, what blinds them, and the commitment to them."""

    numbers: Sequence[mpz]
    blinding: mpz
    point: Point

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: it holds secrets."""
        raise TypeError("a committed secret cannot be pickled")


@dataclass(frozen=True, slots=True)
class SquareProof:
    """That the second of two commitments holds the square of what the first one holds."""

    mask: Point
    square_mask: Point
    response: mpz
    blinding_response: mpz
    square_response: mpz


@dataclass(frozen=True, slots=True)
class LinearProof:
    """That numbers in several commitments satisfy a linear equation."""

    masks: tuple[Point, ...]
    masked_sum: mpz
    responses: tuple[tuple[mpz, ...], ...]
    blinding_responses: tuple[mpz, ...]


@dataclass(frozen=True, slots=True)
class ProductProof:
    """That a committed vector's product with a public one is a committed number."""

    mask: Point
    product_mask: Point
    responses: tuple[mpz, ...]
    blinding_response: mpz
    product_response: mpz


def _drawn(draw: Draw, count: int) -> list[mpz]:
    return [mpz(draw()) for _ in range(count)]


def commit_numbers(rows: PedersenRows, numbers: Sequence[mpz], draw: Draw) -> Committed:
    """Commit to a few numbers under a fresh blinding."""
    blinding = mpz(draw())
    return Committed(numbers, blinding, certain(_opened(rows, numbers, blinding)))


def _opened(rows: PedersenRows, numbers: Sequence[mpz], blinding: mpz) -> Point | None:
    generators = rows.generators[: len(numbers)]
    return add([multiply_many(generators, numbers), base_multiple(blinding)])


def prove_square(
    rows: PedersenRows, root: Committed, transcript: Transcript, draw: Draw
) -> tuple[Committed, SquareProof]:
    """Commit to the square of a committed number, and prove that it is that.

    The commitment to the square is the root times its own commitment, blinded anew: so a
    proof of knowing the factor is enough.
    """
    (number,) = root.numbers
    extra, mask, blinding_mask, square_mask = _drawn(draw, 4)
    square = Committed(
        [number * number % ORDER],
        (number * root.blinding + extra) % ORDER,
        certain(add([multiply(root.point, number), base_multiple(extra)])),
    )
    first = certain(_opened(rows, [mask], blinding_mask))
    second = certain(add([multiply(root.point, mask), base_multiple(square_mask)]))
    challenge = _square_challenge(transcript, root.point, square.point, first, second)
    return square, SquareProof(
        first,
        second,
        (mask + challenge * number) % ORDER,
        (blinding_mask + challenge * root.blinding) % ORDER,
        (square_mask + challenge * extra) % ORDER,
    )


def verify_square(
    rows: PedersenRows, root: Point, square: Point, proof: SquareProof, transcript: Transcript
) -> None:
    """Check a square.

    Raises:
        ProofError: the proof does not show it.
    """
    challenge = _square_challenge(transcript, root, square, proof.mask, proof.square_mask)
    opened = _opened(rows, [proof.response], proof.blinding_response)
    raised = add([multiply(root, proof.response), base_multiple(proof.square_response)])
    holds = same(opened, add([proof.mask, multiply(root, challenge)])) and same(
        raised, add([proof.square_mask, multiply(square, challenge)])
    )
    if not holds:
        raise ProofError("square must be that of the committed number, and is not")


def _square_challenge(transcript: Transcript, *points: Point) -> mpz:
    transcript.append("square", *map(encode_point, points))
    return transcript.challenge("square")


def prove_linear(
    rows: PedersenRows,
    committed: Sequence[Committed],
    weights: Sequence[Sequence[mpz]],
    transcript: Transcript,
    draw: Draw,
) -> LinearProof:
    """Prove what the committed numbers, times public weights, sum up to.

    Args:
        rows: the generators.
        committed: whose points the transcript has absorbed.
        weights: one for each number of each commitment.
        transcript: the conversation so far.
        draw: gives scalars.
    """
    masks = [commit_numbers(rows, _drawn(draw, len(each.numbers)), draw) for each in committed]
    masked_sum = _weighted(weights, [mask.numbers for mask in masks])
    challenge = _linear_challenge(transcript, [mask.point for mask in masks], masked_sum)
    responses = [
        _responses(
            [*mask.numbers, mask.blinding],
            [*committed[index].numbers, committed[index].blinding],
            challenge,
        )
        for index, mask in enumerate(masks)
    ]
    return LinearProof(
        tuple(mask.point for mask in masks),
        masked_sum,
        tuple(each[:-1] for each in responses),
        tuple(each[-1] for each in responses),
    )


def verify_linear(
    rows: PedersenRows,
    points: Sequence[Point],
    weights: Sequence[Sequence[mpz]],
    total: mpz,
    *,
    proof: LinearProof,
    transcript: Transcript,
) -> None:
    """Check a linear equation.

    All commitments are checked at once in a combination that the verifier draws; a wrong one
    passes with probability 2^-256.

    Args:
        rows: the generators.
        points: the commitments.
        weights: one for each number of each commitment.
        total: what the numbers, times the weights, sum up to.
        proof: as many masks and responses as `points` and `weights`.
        transcript: the conversation so far.

    Raises:
        ProofError: the proof does not show it.
    """
    challenge = _linear_challenge(transcript, proof.masks, proof.masked_sum)
    if _weighted(weights, proof.responses) != (proof.masked_sum + challenge * total) % ORDER:
        raise ProofError("linear relation between committed numbers must hold, and does not")
    factors = [mpz(draw_scalar()) for _ in points]
    sums = [mpz(0)] * max(map(len, weights))
    for position, responses in enumerate(proof.responses):
        for index, response in enumerate(responses):
            sums[index] += factors[position] * response
    blinding = dot(factors, proof.blinding_responses)
    announced = [
        multiply_many(proof.masks, factors),
        multiply_many(points, [factor * challenge for factor in factors]),
    ]
    if not same(_opened(rows, sums, blinding), add(announced)):
        raise ProofError("responses must open the commitments of the linear relation, and do not")


def _linear_challenge(transcript: Transcript, masks: Sequence[Point], masked_sum: mpz) -> mpz:
    transcript.append("linear", *map(encode_point, masks), encode_scalar(masked_sum))
    return transcript.challenge("linear")


def _weighted(weights: Sequence[Sequence[mpz]], numbers: Sequence[Sequence[mpz]]) -> mpz:
    return dot(list(chain.from_iterable(weights)), list(chain.from_iterable(numbers)))


def _responses(masks: Sequence[mpz], numbers: Sequence[mpz], challenge: mpz) -> tuple[mpz, ...]:
    scaled = [challenge * number for number in numbers]
    return tuple(each % ORDER for each in map(add_numbers, masks, scaled))


def prove_product(
    rows: PedersenRows,
    vector: tuple[Sequence[mpz], mpz],
    weights: Sequence[mpz],
    product: Committed,
    *,
    transcript: Transcript,
    draw: Draw,
) -> ProductProof:
    """Prove a committed vector's product with public weights.

    Args:
        rows: the generators.
        vector: its numbers and its blinding.
        weights: as many as the vector has numbers.
        product: one number, whose point the transcript has absorbed.
        transcript: the conversation so far.
        draw: gives scalars.
    """
    numbers, blinding = vector
    masks = _drawn(draw, len(numbers))
    blinding_mask, product_blinding_mask = _drawn(draw, 2)
    first = certain(rows.point_of(masks, blinding_mask))
    second = certain(_opened(rows, [dot(weights, masks)], product_blinding_mask))
    challenge = _product_challenge(transcript, first, second)
    return ProductProof(
        first,
        second,
        _responses(masks, numbers, challenge),
        (blinding_mask + challenge * blinding) % ORDER,
        (product_blinding_mask + challenge * product.blinding) % ORDER,
    )


def verify_product(
    rows: PedersenRows,
    vector: Point | None,
    weights: Sequence[mpz],
    product: Point,
    *,
    proof: ProductProof,
    transcript: Transcript,
) -> None:
    """Check a product.

    Raises:
        ProofError: the proof does not show it.
    """
    challenge = _product_challenge(transcript, proof.mask, proof.product_mask)
    opened = rows.point_of(proof.responses, proof.blinding_response)
    if not same(opened, add([proof.mask, multiply(vector, challenge)])):
        raise ProofError("responses must open the combined row, and do not")
    number = dot(weights, proof.responses)
    announced = add([proof.product_mask, multiply(product, challenge)])
    if not same(_opened(rows, [number], proof.product_response), announced):
        raise ProofError("product must be that of the committed vector, and is not")


def _product_challenge(transcript: Transcript, first: Point, second: Point) -> mpz:
    transcript.append("product", encode_point(first), encode_point(second))
    return transcript.challenge("product")
