"""Noise has its law to the last bit, and no process ever repeats another's."""

import math
from fractions import Fraction
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kumiai.privacy import sampler
from kumiai.privacy.keystream import Keystream
from kumiai.privacy.laws import DiscreteGaussian, Law, Poisson
from kumiai.privacy.sampler import (
    _Candidates,
    _draw,
    discrete_gaussian,
    skellam,
    skellam_again,
)
from tests.privacy.statistics_of_noise import (
    KEY,
    P_VALUE_MIN,
    ChosenKeystream,
    counts_within,
    gaussian_weight,
    p_value_of_counts,
)

COUNT = 400_000
LARGE = Fraction(1 << 34) + Fraction(1, 3)


def keystream(number: int = 0) -> Keystream:
    return Keystream(number.to_bytes(32, "big"))


def bessel(order: int, argument: float) -> float:
    """Return exp(-argument) I_order(argument), by its series. Source: DLMF 10.25.2."""
    logarithm = math.log(argument / 2)
    return math.fsum(
        math.exp(
            (2 * k + order) * logarithm - argument - math.lgamma(k + 1) - math.lgamma(k + order + 1)
        )
        for k in range(900)
    )


def normal_cells(deviation: float, count: int = 200) -> NDArray[Any]:
    """Return borders between cells that are all equally likely for a normal number."""
    normal = NormalDist(0, deviation)
    return np.array([normal.inv_cdf(cell / count) for cell in range(1, count)])


def p_value_of_normal(numbers: NDArray[Any], deviation: float) -> float:
    cells = np.searchsorted(normal_cells(deviation), numbers + 0.5)
    return p_value_of_counts(np.bincount(cells, minlength=200).tolist(), [1 / 200] * 200)


# ----------------------------------------------------------------------------------------- the law


@pytest.mark.parametrize(
    ("variance", "limit"),
    [(Fraction(1, 4), 2), (Fraction(16, 25), 3), (Fraction(9), 12), (Fraction(1600), 130)],
)
def test_discrete_gaussian_numbers_come_as_often_as_they_should(
    variance: Fraction, limit: int
) -> None:
    numbers = discrete_gaussian(keystream(), COUNT, variance)

    weights = {x: gaussian_weight(x, variance) for x in range(-600, 601)}
    total = math.fsum(weights.values())
    expected = [weights[x] / total for x in range(-limit, limit + 1)]
    expected[0] += math.fsum(weights[x] for x in weights if x < -limit) / total
    expected[-1] += math.fsum(weights[x] for x in weights if x > limit) / total
    assert p_value_of_counts(counts_within(numbers, limit), expected) > P_VALUE_MIN


@pytest.mark.parametrize(("variance", "limit"), [(2, 5), (18, 15), (800, 80)])
def test_skellam_numbers_come_as_often_as_they_should(variance: int, limit: int) -> None:
    numbers = skellam(keystream(), COUNT, variance)

    weights = {x: bessel(abs(x), variance) for x in range(-limit - 150, limit + 151)}
    expected = [weights[x] for x in range(-limit, limit + 1)]
    expected[0] += math.fsum(weights[x] for x in weights if x < -limit)
    expected[-1] += math.fsum(weights[x] for x in weights if x > limit)
    assert p_value_of_counts(counts_within(numbers, limit), expected) > P_VALUE_MIN


@pytest.mark.parametrize("rate", [1, 30, 5_000, 9_000])
def test_poisson_numbers_come_as_often_as_they_should(rate: int) -> None:
    numbers = _draw(keystream(), Poisson(rate), COUNT) + rate

    counts = range(max(0, rate - 600), rate + 600)
    weights = [math.exp(n * math.log(rate) - rate - math.lgamma(n + 1)) for n in counts]
    # Neighbours are taken together until a cell is likely enough.
    cells, edges = [0.0], [counts[0]]
    for count, weight in zip(counts, weights, strict=True):
        if cells[-1] > 1e-3:
            cells.append(0.0)
            edges.append(count)
        cells[-1] += weight
    found = np.searchsorted(edges[1:], numbers, side="right")
    if cells[-1] < 1e-4:
        cells[-2:] = [sum(cells[-2:])]
        found = np.minimum(found, len(cells) - 1)
    assert p_value_of_counts(np.bincount(found, minlength=len(cells)).tolist(), cells) > P_VALUE_MIN


@pytest.mark.parametrize("power", [26, 34, 60, 80])
def test_wide_discrete_gaussian_numbers_fill_all_cells_of_a_normal_law(power: int) -> None:
    numbers = discrete_gaussian(keystream(), COUNT, Fraction(1 << power))

    assert p_value_of_normal(numbers, 2.0 ** (power / 2)) > P_VALUE_MIN


@pytest.mark.parametrize("power", [26, 34, 51])
def test_wide_skellam_numbers_fill_all_cells_of_a_normal_law(power: int) -> None:
    numbers = skellam(keystream(), COUNT, 1 << power)

    assert p_value_of_normal(numbers, 2.0 ** (power / 2)) > P_VALUE_MIN


@pytest.mark.parametrize("divisor", [2, 7, 1021])
def test_the_remainders_of_wide_noise_are_uniform(divisor: int) -> None:
    gaussian = discrete_gaussian(keystream(), COUNT, LARGE)
    difference = skellam(keystream(1), COUNT, 1 << 34)

    for numbers in (gaussian, difference):
        counts = np.bincount(numbers % divisor, minlength=divisor).tolist()
        assert p_value_of_counts(counts, [1 / divisor] * divisor) > P_VALUE_MIN


@pytest.mark.parametrize("variance", [Fraction(3), Fraction(1 << 20), LARGE])
def test_the_variance_of_discrete_gaussian_noise_is_its_parameter(variance: Fraction) -> None:
    numbers = discrete_gaussian(keystream(), COUNT, variance).astype(float)

    # Half the noise would be off by 280 of these deviations.
    assert abs(numbers.var() / float(variance) - 1) < 5 * math.sqrt(2 / COUNT)
    assert abs(numbers.mean()) < 5 * math.sqrt(float(variance) / COUNT)


def test_sums_of_skellam_shares_have_the_law_of_one() -> None:
    shares = [
        skellam(keystream(number), COUNT, variance) for number, variance in enumerate((2, 4, 12))
    ]

    total = sum(shares, np.zeros(COUNT, np.int64))

    expected = [bessel(abs(x), 18) for x in range(-40, 41)]
    inner = [math.fsum(expected[:26]), *expected[26:55], math.fsum(expected[55:])]
    assert p_value_of_counts(counts_within(total, 15), inner) > P_VALUE_MIN


def test_neighbouring_numbers_have_nothing_to_do_with_each_other() -> None:
    numbers = discrete_gaussian(keystream(), COUNT, LARGE) / math.sqrt(LARGE)

    for lag in (1, 2, 16_384):
        correlation = float(np.mean(numbers[lag:] * numbers[:-lag]))
        assert abs(correlation) < 5 / math.sqrt(COUNT)


def test_a_known_key_gives_known_noise() -> None:
    gaussian = discrete_gaussian(Keystream(KEY), 5, Fraction(1 << 32))
    difference = skellam(Keystream(KEY), 5, 1 << 32)

    assert gaussian.tolist() == [-33997, -2135, -55728, 18409, -18989]
    assert difference.tolist() == [-27954, 7751, -112083, 2009, 27775]


# -------------------------------------------------------------------------- what floats leave open

LAWS = [
    DiscreteGaussian(Fraction(1, 4)),
    DiscreteGaussian(Fraction(9)),
    DiscreteGaussian(LARGE),
    Poisson(1),
    Poisson(700),
    Poisson(1 << 33),
]


def words_for_open_draws() -> Any:
    other = Keystream(KEY)
    while True:
        yield other.draw_word()


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_exact_way_decides_as_the_quick_one_does(law: Law) -> None:
    quick = _Candidates(ChosenKeystream(words_for_open_draws()), law)
    exact = _Candidates(ChosenKeystream(words_for_open_draws()), law)
    exact._band = 2.0

    accepted = exact.accepted(600)

    assert accepted.tolist() == quick.accepted(600).tolist()
    assert 400 < accepted.size <= 600


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize(("further", "expected"), [(-64, True), (64, False)])
def test_a_uniform_number_next_to_the_probability_is_decided_by_its_last_bit(
    law: Law, further: int, expected: bool
) -> None:
    envelope = _Candidates(keystream(), law)._envelope
    step = 1  # next to the mode, upwards
    offset = 1 << envelope.width_bits
    low, high = law.weight_bounds(offset, 400)
    # The first 192 bits of the probability, and a few units of the last less or more.
    probability = ((low + high) // 2 * envelope.unit // envelope.masses[step]) >> (400 - 192)
    bits = probability + further
    first, words = bits >> 128, [(bits >> 64) % 2**64, bits % 2**64]

    candidates = _Candidates(ChosenKeystream(words), law)
    decided = candidates._is_below(offset, step, 0, first, 64)

    assert decided is expected
    # Both words were needed.
    with pytest.raises(StopIteration):
        candidates._keystream.draw_word()


def test_floats_can_nearly_always_decide() -> None:
    for law in LAWS:
        assert _Candidates(keystream(), law)._band < 2.0**-28


# Where the steps end at 6.6 deviations: further out the tails are drawn less than once in 2^40.
TAIL_COUNT = 1_500
TAILED = [DiscreteGaussian(Fraction(23_700)), Poisson(6_000), Poisson(23_700)]


@pytest.mark.parametrize("law", TAILED, ids=str)
@pytest.mark.parametrize("side", [0, 1])
def test_the_tails_have_their_law(law: Law, side: int) -> None:
    candidates = _Candidates(keystream(), law)
    envelope = candidates._envelope
    tail = envelope.tails[side]
    drawn = [candidates._from_tail(side) for _ in range(TAIL_COUNT)]

    distances = np.array([tail.sign * (each - tail.first) for each in drawn if each is not None])

    weights = [law.weight_bounds(tail.first + tail.sign * k, 400)[0] / 2**400 for k in range(400)]
    total = math.fsum(weights)
    chance = (
        envelope.unit * total / (envelope.masses[envelope.step_count + side] << envelope.width_bits)
    )
    assert abs(distances.size / TAIL_COUNT - chance) < 5 * math.sqrt(
        chance * (1 - chance) / TAIL_COUNT
    )
    assert distances.min() == 0
    cells = [0, 1, 2, 3, 4, 6, 8, 10, 400]
    expected = [math.fsum(weights[a:b]) / total for a, b in pairwise(cells)]
    counts = np.histogram(distances, cells)[0].tolist()
    assert p_value_of_counts(counts, expected) > P_VALUE_MIN


class EverySlot(Keystream):
    """Gives each slot of the alias table in turn, with the largest coin or the smallest."""

    __slots__ = ("_coin",)

    def __init__(self, coin: int) -> None:
        super().__init__(KEY)
        self._coin = coin

    def fill(self, words: NDArray[np.uint64]) -> None:
        half = words.size // 2
        words[:half] = (np.arange(half, dtype=np.uint64) << np.uint64(54)) | np.uint64(self._coin)
        words[half:] = (1 << 64) - 1


@pytest.mark.parametrize("coin", [0, (1 << 53) - 1])
@pytest.mark.parametrize("law", LAWS, ids=str)
def test_tails_and_refused_candidates_go_the_exact_way_within_a_block(law: Law, coin: int) -> None:
    candidates = _Candidates(EverySlot(coin), law)

    accepted = candidates.accepted(1024)

    # A uniform number just below 1 is refused everywhere but in the tails, which draw their own.
    up, down = candidates._envelope.tails
    assert all(each >= up.first or each <= down.first for each in accepted.tolist())


# ------------------------------------------------------------------------------- what is asked for


@pytest.mark.parametrize("size", [0, 1, 5, 16_383, 16_384, 16_385, 100_000])
def test_there_are_as_many_numbers_as_were_asked_for(size: int) -> None:
    assert discrete_gaussian(Keystream.fresh(), size, LARGE).shape == (size,)
    assert skellam(Keystream.fresh(), size, 1 << 32).shape == (size,)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="size must be at least 0, got -1"):
        discrete_gaussian(keystream(), -1, Fraction(4))


def test_an_odd_variance_is_refused_for_skellam_noise() -> None:
    with pytest.raises(ValueError, match="variance must be an even number, got 3"):
        skellam(keystream(), 4, 3)


def test_noise_that_must_be_sent_again_is_the_same_for_its_key_alone() -> None:
    noise = skellam_again(KEY, 1000, 1 << 32)

    assert skellam_again(KEY, 1000, 1 << 32).tolist() == noise.tolist()
    assert np.mean(skellam_again(KEY[::-1], 1000, 1 << 32) == noise) < 0.01


def test_a_coin_has_all_the_bits_that_a_slot_is_divided_by() -> None:
    assert int(sampler._COIN_MASK) == 2**53 - 1
