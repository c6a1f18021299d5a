import numpy as np
import pytest

from kumiai.core.errors import ProofError
from kumiai.crypto.norm_proof import prove_norm
from kumiai.crypto.norm_statement import NormStatement
from kumiai.crypto.pedersen import PedersenRows
from kumiai.crypto.proof_layout import NormProof, proof_size_bytes

ROWS = PedersenRows(16)
STATEMENT = NormStatement(dimension=20, bound_squared=2000, row_length=16)
PROOF = prove_norm(
    ROWS, ROWS.commit(np.append(np.full(20, 10), 1)), STATEMENT, b"somewhere, sometime"
)


def test_a_proof_survives_its_bytes() -> None:
    assert NormProof.from_bytes(PROOF, STATEMENT).to_bytes() == PROOF
    assert len(PROOF) == proof_size_bytes(STATEMENT)


@pytest.mark.parametrize(
    ("statement", "size_bytes"),
    [
        (NormStatement(dimension=100_000, bound_squared=2**36), 45_101),
        (NormStatement(dimension=1_000_000, bound_squared=2**40), 45_782),
    ],
)
def test_the_size_is_known_before(statement: NormStatement, size_bytes: int) -> None:
    assert proof_size_bytes(statement) == size_bytes


@pytest.mark.parametrize("content", [b"", PROOF[:-1], PROOF + b"\x00", PROOF[:-32], PROOF * 2])
def test_another_length_is_refused(content: bytes) -> None:
    with pytest.raises(ProofError, match=f"must have {len(PROOF)} bytes, got {len(content)}"):
        NormProof.from_bytes(content, STATEMENT)


def test_another_beginning_is_refused() -> None:
    with pytest.raises(ProofError, match="must begin with b'KNP1'"):
        NormProof.from_bytes(b"KNP2" + PROOF[4:], STATEMENT)


def test_every_piece_that_is_no_point_or_scalar_is_named() -> None:
    """Fill one piece after the other with ones, which are neither."""
    names = []
    position = 4
    while position < len(PROOF):
        broken = PROOF[:position] + b"\xff" * 32 + PROOF[position + 32 :]
        with pytest.raises(ProofError) as raised:
            NormProof.from_bytes(broken, STATEMENT)
        message = str(raised.value)
        names.append(message.partition(" must be ")[0])
        position += 33 if "compressed point" in message else 32

    assert position == len(PROOF)
    assert len(set(names)) == len(names)
    assert names[0] == "row of bits 0"
    assert {"claim", "round over values 4", "folded bits", "square of folded values"} <= set(names)
