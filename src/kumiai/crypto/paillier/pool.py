"""A pool of randomisers that others compute ahead of time.

With one at hand, encryption costs two multiplications. An executor that the caller owns computes
them in batches, in threads or in processes; nothing here starts or waits for anything: each draw
takes what is ready, or else computes one on the spot.

A randomiser used twice tells the difference of two plaintexts. So each leaves the pool once, and a
process that was forked throws away what it inherited, the executor included, and computes its own.
"""

# A fork has to be seen without the caller's help, or forgetting it once would tell plaintexts.
import os
from collections import deque
from concurrent.futures import Executor, Future
from typing import NoReturn

from kumiai.crypto.paillier.keys import PaillierPublicKey
from kumiai.crypto.paillier.randomisers import Exponents, RandomiserSource, draw_many

__all__ = ["RandomiserPool"]


class RandomiserPool:
    """A source of randomisers that is ahead of its callers.

    Several threads may draw from one pool: taking from a deque is atomic.

    Args:
        source: computes a randomiser when none is ready.
        public_key: whose randomisers.
        exponents: how the executor's workers draw them.
        executor: where they are computed; its workers get only the public key.
        size: how many are kept ready; each takes ``public_key.ciphertext_size`` bytes.
        batch_count: how many a worker computes at a time.
    """

    def __init__(
        self,
        source: RandomiserSource,
        public_key: PaillierPublicKey,
        exponents: Exponents,
        executor: Executor,
        *,
        size: int,
        batch_count: int = 32,
    ) -> None:
        if size < 1 or batch_count < 1:
            raise ValueError(f"size and batch_count must be positive, got {size}, {batch_count}")
        self._source = source
        self._public_key = public_key
        self._exponents = exponents
        self._executor: Executor | None = executor
        self._size = size
        self._batch_count = min(batch_count, size)
        self._process_id = os.getpid()
        self._ready: deque[int] = deque()
        self._coming: deque[Future[list[int]]] = deque()
        self._refill()

    def draw(self) -> int:
        """Return one that is ready, or else compute one.

        Raises:
            BaseException: whatever ended a batch in the executor; the next draw goes on.
        """
        if os.getpid() != self._process_id:
            self._forget()
        self._refill()
        try:
            return self._ready.popleft()
        except IndexError:
            return self._source.draw()

    def ready_count(self) -> int:
        """Return how many may be drawn without computing."""
        if os.getpid() != self._process_id:
            self._forget()
        self._collect()
        return len(self._ready)

    def __repr__(self) -> str:
        return f"<RandomiserPool of {self._size} for {self._public_key!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a RandomiserPool cannot be pickled: each randomiser is used once")

    def _forget(self) -> None:
        self._ready.clear()
        self._coming.clear()
        self._executor = None  # its threads and pipes are the parent's
        self._process_id = os.getpid()

    def _refill(self) -> None:
        self._collect()
        if self._executor is None:
            return
        while len(self._ready) + self._batch_count * len(self._coming) < self._size:
            self._coming.append(
                self._executor.submit(
                    draw_many, self._public_key, self._exponents, self._batch_count
                )
            )

    def _collect(self) -> None:
        while True:
            try:
                batch = self._coming.popleft()
            except IndexError:
                return
            if not batch.done():
                self._coming.appendleft(batch)
                return
            self._ready.extend(batch.result())
