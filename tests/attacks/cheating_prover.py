"""A prover that does not care whether what it proves is true.

It runs the honest prover's own steps on whatever numbers it is given, modulo the group's order, and
chooses the bits that it commits to after it knows the projections, as a real cheater would.
"""

from collections.abc import Callable, Sequence

import numpy as np
from gmpy2 import mpz

from kumiai.crypto import norm_proof, projections
from kumiai.crypto.group import ORDER, add, base_multiple, certain, draw_scalar, multiply_many
from kumiai.crypto.norm_statement import NormStatement
from kumiai.crypto.pedersen import Commitments, Opening, PedersenRows

__all__ = ["CONTEXT", "ROWS", "BitChooser", "Forged", "bits_of", "cheat", "forged", "projected"]

ROWS = PedersenRows(16)
CONTEXT = b"run 7, round 3, client 5"

BitChooser = Callable[[list[int], int], Sequence[int]]
"""Takes the projections modulo the order and the slack; gives as many bits as the statement has."""


class Forged(Opening):
    """Rows of any numbers modulo the order, which no honest opening can hold."""

    __slots__ = ()

    def numbers(self, row_count: int) -> list[mpz]:
        flat = [mpz(each) % ORDER for each in self.rows.reshape(-1)]
        return flat + [mpz(0)] * (row_count * self.rows.shape[1] - len(flat))

    def combined(self, weights: Sequence[mpz]) -> tuple[list[mpz], mpz]:
        numbers = [
            sum((a * int(b) for a, b in zip(weights, column, strict=True)), mpz(0)) % ORDER
            for column in self.rows.T
        ]
        pairs = zip(weights, self.blindings, strict=True)
        return numbers, sum((a * b for a, b in pairs), mpz(0)) % ORDER


def forged(values: Sequence[int], row_length: int = 16) -> Forged:
    """Commit to any numbers."""
    filled = [*values, *[0] * (-len(values) % row_length)]
    rows = np.array(filled, dtype=object).reshape(-1, row_length)
    blindings = [draw_scalar() for _ in rows]
    points = tuple(
        certain(add([multiply_many(ROWS.generators[:row_length], row), base_multiple(blinding)]))
        for row, blinding in zip(rows.tolist(), blindings, strict=True)
    )
    return Forged(rows, blindings, Commitments(points))


def projected(seed: bytes, values: Sequence[int], statement: NormStatement) -> list[int]:
    """Return the projections of any numbers, modulo the order, as the residues nearest to zero."""
    length = statement.row_count * statement.row_length
    filled = np.array([*values, *[0] * (length - len(values))], dtype=object)
    rows = np.concatenate(list(projections.blocks(seed, length)), axis=1).astype(object)
    order = int(ORDER)
    return [int((each + order // 2) % order - order // 2) for each in rows @ filled]


def bits_of(projections_and_slack: tuple[list[int], int], statement: NormStatement) -> list[int]:
    """Write projections and slack as honestly as they fit: modulo a power of two."""
    values, slack = projections_and_slack
    offset = 1 << (statement.projection_bits - 1)
    bits = [
        (value + offset) >> place & 1
        for value in values
        for place in range(statement.projection_bits)
    ]
    return bits + [slack >> place & 1 for place in range(statement.slack_bits)]


def cheat(
    opening: Opening,
    values: Sequence[int],
    statement: NormStatement,
    choose: BitChooser | None = None,
    *,
    context: bytes = CONTEXT,
) -> bytes:
    """Prove a statement, true or not.

    Args:
        opening: what is proven about.
        values: the numbers that the projections are computed of.
        statement: what to prove.
        choose: the bits; without it, those of `bits_of`.
        context: as for `prove_norm`.
    """

    def commit_bits(seed: bytes) -> Opening:
        found = projected(seed, values, statement)
        slack = int((statement.total - sum(value * value for value in values)) % ORDER)
        bits = choose(found, slack) if choose else bits_of((found, slack), statement)
        return forged(bits, statement.bit_row_length)

    return norm_proof._prove(
        ROWS, opening, statement, context, commit_bits=commit_bits, draw=draw_scalar
    )
