"""Where noise gets its randomness: the keystream of AES-256 in counter mode under a fresh key.

Each release draws a key of its own from the operating system, uses it within one call, and lets go
of it. Nothing that outlives the call holds a key or a place in a stream: a process that was forked
can not repeat its parent's noise, and there is no seed that a setting could fix.

Source: NIST SP 800-38A section 6.5 (counter mode).
"""

import secrets
from typing import Any, Final, NoReturn, Self

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

__all__ = ["Keystream"]

_KEY_SIZE_BYTES: Final = 32
_WORD_SIZE_BYTES: Final = 8
# Encrypting zeros gives the bare stream; this many stay in the second cache of one core.
_ZEROS: Final = memoryview(bytes(1 << 18))


class Keystream:
    """A stream of uniform 64-bit words, each given out once.

    Args:
        key: 32 bytes that nobody knows. Outside of tests `fresh` makes keystreams, and where noise
            must be sent again as it was, `sampler.skellam_again`.
    """

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        if len(key) != _KEY_SIZE_BYTES:
            raise ValueError(f"key must be {_KEY_SIZE_BYTES} bytes, got {len(key)}")
        self._cipher = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    @classmethod
    def fresh(cls) -> Self:
        """Return one under a key from the operating system."""
        return cls(secrets.token_bytes(_KEY_SIZE_BYTES))

    def fill(self, words: NDArray[np.uint64]) -> None:
        """Write the next words into a vector without gaps, of little-endian words."""
        target = words.data.cast("B")
        for start in range(0, len(target), len(_ZEROS)):
            piece = target[start : start + len(_ZEROS)]
            self._cipher.update_into(_ZEROS[: len(piece)], piece)

    def draw_word(self) -> int:
        """Return the next word as a number below 2^64."""
        return int.from_bytes(self._cipher.update(bytes(_WORD_SIZE_BYTES)), "little")

    def __repr__(self) -> str:
        return "<Keystream>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a Keystream cannot be pickled or copied: each word is used once")
