"""Keys and ciphertexts in the JSON of ``pheutil``, the program of the ``phe`` library.

``phe`` writes fractions with powers of 16 and has keys of any two primes. So a key from it is not
known to be a Blum key (``randomisers``), and a number of ours is brought to whole powers of 16,
which takes at most three doublings under encryption.

Source: python-paillier 1.5, ``phe/command_line.py``.
"""

import base64
import binascii
import json
from typing import Any

import gmpy2

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier.keys import PaillierPrivateKey, PaillierPublicKey
from kumiai.crypto.paillier.number import EncryptedNumber

__all__ = [
    "number_from_phe",
    "number_to_phe",
    "private_key_from_phe",
    "private_key_to_phe",
    "public_key_from_phe",
    "public_key_to_phe",
]

_BITS_OF_EXPONENT = 4
_TEXT_SIZE_MAX = 1 << 16


def public_key_to_phe(public_key: PaillierPublicKey) -> str:
    """Return a public key as JSON."""
    return json.dumps(_public_fields(public_key))


def public_key_from_phe(text: str) -> PaillierPublicKey:
    """Return a public key, which takes full-width exponents.

    Raises:
        CryptoError: the text is no such key, or its modulus is not acceptable.
    """
    return PaillierPublicKey(_modulus_of(_object_of(text)))


def private_key_to_phe(private_key: PaillierPrivateKey) -> str:
    """Return a private key as JSON, in the clear: seal it before it is kept anywhere."""
    p, q = private_key.primes
    return json.dumps(
        {
            "kty": "DAJ",
            "key_ops": ["decrypt"],
            "p": _base64_of(p),
            "q": _base64_of(q),
            "pub": _public_fields(private_key.public_key),
            "kid": f"Paillier private key {private_key.public_key.short_name}",
        }
    )


def private_key_from_phe(text: str) -> PaillierPrivateKey:
    """Return a private key.

    Raises:
        CryptoError: the text is no such key, or its primes are not acceptable.
    """
    fields = _object_of(text)
    if fields.get("kty") != "DAJ" or "decrypt" not in _listed(fields.get("key_ops")):
        raise CryptoError("private key must have kty DAJ and the key_ops decrypt")
    key = PaillierPrivateKey(_integer_of(fields, "p"), _integer_of(fields, "q"))
    public_fields = fields.get("pub")
    if not isinstance(public_fields, dict) or _modulus_of(public_fields) != key.public_key.n:
        raise CryptoError("private key must hold p and q of its own modulus; it was damaged")
    return key


def number_to_phe(number: EncryptedNumber) -> str:
    """Return an encrypted number as JSON.

    Raises:
        CryptoError: it has several limbs, which ``phe`` does not know.
    """
    if len(number.limbs) != 1:
        raise CryptoError(f"number must have one limb for phe, got {len(number.limbs)}")
    exponent = -(-number.fraction_bits // _BITS_OF_EXPONENT)
    missing = exponent * _BITS_OF_EXPONENT - number.fraction_bits
    ciphertext = number.public_key.raw_multiply(number.limbs[0], 1 << missing)
    return json.dumps({"v": str(ciphertext), "e": -exponent})


def number_from_phe(text: str, public_key: PaillierPublicKey) -> EncryptedNumber:
    """Return an encrypted number. The text does not say of which key it is.

    Raises:
        CryptoError: the text is no number under this key.
    """
    fields = _object_of(text)
    digits, exponent = fields.get("v"), fields.get("e")
    if not isinstance(digits, str) or not digits.isascii() or not digits.isdigit():
        raise CryptoError("v must be a string of decimal digits")
    if type(exponent) is not int:
        raise CryptoError("e must be an integer")
    ciphertext = gmpy2.mpz(digits)
    public_key.verify_ciphertexts([ciphertext])
    if exponent <= 0:
        return EncryptedNumber(public_key, (ciphertext,), -exponent * _BITS_OF_EXPONENT)
    shift = exponent * _BITS_OF_EXPONENT
    if shift >= public_key.key_size:
        raise CryptoError(
            f"e must be below {public_key.key_size // 4} with this key, got {exponent}"
        )
    return EncryptedNumber(public_key, (public_key.raw_multiply(ciphertext, 1 << shift),))


def _public_fields(public_key: PaillierPublicKey) -> dict[str, Any]:
    return {
        "kty": "DAJ",
        "alg": "PAI-GN1",
        "key_ops": ["encrypt"],
        "n": _base64_of(public_key.n),
        "kid": f"Paillier public key {public_key.short_name}",
    }


def _modulus_of(fields: dict[str, Any]) -> int:
    if fields.get("kty") != "DAJ" or fields.get("alg") != "PAI-GN1":
        raise CryptoError("public key must have kty DAJ and alg PAI-GN1")
    return _integer_of(fields, "n")


def _object_of(text: str) -> dict[str, Any]:
    if len(text) > _TEXT_SIZE_MAX:
        raise CryptoError(f"text must have at most {_TEXT_SIZE_MAX} characters, got {len(text)}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CryptoError("text must be JSON") from error
    if not isinstance(value, dict):
        raise CryptoError("text must be a JSON object")
    return value


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _integer_of(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    if not isinstance(value, str):
        raise CryptoError(f"{name} must be a string of base64url")
    try:
        data = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    except (binascii.Error, ValueError):
        # Without the cause, which may repeat a secret.
        raise CryptoError(f"{name} must be a string of base64url") from None
    return int.from_bytes(data, "big")


def _base64_of(number: int) -> str:
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
