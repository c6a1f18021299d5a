import hashlib

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from kumiai.core.errors import CertificateError, IntegrityError
from kumiai.identity.keys import (
    digest_of,
    is_signed_by,
    new_key,
    private_key_of,
    private_pem_of,
    signed_by,
    verify_strong,
)
from tests.identity.forge import rsa_key


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_strong_curves_are_taken(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve).public_key()

    assert verify_strong(key) is key


@pytest.mark.parametrize("curve", [ec.SECP521R1(), ec.SECP256K1(), ec.SECP224R1()])
def test_other_curves_are_refused(curve: ec.EllipticCurve) -> None:
    with pytest.raises(CertificateError, match=f"got the curve {curve.name}"):
        verify_strong(ec.generate_private_key(curve).public_key())


def test_rsa_is_taken_from_3072_bits_on() -> None:
    key = rsa.generate_private_key(65_537, 3072).public_key()

    assert verify_strong(key) is key


def test_short_and_endless_rsa_is_refused() -> None:
    longest = rsa.RSAPublicNumbers(65_537, 2**8191 + 1).public_key()
    endless = rsa.RSAPublicNumbers(65_537, 2**8192 + 1).public_key()

    with pytest.raises(CertificateError, match="got RSA of 2048 bits"):
        verify_strong(rsa.generate_private_key(65_537, 2048).public_key())
    with pytest.raises(CertificateError, match="got RSA of 8193 bits"):
        verify_strong(endless)
    assert verify_strong(longest) is longest


def test_another_kind_of_key_is_refused() -> None:
    with pytest.raises(CertificateError, match="got another kind"):
        verify_strong(ed25519.Ed25519PrivateKey.generate().public_key())


def test_a_key_has_one_digest_and_no_other_key_has_it() -> None:
    first, second = new_key().public_key(), new_key().public_key()

    assert digest_of(first) == digest_of(first)
    assert digest_of(first) != digest_of(second)
    assert len(digest_of(first)) == 64


def test_the_digest_that_is_kept_stays_the_same_from_release_to_release() -> None:
    key = new_key().public_key()
    spki = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    labelled = b"kumiai/identity/public-key/v1/" + spki
    assert digest_of(key) == hashlib.sha256(labelled).hexdigest()


def test_a_key_is_read_as_it_was_written() -> None:
    key = new_key()

    assert isinstance(key.curve, ec.SECP256R1)
    again = private_key_of(private_pem_of(key), "key")
    assert again.private_numbers() == key.private_numbers()


def pem_of(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def test_a_key_that_is_damaged_or_of_another_kind_is_named() -> None:
    other = pem_of(ed25519.Ed25519PrivateKey.generate())

    with pytest.raises(IntegrityError, match=r"^own key must be an unencrypted private key"):
        private_key_of(b"junk", "own key")
    with pytest.raises(IntegrityError, match=r"^own key must be on an elliptic curve"):
        private_key_of(other, "own key")


def test_a_signature_is_good_for_its_message_and_its_key_alone() -> None:
    key, another = new_key(), new_key().public_key()

    signature = signed_by(private_pem_of(key), b"message")

    assert is_signed_by(key.public_key(), signature, b"message")
    assert not is_signed_by(key.public_key(), signature, b"another")
    assert not is_signed_by(key.public_key(), signature[:-1], b"message")
    assert not is_signed_by(another, signature, b"message")
    # What others verify, too.
    key.public_key().verify(signature, b"message", ec.ECDSA(hashes.SHA256()))


def test_a_signature_of_an_rsa_key_is_pss_with_a_salt_as_long_as_the_hash() -> None:
    key = rsa_key(3072)
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)

    signature = signed_by(pem_of(key), b"message")

    assert is_signed_by(key.public_key(), signature, b"message")
    assert not is_signed_by(key.public_key(), signature, b"another")
    assert not is_signed_by(key.public_key(), signature[:-1], b"message")
    key.public_key().verify(signature, b"message", pss, hashes.SHA256())
    with pytest.raises(InvalidSignature):
        key.public_key().verify(signature, b"message", padding.PKCS1v15(), hashes.SHA256())


def test_a_key_that_signs_nothing_is_named() -> None:
    with pytest.raises(CertificateError, match="must be PEM without a passphrase, got one that"):
        signed_by(b"junk", b"message")
    with pytest.raises(CertificateError, match="must be on an elliptic curve or RSA, got another"):
        signed_by(pem_of(ed25519.Ed25519PrivateKey.generate()), b"message")
