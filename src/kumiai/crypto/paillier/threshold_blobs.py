"""Threshold keys, key shares and decryption shares as bytes, framed as ``framing`` says.

The blob of a key share is the key share: keep it sealed.
"""

import struct

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier.decryption_proof import (
    CHALLENGE_BITS,
    DecryptionProof,
    response_bits_max,
)
from kumiai.crypto.paillier.framing import BlobKind, head, numbers, opened, wide
from kumiai.crypto.paillier.keys import PaillierPublicKey
from kumiai.crypto.paillier.threshold import DecryptionShare, ThresholdKey, ThresholdKeyShare

__all__ = [
    "decryption_share_from_bytes",
    "decryption_share_to_bytes",
    "key_share_from_bytes",
    "key_share_to_bytes",
    "threshold_key_from_bytes",
    "threshold_key_to_bytes",
]

_KEY = struct.Struct(">32sHHH")  # fingerprint, bits of the modulus, threshold, share count
_SHARE = struct.Struct(">32sH")  # fingerprint, index
_DECRYPTION = struct.Struct(">32sHQ")  # fingerprint, index, values


def threshold_key_to_bytes(key: ThresholdKey) -> bytes:
    """Return what everybody knows of a shared key as bytes."""
    public_key = key.public_key
    key_size = public_key.key_size
    header = _KEY.pack(public_key.fingerprint, key_size, key.threshold, key.share_count)
    squares = b"".join(wide(each, 2 * key_size) for each in (key.base, *key.verifiers))
    return head(BlobKind.THRESHOLD_KEY) + header + wide(public_key.n, key_size) + squares


def threshold_key_from_bytes(blob: bytes) -> ThresholdKey:
    """Return a shared key that is fit for use.

    Raises:
        CryptoError: the bytes are no such key, or damaged.
    """
    header, body = opened(blob, BlobKind.THRESHOLD_KEY, _KEY)
    fingerprint, key_size, threshold, share_count = header
    found = numbers(body, [key_size] + [2 * key_size] * (share_count + 1))
    n, base, *verifiers = found
    # A key of safe primes is a Blum key.
    public_key = PaillierPublicKey(n, is_blum=True)
    if (public_key.fingerprint, public_key.key_size) != (fingerprint, key_size):
        raise CryptoError("key must be what its header says; it was damaged, take another copy")
    return ThresholdKey(public_key, threshold, share_count, base, tuple(verifiers))


def key_share_to_bytes(share: ThresholdKeyShare) -> bytes:
    """Return a key share as bytes, in the clear: seal them before they go or are kept anywhere."""
    public_key = share.key.public_key
    header = _SHARE.pack(public_key.fingerprint, share.index)
    return head(BlobKind.KEY_SHARE) + header + wide(share.value, 2 * public_key.key_size)


def key_share_from_bytes(blob: bytes, key: ThresholdKey) -> ThresholdKeyShare:
    """Return a key share that fits what its dealer published.

    Raises:
        CryptoError: the bytes are no such share, of another key, or damaged.
    """
    (fingerprint, index), body = opened(blob, BlobKind.KEY_SHARE, _SHARE)
    _verify_key(fingerprint, key)
    (value,) = numbers(body, [2 * key.public_key.key_size])
    return ThresholdKeyShare(key, index, value)


def decryption_share_to_bytes(share: DecryptionShare, key: ThresholdKey) -> bytes:
    """Return a decryption share as bytes."""
    public_key = key.public_key
    header = _DECRYPTION.pack(public_key.fingerprint, share.index, len(share.values))
    values = b"".join(wide(each, 2 * public_key.key_size) for each in share.values)
    proof = wide(share.proof.challenge, CHALLENGE_BITS) + wide(
        share.proof.response, response_bits_max(key.secret_bits)
    )
    return head(BlobKind.DECRYPTION_SHARE) + header + values + proof


def decryption_share_from_bytes(blob: bytes, key: ThresholdKey) -> DecryptionShare:
    """Return a decryption share. Whether it is right, ``ThresholdKey`` judges.

    Raises:
        CryptoError: the bytes are no such share, of another key, or of a wrong length.
    """
    (fingerprint, index, count), body = opened(blob, BlobKind.DECRYPTION_SHARE, _DECRYPTION)
    _verify_key(fingerprint, key)
    width = 2 * key.public_key.key_size
    # Before a list of that length is made.
    if count * ((width + 7) // 8) > len(body):
        raise CryptoError(f"decryption share {index} must have {count} values, and is shorter")
    lengths = [width] * count + [CHALLENGE_BITS, response_bits_max(key.secret_bits)]
    *values, challenge, response = numbers(body, lengths)
    return DecryptionShare(index, tuple(values), DecryptionProof(challenge, response))


def _verify_key(fingerprint: bytes, key: ThresholdKey) -> None:
    if fingerprint != key.public_key.fingerprint:
        raise CryptoError(
            f"share must be of key {key.public_key.short_name}, got one of {fingerprint.hex()[:8]}"
        )
