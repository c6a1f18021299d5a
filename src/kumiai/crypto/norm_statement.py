"""What a norm proof says: a hidden, weighted update is no longer than its weight allows.

The committed vector is the update's coordinates, each times the weight, and then the weight itself
as one more coordinate; zeros fill its last row. The weight is public. Proven is, over the integers,

    x_1² + … + x_dimension² <= weight² * bound_squared,   x_(dimension+1) = weight,   the rest = 0,

so that what enters the weighted mean is an update of at most the bound, with the announced weight.
All sizes of a proof follow from the statement; none is read from a proof.
"""

from dataclasses import dataclass
from math import isqrt

from kumiai.crypto.pedersen import ROW_LENGTH
from kumiai.crypto.projections import ROW_COUNT as PROJECTION_COUNT
from kumiai.crypto.transcript import Transcript

__all__ = ["NormStatement", "largest_norm_weight"]

# Committed bits stand in shorter rows: there are few of them, and opening costs a row's length.
_BIT_ROW_LENGTH_MAX = 128
_PROJECTION_BITS_MAX = 53  # what float64 holds exactly


def largest_norm_weight(*, dimension: int, bound_squared: int) -> int:
    """Return the largest weight of which a `NormStatement` can be made; 0: there is none."""
    squares_most = 1 << 2 * (_PROJECTION_BITS_MAX - 1)
    return isqrt((squares_most - 1) // ((dimension + 1) * (bound_squared + 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class NormStatement:
    """What is proven about a commitment.

    Attributes:
        dimension: coordinates of the update, the weight not counted; at least 1.
        bound_squared: of the update before it is weighted, in units of its quantisation.
        weight: what the update's coordinates are multiplied with; at least 1.
        row_length: numbers in a row of the commitment.
    """

    dimension: int
    bound_squared: int
    weight: int = 1
    row_length: int = ROW_LENGTH

    def __post_init__(self) -> None:
        """Refuse a statement that cannot be proven.

        Raises:
            ValueError: a number is out of its range, or a proof could wrap around.
        """
        for name, value, least in (
            ("dimension", self.dimension, 1),
            ("bound_squared", self.bound_squared, 0),
            ("weight", self.weight, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.projection_bits > _PROJECTION_BITS_MAX:
            raise ValueError(
                f"bound_squared * weight² * dimension² must be less than about 2^104, got a "
                f"projection of {self.projection_bits} bits; lower the bound or the weight"
            )

    @property
    def length(self) -> int:
        """The committed coordinates, the weight among them."""
        return self.dimension + 1

    @property
    def total(self) -> int:
        """What the squares of all committed coordinates may sum up to."""
        return self.weight**2 * (self.bound_squared + 1)

    @property
    def row_count(self) -> int:
        """The committed rows."""
        return -(-self.length // self.row_length)

    @property
    def row_bits(self) -> int:
        """The binary logarithm of the rows, filled up to a power of two."""
        return (self.row_count - 1).bit_length()

    @property
    def column_bits(self) -> int:
        """The binary logarithm of the row's length."""
        return self.row_length.bit_length() - 1

    @property
    def projection_bits(self) -> int:
        """How many bits hold a projection, its sign included.

        By Cauchy and Schwarz no honest projection is larger than sqrt(length * total).
        """
        return isqrt(self.length * self.total).bit_length() + 1

    @property
    def slack_bits(self) -> int:
        """How many bits hold what is missing to the total."""
        return self.total.bit_length()

    @property
    def bit_count(self) -> int:
        """All committed bits."""
        return PROJECTION_COUNT * self.projection_bits + self.slack_bits

    @property
    def bit_row_length(self) -> int:
        """The bits in a committed row."""
        return min(_BIT_ROW_LENGTH_MAX, self.row_length)

    @property
    def bit_row_count(self) -> int:
        """The rows of committed bits."""
        return -(-self.bit_count // self.bit_row_length)

    @property
    def bit_row_bits(self) -> int:
        """The binary logarithm of the bits' rows, filled up to a power of two."""
        return (self.bit_row_count - 1).bit_length()

    @property
    def bit_column_bits(self) -> int:
        """The binary logarithm of the length of the bits' rows."""
        return self.bit_row_length.bit_length() - 1

    def begin(self, transcript: Transcript) -> None:
        """Absorb the statement."""
        transcript.append_integer("dimension", self.dimension)
        transcript.append_integer("bound_squared", self.bound_squared)
        transcript.append_integer("weight", self.weight)
        transcript.append_integer("row_length", self.row_length)
