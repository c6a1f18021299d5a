import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from kumiai.core.errors import CertificateError
from kumiai.identity.keys import digest_of, new_key, verify_strong


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
    endless = rsa.RSAPublicNumbers(65_537, 2**8200 + 1).public_key()

    with pytest.raises(CertificateError, match="got RSA of 2048 bits"):
        verify_strong(rsa.generate_private_key(65_537, 2048).public_key())
    with pytest.raises(CertificateError, match="got RSA of 8201 bits"):
        verify_strong(endless)


def test_another_kind_of_key_is_refused() -> None:
    with pytest.raises(CertificateError, match="got another kind"):
        verify_strong(ed25519.Ed25519PrivateKey.generate().public_key())


def test_a_key_has_one_digest_and_no_other_key_has_it() -> None:
    first, second = new_key().public_key(), new_key().public_key()

    assert digest_of(first) == digest_of(first)
    assert digest_of(first) != digest_of(second)
    assert len(digest_of(first)) == 64
