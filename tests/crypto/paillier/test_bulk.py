import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier import (
    EncryptedVector,
    Exponents,
    PaillierCrypto,
    RandomiserPool,
    SlotLayout,
)
from kumiai.crypto.paillier.bulk import decrypt_all, encrypt_all
from kumiai.crypto.paillier.randomisers import new_source
from tests.crypto.paillier.some_keys import SMALL_KEY, SmallPublicKey, real_key

LAYOUT = SlotLayout(value_bits=8, summand_count_max=2)


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    # Not by fork: the parent of the tests has threads.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


class CountingExecutor(Executor):
    """Does the work when its result is asked for, and counts what waits."""

    def __init__(self) -> None:
        self.waiting = 0
        self.waiting_max = 0

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.waiting += 1
        self.waiting_max = max(self.waiting, self.waiting_max)
        executor = self

        class Lazy(Future[Any]):
            def result(self, timeout: float | None = None) -> Any:
                executor.waiting -= 1
                return work(*args, **kwargs)

        return Lazy()


class CountedSource:
    """Counts what is computed on the spot."""

    def __init__(self) -> None:
        self.count = 0

    def draw(self) -> int:
        self.count += 1
        return 1


def test_a_process_encrypts_and_another_way_of_decrypting_agrees(processes: Executor) -> None:
    holder = PaillierCrypto(key=real_key())
    anybody = PaillierCrypto(key=real_key().public_key, exponents=Exponents.SHORT)
    plain = np.arange(-100, 100) % 100

    vectors = [each.encrypt_many(plain, LAYOUT, executor=processes) for each in (holder, anybody)]

    assert holder.decrypt_many(vectors[0]).tolist() == plain.tolist()
    assert holder.decrypt_many(vectors[1], executor=processes).tolist() == plain.tolist()
    assert set(vectors[0].ciphertexts).isdisjoint(vectors[1].ciphertexts)


def test_a_forged_ciphertext_is_refused_by_the_process_that_decrypts(processes: Executor) -> None:
    crypto = PaillierCrypto(key=real_key())
    forged = EncryptedVector(crypto.public_key, LAYOUT, 1, 1, (real_key().primes[0],))

    with pytest.raises(CryptoError, match="share no factor"):
        crypto.decrypt_many(forged, executor=processes)


def test_a_process_draws_randomisers_ahead(processes: Executor) -> None:
    crypto = PaillierCrypto(key=real_key())
    source = CountedSource()
    pool = RandomiserPool(
        source, crypto.public_key, Exponents.SHORT, processes, size=4, batch_count=4
    )
    processes.submit(int).result()  # after the batch, since there is one worker

    drawn = [pool.draw() for _ in range(4)]

    assert source.count == 0
    assert len(set(drawn)) == 4
    assert [real_key().raw_decrypt(each) for each in drawn] == [0] * 4


def test_few_chunks_wait_and_all_come_in_order() -> None:
    executor = CountingExecutor()
    public_key = SMALL_KEY.public_key
    source = new_source(public_key, Exponents.HALF)
    taken: list[int] = []

    def plaintexts() -> Iterator[int]:
        for index in range(5000):
            taken.append(index)
            yield index

    ciphertexts = encrypt_all(
        public_key, plaintexts(), source, exponents=Exponents.HALF, executor=executor
    )
    first = next(iter(ciphertexts))

    assert SMALL_KEY.raw_decrypt(first) == 0
    assert len(taken) == 32 * 64
    found = [SMALL_KEY.raw_decrypt(each) for each in ciphertexts]
    assert found == list(range(1, 5000))
    assert executor.waiting_max == 32


def test_workers_draw_with_the_exponents_that_they_are_told() -> None:
    # Only full ones are sound with a key that is not known to be a Blum key.
    public_key = SmallPublicKey(SMALL_KEY.public_key.n)
    source = new_source(public_key, Exponents.FULL)

    def encrypted(exponents: Exponents) -> list[int]:
        executor = CountingExecutor()
        return [*encrypt_all(public_key, [7], source, exponents=exponents, executor=executor)]

    assert [SMALL_KEY.raw_decrypt(each) for each in encrypted(Exponents.FULL)] == [7]
    with pytest.raises(CryptoError, match="exponents must be 'full'"):
        encrypted(Exponents.HALF)


def test_nothing_is_encrypted_and_decrypted_to_nothing() -> None:
    executor = CountingExecutor()
    public_key = SMALL_KEY.public_key
    source = new_source(public_key, Exponents.HALF)

    none = encrypt_all(public_key, [], source, exponents=Exponents.HALF, executor=executor)

    assert list(none) == []
    assert list(decrypt_all(SMALL_KEY, [], executor=executor)) == []
    assert list(decrypt_all(SMALL_KEY, [], executor=None)) == []
