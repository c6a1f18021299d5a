"""Persons in the audit log: sealed under a key of their own, so that they can be forgotten.

What is written of a person (name, certificate's serial number, address) is encrypted with
AES-256-GCM under that person's key. Their pseudonym in the entries is the SHA-256 of the key:
it commits to the key, which GCM alone does not, so that nobody can later present another key
under which an entry shows somebody else. When the key is deleted (crypto-shredding), what
remains is noise under a pseudonym, and every hash stays as it was.

Source: NIST SP 800-38D (GCM); Grubbs, Lu, Ristenpart 2017 (committing encryption).
"""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Final, NoReturn

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kumiai.core.errors import IntegrityError
from kumiai.identity.audit.entries import Actor, Sealed

__all__ = ["PersonKey", "open_actor", "seal_actor"]

_KEY_LABEL: Final = b"kumiai audit person v1\0"
_SEAL_LABEL: Final = b"kumiai audit sealed v1\0"
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


@dataclass(frozen=True, slots=True, repr=False)
class PersonKey:
    """The key to one person."""

    secret: bytes

    def __post_init__(self) -> None:
        """Check the length.

        Raises:
            ValueError: it is not 32 bytes.
        """
        if len(self.secret) != _KEY_BYTES:
            raise ValueError(f"a person's key must be 32 bytes, got {len(self.secret)}")

    @classmethod
    def new(cls) -> "PersonKey":
        """Draw a key."""
        return cls(secrets.token_bytes(_KEY_BYTES))

    @property
    def person(self) -> str:
        """The pseudonym that commits to the key."""
        return hashlib.sha256(_KEY_LABEL + self.secret).hexdigest()

    def __repr__(self) -> str:
        """Return the pseudonym, never the key."""
        return f"PersonKey({self.person[:12]})"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled.

        Raises:
            TypeError: always.
        """
        raise TypeError("a PersonKey cannot be pickled or copied: it holds a secret")


def seal_actor(actor: Actor, key: PersonKey, sequence: int) -> Sealed:
    """Return the actor's name, serial number and address under the key, for one entry."""
    return _seal_with(actor, key, sequence, secrets.token_bytes(_NONCE_BYTES))


def _seal_with(actor: Actor, key: PersonKey, sequence: int, nonce: bytes) -> Sealed:
    told = {"name": actor.name, "serial": f"{actor.serial:x}", "address": actor.address}
    content = orjson.dumps(told, option=orjson.OPT_SORT_KEYS)
    bound = _bound(key.person, sequence)
    return Sealed(key.person, nonce + AESGCM(key.secret).encrypt(nonce, content, bound))


def open_actor(role: str, sealed: Sealed, key: PersonKey, sequence: int) -> Actor:
    """Return the actor.

    Raises:
        IntegrityError: the key is another's, or the entry was not sealed for this place.
    """
    if key.person != sealed.person:
        raise IntegrityError(
            f"key must be that of person {sealed.person[:12]}, got {key.person[:12]}'s"
        )
    nonce, ciphertext = sealed.content[:_NONCE_BYTES], sealed.content[_NONCE_BYTES:]
    try:
        content = AESGCM(key.secret).decrypt(nonce, ciphertext, _bound(key.person, sequence))
        told = orjson.loads(content)
        return Actor(role, told["name"], int(told["serial"], 16), told["address"])
    except (InvalidTag, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"person of entry {sequence} must be sealed for it, got something else"
        ) from error


def _bound(person: str, sequence: int) -> bytes:
    return _SEAL_LABEL + sequence.to_bytes(8, "big") + bytes.fromhex(person)
