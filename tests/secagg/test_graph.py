"""Who masks towards whom."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.secagg.graph import complete_graph, sparse_graph


def test_in_the_complete_graph_everybody_holds_everybodys_shares() -> None:
    graph = complete_graph([5, 1, 3])

    assert graph.neighbours(3) == (1, 5)
    assert [graph.place(1, holder) for holder in (1, 3, 5)] == [1, 2, 3]


@given(
    st.sets(st.integers(0, 60), min_size=3, max_size=40),
    st.integers(1, 6).map(lambda half: 2 * half),
    st.binary(min_size=32, max_size=32),
)
def test_neighbours_are_mutual_connected_and_as_many_as_asked(
    members: set[int], degree: int, seed: bytes
) -> None:
    graph = sparse_graph(sorted(members), degree, seed)

    wanted = min(degree, len(members) - 1)
    reached, waiting = set(), [min(members)]
    while waiting:
        index = waiting.pop()
        reached.add(index)
        neighbours = graph.neighbours(index)
        assert len(neighbours) == wanted or len(members) <= degree + 1
        assert all(index in graph.holders[peer] for peer in neighbours)
        waiting += [peer for peer in neighbours if peer not in reached]
    assert reached == members
    assert graph == sparse_graph(sorted(members, reverse=True), degree, seed)


def test_another_seed_gives_another_ring() -> None:
    graphs = {sparse_graph(range(50), 4, bytes([seed]) * 32).holders[0] for seed in range(20)}

    assert len(graphs) > 15


def test_each_is_a_neighbour_of_each_equally_often() -> None:
    count, degree, rounds = 12, 4, 2000
    times = [0] * count
    for seed in range(rounds):
        graph = sparse_graph(range(count), degree, seed.to_bytes(32, "little"))
        for peer in graph.neighbours(0):
            times[peer] += 1

    wanted = rounds * degree / (count - 1)
    assert all(abs(each - wanted) < 6 * wanted**0.5 for each in times[1:])


def test_whoever_holds_no_share_has_no_place() -> None:
    graph = sparse_graph(range(50), 4, bytes(32))
    stranger = next(index for index in range(50) if index not in graph.holders[0])

    with pytest.raises(ValueError, match="not in tuple"):
        graph.place(0, stranger)


def test_the_ring_of_a_seed_is_this_one() -> None:
    seed = bytes(range(32))

    def rank(index: int) -> bytes:
        data = b"kumiai/secagg/ring/v1/" + seed + index.to_bytes(4, "little")
        return hashlib.sha256(data).digest()

    ring = sorted(range(9), key=rank)
    graph = sparse_graph(range(9), 4, seed)

    for place, index in enumerate(ring):
        around = [ring[(place + step) % 9] for step in (-2, -1, 0, 1, 2)]
        assert graph.holders[index] == tuple(sorted(around))
    assert ring != sorted(ring)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_a_ring_that_would_meet_itself_is_the_complete_graph(count: int) -> None:
    assert sparse_graph(range(count), 4, bytes(32)) == complete_graph(range(count))
    assert sparse_graph(range(6), 4, bytes(32)) != complete_graph(range(6))
