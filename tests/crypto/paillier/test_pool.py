import copy
import os
import secrets
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest

from kumiai.crypto.paillier import Exponents, PaillierCrypto, RandomiserPool
from kumiai.crypto.paillier.randomisers import new_source
from tests.alone import run_alone
from tests.crypto.paillier.some_keys import SMALL_KEY

KEY = SMALL_KEY.public_key


class ManualExecutor(Executor):
    """Does what waits when it is told to."""

    def __init__(self) -> None:
        self.tasks: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.tasks.append((future, lambda: work(*args, **kwargs)))
        return future

    def work(self) -> None:
        for future, task in self.tasks:
            future.set_result(task())
        self.tasks.clear()

    def fail(self) -> None:
        for future, _ in self.tasks:
            future.set_exception(OSError("the worker died"))
        self.tasks.clear()


class CountedSource:
    """Counts what is computed on the spot."""

    def __init__(self) -> None:
        self._source = new_source(KEY, Exponents.HALF)
        self.count = 0

    def draw(self) -> int:
        self.count += 1
        return self._source.draw()


def new_pool(
    executor: Executor, *, size: int = 8, batch_count: int = 4
) -> tuple[RandomiserPool, CountedSource]:
    source = CountedSource()
    pool = RandomiserPool(source, KEY, Exponents.HALF, executor, size=size, batch_count=batch_count)
    return pool, source


def test_what_was_computed_ahead_is_handed_out_and_replaced() -> None:
    executor = ManualExecutor()
    pool, source = new_pool(executor)
    executor.work()

    first = [pool.draw() for _ in range(8)]
    executor.work()
    second = [pool.draw() for _ in range(8)]

    assert source.count == 0
    assert len({*first, *second}) == 16
    assert {SMALL_KEY.raw_decrypt(each) for each in first + second} == {0}


def test_workers_draw_with_the_exponents_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = ManualExecutor()
    RandomiserPool(CountedSource(), KEY, Exponents.SHORT, executor, size=3)
    asked: list[int] = []
    monkeypatch.setattr(secrets, "randbits", lambda bits: asked.append(bits) or 5)

    executor.work()

    assert asked == [256] * 3


def test_an_empty_pool_computes_on_the_spot_and_waits_for_nobody() -> None:
    pool, source = new_pool(ManualExecutor())

    drawn = pool.draw()

    assert source.count == 1
    assert SMALL_KEY.raw_decrypt(drawn) == 0


def test_a_pool_asks_for_no_more_than_its_size() -> None:
    executor = ManualExecutor()
    pool, _ = new_pool(executor, size=8, batch_count=4)

    assert len(executor.tasks) == 2
    pool.draw()
    assert len(executor.tasks) == 2
    executor.work()
    assert pool.ready_count() == 8
    pool.draw()
    assert len(executor.tasks) == 0
    pool.draw()
    assert len(executor.tasks) == 1


def test_a_batch_is_never_larger_than_the_pool() -> None:
    executor = ManualExecutor()
    pool, _ = new_pool(executor, size=3, batch_count=32)

    executor.work()

    assert pool.ready_count() == 3


def test_a_batch_that_failed_is_told_once_and_asked_for_again() -> None:
    executor = ManualExecutor()
    pool, _ = new_pool(executor, size=4, batch_count=4)
    executor.fail()

    with pytest.raises(OSError, match="the worker died"):
        pool.draw()
    assert SMALL_KEY.raw_decrypt(pool.draw()) == 0
    executor.work()
    assert pool.ready_count() == 4


def in_a_child(act: Callable[[], bytes]) -> bytes:
    """Return what a forked child of this process found."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, act())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        found = file.read()
    os.waitpid(child, 0)
    return found


def test_a_forked_child_uses_nothing_that_it_inherited() -> None:
    run_alone(_use_nothing_inherited)


def _use_nothing_inherited() -> None:
    executor = ManualExecutor()
    pool, source = new_pool(executor)
    executor.work()
    assert pool.ready_count() == 8

    found = in_a_child(
        lambda: b" ".join(b"%d" % pool.draw() for _ in range(8)) + b" %d" % source.count
    )
    ours = [pool.draw() for _ in range(8)]

    *theirs, computed = (int(each) for each in found.split())
    assert computed == 8
    assert set(theirs).isdisjoint(ours)
    assert {SMALL_KEY.raw_decrypt(each) for each in theirs} == {0}


def test_a_forked_child_has_nothing_ready_and_asks_the_parents_executor_for_nothing() -> None:
    run_alone(_start_with_nothing_ready)


def _start_with_nothing_ready() -> None:
    executor = ManualExecutor()
    pool, _ = new_pool(executor)
    executor.work()

    def act() -> bytes:
        ready = pool.ready_count()
        pool.draw()
        return b"%d %d" % (ready, len(executor.tasks))

    assert in_a_child(act) == b"0 0"


def test_a_forked_child_forgets_once() -> None:
    run_alone(_forget_once)


def _forget_once() -> None:
    pool, _ = new_pool(ManualExecutor())

    def act() -> bytes:
        pool.draw()
        return b"%d" % (pool._process_id == os.getpid())

    assert in_a_child(act) == b"1"


def test_a_pool_may_be_as_small_as_one_and_fills_in_batches_of_32() -> None:
    smallest, usual = ManualExecutor(), ManualExecutor()

    new_pool(smallest, size=1, batch_count=1)
    RandomiserPool(CountedSource(), KEY, Exponents.HALF, usual, size=65)

    assert len(smallest.tasks) == 1
    assert len(usual.tasks) == 3
    usual.work()
    assert RandomiserPool(CountedSource(), KEY, Exponents.HALF, usual, size=64).ready_count() == 0
    assert len(usual.tasks) == 2


def test_parent_and_child_encrypt_the_same_number_to_different_ciphertexts() -> None:
    run_alone(_encrypt_the_same_in_parent_and_child)


def _encrypt_the_same_in_parent_and_child() -> None:
    executor = ManualExecutor()
    crypto = PaillierCrypto(key=SMALL_KEY)
    crypto.precompute(executor, size=4)
    executor.work()

    found = in_a_child(lambda: b"%d" % crypto.encrypt(42).limbs[0])
    ours = crypto.encrypt(42).limbs[0]

    n = KEY.n
    assert int(found) != ours
    assert int(found) % n != ours % n  # the randomiser alone
    assert SMALL_KEY.raw_decrypt(int(found)) == 42


def test_several_threads_never_get_the_same() -> None:
    with ThreadPoolExecutor(2) as workers, ThreadPoolExecutor(4) as callers:
        pool, _ = new_pool(workers, size=64, batch_count=8)

        drawn = list(callers.map(lambda _: pool.draw(), range(2000)))

    assert len(set(drawn)) == 2000


@pytest.mark.parametrize(("size", "batch_count"), [(0, 1), (1, 0), (-1, 1)])
def test_a_pool_of_nothing_is_refused(size: int, batch_count: int) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        new_pool(ManualExecutor(), size=size, batch_count=batch_count)


def test_a_pool_is_not_copied_and_shows_nothing() -> None:
    pool, _ = new_pool(ManualExecutor())

    assert repr(pool) == f"<RandomiserPool of 8 for {KEY!r}>"
    with pytest.raises(TypeError, match="used once"):
        copy.copy(pool)
