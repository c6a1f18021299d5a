"""A program in the foreground cleans up whatever stops it."""

import asyncio
import os
import signal

import pytest

from kumiai.node.local.foreground import run_in_foreground


async def forever() -> None:
    await asyncio.Event().wait()


def test_the_exit_code_is_that_of_the_program() -> None:
    async def main() -> int:
        return 3

    assert run_in_foreground(main) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_the_program_clean_up(number: signal.Signals) -> None:
    cleaned: list[bool] = []

    async def main() -> int:
        try:
            os.kill(os.getpid(), number)
            await forever()
        finally:
            cleaned.append(True)
        return 0

    assert run_in_foreground(main) == 128 + number
    assert cleaned == [True]


def test_a_program_may_call_being_stopped_its_good_end() -> None:
    async def main() -> int:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await forever()
        except asyncio.CancelledError:
            return 0
        return 1

    assert run_in_foreground(main) == 0


def test_a_second_signal_ends_the_cleaning_as_well() -> None:
    async def main() -> int:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await forever()
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            await forever()
        return 0

    assert run_in_foreground(main) == 128 + signal.SIGINT


def test_a_cancellation_of_its_own_is_not_taken_for_a_signal() -> None:
    async def main() -> int:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run_in_foreground(main)
