"""Somebody takes a good proof and uses it elsewhere, or changes it."""

import numpy as np
import pytest

from kumiai.core.errors import ProofError
from kumiai.crypto.group import ORDER
from kumiai.crypto.norm_proof import prove_norm, verify_norm
from kumiai.crypto.norm_statement import NormStatement
from kumiai.crypto.pedersen import Commitments, PedersenRows

ROWS = PedersenRows(16)
CONTEXT = b"run 7, round 3, client 5"
UPDATE = list(range(-17, 18))
STATEMENT = NormStatement(
    dimension=len(UPDATE),
    bound_squared=sum(each * each for each in UPDATE),
    weight=4,
    row_length=16,
)
OPENING = ROWS.commit(np.append(np.array(UPDATE) * 4, 4))
COMMITMENTS = OPENING.commitments
PROOF = prove_norm(ROWS, OPENING, STATEMENT, CONTEXT)
SCALAR_AT = len(PROOF) - 32


def refused(
    proof: bytes = PROOF,
    commitments: Commitments = COMMITMENTS,
    statement: NormStatement = STATEMENT,
    context: bytes = CONTEXT,
) -> str:
    with pytest.raises(ProofError) as raised:
        verify_norm(ROWS, commitments, proof, statement, context)
    return str(raised.value)


def test_the_proof_is_good() -> None:
    verify_norm(ROWS, COMMITMENTS, PROOF, STATEMENT, CONTEXT)


@pytest.mark.parametrize(
    "context",
    [b"run 7, round 3, client 6", b"run 7, round 4, client 5", b"", CONTEXT + b"\x00"],
    ids=["another client", "another round", "no context", "longer"],
)
def test_a_proof_is_good_for_one_client_in_one_round(context: bytes) -> None:
    refused(context=context)


@pytest.mark.parametrize(
    "changed",
    [
        {"bound_squared": STATEMENT.bound_squared - 1},
        {"bound_squared": STATEMENT.bound_squared + 1},
        {"weight": 3},
        {"weight": 5},
        {"dimension": STATEMENT.dimension - 1},
        {"dimension": STATEMENT.dimension + 1},
    ],
)
def test_a_proof_is_good_for_one_statement(changed: dict[str, int]) -> None:
    plain = {
        "dimension": STATEMENT.dimension,
        "bound_squared": STATEMENT.bound_squared,
        "weight": STATEMENT.weight,
    }

    refused(statement=NormStatement(**{**plain, **changed}, row_length=16))


def test_a_proof_is_good_for_its_commitments_in_their_order() -> None:
    points = COMMITMENTS.points
    other = ROWS.commit(np.append(np.array(UPDATE) * 4, 4)).commitments

    refused(commitments=Commitments(points[::-1]))
    refused(commitments=Commitments((points[1], points[0], points[2])))
    refused(commitments=Commitments((points[0], points[0], points[2])))
    refused(commitments=other)


def test_a_row_at_infinity_has_no_bytes_that_are_read() -> None:
    content = COMMITMENTS.to_bytes()

    for infinity in (bytes(33), b"\x02" + bytes(32)):
        with pytest.raises(ProofError, match="commitment of row 1 must be a compressed point"):
            Commitments.from_bytes(content[:33] + infinity + content[66:], 3)


@pytest.mark.parametrize("value", [int(ORDER), int(ORDER) + 1, 2**256 - 1])
def test_a_response_that_is_not_below_the_order_is_refused(value: int) -> None:
    said = refused(PROOF[:SCALAR_AT] + value.to_bytes(32, "big"))

    assert "must be below the order of the group" in said


@pytest.mark.parametrize(
    "content",
    [
        b"",
        PROOF[:4],
        PROOF[:-1],
        PROOF[:-32],
        PROOF + b"\x00",
        PROOF + bytes(32),
        PROOF + PROOF[-33:],
        PROOF * 2,
    ],
    ids=len,
)
def test_games_with_lengths_are_refused(content: bytes) -> None:
    said = refused(content)

    assert said == f"norm proof must have {len(PROOF)} bytes, got {len(content)}"


def test_pieces_that_change_places_are_refused() -> None:
    responses = PROOF[:-64] + PROOF[-32:] + PROOF[-64:-32]
    bit_rows = PROOF[:4] + PROOF[37:70] + PROOF[4:37] + PROOF[70:]

    refused(responses)
    refused(bit_rows)


def flip(position: int, bit: int) -> bytes:
    return PROOF[:position] + bytes([PROOF[position] ^ 1 << bit]) + PROOF[position + 1 :]


def check_flips(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    print(f"seed {seed}")
    for position in rng.integers(0, len(PROOF), count).tolist():
        refused(flip(position, int(rng.integers(8))))


def test_flipped_bits_are_found() -> None:
    check_flips(1, 300)


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_ten_thousand_flipped_bits_are_found() -> None:
    check_flips(2, 10_000)


def test_flipped_bits_of_commitments_are_found() -> None:
    content = COMMITMENTS.to_bytes()

    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        with pytest.raises(ProofError):
            verify_norm(ROWS, Commitments.from_bytes(bytes(changed), 3), PROOF, STATEMENT, CONTEXT)
