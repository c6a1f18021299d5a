"""Many plaintexts at once, if need be on several processors.

The executor is the caller's. Python's threads do not help here, since the numbers are small enough
for the interpreter's lock to be held throughout: ask for processes. A worker that encrypts gets the
public key and plaintexts; one that decrypts gets the primes, through the pipe to a process of ours.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from functools import lru_cache, partial
from itertools import islice

from kumiai.crypto.paillier.keys import PaillierPrivateKey, PaillierPublicKey
from kumiai.crypto.paillier.randomisers import Exponents, RandomiserSource, draw_many

__all__ = ["decrypt_all", "encrypt_all"]

_CHUNK_COUNT = 64
_CHUNKS_AHEAD = 32
"""How many chunks may wait in an executor: bounds the memory, and keeps as many processes busy."""

Chunk = list[int]


def encrypt_all(
    public_key: PaillierPublicKey,
    plaintexts: Iterable[int],
    source: RandomiserSource,
    *,
    exponents: Exponents,
    executor: Executor | None,
) -> Iterator[int]:
    """Give a ciphertext for each plaintext, in order.

    Args:
        public_key: the key.
        plaintexts: taken as they are needed.
        source: of randomisers, where there is no executor.
        exponents: how an executor's workers draw theirs.
        executor: where to encrypt, or ``None`` for here.
    """
    if executor is None:
        return (public_key.raw_encrypt(each, source.draw()) for each in plaintexts)
    return _mapped(executor, partial(_encrypt_chunk, public_key, exponents), plaintexts)


def decrypt_all(
    private_key: PaillierPrivateKey, ciphertexts: Iterable[int], *, executor: Executor | None
) -> Iterator[int]:
    """Give the plaintext modulo n of each ciphertext, in order.

    Raises:
        CryptoError: a number is no ciphertext under this key.
    """
    if executor is None:
        return map(private_key.raw_decrypt, ciphertexts)
    return _mapped(executor, partial(_decrypt_chunk, *private_key.primes), ciphertexts)


def _mapped(
    executor: Executor, work: Callable[[Chunk], Chunk], numbers: Iterable[int]
) -> Iterator[int]:
    remaining = iter(numbers)
    running: deque[Future[Chunk]] = deque()
    while True:
        while len(running) < _CHUNKS_AHEAD and (chunk := list(islice(remaining, _CHUNK_COUNT))):
            running.append(executor.submit(work, chunk))
        if not running:
            return
        yield from running.popleft().result()


def _encrypt_chunk(public_key: PaillierPublicKey, exponents: Exponents, chunk: Chunk) -> Chunk:
    randomisers = draw_many(public_key, exponents, len(chunk))
    return [
        public_key.raw_encrypt(plaintext, randomiser)
        for plaintext, randomiser in zip(chunk, randomisers, strict=True)
    ]


def _decrypt_chunk(p: int, q: int, chunk: Chunk) -> Chunk:
    key = _kept_key(p, q)
    return [key.raw_decrypt(each) for each in chunk]


@lru_cache(maxsize=1)
def _kept_key(p: int, q: int) -> PaillierPrivateKey:
    return PaillierPrivateKey(p, q)
