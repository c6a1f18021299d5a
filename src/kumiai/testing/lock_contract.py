"""What every lock back-end promises, as tests: subclass `LockContract`, lend a back-end.

The leases here are short and real, because the clocks of servers are.
"""

# ruff: noqa: D102, S101, SLF001 - the name of a test is its sentence, and a test asserts

import asyncio
import contextlib

import pytest

from kumiai.core.errors import ConflictError, FencedError
from kumiai.storage.cache.locks import Busy, DistributedLock, Grant, LockBackend

__all__ = ["LockContract"]

_TTL_SECONDS = 5.0
_SHORT_SECONDS = 0.25


class LockContract:
    """The tests; a subclass has a fixture ``backend`` without locks."""

    async def test_one_holds_a_lock_and_others_do_not(self, backend: LockBackend) -> None:
        lock = DistributedLock(backend, ttl_seconds=_TTL_SECONDS, timeout_seconds=0)

        async with (
            lock.acquire_context("a") as first,
            lock.acquire_context("a") as second,
            lock.acquire_context("b") as other,
        ):
            assert first
            assert first.is_held
            assert not second
            assert not second.is_held
            assert other

        async with lock.acquire_context("a") as third:
            assert third.token > first.token

    async def test_who_did_not_get_it_has_no_token(self, backend: LockBackend) -> None:
        lock = DistributedLock(backend, ttl_seconds=_TTL_SECONDS, timeout_seconds=0)

        async with lock.acquire_context("a"), lock.acquire_context("a") as second:
            with pytest.raises(ConflictError, match="must be held"):
                _ = second.token
            with pytest.raises(FencedError):
                await second.verify()

    async def test_of_many_one_at_a_time_and_tokens_grow(self, backend: LockBackend) -> None:
        lock = DistributedLock(backend, ttl_seconds=_TTL_SECONDS, timeout_seconds=60)
        inside = 0
        tokens: list[int] = []

        async def work() -> None:
            nonlocal inside
            async with lock.acquire_context("a") as held:
                assert held
                inside += 1
                assert inside == 1
                tokens.append(held.token)
                await asyncio.sleep(0)
                inside -= 1

        await asyncio.gather(*(work() for _ in range(12)))

        assert tokens == sorted(set(tokens))
        assert len(tokens) == 12

    async def test_who_asks_first_gets_it_first(self, backend: LockBackend) -> None:
        lock = DistributedLock(backend, ttl_seconds=_TTL_SECONDS, timeout_seconds=60)
        order: list[int] = []

        async def work(number: int) -> None:
            async with lock.acquire_context("a"):
                order.append(number)

        async with lock.acquire_context("a"):
            tasks = []
            for number in range(5):
                tasks.append(asyncio.create_task(work(number)))
                await asyncio.sleep(0.1)  # so that each has its place before the next asks
        await asyncio.gather(*tasks)

        assert order == [0, 1, 2, 3, 4]

    async def test_nobody_passes_those_who_wait(self, backend: LockBackend) -> None:
        assert isinstance(await backend.acquire("a", "one", _TTL_SECONDS, waits=True), Grant)
        assert isinstance(await backend.acquire("a", "two", _TTL_SECONDS, waits=True), Busy)
        await backend.release("a", "one")

        assert isinstance(await backend.acquire("a", "three", _TTL_SECONDS, waits=False), Busy)
        assert isinstance(await backend.acquire("a", "two", _TTL_SECONDS, waits=True), Grant)

    async def test_who_waits_and_dies_is_passed_over(self, backend: LockBackend) -> None:
        await backend.acquire("a", "one", _TTL_SECONDS, waits=True)
        await backend.acquire("a", "dead", _TTL_SECONDS, waits=True)
        await backend.release("a", "one")
        lock = DistributedLock(backend, ttl_seconds=_TTL_SECONDS, timeout_seconds=10)

        async with lock.acquire_context("a") as held:
            assert held

    async def test_who_gives_up_leaves_the_queue(self, backend: LockBackend) -> None:
        lock = DistributedLock(backend, ttl_seconds=_TTL_SECONDS, timeout_seconds=0.05)

        async with lock.acquire_context("a"):
            async with lock.acquire_context("a") as late:
                assert not late
            waiting = asyncio.create_task(_hold(lock, "a"))
            await asyncio.sleep(0.02)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting

        async with lock.acquire_context("a", timeout_seconds=0) as held:
            assert held

    async def test_a_lock_is_free_after_a_body_that_failed(self, backend: LockBackend) -> None:
        lock = DistributedLock(backend, ttl_seconds=_TTL_SECONDS, timeout_seconds=0)

        with pytest.raises(KeyError):
            async with lock.acquire_context("a"):
                raise KeyError

        async with lock.acquire_context("a") as held:
            assert held

    async def test_a_dead_holder_loses_it_when_its_lease_ends(self, backend: LockBackend) -> None:
        first = await backend.acquire("a", "dead", _SHORT_SECONDS, waits=True)
        lock = DistributedLock(backend, ttl_seconds=_TTL_SECONDS, timeout_seconds=10)

        async with lock.acquire_context("a") as held:
            assert isinstance(first, Grant)
            assert held.token > first.token
            assert await backend.extend("a", "dead", _TTL_SECONDS) is False
            assert await backend.release("a", "dead") is False
            await held.verify()

    async def test_what_has_ended_is_not_revived(self, backend: LockBackend) -> None:
        await backend.acquire("a", "one", 0.05, waits=True)
        await asyncio.sleep(0.1)

        assert await backend.extend("a", "one", _TTL_SECONDS) is False
        assert await backend.release("a", "one") is False

    async def test_a_living_holder_keeps_it_for_longer_than_its_lease(
        self, backend: LockBackend
    ) -> None:
        # Long enough for a renewal to come in time on a machine that is busy.
        lock = DistributedLock(backend, ttl_seconds=_SHORT_SECONDS * 4, timeout_seconds=0)

        async with lock.acquire_context("a") as held:
            await asyncio.sleep(_SHORT_SECONDS * 10)

            async with lock.acquire_context("a") as second:
                assert not second
            assert held.is_held
            await held.verify()

    async def test_to_ask_again_gives_the_same_grant(self, backend: LockBackend) -> None:
        first = await backend.acquire("a", "one", _TTL_SECONDS, waits=True)

        assert await backend.acquire("a", "one", _TTL_SECONDS, waits=True) == first

    async def test_only_the_owner_releases_and_extends(self, backend: LockBackend) -> None:
        await backend.acquire("a", "one", _TTL_SECONDS, waits=True)

        assert await backend.release("a", "two") is False
        assert await backend.extend("a", "two", _TTL_SECONDS) is False
        assert await backend.extend("none", "one", _TTL_SECONDS) is False
        assert await backend.extend("a", "one", _TTL_SECONDS) is True
        assert await backend.release("a", "one") is True
        assert await backend.release("a", "one") is False

    async def test_a_holder_is_told_of_its_loss(self, backend: LockBackend) -> None:
        lock = DistributedLock(backend, ttl_seconds=_SHORT_SECONDS, timeout_seconds=0)

        async with lock.acquire_context("a") as held:
            await backend.release("a", held._owner)
            async with asyncio.timeout(10):
                await held.lost.wait()

            assert not held.is_held
            with pytest.raises(FencedError):
                await held.verify()

    async def test_verifying_tells_a_loss_at_once(self, backend: LockBackend) -> None:
        lock = DistributedLock(backend, ttl_seconds=_TTL_SECONDS, timeout_seconds=0)

        async with lock.acquire_context("a") as held:
            await backend.release("a", held._owner)
            assert held.is_held

            with pytest.raises(FencedError):
                await held.verify()
            assert not held.is_held

    async def test_names_are_any_text_of_some_length(self, backend: LockBackend) -> None:
        lock = DistributedLock(backend, ttl_seconds=_TTL_SECONDS, timeout_seconds=0)

        for name in ("x" * 200, "run:1/ü", "a'b\"c %s"):
            async with lock.acquire_context(name) as held:
                assert held
        for name in ("", "x" * 201, "{a}", "a\nb"):
            with pytest.raises(ValueError, match="name of a lock"):
                async with lock.acquire_context(name):
                    pass


async def _hold(lock: DistributedLock, name: str) -> None:
    async with lock.acquire_context(name, timeout_seconds=None):
        pass
