"""A sum that fails is narrowed down by halves, never below the minimum."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.secagg.reruns import plan_rerun, rerun_groups, suspects
from tests.secagg.rounds import names_of


@given(st.integers(0, 200), st.integers(3, 20))
def test_every_client_goes_again_in_one_group_and_no_group_is_too_small(
    count: int, minimum: int
) -> None:
    clients = names_of(count)

    groups = plan_rerun(clients, minimum_size=minimum)

    if groups:
        assert [name for group in groups for name in group] == clients
        assert min(map(len, groups)) >= minimum
        assert max(map(len, groups)) - min(map(len, groups)) <= 1
    else:
        assert count < 2 * minimum


@given(st.integers(6, 100), st.integers(0, 99))
def test_one_cheat_costs_one_smallest_group_its_round(count: int, place: int) -> None:
    clients = names_of(count)
    cheat = clients[place % count]
    waiting, counted, lost = [tuple(clients)], set(), set()
    while waiting:
        group = waiting.pop()
        if cheat not in group:
            counted |= set(group)
            continue
        groups = plan_rerun(group, minimum_size=3)
        waiting += groups
        if not groups:
            lost |= set(group)

    assert cheat in lost
    assert len(lost) <= 5
    assert counted | lost == set(clients)


@pytest.mark.parametrize("minimum", [2, 1, 0])
def test_groups_in_which_a_sum_tells_too_much_are_refused(minimum: int) -> None:
    with pytest.raises(ValueError, match=f"minimum_size must be at least 3, got {minimum}"):
        plan_rerun(names_of(9), minimum_size=minimum)


def test_a_client_cannot_be_in_two_groups() -> None:
    with pytest.raises(ValueError, match="clients must all differ, got 1 twice"):
        plan_rerun(["a", "b", "a"], minimum_size=3)


def test_whoever_is_in_failing_groups_again_and_again_is_suspected() -> None:
    found = suspects([("a", "b", "c"), ("a", "d", "e"), ("e", "a", "f")])

    assert list(found.items()) == [("a", 3), ("e", 2)]


def test_the_groups_of_a_wrong_sum_are_these() -> None:
    names = [f"site-{number}" for number in range(7)]

    found = rerun_groups(names, agreement=bytes(range(32)), minimum_size=3)

    order = sorted(
        names,
        key=lambda name: hashlib.sha256(
            b"kumiai/secagg/rerun/v1/" + bytes(range(32)) + name.encode()
        ).digest(),
    )
    assert found == (tuple(sorted(order[:3])), tuple(sorted(order[3:])))
    assert any(group != tuple(names[:3]) for group in found)
    assert rerun_groups(names, agreement=bytes(32), minimum_size=0) == ()
    assert rerun_groups(names[:5], agreement=bytes(32), minimum_size=3) == ()


def test_suspects_come_by_how_often_and_then_by_name() -> None:
    groups = [("c", "b", "a"), ("c", "b", "x"), ("c", "a", "y")]

    assert list(suspects(groups).items()) == [("c", 3), ("a", 2), ("b", 2)]
