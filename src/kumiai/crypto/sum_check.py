"""The check that a published sum is the sum of what all clients committed to.

Commitments add up: the sum of all clients' commitments to a row opens to the row of the sum with
the sum of their blindings. All rows are checked at once in a combination whose weights the checker
draws; a sum that differs anywhere passes with probability 2^-128, unless somebody computes discrete
logarithms.

It does not say whose upload was wrong when the check fails, and it trusts the caller for which
commitments there are: each client's once, signed by the client.

Source: Bellare, Garay and Rabin 1998 (the random combination); Pedersen 1991.
"""

import secrets
from collections.abc import Sequence
from typing import Final

import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from kumiai.core.errors import ProofError
from kumiai.crypto.exact_products import weighted_sum_of_rows
from kumiai.crypto.group import add, dot, multiply_many, same
from kumiai.crypto.pedersen import Commitments, PedersenRows

__all__ = ["verify_sum"]

_WEIGHT_BITS: Final = 128


def verify_sum(
    rows: PedersenRows,
    commitments: Sequence[Commitments],
    total: NDArray[np.int64],
    blinding_total: Sequence[int],
) -> None:
    """Check a sum of committed vectors.

    Args:
        rows: the generators.
        commitments: one for each client whose vector is in the sum.
        total: the announced sum, shape (n,), as signed integers.
        blinding_total: the announced sum of all blindings, one for each row.

    Raises:
        ProofError: the sum is not that of the committed vectors, or something is of another size
            than the rest.
    """
    try:
        sums = rows.laid_out(total)
    except ValueError as error:
        raise ProofError(f"sum must be one of committed vectors: {error}") from error
    count = len(sums)
    if len(blinding_total) != count:
        raise ProofError(f"blindings must be of {count} rows, got {len(blinding_total)}")
    for index, each in enumerate(commitments):
        if len(each.points) != count:
            raise ProofError(
                f"commitments of client {index} must be of {count} rows, got {len(each.points)}"
            )
    weights = [mpz(secrets.randbits(_WEIGHT_BITS)) for _ in range(count)]
    committed = [add(each.points[row] for each in commitments) for row in range(count)]
    blinding = dot(weights, blinding_total)
    opened = rows.point_of(weighted_sum_of_rows(weights, sums), blinding)
    if not same(multiply_many(committed, weights), opened):
        raise ProofError("sum must be that of the committed vectors, and is not")
