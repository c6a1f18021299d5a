"""Who is asked for a round, and with which seed."""

from hypothesis import given
from hypothesis import strategies as st

from kumiai.node.coordinator.rounds import client_seed, select_cohort

clients = st.lists(st.text("abcdef123", min_size=1, max_size=4), min_size=1, unique=True)


@given(available=clients, wanted=st.integers(1, 20), seed=st.integers(0, 2**63 - 1))
def test_the_draw_depends_on_seed_round_and_clients_alone(
    available: list[str], wanted: int, seed: int
) -> None:
    chosen = select_cohort(available, wanted, run_seed=seed, round_number=3)

    assert chosen == select_cohort(available[::-1], wanted, run_seed=seed, round_number=3)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(wanted, len(available))
    assert set(chosen) <= set(available)


def test_rounds_draw_differently() -> None:
    available = [f"site-{number:03}" for number in range(100)]

    draws = {tuple(select_cohort(available, 10, run_seed=1, round_number=r)) for r in range(20)}

    assert len(draws) == 20


def test_every_client_is_drawn_about_equally_often() -> None:
    available = [f"site-{number}" for number in range(10)]
    drawn = [
        client
        for number in range(2_000)
        for client in select_cohort(available, 3, run_seed=7, round_number=number)
    ]

    assert all(480 <= drawn.count(client) <= 720 for client in available)


def test_seeds_fit_the_database_and_differ() -> None:
    seeds = [client_seed(5, number, f"site-{i}") for number in range(50) for i in range(20)]

    assert len(set(seeds)) == 1_000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert client_seed(5, 1, "site-1") == client_seed(5, 1, "site-1")
    assert client_seed(5, 1, "site-1") != client_seed(6, 1, "site-1")
