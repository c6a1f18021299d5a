import pickle  # noqa: TID251 - a key must refuse it

import pytest

from kumiai.core.errors import CryptoError
from kumiai.crypto.agreement import (
    AgreementKey,
    HybridAgreementKey,
    verify_hybrid_public_key,
    verify_public_key,
)
from kumiai.crypto.keys import derive
from tests.crypto.known_answers import known_answers

PRIME = 2**255 - 19
X25519 = known_answers("x25519")
ML_KEM = known_answers("ml_kem_768")["vectors"]
ALICE = AgreementKey(bytes(range(32)))
BOB = AgreementKey(bytes(range(32, 64)))
HYBRID_ALICE = HybridAgreementKey(bytes(range(96)))
HYBRID_BOB = HybridAgreementKey(bytes(range(96, 192)))


def x25519(scalar: bytes, point: bytes) -> bytes:
    return AgreementKey(scalar)._x25519(point)


# ---------------------------------------------------------------------------------------- X25519


@pytest.mark.parametrize("vector", X25519["products"])
def test_products_are_those_of_rfc_7748(vector: dict[str, str]) -> None:
    product = x25519(bytes.fromhex(vector["scalar"]), bytes.fromhex(vector["point"]))

    assert product.hex() == vector["product"]


@pytest.mark.parametrize("vector", X25519["iterations"])
def test_iterated_products_are_those_of_rfc_7748(vector: dict[str, int | str]) -> None:
    scalar = point = b"\x09" + bytes(31)

    for _ in range(int(vector["count"])):
        scalar, point = x25519(scalar, point), scalar

    assert scalar.hex() == vector["result"]


def test_the_public_key_is_the_product_with_the_base_point() -> None:
    assert ALICE.public == x25519(bytes(range(32)), b"\x09" + bytes(31))


def test_both_sides_get_the_same_secret() -> None:
    secret = ALICE.exchange(BOB.public)

    assert secret == BOB.exchange(ALICE.public)
    assert len(secret) == 32


def test_the_secret_is_derived_from_the_product_and_both_public_keys_in_order() -> None:
    low, high = sorted([ALICE.public, BOB.public])

    expected = derive(ALICE._x25519(BOB.public), label="agreement", context=low + high)

    assert ALICE.exchange(BOB.public) == expected


def test_another_peer_means_another_secret() -> None:
    peers = [AgreementKey.generate() for _ in range(5)]

    assert len({ALICE.exchange(peer.public) for peer in peers}) == 5


def test_the_same_seed_gives_the_same_key() -> None:
    assert AgreementKey(bytes(range(32))).public == ALICE.public


def test_generated_keys_differ() -> None:
    assert AgreementKey.generate().public != AgreementKey.generate().public


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_seed_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"seed must be 32 bytes, got {size}"):
        AgreementKey(bytes(size))


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_public_key_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(CryptoError, match=f"public key must be 32 bytes, got {size}"):
        ALICE.exchange(b"\x05" * size)


@pytest.mark.parametrize("place", [PRIME, PRIME + 2, 2**255 - 1, 2**255 + 9, 2**256 - 1])
def test_a_public_key_in_another_form_is_refused(place: int) -> None:
    with pytest.raises(CryptoError, match="public key must be in canonical form, got another"):
        ALICE.exchange(place.to_bytes(32, "little"))


# The last two belong to the points of order eight; `tests/attacks` computes them.
LOW_ORDER = [
    0,
    1,
    PRIME - 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
]


@pytest.mark.parametrize("place", LOW_ORDER)
def test_a_public_key_of_low_order_is_refused(place: int) -> None:
    with pytest.raises(CryptoError, match="public key must not be of low order, got one that is"):
        ALICE.exchange(place.to_bytes(32, "little"))


@pytest.mark.parametrize("place", [2, 9, PRIME - 2])
def test_other_public_keys_pass(place: int) -> None:
    verify_public_key(place.to_bytes(32, "little"))


def test_ones_own_key_sent_back_is_refused() -> None:
    with pytest.raises(CryptoError, match="public key of a peer must not be one's own, got it"):
        ALICE.exchange(ALICE.public)


def test_a_key_shows_its_public_half_alone() -> None:
    assert repr(ALICE) == f"AgreementKey({ALICE.public.hex()})"
    assert bytes(range(32)).hex() not in repr(ALICE)


def test_a_key_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="an AgreementKey cannot be pickled"):
        pickle.dumps(ALICE)


# ---------------------------------------------------------------------------------------- hybrid


@pytest.mark.parametrize("vector", ML_KEM)
def test_secrets_are_unwrapped_as_fips_203_says(vector: dict[str, str]) -> None:
    key = HybridAgreementKey(bytes(range(32)) + bytes.fromhex(vector["seed"]))

    assert key.public == ALICE.public + bytes.fromhex(vector["public"])
    for kind in ("", "wrong_"):
        secret = key._kem.decapsulate(bytes.fromhex(vector[f"{kind}ciphertext"]))
        assert secret.hex() == vector[f"{kind}secret"]


def test_both_sides_of_an_encapsulation_get_the_same_secret() -> None:
    made = HYBRID_ALICE.encapsulate(HYBRID_BOB.public)

    assert len(made.secret) == 32
    assert len(made.ciphertext) == 1088
    assert HYBRID_BOB.decapsulate(HYBRID_ALICE.public, made.ciphertext) == made.secret


def test_the_hybrid_secret_is_derived_from_both_exchanges_whole() -> None:
    made = HYBRID_ALICE.encapsulate(HYBRID_BOB.public)

    parts = HYBRID_BOB._kem.decapsulate(made.ciphertext) + ALICE.exchange(HYBRID_BOB.public[:32])
    context = made.ciphertext + HYBRID_ALICE.public + HYBRID_BOB.public
    assert made.secret == derive(parts, label="hybrid agreement", context=context)


def test_each_encapsulation_makes_a_fresh_secret() -> None:
    made = [HYBRID_ALICE.encapsulate(HYBRID_BOB.public) for _ in range(3)]

    assert len({each.secret for each in made}) == 3


def test_a_changed_ciphertext_gives_another_secret() -> None:
    made = HYBRID_ALICE.encapsulate(HYBRID_BOB.public)
    changed = bytes([made.ciphertext[0] ^ 1]) + made.ciphertext[1:]

    assert HYBRID_BOB.decapsulate(HYBRID_ALICE.public, changed) != made.secret


def test_a_ciphertext_under_another_senders_name_gives_another_secret() -> None:
    made = HYBRID_ALICE.encapsulate(HYBRID_BOB.public)
    mallory = HybridAgreementKey.generate()

    assert HYBRID_BOB.decapsulate(mallory.public, made.ciphertext) != made.secret


def test_a_post_quantum_part_that_was_exchanged_gives_another_secret() -> None:
    made = HYBRID_ALICE.encapsulate(HYBRID_BOB.public)
    mixed = HYBRID_ALICE.public[:32] + HYBRID_BOB.public[32:]

    assert HYBRID_BOB.decapsulate(mixed, made.ciphertext) != made.secret


@pytest.mark.parametrize("size", [0, 1087, 1089])
def test_a_ciphertext_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(CryptoError, match=f"ciphertext must be 1088 bytes, got {size}"):
        HYBRID_BOB.decapsulate(HYBRID_ALICE.public, bytes(size))


@pytest.mark.parametrize("size", [0, 32, 1215, 1217])
def test_a_hybrid_public_key_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(CryptoError, match=f"hybrid public key must be 1216 bytes, got {size}"):
        HYBRID_ALICE.encapsulate(b"\x05" * size)


def test_a_hybrid_public_key_without_a_key_of_ml_kem_is_refused() -> None:
    # All ones are coefficients beyond the modulus 3329.
    wrong = BOB.public + b"\xff" * 1184

    for act in (HYBRID_ALICE.encapsulate, verify_hybrid_public_key):
        with pytest.raises(CryptoError, match="hybrid public key must hold a key of ML-KEM-768"):
            act(wrong)


def test_a_hybrid_public_key_with_a_low_order_part_is_refused() -> None:
    wrong = bytes(32) + HYBRID_BOB.public[32:]

    with pytest.raises(CryptoError, match="public key must not be of low order"):
        HYBRID_ALICE.encapsulate(wrong)
    with pytest.raises(CryptoError, match="public key must not be of low order"):
        HYBRID_ALICE.decapsulate(wrong, bytes(1088))
    with pytest.raises(CryptoError, match="public key must not be of low order"):
        verify_hybrid_public_key(wrong)


def test_ones_own_hybrid_key_sent_back_is_refused() -> None:
    with pytest.raises(CryptoError, match="public key of a peer must not be one's own"):
        HYBRID_ALICE.encapsulate(HYBRID_ALICE.public)


def test_a_good_hybrid_public_key_passes() -> None:
    verify_hybrid_public_key(HYBRID_BOB.public)


@pytest.mark.parametrize("size", [0, 32, 95, 97])
def test_a_hybrid_seed_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"seed must be 96 bytes, got {size}"):
        HybridAgreementKey(bytes(size))


def test_generated_hybrid_keys_differ_in_both_parts() -> None:
    one, other = HybridAgreementKey.generate(), HybridAgreementKey.generate()

    assert one.public[:32] != other.public[:32]
    assert one.public[32:] != other.public[32:]


def test_hybrid_secrets_stay_out_of_sight() -> None:
    made = HYBRID_ALICE.encapsulate(HYBRID_BOB.public)

    assert repr(made) == "Encapsulation()"
    assert repr(HYBRID_ALICE) == f"HybridAgreementKey({ALICE.public.hex()})"


@pytest.mark.parametrize(
    ("secret", "name"),
    [
        (HYBRID_ALICE, "a HybridAgreementKey"),
        (HYBRID_ALICE.encapsulate(HYBRID_BOB.public), "an Encapsulation"),
    ],
)
def test_hybrid_secrets_cannot_be_pickled(secret: object, name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} cannot be pickled"):
        pickle.dumps(secret)
