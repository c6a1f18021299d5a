"""The sumcheck protocol with committed messages: a claim about a sum becomes one about a point.

The prover folds the summands in half once a round, at a challenge. What it says in a round is a
polynomial of degree 2 or 3, and it says only a commitment to the coefficients. The verifier checks
no round by itself: all rounds are linear relations between committed numbers, which
`round_relations` gives and one proof of `kumiai.crypto.sigma` shows.

Variables are taken from the most significant bit of the index on, so that the first challenges
choose among the rows of a matrix and the last ones among its columns.

Source: Lund et al. 1992; with commitments as in Wahby et al. 2018 (Hyrax), section 4.
"""

from collections.abc import Callable, Iterable, Sequence
from operator import add, mul, sub

from gmpy2 import mpz

from kumiai.crypto.group import ORDER

__all__ = [
    "CommitRound",
    "Scalars",
    "equality_at",
    "equality_vector",
    "prove_bits",
    "prove_squares",
    "round_relations",
]

Scalars = list[mpz]
CommitRound = Callable[[Scalars], mpz]
"""Takes the coefficients of a round's polynomial, lowest first; gives the round's challenge."""


def equality_vector(point: Iterable[mpz]) -> Scalars:
    """Return the weights of all 2^n corners at a point of n coordinates, first bit highest.

    A vector's multilinear extension at the point is its product with these weights.
    """
    weights = [mpz(1)]
    for coordinate in point:
        upper = [weight * coordinate % ORDER for weight in weights]
        lower = [each % ORDER for each in map(sub, weights, upper)]
        weights = [*lower, *upper]
        weights[::2], weights[1::2] = lower, upper
    return weights


def equality_at(left: Sequence[mpz], right: Sequence[mpz]) -> mpz:
    """Return the weight at one point of the corner at another, both of n coordinates."""
    product = mpz(1)
    for agreement in map(_agreement, left, right):
        product = product * agreement % ORDER
    return product


def _agreement(left: mpz, right: mpz) -> mpz:
    return 1 - left - right + 2 * left * right


def prove_squares(
    values: Scalars, linear: Scalars, gamma: mpz, commit: CommitRound
) -> tuple[Scalars, mpz, mpz]:
    """Prove the sum of gamma * x² - b * x over all pairs of x and b.

    Args:
        values: x, reduced or small; a power of two of them.
        linear: b, as many.
        gamma: weight of the squares.
        commit: called once a round with three coefficients.

    Returns:
        The point of challenges, and what the values and the linear weights fold to there.
    """
    point = []
    x, b = values, linear
    while len(x) > 1:
        (low, high), (b_low, b_high) = _halves(x), _halves(b)
        slope, b_slope = list(map(sub, high, low)), list(map(sub, b_high, b_low))
        constant = gamma * _dot(low, low) - _dot(b_low, low)
        at_one = gamma * _dot(high, high) - _dot(b_high, high)
        quadratic = gamma * _dot(slope, slope) - _dot(b_slope, slope)
        challenge = commit(
            [constant % ORDER, (at_one - constant - quadratic) % ORDER, quadratic % ORDER]
        )
        point.append(challenge)
        x, b = _folded(low, slope, challenge), _folded(b_low, b_slope, challenge)
    return point, x[0], b[0]


def prove_bits(
    values: Scalars, linear: Scalars, weights: Scalars, gamma: mpz, commit: CommitRound
) -> tuple[Scalars, mpz]:
    """Prove the sum of gamma * e * (x² - x) + c * x over all triples of x, c and e.

    Args:
        values: x; a power of two of them.
        linear: c, as many.
        weights: e, as many.
        gamma: weight of the first term.
        commit: called once a round with four coefficients.

    Returns:
        The point of challenges, and what the values fold to there.
    """
    point = []
    x, c, e = values, linear, weights
    while len(x) > 1:
        (low, high), (c_low, c_high), (e_low, e_high) = _halves(x), _halves(c), _halves(e)
        slope = list(map(sub, high, low))
        c_slope = list(map(sub, c_high, c_low))
        e_slope = list(map(sub, e_high, e_low))
        # (low + slope t)² - (low + slope t), coefficient by coefficient of t.
        constant = [a * a - a for a in low]
        linear_part = list(map(mul, [2 * a - 1 for a in low], slope))
        square = [s * s % ORDER for s in slope]
        challenge = commit(
            [
                (gamma * _dot(e_low, constant) + _dot(c_low, low)) % ORDER,
                (
                    gamma * (_dot(e_low, linear_part) + _dot(e_slope, constant))
                    + _dot(c_low, slope)
                    + _dot(c_slope, low)
                )
                % ORDER,
                (gamma * (_dot(e_low, square) + _dot(e_slope, linear_part)) + _dot(c_slope, slope))
                % ORDER,
                gamma * _dot(e_slope, square) % ORDER,
            ]
        )
        point.append(challenge)
        x = _folded(low, slope, challenge)
        c = _folded(c_low, c_slope, challenge)
        e = _folded(e_low, e_slope, challenge)
    return point, x[0]


def round_relations(
    point: Sequence[mpz], degree: int, powers: Sequence[mpz]
) -> tuple[list[Scalars], mpz, mpz]:
    """Return what makes the rounds hang together, as one random combination of linear relations.

    The relations: the first polynomial at 0 and at 1 sums up to the claim; each one at its
    challenge is the sum of the next one at 0 and at 1; the last one at its challenge is the final
    value.

    Args:
        point: the challenges, one a round.
        degree: of the polynomials.
        powers: one weight for each of the len(point) + 1 relations.

    Returns:
        The weights of the coefficients of each polynomial, of the claim and of the final value; the
        products sum up to zero if all relations hold.
    """
    weights = []
    for index, challenge in enumerate(point):
        # A polynomial at 0 and at 1 together: the constant twice, all other coefficients once.
        weights.append(
            [
                (powers[index] * (1 + (exponent == 0)) - powers[index + 1] * challenge**exponent)
                % ORDER
                for exponent in range(degree + 1)
            ]
        )
    return weights, -powers[0] % ORDER, powers[-1]


def _halves(numbers: Scalars) -> tuple[Scalars, Scalars]:
    half = len(numbers) // 2
    return numbers[:half], numbers[half:]


def _dot(left: Iterable[mpz], right: Iterable[mpz]) -> mpz:
    return sum(map(mul, left, right), mpz(0))


def _folded(low: Scalars, slope: Scalars, challenge: mpz) -> Scalars:
    steps = [challenge * each for each in slope]
    return [each % ORDER for each in map(add, low, steps)]
