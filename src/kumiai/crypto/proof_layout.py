"""The bytes of a norm proof: one layout whose every length follows from the statement.

A magic number, then points of 33 and scalars of 32 bytes, without any length or count: what is not
as long as the statement says is no proof.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from gmpy2 import mpz

from kumiai.core.errors import ProofError
from kumiai.crypto.group import (
    POINT_BYTES,
    SCALAR_BYTES,
    Point,
    decode_point,
    decode_scalar,
    encode_point,
    encode_scalar,
)
from kumiai.crypto.norm_statement import NormStatement
from kumiai.crypto.sigma import LinearProof, ProductProof, SquareProof

__all__ = ["FoldedProof", "NormProof", "proof_size_bytes"]

_MAGIC = b"KNP1"
_VALUE_COEFFICIENTS = 3
_BIT_COEFFICIENTS = 4


@dataclass(frozen=True, slots=True)
class FoldedProof:
    """What the numbers of a sumcheck fold to: committed, squared, and found in the rows."""

    folded: Point
    square: Point
    square_proof: SquareProof
    product_proof: ProductProof


@dataclass(frozen=True, slots=True)
class NormProof:
    """All that a prover says, in order."""

    bit_rows: tuple[Point, ...]
    claim: Point
    value_rounds: tuple[Point, ...]
    bit_rounds: tuple[Point, ...]
    values: FoldedProof
    bits: FoldedProof
    linear: LinearProof

    def to_bytes(self) -> bytes:
        """Return the proof's bytes."""
        return _MAGIC + b"".join(_pieces(self))

    @classmethod
    def from_bytes(cls, content: bytes, statement: NormStatement) -> "NormProof":
        """Read a proof from outside.

        Raises:
            ProofError: it has another length than a proof of the statement, another beginning, a
                point that is not on the curve, or a scalar that is not below the order.
        """
        expected = proof_size_bytes(statement)
        if len(content) != expected:
            raise ProofError(f"norm proof must have {expected} bytes, got {len(content)}")
        if not content.startswith(_MAGIC):
            raise ProofError(f"norm proof must begin with {_MAGIC!r}, and does not")
        return _read(_Reader(content), statement)


def proof_size_bytes(statement: NormStatement) -> int:
    """Return how many bytes a proof of the statement has."""
    values, bits = _round_counts(statement)
    committed = values + bits + 5
    numbers = values * _VALUE_COEFFICIENTS + bits * _BIT_COEFFICIENTS + 5
    points = statement.bit_row_count + 1 + values + bits + 2 * (2 + 2 + 2) + committed
    vectors = statement.row_length + statement.bit_row_length
    scalars = 2 * (3 + 2) + vectors + 1 + numbers + committed
    return len(_MAGIC) + points * POINT_BYTES + scalars * SCALAR_BYTES


def _round_counts(statement: NormStatement) -> tuple[int, int]:
    values = statement.row_bits + statement.column_bits
    return values, statement.bit_row_bits + statement.bit_column_bits


def _pieces(proof: NormProof) -> Iterator[bytes]:
    yield from map(encode_point, proof.bit_rows)
    yield encode_point(proof.claim)
    yield from map(encode_point, proof.value_rounds)
    yield from map(encode_point, proof.bit_rounds)
    for each in (proof.values, proof.bits):
        square, product = each.square_proof, each.product_proof
        points = (each.folded, each.square, square.mask, square.square_mask)
        yield from map(encode_point, points)
        yield encode_scalar(square.response)
        yield encode_scalar(square.blinding_response)
        yield encode_scalar(square.square_response)
        yield encode_point(product.mask)
        yield encode_point(product.product_mask)
        yield from map(encode_scalar, product.responses)
        yield encode_scalar(product.blinding_response)
        yield encode_scalar(product.product_response)
    yield from map(encode_point, proof.linear.masks)
    yield encode_scalar(proof.linear.masked_sum)
    for responses in proof.linear.responses:
        yield from map(encode_scalar, responses)
    yield from map(encode_scalar, proof.linear.blinding_responses)


class _Reader:
    """Reads one piece after the other of bytes whose length was checked."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._position = len(_MAGIC)

    def _next(self, size: int) -> bytes:
        self._position += size
        return self._content[self._position - size : self._position]

    def point(self, name: str) -> Point:
        return decode_point(self._next(POINT_BYTES), name=name)

    def points(self, count: int, name: str) -> tuple[Point, ...]:
        return tuple(self.point(f"{name} {index}") for index in range(count))

    def scalar(self, name: str) -> mpz:
        return decode_scalar(self._next(SCALAR_BYTES), name=name)

    def scalars(self, count: int, name: str) -> tuple[mpz, ...]:
        return tuple(self.scalar(f"{name} {index}") for index in range(count))


def _read(reader: _Reader, statement: NormStatement) -> NormProof:
    values, bits = _round_counts(statement)
    return NormProof(
        bit_rows=reader.points(statement.bit_row_count, "row of bits"),
        claim=reader.point("claim"),
        value_rounds=reader.points(values, "round over values"),
        bit_rounds=reader.points(bits, "round over bits"),
        values=_read_folded(reader, statement.row_length, "values"),
        bits=_read_folded(reader, statement.bit_row_length, "bits"),
        linear=_read_linear(reader, values, bits),
    )


def _read_folded(reader: _Reader, row_length: int, name: str) -> FoldedProof:
    return FoldedProof(
        folded=reader.point(f"folded {name}"),
        square=reader.point(f"square of folded {name}"),
        square_proof=SquareProof(
            mask=reader.point(f"mask of folded {name}"),
            square_mask=reader.point(f"mask of the square of folded {name}"),
            response=reader.scalar(f"response for folded {name}"),
            blinding_response=reader.scalar(f"response for the blinding of folded {name}"),
            square_response=reader.scalar(f"response for the square of folded {name}"),
        ),
        product_proof=ProductProof(
            mask=reader.point(f"mask of the combined row of {name}"),
            product_mask=reader.point(f"mask of the product of {name}"),
            responses=reader.scalars(row_length, f"response for the combined row of {name}"),
            blinding_response=reader.scalar(f"response for the blinding of the row of {name}"),
            product_response=reader.scalar(f"response for the product of {name}"),
        ),
    )


def _read_linear(reader: _Reader, values: int, bits: int) -> LinearProof:
    sizes = [_VALUE_COEFFICIENTS] * values + [_BIT_COEFFICIENTS] * bits + [1] * 5
    return LinearProof(
        masks=reader.points(len(sizes), "mask of the linear relation"),
        masked_sum=reader.scalar("masked sum of the linear relation"),
        responses=tuple(
            reader.scalars(size, f"response of the linear relation {index}")
            for index, size in enumerate(sizes)
        ),
        blinding_responses=reader.scalars(len(sizes), "blinding of the linear relation"),
    )
