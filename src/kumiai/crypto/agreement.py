"""Key agreement: two sides that know each other's public keys get the same secret.

X25519, and X25519 together with ML-KEM-768 for whoever fears that the traffic of today is kept for
the quantum computers of tomorrow; the hybrid holds as long as one of the two does. Nothing here
says whose a public key is: keys travel signed.

A public key from outside is refused when it is not in its one canonical form, of low order (it
would make the secret known to all), or one's own sent back. Both public keys go into the secret, so
that nobody can swap one for another that would agree to the same.

Source: RFC 7748 (X25519), FIPS 203 (ML-KEM), NIST SP 800-56C revision 2 (their combination).
"""

from dataclasses import dataclass, field
from typing import Final, NoReturn

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from kumiai.core.errors import CryptoError
from kumiai.crypto.keys import derive

__all__ = [
    "HYBRID_CIPHERTEXT_SIZE_BYTES",
    "HYBRID_PUBLIC_KEY_SIZE_BYTES",
    "HYBRID_SEED_SIZE_BYTES",
    "PUBLIC_KEY_SIZE_BYTES",
    "SEED_SIZE_BYTES",
    "AgreementKey",
    "Encapsulation",
    "HybridAgreementKey",
    "verify_hybrid_public_key",
    "verify_public_key",
]

SEED_SIZE_BYTES: Final = 32
PUBLIC_KEY_SIZE_BYTES: Final = 32
_KEM_SEED_SIZE_BYTES: Final = 64
_KEM_PUBLIC_KEY_SIZE_BYTES: Final = 1184
HYBRID_SEED_SIZE_BYTES: Final = SEED_SIZE_BYTES + _KEM_SEED_SIZE_BYTES
HYBRID_PUBLIC_KEY_SIZE_BYTES: Final = PUBLIC_KEY_SIZE_BYTES + _KEM_PUBLIC_KEY_SIZE_BYTES
HYBRID_CIPHERTEXT_SIZE_BYTES: Final = 1088

_CURVE_PRIME: Final = 2**255 - 19
# Every point of order 1, 2, 4 or 8 on the curve and on its twist, in canonical form.
_LOW_ORDER: Final = frozenset(
    {
        0,
        1,
        _CURVE_PRIME - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)


def verify_public_key(public: bytes) -> None:
    """Check an X25519 public key from outside.

    Raises:
        CryptoError: its length is wrong, it is not in canonical form, or it is of low order.
    """
    if len(public) != PUBLIC_KEY_SIZE_BYTES:
        raise CryptoError(f"public key must be {PUBLIC_KEY_SIZE_BYTES} bytes, got {len(public)}")
    place = int.from_bytes(public, "little")
    if place >= _CURVE_PRIME:
        raise CryptoError("public key must be in canonical form, got another form of one")
    if place in _LOW_ORDER:
        raise CryptoError("public key must not be of low order, got one that is")


def verify_hybrid_public_key(public: bytes) -> None:
    """Check a hybrid public key from outside.

    Raises:
        CryptoError: its length is wrong, or one of its two parts is not acceptable.
    """
    _hybrid_parts_of(public)


class AgreementKey:
    """A private key of X25519, and what it is for: a secret with each peer."""

    __slots__ = ("_private", "public")

    def __init__(self, seed: bytes) -> None:
        """Make the key that belongs to a seed.

        Args:
            seed: 32 bytes that nobody else knows.

        Raises:
            ValueError: the seed has another length.
        """
        if len(seed) != SEED_SIZE_BYTES:
            raise ValueError(f"seed must be {SEED_SIZE_BYTES} bytes, got {len(seed)}")
        self._private = X25519PrivateKey.from_private_bytes(seed)
        self.public = self._private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> "AgreementKey":
        """Return a fresh key."""
        return cls(X25519PrivateKey.generate().private_bytes_raw())

    def __repr__(self) -> str:
        """Name the public half alone."""
        return f"AgreementKey({self.public.hex()})"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: the key stays in this process."""
        raise TypeError("an AgreementKey cannot be pickled")

    def exchange(self, peer: bytes) -> bytes:
        """Return the secret shared with the holder of a public key, 32 bytes.

        Args:
            peer: the other's public key, authenticated by whoever calls.

        Raises:
            CryptoError: as `verify_public_key`, or it is this key's own.
        """
        verify_public_key(peer)
        if peer == self.public:
            raise CryptoError("public key of a peer must not be one's own, got it sent back")
        return derive(
            self._x25519(peer),
            label="agreement",
            context=min(self.public, peer) + max(self.public, peer),
        )

    def _x25519(self, peer: bytes) -> bytes:
        return self._private.exchange(X25519PublicKey.from_public_bytes(peer))


@dataclass(frozen=True, slots=True)
class Encapsulation:
    """What one side of a hybrid agreement makes.

    Attributes:
        ciphertext: 1088 bytes for the other side.
        secret: the 32 bytes that both will share.
    """

    ciphertext: bytes = field(repr=False)
    secret: bytes = field(repr=False)

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: the secret stays in this process."""
        raise TypeError("an Encapsulation cannot be pickled")


class HybridAgreementKey:
    """A private key of X25519 and one of ML-KEM-768, to be used together.

    One side encapsulates for the other's public key, sends the ciphertext, and the other side
    decapsulates: two secrets between two sides, one for each direction.
    """

    __slots__ = ("_agreement", "_kem", "public")

    def __init__(self, seed: bytes) -> None:
        """Make the key that belongs to a seed.

        Args:
            seed: 96 bytes that nobody else knows: 32 for X25519, 64 for ML-KEM.

        Raises:
            ValueError: the seed has another length.
        """
        if len(seed) != HYBRID_SEED_SIZE_BYTES:
            raise ValueError(f"seed must be {HYBRID_SEED_SIZE_BYTES} bytes, got {len(seed)}")
        self._agreement = AgreementKey(seed[:SEED_SIZE_BYTES])
        self._kem = MLKEM768PrivateKey.from_seed_bytes(seed[SEED_SIZE_BYTES:])
        self.public = self._agreement.public + self._kem.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> "HybridAgreementKey":
        """Return a fresh key."""
        agreement, kem = X25519PrivateKey.generate(), MLKEM768PrivateKey.generate()
        return cls(agreement.private_bytes_raw() + kem.private_bytes_raw())

    def __repr__(self) -> str:
        """Name the first part of the public half alone."""
        return f"HybridAgreementKey({self._agreement.public.hex()})"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: the key stays in this process."""
        raise TypeError("a HybridAgreementKey cannot be pickled")

    def encapsulate(self, peer: bytes) -> Encapsulation:
        """Return a fresh secret for the holder of a public key, and what to send there.

        Raises:
            CryptoError: as `verify_hybrid_public_key`, or it is this key's own.
        """
        place, kem = _hybrid_parts_of(peer)
        agreed = self._agreement.exchange(place)
        encapsulated, ciphertext = kem.encapsulate()
        return Encapsulation(
            ciphertext,
            _combined(encapsulated, agreed, ciphertext, sender=self.public, receiver=peer),
        )

    def decapsulate(self, peer: bytes, ciphertext: bytes) -> bytes:
        """Return the secret that the holder of a public key has sent.

        A ciphertext that was changed gives another secret, not an error: what is sealed with the
        secret will not open.

        Raises:
            CryptoError: as `encapsulate`, or the ciphertext has another length.
        """
        place, _ = _hybrid_parts_of(peer)
        if len(ciphertext) != HYBRID_CIPHERTEXT_SIZE_BYTES:
            raise CryptoError(
                f"ciphertext must be {HYBRID_CIPHERTEXT_SIZE_BYTES} bytes, got {len(ciphertext)}"
            )
        agreed = self._agreement.exchange(place)
        encapsulated = self._kem.decapsulate(ciphertext)
        return _combined(encapsulated, agreed, ciphertext, sender=peer, receiver=self.public)


def _hybrid_parts_of(public: bytes) -> tuple[bytes, MLKEM768PublicKey]:
    if len(public) != HYBRID_PUBLIC_KEY_SIZE_BYTES:
        raise CryptoError(
            f"hybrid public key must be {HYBRID_PUBLIC_KEY_SIZE_BYTES} bytes, got {len(public)}"
        )
    place, kem = public[:PUBLIC_KEY_SIZE_BYTES], public[PUBLIC_KEY_SIZE_BYTES:]
    verify_public_key(place)
    try:
        return place, MLKEM768PublicKey.from_public_bytes(kem)
    except ValueError as error:
        raise CryptoError("hybrid public key must hold a key of ML-KEM-768, got none") from error


def _combined(
    encapsulated: bytes, agreed: bytes, ciphertext: bytes, *, sender: bytes, receiver: bytes
) -> bytes:
    # All of both exchanges goes in, each part with a fixed length: nothing can be swapped.
    return derive(
        encapsulated + agreed, label="hybrid agreement", context=ciphertext + sender + receiver
    )
