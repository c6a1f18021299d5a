"""A sum that fails is narrowed down by halves, never below the minimum."""

import hashlib
from collections.abc import Collection, Sequence
from itertools import combinations
from typing import Any

import numpy as np
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


def explanations(groups: Sequence[Collection[str]], size: int) -> list[set[str]]:
    """Return who may have lied if so many did, by trying all."""
    clients = sorted({name for group in groups for name in group})
    sets = [set(chosen) for chosen in combinations(clients, size)]
    return [each for each in sets if all(each & set(group) for group in groups)]


def suspects_by_trying(groups: Sequence[Collection[str]]) -> set[str]:
    for size in range(1, 4):
        if found := explanations(groups, size):
            return set.intersection(*found)
    return set()


SMALL_GROUPS = st.lists(st.sets(st.sampled_from("abcdefg"), min_size=3, max_size=4), max_size=7)


@given(SMALL_GROUPS)
def test_suspects_are_in_every_smallest_explanation(groups: list[set[str]]) -> None:
    assert suspects(groups) == suspects_by_trying(groups)


@given(st.lists(st.sets(st.sampled_from("abcdef"), min_size=2, max_size=4), max_size=9))
def test_one_liar_brings_nobody_else_under_suspicion(others: list[set[str]]) -> None:
    assert suspects([each | {"liar"} for each in others]) <= {"liar"}


@given(st.lists(st.tuples(st.sampled_from("xyz"), SMALL_GROUPS.map(len), st.randoms()), max_size=9))
def test_liars_bring_fewer_others_under_suspicion_than_they_are(rounds: list[Any]) -> None:
    groups = [{liar, *chance.sample("abcde", 2 + size % 3)} for liar, size, chance in rounds]

    framed = suspects(groups) - set("xyz")

    assert len(framed) < max(1, len({liar for liar, _, _ in rounds}))


def test_a_liar_is_known_once_no_other_was_with_it_each_time() -> None:
    groups = [("a", "b", "c"), ("a", "b", "d"), ("e", "a", "f")]

    assert suspects(groups[:1]) == frozenset()
    assert suspects(groups[:2]) == frozenset()
    assert suspects(groups) == {"a"}
    assert suspects([*groups, *groups]) == {"a"}


def test_two_liars_that_lie_at_once_are_both_known() -> None:
    groups = [("a", "b", "c"), ("x", "y", "z"), ("a", "d", "e"), ("x", "f", "g")]
    more = [("a", "y", "f"), ("x", "b", "d")]

    assert suspects(groups) == {"a", "x"}
    assert suspects([*groups, *more]) == {"a", "x"}


def test_a_client_that_was_framed_is_cleared_by_the_next_wrong_sum() -> None:
    framing = [("liar", "victim", "c"), ("accomplice", "victim", "d")]

    assert suspects(framing) == {"victim"}
    assert suspects([*framing, ("liar", "e", "accomplice")]) == frozenset()


def test_more_than_three_liars_at_once_are_not_told_apart() -> None:
    def apart(count: int) -> list[tuple[str, ...]]:
        liars = [f"liar-{number}" for number in range(count)]
        return [(liar, f"{liar}-{time}", f"{liar}-{time}-too") for liar in liars for time in "ab"]

    assert suspects(apart(3)) == {"liar-0", "liar-1", "liar-2"}
    assert suspects(apart(4)) == frozenset()


def test_the_suspects_of_a_large_federation_are_found_without_trying_all_sets() -> None:
    names, chance = names_of(200), np.random.default_rng(5)
    groups = [set(chance.choice(names, 90, replace=False)) | {names[7]} for _ in range(64)]

    assert suspects(groups) == {names[7]}
