"""Failpoints: silent in production, heard by a test."""

from collections.abc import Iterator

import pytest

from kumiai.core import failpoints


@pytest.fixture(autouse=True)
def no_hook() -> Iterator[None]:
    yield
    failpoints.install(None)


def test_nothing_happens_without_a_hook() -> None:
    failpoints.reach("round.open.before")


def test_the_hook_hears_every_point_in_order() -> None:
    heard: list[str] = []
    failpoints.install(heard.append)

    failpoints.reach("round.open.before")
    failpoints.reach("round.open.after")

    assert heard == ["round.open.before", "round.open.after"]


def test_a_removed_hook_hears_nothing() -> None:
    heard: list[str] = []
    failpoints.install(heard.append)
    failpoints.install(None)

    failpoints.reach("round.open.before")

    assert heard == []


def test_what_the_hook_raises_reaches_the_program() -> None:
    def stop(name: str) -> None:
        raise KeyboardInterrupt(name)

    failpoints.install(stop)

    with pytest.raises(KeyboardInterrupt, match=r"round\.open\.after"):
        failpoints.reach("round.open.after")
