"""Sizes of sparse graphs against published figures, and against counting."""

import math
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kumiai.secagg.parameters import (
    CORRECTNESS_LOG2,
    PRIVACY_LOG2,
    Adversary,
    GraphParameters,
    correctness_failure_log2,
    privacy_failure_log2,
    smallest_graph,
)

FOUND = [
    (100, 0.1, 0.1, (32, 11), (32, 22)),
    (500, 0.1, 0.1, (42, 24), (82, 57)),
    (1000, 0.1, 0.1, (46, 26), (96, 67)),
    (100, 0.2, 0.1, (42, 21), (42, 32)),
    (500, 0.2, 0.1, (60, 39), (116, 86)),
    (1000, 0.2, 0.1, (68, 43), (138, 102)),
    (500, 0.2, 0.3, (118, 56), (376, 239)),
]


@pytest.mark.parametrize(("count", "colluding", "dropping", "honest", "malicious"), FOUND)
def test_the_figures_are_those_of_the_setting_without_own_shares(
    count: int,
    colluding: float,
    dropping: float,
    honest: tuple[int, int],
    malicious: tuple[int, int],
) -> None:
    for adversary, figures in (
        (Adversary.SEMI_HONEST, honest),
        (Adversary.MALICIOUS, malicious),
    ):
        found = smallest_graph(
            count, colluding=colluding, dropping=dropping, adversary=adversary, own_shares=0
        )
        assert found == GraphParameters(*figures)


@pytest.mark.parametrize("adversary", list(Adversary))
def test_what_is_found_keeps_both_bounds_and_less_does_not(adversary: Adversary) -> None:
    found = smallest_graph(300, colluding=0.1, dropping=0.1, adversary=adversary)

    def privacy(degree: int, threshold: int) -> float:
        return privacy_failure_log2(
            300, colluders=30, dropouts=30, degree=degree, threshold=threshold, adversary=adversary
        )

    assert privacy(found.degree, found.threshold) <= PRIVACY_LOG2
    failure = correctness_failure_log2(300, 30, found.degree, found.threshold)
    assert failure <= CORRECTNESS_LOG2
    assert privacy(found.degree, found.threshold - 1) > PRIVACY_LOG2


def test_a_tail_is_the_share_of_all_draws_that_are_bad() -> None:
    marked, draws, least = set(range(4)), 5, 3
    sets = list(combinations(range(11), draws))
    bad = sum(len(marked & set(each)) >= least for each in sets)

    failure = privacy_failure_log2(
        12,
        colluders=4,
        dropouts=0,
        degree=draws,
        threshold=least,
        adversary=Adversary.SEMI_HONEST,
    )
    severed = math.log2(12 * math.comb(10, 2) / math.comb(12, 4))

    assert failure == pytest.approx(
        min(0.0, max(math.log2(12 * bad / len(sets)), severed)), abs=1e-9
    )


def test_where_half_of_the_graph_may_vanish_no_sparse_one_is_found() -> None:
    with pytest.raises(ValueError, match="use the complete graph"):
        smallest_graph(60, colluding=0.3, dropping=0.3, adversary=Adversary.MALICIOUS)


def test_a_threshold_that_two_stories_can_reach_fails_for_certain() -> None:
    failure = privacy_failure_log2(
        100, colluders=10, dropouts=0, degree=40, threshold=20, adversary=Adversary.MALICIOUS
    )

    assert failure == 0.0


def test_without_colluders_and_dropouts_nothing_can_fail() -> None:
    failure = privacy_failure_log2(
        100, colluders=0, dropouts=0, degree=4, threshold=3, adversary=Adversary.SEMI_HONEST
    )

    assert failure == -math.inf


def log2_of(chance: Fraction) -> float:
    if not chance:
        return -math.inf
    return min(0.0, math.log2(chance.numerator) - math.log2(chance.denominator))


def tail(population: int, marked: int, draws: int, least: int) -> Fraction:
    """Return the chance that so many of the draws are marked, counted in whole numbers."""
    ways = sum(
        math.comb(marked, drawn) * math.comb(population - marked, draws - drawn)
        for drawn in range(least, draws + 1)
    )
    return Fraction(ways, math.comb(population, draws))


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    count = draw(st.integers(6, 120))
    few = draw(st.integers(1, count - 1))
    colluders = draw(st.integers(0, few))
    dropouts = draw(st.integers(0, min(few, count - 1 - colluders)))
    degree = 2 * draw(st.integers(1, (count - 1) // 2))
    return count, colluders, dropouts, degree, draw(st.integers(2, degree))


@settings(max_examples=400)
@example((7, 3, 0, 6, 2), Adversary.SEMI_HONEST)  # everybody is drawn
@given(graphs(), st.sampled_from(Adversary))
def test_the_bounds_are_those_that_whole_numbers_count(
    sizes: tuple[int, int, int, int, int], adversary: Adversary
) -> None:
    count, colluders, dropouts, degree, threshold = sizes
    least = threshold if adversary is Adversary.SEMI_HONEST else 2 * threshold - degree - 1
    rebuilt = tail(count - 1, colluders, degree, max(least, 0))
    removed, half = colluders + dropouts, degree // 2
    runs = math.comb(count - half, removed - half) if removed >= half else 0
    severed = Fraction(runs, math.comb(count, removed))

    privacy = privacy_failure_log2(
        count,
        colluders=colluders,
        dropouts=dropouts,
        degree=degree,
        threshold=threshold,
        adversary=adversary,
    )
    correctness = correctness_failure_log2(count, dropouts, degree, threshold)

    wanted = log2_of(count * max(rebuilt, severed))
    assert privacy == pytest.approx(wanted, abs=1e-8)
    gone = tail(count - 1, dropouts, degree, degree - threshold + 1)
    assert correctness == pytest.approx(log2_of(count * gone), abs=1e-8)


def test_chances_too_small_for_a_float_are_no_problem() -> None:
    failure = privacy_failure_log2(
        9_000,
        colluders=4_000,
        dropouts=0,
        degree=7_000,
        threshold=100,
        adversary=Adversary.SEMI_HONEST,
    )

    assert failure == 0.0


def test_without_colluders_two_shares_are_enough() -> None:
    found = smallest_graph(300, colluding=0.0, dropping=0.1, adversary=Adversary.SEMI_HONEST)

    assert found.threshold == 2


def test_the_words_of_adversaries_are_these() -> None:
    assert [each.value for each in Adversary] == ["semi-honest", "malicious"]
