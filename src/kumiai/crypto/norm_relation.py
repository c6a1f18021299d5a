"""The one equation that a norm proof proves, as prover and verifier both see it.

With x the committed vector, b the committed bits, v and s the projections and the slack that the
bits write, and challenges norm, rho, bitness, point, tail that are drawn after both commitments:

    norm * (x_1² + x_2² + … + s - total)                     the norm
    + the sum of rho^t * (v_t - <row t, x>)                  the projections are those of x
    + bitness * the sum of eq(point, i) * (b_i² - b_i)       bits are bits
    - the sum of tail^k * (x_(dimension+k) - end_k)          the weight, then zeros
    = 0

It holds for random challenges only if each part holds, but with probability below 2^-240. What
depends on x is the *claim* of the first sumcheck; what depends on b is that of the second, and both
are the public total together. The claim itself is never said, only committed to.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gmpy2 import mpz

from kumiai.crypto import projections
from kumiai.crypto.group import ORDER, Point, dot, encode_point
from kumiai.crypto.norm_statement import NormStatement
from kumiai.crypto.pedersen import Commitments, PedersenRows
from kumiai.crypto.sumcheck import Scalars, equality_at, equality_vector, round_relations
from kumiai.crypto.transcript import Transcript

__all__ = ["Relation", "begin", "linear_relation"]

_PROTOCOL = "kumiai/norm-proof/v1"


def begin(
    rows: PedersenRows, commitments: Commitments, statement: NormStatement, context: bytes
) -> Transcript:
    """Return a transcript that holds everything that is proven about whom, and by which means."""
    transcript = Transcript(_PROTOCOL)
    transcript.append("context", context)
    transcript.append("generators", rows.digest)
    statement.begin(transcript)
    transcript.append("commitments", commitments.to_bytes())
    return transcript


@dataclass(frozen=True, slots=True)
class Relation:
    """The equation, with its challenges."""

    statement: NormStatement
    seed: bytes
    norm: mpz
    bitness: mpz
    tail: mpz
    projection_powers: Scalars
    bit_point: Scalars

    @classmethod
    def drawn(
        cls,
        statement: NormStatement,
        seed: bytes,
        bit_rows: Sequence[Point],
        transcript: Transcript,
    ) -> "Relation":
        """Absorb the commitments to the bits, then draw the challenges."""
        transcript.append("bits", *map(encode_point, bit_rows))
        norm, bitness, tail, rho = transcript.challenges("relation", 4)
        powers = [mpz(1)]
        while len(powers) < projections.ROW_COUNT:
            powers.append(powers[-1] * rho % ORDER)
        variables = statement.bit_row_bits + statement.bit_column_bits
        return cls(
            statement,
            seed,
            norm,
            bitness,
            tail,
            powers,
            transcript.challenges("bit point", variables),
        )

    def value_weights(self) -> Scalars:
        """Return what each committed coordinate is multiplied with, filled rows included."""
        statement = self.statement
        length = statement.row_count * statement.row_length
        weights = projections.combine(self.seed, self.projection_powers, length)
        for index, weight in enumerate(self._tail_powers(), statement.dimension):
            weights[index] = (weights[index] + weight) % ORDER
        return weights + [mpz(0)] * ((statement.row_length << statement.row_bits) - length)

    def value_weights_at(self, row_point: Scalars, column_point: Scalars) -> mpz:
        """Return the multilinear extension of `value_weights`, from equality vectors."""
        statement = self.statement
        rows = row_point[: statement.row_count]
        first = statement.dimension - (statement.row_count - 1) * statement.row_length
        tail = dot(self._tail_powers(), column_point[first:])
        projected = projections.evaluate_combined(
            self.seed, self.projection_powers, rows, column_point
        )
        return (projected + rows[-1] * tail) % ORDER

    def _tail_powers(self) -> Scalars:
        statement = self.statement
        count = statement.row_count * statement.row_length - statement.dimension
        powers = [self.tail]
        while len(powers) < count:
            powers.append(powers[-1] * self.tail % ORDER)
        return powers

    def bit_weights(self) -> Scalars:
        """Return what each committed bit is multiplied with, filled rows included."""
        statement = self.statement
        places = [mpz(1) << place for place in range(statement.projection_bits)]
        weights = [power * place % ORDER for power in self.projection_powers for place in places]
        weights += [(self.norm << place) % ORDER for place in range(statement.slack_bits)]
        size = statement.bit_row_length << statement.bit_row_bits
        return weights + [mpz(0)] * (size - len(weights))

    def total(self) -> mpz:
        """Return what the two sums are together."""
        statement = self.statement
        offset = sum(self.projection_powers, mpz(0)) << (statement.projection_bits - 1)
        target = self.norm * statement.total - self.tail * statement.weight
        return (target + offset) % ORDER


def linear_relation(
    relation: Relation,
    value_point: Scalars,
    bit_point: Scalars,
    value_weight: mpz,
    theta: mpz,
) -> tuple[list[Scalars], mpz]:
    """Return what all committed numbers are multiplied with, and what that must sum up to.

    The commitments, in order: the rounds of the first sumcheck, those of the second, the claim,
    and for values and then bits what they fold to and its square.

    Args:
        relation: the equation.
        value_point: the challenges of the first sumcheck.
        bit_point: those of the second.
        value_weight: the multilinear extension of the value weights at the first point.
        theta: a challenge that is drawn after all these commitments.
    """
    count = len(value_point) + len(bit_point) + 2
    powers = [mpz(1)]
    while len(powers) < count:
        powers.append(powers[-1] * theta % ORDER)
    middle = len(value_point) + 1
    values, value_claim, value_end = round_relations(value_point, 2, powers[:middle])
    bits, bit_claim, bit_end = round_relations(bit_point, 3, powers[middle:])
    bit_weight = dot(equality_vector(bit_point), relation.bit_weights())
    bitness = relation.bitness * equality_at(relation.bit_point, bit_point) % ORDER
    # The claim of the second sumcheck is the total less that of the first one.
    weights = [
        *values,
        *bits,
        [(value_claim - bit_claim) % ORDER],
        [-value_end * value_weight % ORDER],
        [value_end * relation.norm % ORDER],
        [bit_end * (bit_weight - bitness) % ORDER],
        [bit_end * bitness % ORDER],
    ]
    return weights, -bit_claim * relation.total() % ORDER
