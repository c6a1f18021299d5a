"""A client's secrets of one round, and the keys and masks that come from them.

Everything follows from one seed of 32 random bytes, and from the round's context: the same seed in
another round gives other keys. The two secrets that are shared among the holders are elements of
the share field, from which the keys are derived, so that whoever rebuilds one has the key.
"""

import hashlib
from typing import Final, Literal, NoReturn

from kumiai.crypto.agreement import AgreementKey
from kumiai.crypto.fields import SHARE_FIELD
from kumiai.crypto.keys import derive
from kumiai.crypto.masks import Mask

__all__ = [
    "SEED_SIZE_BYTES",
    "RoundKeys",
    "blinding_mask",
    "mask_key_of",
    "nonce_digest_of",
    "pair_key",
    "pair_sign",
    "place_context",
    "self_mask_digest_of",
    "self_mask_of",
    "share_key",
    "vector_mask",
]

SEED_SIZE_BYTES: Final = 32
_NONCE_DOMAIN: Final = b"kumiai/secagg/nonce/v1/"


class RoundKeys:
    """What a client must keep to itself until it gives shares of it away."""

    __slots__ = (
        "channel",
        "mask_key",
        "mask_secret",
        "noise",
        "nonce",
        "rounding",
        "self_mask",
        "self_secret",
    )

    def __init__(self, seed: bytes, context: bytes) -> None:
        """Derive all from a seed.

        Args:
            seed: 32 random bytes, used for this round alone.
            context: of the round.
        """
        self.mask_secret = _element(
            derive(seed, label="mask secret", context=context, size_bytes=64)
        )
        self.self_secret = _element(
            derive(seed, label="self secret", context=context, size_bytes=64)
        )
        self.mask_key = mask_key_of(self.mask_secret, context)
        self.self_mask = self_mask_of(self.self_secret, context)
        self.channel = AgreementKey(derive(seed, label="channel", context=context))
        self.nonce = derive(seed, label="nonce", context=context)
        self.rounding = derive(seed, label="rounding", context=context)
        self.noise = derive(seed, label="noise", context=context)

    def __repr__(self) -> str:
        """Name nothing."""
        return "RoundKeys()"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied."""
        raise TypeError("RoundKeys cannot be pickled")


def mask_key_of(secret: int, context: bytes) -> AgreementKey:
    """Return the key of a client's pairwise masks from its shared secret."""
    return AgreementKey(derive(SHARE_FIELD.encode(secret), label="mask key", context=context))


def self_mask_of(secret: int, context: bytes) -> bytes:
    """Return the key of a client's own mask from its shared secret."""
    return derive(SHARE_FIELD.encode(secret), label="self mask", context=context)


def self_mask_digest_of(key: bytes, context: bytes) -> bytes:
    """Return what a client publishes about the key of its own mask."""
    return derive(key, label="self mask digest", context=context)


def nonce_digest_of(nonce: bytes, context: bytes) -> bytes:
    """Return what hides a nonce until all have been told."""
    return hashlib.sha256(_NONCE_DOMAIN + context + nonce).digest()


def pair_key(own: AgreementKey, peer: bytes, context: bytes) -> bytes:
    """Return the key of the mask between two clients; both get the same.

    Raises:
        CryptoError: the peer's public key is not acceptable.
    """
    return derive(own.exchange(peer), label="pair mask", context=context)


def pair_sign(own: int, peer: int) -> Literal[1, -1]:
    """Return whether a client adds or takes away the mask with a peer: one of both does each."""
    return 1 if peer > own else -1


def share_key(channel: AgreementKey, peer: bytes, place: bytes) -> bytes:
    """Return the key that seals an author's shares for a holder.

    Args:
        channel: one side's key.
        peer: the other's public key.
        place: of `place_context`, so that each direction has a key of its own.
    """
    return derive(channel.exchange(peer), label="share", context=place)


def place_context(context: bytes, author: int, holder: int) -> bytes:
    """Return what stands for one author's shares with one holder in one round."""
    return context + author.to_bytes(2, "little") + holder.to_bytes(2, "little")


def vector_mask(key: bytes, sign: Literal[1, -1]) -> Mask:
    """Return the part of a mask that hides the vector."""
    return Mask(derive(key, label="vector", context=b""), sign)


def blinding_mask(key: bytes, sign: Literal[1, -1]) -> Mask:
    """Return the part of a mask that hides the blindings of the commitments."""
    return Mask(derive(key, label="blindings", context=b""), sign)


def _element(uniform: bytes) -> int:
    # 512 bits modulo a prime of 255: no element is likelier than another by more than 2^-256.
    return int.from_bytes(uniform, "little") % SHARE_FIELD.prime
