"""Keys, numbers and vectors as bytes, in a format of our own.

Each blob is framed as ``framing`` says and names its key's fingerprint, so that a key that was
damaged is seen, even if it is another good key now. A vector's header tells its slot layout, step,
count and summand count. Whatever is read is judged before it is handed out.

The blob of a private key is the key: keep it sealed.
"""

import struct
from typing import Any

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier.framing import (
    BlobKind,
    ciphertexts_to_bytes,
    head,
    judged_ciphertexts,
    numbers,
    opened,
    wide,
)
from kumiai.crypto.paillier.keys import PaillierPrivateKey, PaillierPublicKey
from kumiai.crypto.paillier.number import EncryptedNumber
from kumiai.crypto.paillier.slots import SlotLayout
from kumiai.crypto.paillier.vector import EncryptedVector

__all__ = [
    "number_from_bytes",
    "number_to_bytes",
    "private_key_from_bytes",
    "private_key_to_bytes",
    "public_key_from_bytes",
    "public_key_to_bytes",
    "vector_from_bytes",
    "vector_to_bytes",
]

_KEY = struct.Struct(">32sHB")  # fingerprint, bits of the modulus, whether it is a Blum modulus
_NUMBER = struct.Struct(">32sHH")  # fingerprint, fraction bits, limbs
# fingerprint, value bits, slot bits, step (0: integers), count, most summands, summands
_VECTOR = struct.Struct(">32sBBdQIQ")


def public_key_to_bytes(public_key: PaillierPublicKey) -> bytes:
    """Return a public key as bytes."""
    header = _key_header(public_key)
    return head(BlobKind.PUBLIC_KEY) + header + wide(public_key.n, public_key.key_size)


def public_key_from_bytes(blob: bytes) -> PaillierPublicKey:
    """Return a public key that is fit for use.

    Raises:
        CryptoError: the bytes are no public key of ours, or its modulus is not acceptable.
    """
    header, body = opened(blob, BlobKind.PUBLIC_KEY, _KEY)
    _, key_size, is_blum = header
    public_key = PaillierPublicKey(*numbers(body, [key_size]), is_blum=bool(is_blum))
    _verify_key_header(header, public_key)
    return public_key


def private_key_to_bytes(private_key: PaillierPrivateKey) -> bytes:
    """Return a private key as bytes, in the clear: seal them before they are kept anywhere."""
    public_key = private_key.public_key
    header = _key_header(public_key)
    primes = (wide(prime, public_key.key_size // 2) for prime in private_key.primes)
    return head(BlobKind.PRIVATE_KEY) + header + b"".join(primes)


def private_key_from_bytes(blob: bytes) -> PaillierPrivateKey:
    """Return a private key that is fit for use.

    Raises:
        CryptoError: the bytes are no private key of ours, or its primes are not acceptable.
    """
    header, body = opened(blob, BlobKind.PRIVATE_KEY, _KEY)
    _, key_size, _ = header
    private_key = PaillierPrivateKey(*numbers(body, [key_size // 2] * 2))
    _verify_key_header(header, private_key.public_key)
    return private_key


def number_to_bytes(number: EncryptedNumber) -> bytes:
    """Return an encrypted number as bytes."""
    key = number.public_key
    header = _NUMBER.pack(key.fingerprint, number.fraction_bits, len(number.limbs))
    return head(BlobKind.NUMBER) + header + ciphertexts_to_bytes(key, number.limbs)


def number_from_bytes(blob: bytes, public_key: PaillierPublicKey) -> EncryptedNumber:
    """Return an encrypted number.

    Raises:
        CryptoError: the bytes are no number of ours, of another key, or damaged.
    """
    (fingerprint, bits, count), body = opened(blob, BlobKind.NUMBER, _NUMBER)
    limbs = judged_ciphertexts(body, count, fingerprint, public_key)
    return EncryptedNumber(public_key, limbs, bits)


def vector_to_bytes(vector: EncryptedVector) -> bytes:
    """Return an encrypted vector as bytes."""
    layout, key = vector.layout, vector.public_key
    header = _VECTOR.pack(
        key.fingerprint,
        layout.value_bits,
        layout.slot_bits,
        layout.step or 0.0,
        vector.count,
        layout.summand_count_max,
        vector.summand_count,
    )
    return head(BlobKind.VECTOR) + header + ciphertexts_to_bytes(key, vector.ciphertexts)


def vector_from_bytes(blob: bytes, public_key: PaillierPublicKey) -> EncryptedVector:
    """Return an encrypted vector, as its header describes it.

    Whoever wrote the blob wrote its header: compare layout, count and summand count with what was
    agreed.

    Raises:
        CryptoError: the bytes are no vector of ours, of another key, or damaged.
    """
    header, body = opened(blob, BlobKind.VECTOR, _VECTOR)
    fingerprint, value_bits, slot_bits, step, count, summand_count_max, summand_count = header
    try:
        layout = SlotLayout(
            value_bits=value_bits,
            summand_count_max=summand_count_max,
            step=None if step == 0 else step,
        )
        ciphertext_count = layout.ciphertext_count(public_key, count)
    except ValueError as error:
        raise CryptoError(f"slot layout of the blob must be valid: {error}") from error
    if layout.slot_bits != slot_bits:
        raise CryptoError(f"slot_bits must be {layout.slot_bits}, got {slot_bits}")
    ciphertexts = judged_ciphertexts(body, ciphertext_count, fingerprint, public_key)
    return EncryptedVector(public_key, layout, count, summand_count, ciphertexts)


def _key_header(public_key: PaillierPublicKey) -> bytes:
    return _KEY.pack(public_key.fingerprint, public_key.key_size, public_key.is_blum)


def _verify_key_header(header: tuple[Any, ...], public_key: PaillierPublicKey) -> None:
    if _KEY.pack(*header) != _key_header(public_key):
        raise CryptoError("key must be what its header says; it was damaged, take another copy")
