"""The long vectors of a round with a Paillier key: what a client uploads, and the sum of uploads.

Both are ciphertexts and nothing else, one after the other, each as wide as the key says: the
round's numbers and the weight, many to a ciphertext, then the blindings of the commitments in
pieces of 16 bits. Decrypted, the sum has the layout that it has under masks (`VectorLayout`).

A slot is as wide as the sum of all clients' largest numbers needs, so that honest ones never reach
their neighbour. What a client that cheats spills over is seen by whoever checks the commitments.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kumiai.core.digest import Buffer, digest_of
from kumiai.core.errors import SecureAggregationError
from kumiai.crypto.group import ORDER, SCALAR_BYTES
from kumiai.crypto.paillier import (
    EncryptedVector,
    Exponents,
    PaillierCrypto,
    PaillierPrivateKey,
    PaillierPublicKey,
    SlotLayout,
)
from kumiai.secagg.descriptor import RoundDescriptor
from kumiai.secagg.quantizing import signed
from kumiai.secagg.vectors import Blocks, VectorLayout

__all__ = ["CipherLayout", "CiphertextSum", "decrypt_sum", "encrypt_vector"]

_PIECE_BITS: Final = 16
_PIECES: Final = 8 * SCALAR_BYTES // _PIECE_BITS
_TABLE_COUNT_LEAST: Final = 40
"""A table of powers costs as much as it saves with so many ciphertexts."""
_WORD_MAX: Final = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class CipherLayout:
    """Where what stands.

    Attributes:
        plain: of the vector that is encrypted.
        public_key: of the round.
        numbers: how its words lie in plaintexts.
        pieces: how the pieces of its blindings do.
    """

    plain: VectorLayout
    public_key: PaillierPublicKey
    numbers: SlotLayout
    pieces: SlotLayout

    @classmethod
    def of(
        cls, descriptor: RoundDescriptor, plain: VectorLayout, public_key: PaillierPublicKey
    ) -> "CipherLayout":
        """Return the layout of a round's ciphertexts."""
        count = descriptor.client_count
        scale = max(member.scale for member in descriptor.roster)
        largest = descriptor.noised_levels * descriptor.weight_bound * scale
        return cls(
            plain,
            public_key,
            SlotLayout(value_bits=1 + largest.bit_length(), summand_count_max=count),
            SlotLayout(value_bits=1 + _PIECE_BITS, summand_count_max=count),
        )

    @property
    def number_ciphertexts(self) -> int:
        """How many ciphertexts the words take."""
        return self.numbers.ciphertext_count(self.public_key, self.plain.word_count)

    @property
    def piece_count(self) -> int:
        """How many pieces the blindings have."""
        return _PIECES * self.plain.blinding_count

    @property
    def ciphertext_count(self) -> int:
        """How many ciphertexts there are in all."""
        return self.number_ciphertexts + self.pieces.ciphertext_count(
            self.public_key, self.piece_count
        )

    @property
    def size_bytes(self) -> int:
        """How long an upload is, and the sum of all."""
        return self.ciphertext_count * self.public_key.ciphertext_size


class CiphertextSum:
    """The sum of encrypted vectors: one ciphertext for each of theirs, and a block while it adds.

    It needs the public key alone, and can not be read with it.
    """

    __slots__ = ("_ciphertexts", "_layout")

    def __init__(self, layout: CipherLayout) -> None:
        """Begin with zero."""
        self._layout = layout
        self._ciphertexts = [1] * layout.ciphertext_count

    def add(self, blocks: Blocks, digest: bytes) -> None:
        """Add an upload.

        The blocks are asked for twice: digest and ciphertexts are checked before anything is added,
        so that a wrong upload leaves the sum as it was.

        Args:
            blocks: of any length, best about a mebibyte.
            digest: BLAKE3 of the whole.

        Raises:
            SecureAggregationError: the upload has another digest or length.
            CryptoError: it holds what is no ciphertext under the round's key.
        """
        self._verify(blocks, digest)
        key = self._layout.public_key
        at = 0
        for _, some in _ciphertexts_in(blocks(), key.ciphertext_size):
            for place, ciphertext in enumerate(some, start=at):
                self._ciphertexts[place] = key.raw_add(self._ciphertexts[place], ciphertext)
            at += len(some)

    def vector(self) -> NDArray[np.uint8]:
        """Return the sum in the form of an upload."""
        return _to_bytes(self._ciphertexts, self._layout.public_key)

    def _verify(self, blocks: Blocks, digest: bytes) -> None:
        key, size = self._layout.public_key, 0

        def watched() -> Iterable[Buffer]:
            nonlocal size
            for block, some in _ciphertexts_in(blocks(), key.ciphertext_size):
                size += memoryview(block).nbytes
                if size > self._layout.size_bytes:
                    break
                key.verify_ciphertexts(some)
                yield block

        found = bytes.fromhex(digest_of(watched()))
        if size != self._layout.size_bytes:
            raise SecureAggregationError(
                f"upload must be {self._layout.size_bytes} bytes, got {size} or more"
            )
        if found != digest:
            raise SecureAggregationError(
                "upload must have the digest that its client signed, got another"
            )


def encrypt_vector(
    layout: CipherLayout, vector: NDArray[np.uint8], private_key: PaillierPrivateKey
) -> NDArray[np.uint8]:
    """Return a vector as ciphertexts; another form of the same each time.

    Args:
        layout: of the round.
        vector: in the layout ``layout.plain``.
        private_key: whoever has it encrypts faster.
    """
    crypto = _crypto(layout, private_key)
    numbers = signed(layout.plain.words(vector))
    ciphertexts = list(crypto.encrypt_many(numbers, layout.numbers).ciphertexts)
    pieces = vector[layout.plain.ring_size_bytes :].view(">u2").astype(np.int64)
    ciphertexts += crypto.encrypt_many(pieces, layout.pieces).ciphertexts
    return _to_bytes(ciphertexts, layout.public_key)


def decrypt_sum(
    layout: CipherLayout,
    content: NDArray[np.uint8],
    private_key: PaillierPrivateKey,
    *,
    summand_count: int,
) -> NDArray[np.uint8]:
    """Return the sum that ciphertexts hold, in the layout ``layout.plain``.

    Args:
        layout: of the round.
        content: of `CiphertextSum.vector`, ``layout.size_bytes`` long.
        private_key: of the round.
        summand_count: how many clients are in it.

    Raises:
        CryptoError: a number is no ciphertext, or somebody put in more than a value.
        SecureAggregationError: a sum does not fit its word.
    """
    crypto = _crypto(layout, private_key)
    ((_, ciphertexts),) = _ciphertexts_in([content.data], layout.public_key.ciphertext_size)
    first = layout.number_ciphertexts
    held = partial(EncryptedVector, layout.public_key)
    numbers = held(
        layout.numbers, layout.plain.word_count, summand_count, tuple(ciphertexts[:first])
    )
    pieces = held(layout.pieces, layout.piece_count, summand_count, tuple(ciphertexts[first:]))
    sums = crypto.decrypt_many(numbers)
    if np.abs(sums).max() > _WORD_MAX:
        raise SecureAggregationError("sums must fit their words, got larger ones")
    vector = layout.plain.empty()
    layout.plain.words(vector)[:] = sums.astype(np.int32).view(np.uint32)
    rows = crypto.decrypt_many(pieces).reshape(-1, _PIECES).tolist()
    layout.plain.write_blindings(vector, [_joined(row) for row in rows])
    return vector


def _crypto(layout: CipherLayout, private_key: PaillierPrivateKey) -> PaillierCrypto:
    is_few = layout.ciphertext_count < _TABLE_COUNT_LEAST
    return PaillierCrypto(key=private_key, exponents=Exponents.FULL if is_few else Exponents.HALF)


def _joined(pieces: list[int]) -> int:
    whole = 0
    for piece in pieces:
        whole = (whole << _PIECE_BITS) + piece
    return int(whole % ORDER)


def _ciphertexts_in(blocks: Iterable[Buffer], size: int) -> Iterator[tuple[Buffer, list[int]]]:
    """Give each block, and the ciphertexts that end in it."""
    rest = b""
    for block in blocks:
        content = rest + bytes(block)
        whole = len(content) // size * size
        starts = range(0, whole, size)
        yield block, [int.from_bytes(content[at : at + size], "big") for at in starts]
        rest = content[whole:]


def _to_bytes(ciphertexts: Iterable[int], public_key: PaillierPublicKey) -> NDArray[np.uint8]:
    size = public_key.ciphertext_size
    content = b"".join(int(each).to_bytes(size, "big") for each in ciphertexts)
    return np.frombuffer(content, np.uint8)
