"""A client proves that its update is short, and it is not.

First by one unit only, then by numbers so large that their squares wrap around the group's order
and sum up to almost nothing. Each cheater does the best it can with bits, projections, slack and
claims; a control shows that the same machinery convinces when the update is honest.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from gmpy2 import mpz

from kumiai.core.errors import ProofError
from kumiai.crypto import norm_proof, projections
from kumiai.crypto.group import ORDER
from kumiai.crypto.norm_proof import verify_norm
from kumiai.crypto.norm_statement import NormStatement
from kumiai.crypto.pedersen import Opening
from tests.attacks.cheating_prover import CONTEXT, ROWS, BitChooser, bits_of, cheat, forged

UPDATE = [3, -4, 12] + [0] * 16 + [5]
SQUARES = 9 + 16 + 144 + 25
Q = int(ORDER)
# A square root of -1: (t, ROOT * t) has squares that sum up to nothing, for any t.
ROOT = next(
    root
    for base in range(2, 50)
    if (root := pow(base, (Q - 1) // 4, Q)) and root * root % Q == Q - 1
)


def statement(bound_squared: int, dimension: int = len(UPDATE), weight: int = 1) -> NormStatement:
    return NormStatement(
        dimension=dimension, bound_squared=bound_squared, weight=weight, row_length=16
    )


def check(opening: Opening, proof: bytes, said: NormStatement, context: bytes = CONTEXT) -> None:
    verify_norm(ROWS, opening.commitments, proof, said, context)


def test_the_cheater_s_machinery_convinces_when_it_is_honest() -> None:
    for values in ([*UPDATE, 1], [Q - 1, *UPDATE[1:], 1]):
        opening = forged(values)
        honest = [value if value < Q // 2 else value - Q for value in values]

        check(opening, cheat(opening, honest, statement(SQUARES)), statement(SQUARES))


def replaced_slack(change: Callable[[int, NormStatement], list[int]]) -> BitChooser:
    said = statement(SQUARES - 1)

    def choose(projections: list[int], slack: int) -> list[int]:
        bits = bits_of((projections, 0), said)
        return bits[: -said.slack_bits] + change(slack, said)

    return choose


SLACK_LIES = {
    "modulo a power of two": lambda slack, said: [
        slack >> place & 1 for place in range(said.slack_bits)
    ],
    "zeros": lambda _, said: [0] * said.slack_bits,
    "ones": lambda _, said: [1] * said.slack_bits,
    "a bit of minus one": lambda _, said: [Q - 1] + [0] * (said.slack_bits - 1),
    "bits of two and minus one": lambda _, said: [Q - 1 - 2, 1] + [0] * (said.slack_bits - 2),
    "a half": lambda _, said: [0, (Q - 1) // 2] + [0] * (said.slack_bits - 2),
    "one large bit": lambda slack, said: [slack] + [0] * (said.slack_bits - 1),
}


@pytest.mark.parametrize("lie", SLACK_LIES)
def test_a_norm_of_one_too_much_is_found_whatever_the_slack_is_written_as(lie: str) -> None:
    values = [*UPDATE, 1]
    said = statement(SQUARES - 1)
    opening = forged(values)

    proof = cheat(opening, values, said, replaced_slack(SLACK_LIES[lie]))

    with pytest.raises(ProofError, match="linear relation"):
        check(opening, proof, said)


def test_a_bit_that_is_two_is_found_even_where_the_sum_is_right() -> None:
    values = [*UPDATE, 1]
    said = statement(SQUARES + 1)  # the slack of 1 is written as 2 - 1
    opening = forged(values)

    def choose(projections: list[int], slack: int) -> list[int]:
        assert slack == 1
        bits = bits_of((projections, slack), said)
        bits[-said.slack_bits : -said.slack_bits + 2] = [Q - 1, 1]  # -1 + 2
        return bits

    proof = cheat(opening, values, said, choose)

    with pytest.raises(ProofError, match="linear relation"):
        check(opening, proof, said)


WRAPPED = {
    "q/2": [(Q - 1) // 2] + [0] * 19,
    "q/3": [Q // 3] * 20,
    "2^100": [2**100] + [0] * 19,
    "2^255": [2**255] + [0] * 19,
    "squares that cancel out": [2**100, ROOT * 2**100 % Q] + [0] * 18,
    "large squares that cancel out": [Q // 5, ROOT * (Q // 5) % Q] * 10,
}


def squares_that_sum_up_to_49() -> list[int]:
    # x² + y² = (x + ROOT y)(x - ROOT y): any two factors of 49 modulo the order will do.
    first, second = pow(2, 200, Q), 49 * pow(pow(2, 200, Q), -1, Q) % Q
    x = (first + second) * pow(2, -1, Q) % Q
    y = (first - second) * pow(2 * ROOT, -1, Q) % Q
    assert (x * x + y * y) % Q == 49
    return [x, y] + [0] * 18


WRAPPED["two numbers whose squares sum up to 49"] = squares_that_sum_up_to_49()


@pytest.mark.parametrize("name", WRAPPED)
def test_numbers_whose_squares_wrap_around_are_found_by_their_projections(name: str) -> None:
    values = [*WRAPPED[name], 1]
    said = statement(10**6)
    opening = forged(values)

    proof = cheat(opening, values, said)

    with pytest.raises(ProofError, match="linear relation"):
        check(opening, proof, said)


def no_projections(seed: bytes, length: int) -> Iterator[np.ndarray]:
    yield np.zeros((projections.ROW_COUNT, length), np.int8)


def test_without_projections_the_squares_that_cancel_out_would_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wrap-around is real: what finds it are the projections, and nothing else."""
    values = [*WRAPPED["squares that cancel out"], 1]
    said = statement(10**6)
    opening = forged(values)
    monkeypatch.setattr(projections, "blocks", no_projections)

    proof = cheat(opening, values, said)

    check(opening, proof, said)


def test_a_projection_that_is_shifted_is_found() -> None:
    values = [*UPDATE, 1]
    said = statement(SQUARES)
    opening = forged(values)

    def choose(projections: list[int], slack: int) -> list[int]:
        return bits_of(([projections[0] + 1, *projections[1:]], slack), said)

    with pytest.raises(ProofError, match="linear relation"):
        check(opening, cheat(opening, values, said, choose), said)


def test_two_projections_that_are_shifted_against_each_other_are_found() -> None:
    values = [*UPDATE, 1]
    said = statement(SQUARES)
    opening = forged(values)

    def choose(projections: list[int], slack: int) -> list[int]:
        shifted = [projections[0] + 1, projections[1] - 1, *projections[2:]]
        return bits_of((shifted, slack), said)

    with pytest.raises(ProofError, match="linear relation"):
        check(opening, cheat(opening, values, said, choose), said)


def test_nothing_but_zero_bits_are_found() -> None:
    values = [*UPDATE, 1]
    said = statement(SQUARES)
    opening = forged(values)

    proof = cheat(opening, values, said, lambda *_: [0] * said.bit_count)

    with pytest.raises(ProofError, match="linear relation"):
        check(opening, proof, said)


def test_a_claim_that_is_altered_to_fit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bits of a slack of zero, and a claim that is smaller by what is missing."""
    values = [*UPDATE, 1]
    said = statement(SQUARES - 1)
    opening = forged(values)
    honest = norm_proof._claim
    monkeypatch.setattr(
        norm_proof, "_claim", lambda x, b, norm: (honest(x, b, norm) - norm) % ORDER
    )

    proof = cheat(opening, values, said, lambda found, _: bits_of((found, 0), said))

    with pytest.raises(ProofError, match="linear relation"):
        check(opening, proof, said)


def test_a_proof_about_another_vector_is_found() -> None:
    values = [*UPDATE, 1]
    said = statement(SQUARES)
    opening, large = forged(values), forged([1000] * 20 + [1])
    disguised = type(opening)(opening.rows, opening.blindings, large.commitments)

    with pytest.raises(ProofError, match="responses must open the combined row"):
        check(large, cheat(disguised, values, said), said)


@pytest.mark.parametrize("committed", [0, 1, 2, 4, 1000, Q - 3])
def test_a_weight_that_is_not_the_announced_one_is_found(committed: int) -> None:
    values = [*[3 * each for each in UPDATE], committed]
    said = statement(SQUARES + 10**7, weight=3)
    opening = forged(values)

    with pytest.raises(ProofError, match="linear relation"):
        check(opening, cheat(opening, values, said), said)


def test_numbers_behind_the_weight_are_found() -> None:
    """They would make the sum check fail for everybody, and nobody could say by whom."""
    said = statement(SQUARES + 10**6)

    for place in (21, 25, 31):
        values = [*UPDATE, 1, *[0] * 11]
        values[place] = 1
        opening = forged(values)
        with pytest.raises(ProofError, match="linear relation"):
            check(opening, cheat(opening, values, said), said)


def test_an_update_that_is_heavier_than_it_says_is_found() -> None:
    values = [*[3 * each for each in UPDATE], 1]
    said = statement(SQUARES)
    opening = forged(values)

    with pytest.raises(ProofError, match="linear relation"):
        check(opening, cheat(opening, values, said), said)


def test_the_root_of_minus_one_is_one() -> None:
    assert (mpz(ROOT) ** 2 + 1) % ORDER == 0
