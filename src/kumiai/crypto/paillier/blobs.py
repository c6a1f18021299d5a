"""Keys, numbers and vectors as bytes, in a format of our own.

Every blob begins with ``KPAI``, a version and a kind. Numbers are big-endian and as wide as the key
says, so a blob has one length and a shortened one is seen. Each names its key's fingerprint, so
that a key that was damaged is seen, even if it is another good key now. A vector's header tells its
slot layout, step, count and summand count. Whatever is read is judged before it is handed out.

The blob of a private key is the key: keep it sealed.
"""

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import Any

import gmpy2

from kumiai.core.errors import CryptoError
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

_PREFIX = struct.Struct(">4sBB")
_MAGIC = b"KPAI"
_VERSION = 1
_KEY = struct.Struct(">32sHB")  # fingerprint, bits of the modulus, whether it is a Blum modulus
_NUMBER = struct.Struct(">32sHH")  # fingerprint, fraction bits, limbs
# fingerprint, value bits, slot bits, step (0: integers), count, most summands, summands
_VECTOR = struct.Struct(">32sBBdQIQ")


class _Kind(IntEnum):
    PUBLIC_KEY = 1
    PRIVATE_KEY = 2
    NUMBER = 3
    VECTOR = 4


def public_key_to_bytes(public_key: PaillierPublicKey) -> bytes:
    """Return a public key as bytes."""
    header = _key_header(public_key)
    return _head(_Kind.PUBLIC_KEY) + header + _wide(public_key.n, public_key.key_size)


def public_key_from_bytes(blob: bytes) -> PaillierPublicKey:
    """Return a public key that is fit for use.

    Raises:
        CryptoError: the bytes are no public key of ours, or its modulus is not acceptable.
    """
    header, body = _opened(blob, _Kind.PUBLIC_KEY, _KEY)
    _, key_size, is_blum = header
    public_key = PaillierPublicKey(*_numbers(body, [key_size]), is_blum=bool(is_blum))
    _verify_key_header(header, public_key)
    return public_key


def private_key_to_bytes(private_key: PaillierPrivateKey) -> bytes:
    """Return a private key as bytes, in the clear: seal them before they are kept anywhere."""
    public_key = private_key.public_key
    header = _key_header(public_key)
    primes = (_wide(prime, public_key.key_size // 2) for prime in private_key.primes)
    return _head(_Kind.PRIVATE_KEY) + header + b"".join(primes)


def private_key_from_bytes(blob: bytes) -> PaillierPrivateKey:
    """Return a private key that is fit for use.

    Raises:
        CryptoError: the bytes are no private key of ours, or its primes are not acceptable.
    """
    header, body = _opened(blob, _Kind.PRIVATE_KEY, _KEY)
    _, key_size, _ = header
    private_key = PaillierPrivateKey(*_numbers(body, [key_size // 2] * 2))
    _verify_key_header(header, private_key.public_key)
    return private_key


def number_to_bytes(number: EncryptedNumber) -> bytes:
    """Return an encrypted number as bytes."""
    key = number.public_key
    header = _NUMBER.pack(key.fingerprint, number.fraction_bits, len(number.limbs))
    return _head(_Kind.NUMBER) + header + _ciphertexts(key, number.limbs)


def number_from_bytes(blob: bytes, public_key: PaillierPublicKey) -> EncryptedNumber:
    """Return an encrypted number.

    Raises:
        CryptoError: the bytes are no number of ours, of another key, or damaged.
    """
    (fingerprint, bits, count), body = _opened(blob, _Kind.NUMBER, _NUMBER)
    limbs = _judged_ciphertexts(body, count, fingerprint, public_key)
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
    return _head(_Kind.VECTOR) + header + _ciphertexts(key, vector.ciphertexts)


def vector_from_bytes(blob: bytes, public_key: PaillierPublicKey) -> EncryptedVector:
    """Return an encrypted vector, as its header describes it.

    Whoever wrote the blob wrote its header: compare layout, count and summand count with what was
    agreed.

    Raises:
        CryptoError: the bytes are no vector of ours, of another key, or damaged.
    """
    header, body = _opened(blob, _Kind.VECTOR, _VECTOR)
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
    ciphertexts = _judged_ciphertexts(body, ciphertext_count, fingerprint, public_key)
    return EncryptedVector(public_key, layout, count, summand_count, ciphertexts)


def _key_header(public_key: PaillierPublicKey) -> bytes:
    return _KEY.pack(public_key.fingerprint, public_key.key_size, public_key.is_blum)


def _verify_key_header(header: tuple[Any, ...], public_key: PaillierPublicKey) -> None:
    if _KEY.pack(*header) != _key_header(public_key):
        raise CryptoError("key must be what its header says; it was damaged, take another copy")


def _head(kind: _Kind) -> bytes:
    return _PREFIX.pack(_MAGIC, _VERSION, kind)


def _opened(blob: bytes, kind: _Kind, header: struct.Struct) -> tuple[tuple[Any, ...], memoryview]:
    start = _PREFIX.size + header.size
    if len(blob) < start:
        raise CryptoError(f"blob must have at least {start} bytes, got {len(blob)}")
    magic, version, found = _PREFIX.unpack_from(blob)
    if magic != _MAGIC:
        raise CryptoError("blob must begin with KPAI; it is no Paillier blob of ours")
    if version != _VERSION:
        raise CryptoError(f"blob must be of version {_VERSION}, got {version}")
    if found != kind:
        raise CryptoError(f"blob must be of kind {kind} ({kind.name.lower()}), got {found}")
    return header.unpack_from(blob, _PREFIX.size), memoryview(blob)[start:]


def _judged_ciphertexts(
    body: memoryview, count: int, fingerprint: bytes, public_key: PaillierPublicKey
) -> tuple[int, ...]:
    if fingerprint != public_key.fingerprint:
        raise CryptoError(
            f"ciphertext must be of key {public_key.short_name}, got one of {fingerprint.hex()[:8]}"
        )
    wanted = count * public_key.ciphertext_size
    if len(body) != wanted:
        raise CryptoError(f"ciphertexts must take {wanted} bytes, got {len(body)}")
    ciphertexts = tuple(_numbers(body, [2 * public_key.key_size] * count))
    public_key.verify_ciphertexts(ciphertexts)
    return ciphertexts


def _ciphertexts(public_key: PaillierPublicKey, ciphertexts: Iterable[int]) -> bytes:
    return b"".join(_wide(each, 2 * public_key.key_size) for each in ciphertexts)


def _wide(number: int, bits: int) -> bytes:
    return int(number).to_bytes((bits + 7) // 8, "big")


def _numbers(body: memoryview, lengths_bits: list[int]) -> list[int]:
    sizes = [(bits + 7) // 8 for bits in lengths_bits]
    if len(body) != sum(sizes):
        raise CryptoError(f"blob must have {sum(sizes)} bytes after its header, got {len(body)}")
    numbers: list[int] = []
    start = 0
    for size in sizes:
        numbers.append(gmpy2.mpz(int.from_bytes(body[start : start + size], "big")))
        start += size
    return numbers
