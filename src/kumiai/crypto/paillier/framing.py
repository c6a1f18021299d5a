"""How blobs are framed: a magic word, a version, a kind, a header, then numbers of known width.

Numbers are big-endian and as wide as the key says, so that a blob has one length and a shortened
one is seen.
"""

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import Any

import gmpy2

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier.keys import PaillierPublicKey

__all__ = [
    "BlobKind",
    "ciphertexts_to_bytes",
    "head",
    "judged_ciphertexts",
    "numbers",
    "opened",
    "wide",
]

_PREFIX = struct.Struct(">4sBB")
_MAGIC = b"KPAI"
_VERSION = 1


class BlobKind(IntEnum):
    """What is in a blob."""

    PUBLIC_KEY = 1
    PRIVATE_KEY = 2
    NUMBER = 3
    VECTOR = 4
    THRESHOLD_KEY = 5
    KEY_SHARE = 6
    DECRYPTION_SHARE = 7


def head(kind: BlobKind) -> bytes:
    """Return how a blob of a kind begins."""
    return _PREFIX.pack(_MAGIC, _VERSION, kind)


def opened(
    blob: bytes, kind: BlobKind, header: struct.Struct
) -> tuple[tuple[Any, ...], memoryview]:
    """Return the fields of a blob's header, and what follows.

    Raises:
        CryptoError: the blob is too short, or of another kind or version.
    """
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


def judged_ciphertexts(
    body: memoryview, count: int, fingerprint: bytes, public_key: PaillierPublicKey
) -> tuple[int, ...]:
    """Return ``count`` ciphertexts that are some.

    Raises:
        CryptoError: they are of another key, more or fewer, or damaged.
    """
    if fingerprint != public_key.fingerprint:
        raise CryptoError(
            f"ciphertext must be of key {public_key.short_name}, got one of {fingerprint.hex()[:8]}"
        )
    wanted = count * public_key.ciphertext_size
    if len(body) != wanted:
        raise CryptoError(f"ciphertexts must take {wanted} bytes, got {len(body)}")
    ciphertexts = tuple(numbers(body, [2 * public_key.key_size] * count))
    public_key.verify_ciphertexts(ciphertexts)
    return ciphertexts


def ciphertexts_to_bytes(public_key: PaillierPublicKey, ciphertexts: Iterable[int]) -> bytes:
    """Return ciphertexts as bytes."""
    return b"".join(wide(each, 2 * public_key.key_size) for each in ciphertexts)


def wide(number: int, bits: int) -> bytes:
    """Return a number >= 0 as wide as ``bits`` are."""
    return int(number).to_bytes((bits + 7) // 8, "big")


def numbers(body: memoryview, lengths_bits: list[int]) -> list[int]:
    """Return numbers of known lengths in bits, which fill the body.

    Raises:
        CryptoError: the body is longer or shorter.
    """
    sizes = [(bits + 7) // 8 for bits in lengths_bits]
    if len(body) != sum(sizes):
        raise CryptoError(f"blob must have {sum(sizes)} bytes after its header, got {len(body)}")
    found: list[int] = []
    start = 0
    for size in sizes:
        found.append(gmpy2.mpz(int.from_bytes(body[start : start + size], "big")))
        start += size
    return found
