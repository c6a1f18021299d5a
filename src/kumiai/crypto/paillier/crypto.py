"""``PaillierCrypto``: encrypt, decrypt, and calculate on what nobody can read."""

from collections.abc import Iterable
from concurrent.futures import Executor
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier.bulk import decrypt_all, encrypt_all
from kumiai.crypto.paillier.keys import PaillierPrivateKey, PaillierPublicKey
from kumiai.crypto.paillier.number import EncryptedNumber, Number, join_limbs, limbs_of, scaled
from kumiai.crypto.paillier.pool import RandomiserPool
from kumiai.crypto.paillier.randomisers import (
    Exponents,
    RandomiserSource,
    new_key_holder_source,
    new_source,
    verify_exponents,
)
from kumiai.crypto.paillier.slots import SlotLayout, packed, values_of
from kumiai.crypto.paillier.vector import EncryptedVector

__all__ = ["PaillierCrypto"]


class PaillierCrypto:
    """Paillier's cryptosystem: sums of what is encrypted, without decrypting.

        crypto = PaillierCrypto(key_size=2048)
        assert crypto.decrypt(crypto.encrypt(42) + crypto.encrypt(-2) * 3) == 36

    It keeps numbers from those without the private key, among them a coordinator that adds them.
    It does not stop a client from encrypting nonsense, nor anybody from changing a ciphertext.

    Args:
        key_size: of a new key, in bits. 2048 gives 112 bits of security; take 3072 for 128.
        key: use this one, and make none. With a public key there is no decryption.
        exponents: how randomisers are drawn, one of ``Exponents`` or its value; see
            ``randomisers``. Without it half-length ones where the key allows that, else full ones.

    Raises:
        CryptoError: ``key_size`` is odd, below 2048 or above 8192, or the key does not allow such
            exponents.
        ValueError: there are no such exponents.
    """

    __slots__ = ("_exponents", "_pool", "_private_key", "_public_key", "_source")

    def __init__(
        self,
        key_size: int = 2048,
        *,
        key: PaillierPrivateKey | PaillierPublicKey | None = None,
        exponents: Exponents | str | None = None,
    ) -> None:
        if key is None:
            key = PaillierPrivateKey.generate(key_size)
        if isinstance(key, PaillierPrivateKey):
            self._private_key: PaillierPrivateKey | None = key
            self._public_key = key.public_key
            best = Exponents.HALF
        else:
            self._private_key = None
            self._public_key = key
            best = Exponents.HALF if key.is_blum else Exponents.FULL
        self._exponents = best if exponents is None else Exponents(exponents)
        if self._private_key is None:
            verify_exponents(self._public_key, self._exponents)
        self._source: RandomiserSource | None = None
        self._pool: RandomiserPool | None = None

    @property
    def public_key(self) -> PaillierPublicKey:
        """The key that may be told."""
        return self._public_key

    @property
    def private_key(self) -> PaillierPrivateKey:
        """The key that decrypts.

        Raises:
            CryptoError: there is only the public key.
        """
        if self._private_key is None:
            raise CryptoError(
                f"private key of {self._public_key.short_name} must be there to decrypt, "
                "got only the public one"
            )
        return self._private_key

    def encrypt(self, value: Number, *, fraction_bits: int | None = None) -> EncryptedNumber:
        """Encrypt a number.

        Args:
            value: an int of any size and sign, or a finite float.
            fraction_bits: the precision of a float, which everybody sees: it is rounded to a
                multiple of 2^-fraction_bits. 64 where nothing is said.

        Raises:
            TypeError: the value is neither int nor float.
            ValueError: the value is not finite, or has over half a million bits.
        """
        integer, bits = scaled(value, fraction_bits)
        limbs = limbs_of(self._public_key, integer)
        return EncryptedNumber(self._public_key, tuple(self._encrypted(limbs)), bits)

    def decrypt(self, number: EncryptedNumber) -> int | float:
        """Return the number: an int if it has no fraction bits, else the nearest float.

        Raises:
            CryptoError: there is no private key or it is another one, a ciphertext is damaged, or
                the result has overflowed.
        """
        key = self.private_key
        self._public_key.verify_same(number.public_key)
        residues = [key.raw_decrypt(limb) for limb in number.limbs]
        return join_limbs(self._public_key, residues, number.fraction_bits)

    def encrypt_many(
        self, values: ArrayLike, layout: SlotLayout, *, executor: Executor | None = None
    ) -> EncryptedVector:
        """Encrypt values of one dimension, many to a ciphertext.

        Args:
            values: within the layout's range.
            layout: the same for all whose vectors shall be added.
            executor: of processes that encrypt; without it this thread does.

        Raises:
            ValueError: the values are not of one dimension, not finite, or out of range.
            TypeError: they are not integers and the layout has no step.
        """
        array = np.asarray(values)
        plaintexts = packed(layout, self._public_key, array)
        ciphertexts = tuple(self._encrypted(plaintexts, executor))
        return EncryptedVector(self._public_key, layout, len(array), 1, ciphertexts)

    def decrypt_many(
        self, vector: EncryptedVector, *, executor: Executor | None = None
    ) -> NDArray[Any]:
        """Return the sums: int64 for a layout without step, else float64.

        Args:
            vector: encrypted with this key.
            executor: of processes that decrypt and get the private key for it; without it this
                thread does.

        Raises:
            CryptoError: there is no private key or it is another one, a ciphertext is damaged, or
                somebody put in more than a value.
        """
        key = self.private_key
        self._public_key.verify_same(vector.public_key)
        residues = decrypt_all(key, vector.ciphertexts, executor=executor)
        return values_of(vector.layout, self._public_key, list(residues), vector.count)

    def rerandomised(self, number: EncryptedNumber) -> EncryptedNumber:
        """Return another encryption of the same number, which nobody can tell to be one.

        Raises:
            CryptoError: it is of another key.
        """
        self._public_key.verify_same(number.public_key)
        zeros = self._encrypted([0] * len(number.limbs))
        limbs = map(self._public_key.raw_add, number.limbs, zeros)
        return EncryptedNumber(self._public_key, tuple(limbs), number.fraction_bits)

    def precompute(self, executor: Executor, *, size: int = 1024) -> None:
        """Keep randomisers ready from now on, computed in an executor; see ``pool``.

        Args:
            executor: stays the caller's, and open as long as this object encrypts.
            size: how many, >= 1; each takes ``public_key.ciphertext_size`` bytes.
        """
        self._pool = RandomiserPool(
            self._randomisers, self._public_key, self._worker_exponents, executor, size=size
        )

    def __repr__(self) -> str:
        reads = "encrypts" if self._private_key is None else "encrypts and decrypts"
        return f"<PaillierCrypto that {reads} with {self._public_key!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a PaillierCrypto cannot be pickled; use private_key_to_bytes")

    @property
    def _randomisers(self) -> RandomiserSource:
        """What draws here and now; its table is made when the first number is encrypted."""
        if self._source is None:
            self._source = (
                new_source(self._public_key, self._exponents)
                if self._private_key is None
                else new_key_holder_source(self._private_key, self._exponents)
            )
        return self._source

    @property
    def _worker_exponents(self) -> Exponents:
        return self._exponents if self._public_key.is_blum else Exponents.FULL

    def _encrypted(
        self, plaintexts: Iterable[int], executor: Executor | None = None
    ) -> Iterable[int]:
        return encrypt_all(
            self._public_key,
            plaintexts,
            self._pool or self._randomisers,
            exponents=self._worker_exponents,
            executor=executor,
        )
