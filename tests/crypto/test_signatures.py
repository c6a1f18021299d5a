import pickle  # noqa: TID251 - a signer must refuse it

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import CryptoError
from kumiai.crypto.signatures import Ed25519Signer, Ed25519Verifier, labelled
from tests.crypto.known_answers import known_answers

PRIME = 2**255 - 19
SEED = bytes(range(32))
SIGNER = Ed25519Signer(SEED)
VERIFIER = Ed25519Verifier()
LABEL = "kumiai/test/v1"


@pytest.mark.parametrize("vector", known_answers("ed25519")["vectors"])
def test_signatures_are_those_of_rfc_8032(vector: dict[str, str]) -> None:
    signer = Ed25519Signer(bytes.fromhex(vector["seed"]))

    assert signer.public.hex() == vector["public"]
    assert signer._private.sign(bytes.fromhex(vector["message"])).hex() == vector["signature"]


def test_what_is_signed_is_domain_label_and_message() -> None:
    signature = SIGNER.sign("vote", b"yes")

    assert labelled("vote", b"yes") == b"kumiai/crypto/signature/v1/\x04voteyes"
    assert signature == SIGNER._private.sign(b"kumiai/crypto/signature/v1/\x04voteyes")


@given(st.text(min_size=1, max_size=60), st.binary(max_size=100))
def test_a_signature_passes_under_its_label(label: str, message: bytes) -> None:
    VERIFIER.verify(SIGNER.public, label, message, SIGNER.sign(label, message))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (LABEL, b"message1"),
        (LABEL, b""),
        (LABEL + "1", b"message"),
        # What is at the border belongs to the one or to the other.
        (LABEL + "m", b"essage"),
        (LABEL[:-1], b"1message"),
    ],
)
def test_a_signature_says_nothing_about_another_message_or_kind(label: str, message: bytes) -> None:
    signature = SIGNER.sign(LABEL, b"message")

    with pytest.raises(
        CryptoError, match=f"signature of {label} must be by {SIGNER.public.hex()}, got one that"
    ):
        VERIFIER.verify(SIGNER.public, label, message, signature)


def test_a_changed_bit_of_a_signature_does_not_pass() -> None:
    signature = SIGNER.sign(LABEL, b"message")

    for place in range(512):
        changed = bytearray(signature)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(CryptoError, match="signature of"):
            VERIFIER.verify(SIGNER.public, LABEL, b"message", bytes(changed))


def test_the_order_added_to_a_signature_does_not_make_another_one() -> None:
    signature = SIGNER.sign(LABEL, b"message")
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(signature[32:], "little") + order

    with pytest.raises(CryptoError, match="signature of"):
        VERIFIER.verify(
            SIGNER.public, LABEL, b"message", signature[:32] + scalar.to_bytes(32, "little")
        )


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_signature_of_another_length_does_not_pass(size: int) -> None:
    with pytest.raises(CryptoError, match="signature of"):
        VERIFIER.verify(SIGNER.public, LABEL, b"message", bytes(size))


def test_no_part_of_a_signature_counts_as_the_message() -> None:
    signature = SIGNER._private.sign(b"x" + labelled(LABEL, b"message")) + b"x"

    with pytest.raises(CryptoError, match="signature of"):
        VERIFIER.verify(SIGNER.public, LABEL, b"message", signature)


# By SIGNER, with points added in Python. Without the check of R, the first would pass; in a check
# with the cofactor, the second. Members must decide alike, so that both are held.
DEVIANT = {
    "R is the neutral point": (
        "0100000000000000000000000000000000000000000000000000000000000000"
        "1df4a40460f61a3ecb155e0a3a19e5bf62534fc9fe126c36768b9580d3ba9304"
    ),
    "a point of order eight was added to R": (
        "8ea6b58beb2ecc0801fbd6c82c6dafee292cd29e8b6698bbb94c566b594d8ba9"
        "1e9dbf617d01b5a41aa2b73b40e30f418c188ba689961f533ad8ce9c3029730d"
    ),
}


@pytest.mark.parametrize("signature", DEVIANT.values(), ids=DEVIANT)
def test_a_signature_on_which_verifiers_differ_does_not_pass(signature: str) -> None:
    with pytest.raises(CryptoError, match="signature of"):
        VERIFIER.verify(SIGNER.public, LABEL, b"message", bytes.fromhex(signature))


def test_a_signature_by_somebody_else_does_not_pass() -> None:
    other = Ed25519Signer.generate()

    with pytest.raises(CryptoError, match=f"must be by {other.public.hex()}"):
        VERIFIER.verify(other.public, LABEL, b"message", SIGNER.sign(LABEL, b"message"))


@pytest.mark.parametrize(("label", "size"), [("", 0), ("é" * 128, 256)])
def test_a_label_must_name_the_kind(label: str, size: int) -> None:
    for act in (SIGNER.sign, lambda *given: VERIFIER.verify(SIGNER.public, *given, bytes(64))):
        with pytest.raises(ValueError, match=f"label must be 1 to 255 bytes, got {size}"):
            act(label, b"message")


@pytest.mark.parametrize("size", [1, 255])
def test_the_shortest_and_the_longest_label_serve(size: int) -> None:
    signed = b"kumiai/crypto/signature/v1/" + bytes([size]) + b"x" * size

    assert labelled("x" * size, b"") == signed


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_or_seed_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(CryptoError, match=f"verification key must be 32 bytes, got {size}"):
        VERIFIER.verify(b"\x09" * size, LABEL, b"", bytes(64))
    with pytest.raises(ValueError, match=f"seed must be 32 bytes, got {size}"):
        Ed25519Signer(bytes(size))


@pytest.mark.parametrize("y", [PRIME, PRIME + 1, 2**255 - 1, 2**256 - 1])
def test_a_key_in_another_form_is_refused(y: int) -> None:
    with pytest.raises(CryptoError, match="verification key must be in canonical form, got"):
        VERIFIER.verify(y.to_bytes(32, "little"), LABEL, b"", bytes(64))


# The last two belong to the points of order eight; `tests/attacks` computes them.
LOW_ORDER = [
    0,
    1,
    PRIME - 1,
    2707385501144840649318225287225658788936804267575313519463743609750303402022,
    55188659117513257062467267217118295137698188065244968500265048394206261417927,
]


@pytest.mark.parametrize("y", [*LOW_ORDER, *(y + 2**255 for y in LOW_ORDER)])
def test_a_key_of_low_order_is_refused(y: int) -> None:
    with pytest.raises(CryptoError, match="verification key must not be of low order, got one"):
        VERIFIER.verify(y.to_bytes(32, "little"), LABEL, b"", bytes(64))


def test_a_key_that_is_no_point_of_the_curve_passes_nothing() -> None:
    with pytest.raises(CryptoError, match="signature of"):
        VERIFIER.verify((2).to_bytes(32, "little"), LABEL, b"", bytes(64))


def test_the_same_seed_gives_the_same_key_and_generated_ones_differ() -> None:
    assert Ed25519Signer(SEED).public == SIGNER.public
    assert Ed25519Signer.generate().public != Ed25519Signer.generate().public


def test_a_signer_shows_its_public_half_alone() -> None:
    assert repr(SIGNER) == f"Ed25519Signer({SIGNER.public.hex()})"


def test_a_signer_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="an Ed25519Signer cannot be pickled"):
        pickle.dumps(SIGNER)
