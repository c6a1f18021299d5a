"""No weight is above its step, and the alias table loses and adds nothing."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kumiai.privacy.envelope import Envelope, envelope_of
from kumiai.privacy.laws import DiscreteGaussian, Law, Poisson
from tests.privacy.test_laws import rates, variances

laws = st.one_of(variances.map(DiscreteGaussian), rates.map(Poisson))
BITS = 300


@pytest.fixture(autouse=True)
def nothing_is_remembered() -> None:
    """Let each test build its envelopes itself."""
    envelope_of.cache_clear()


def step_starts(envelope: Envelope) -> dict[int, int]:
    """Return the least offset of each step."""
    pairs = zip(envelope.steps.tolist(), envelope.starts.tolist(), strict=True)
    return {step: start for step, start in pairs if step < envelope.step_count}


def assert_is_below(law: Law, offset: int, unit: int, mass: int) -> None:
    _, high = law.weight_bounds(offset, BITS)
    assert unit * high <= mass << BITS


@given(law=laws)
@settings(max_examples=40)
def test_no_weight_is_above_its_step(law: Law) -> None:
    envelope = envelope_of(law)
    width = 1 << envelope.width_bits

    starts = step_starts(envelope)

    assert sorted(starts) == list(range(envelope.step_count))
    for step in list(starts)[::29] + list(starts)[-1:]:
        for offset in (starts[step], starts[step] + width - 1):
            assert_is_below(law, offset, envelope.unit, envelope.masses[step])


@given(law=laws, further=st.integers(0, 6))
@settings(max_examples=40)
def test_no_weight_of_a_tail_is_above_its_step(law: Law, further: int) -> None:
    envelope = envelope_of(law)

    for side, tail in enumerate(envelope.tails):
        shift = further + 1 + tail.width_bits - envelope.width_bits
        offset = tail.first + tail.sign * (further << tail.width_bits)
        mass = envelope.masses[envelope.step_count + side]
        assert_is_below(law, offset, envelope.unit << shift, mass)


@given(law=laws)
@settings(max_examples=40)
def test_steps_and_tails_lie_side_by_side_from_end_to_end(law: Law) -> None:
    envelope = envelope_of(law)
    width = 1 << envelope.width_bits

    starts = sorted(step_starts(envelope).values())

    up, down = envelope.tails
    assert np.all(np.diff(starts) == width)
    assert (down.first + 1, up.first) == (starts[0], starts[-1] + width)


@given(law=laws)
@settings(max_examples=40)
def test_the_alias_table_gives_each_step_exactly_its_mass(law: Law) -> None:
    envelope = envelope_of(law)
    slot = 1 << 53

    dealt = dict.fromkeys(range(len(envelope.masses)), 0)
    for index, threshold in enumerate(envelope.thresholds.tolist()):
        dealt[int(envelope.steps[2 * index])] += threshold
        dealt[int(envelope.steps[2 * index + 1])] += slot - threshold

    assert tuple(dealt.values()) == tuple(envelope.masses)
    assert sum(envelope.masses) == 1 << 63
    assert envelope.thresholds.dtype == np.uint64
    assert min(envelope.masses) >= 0


@given(law=laws)
@settings(max_examples=20)
def test_a_candidate_is_compared_with_its_weight_over_its_steps_mass(law: Law) -> None:
    envelope = envelope_of(law)
    count = envelope.step_count

    ratios = dict(zip(envelope.steps.tolist(), envelope.ratios.tolist(), strict=True))

    for step in range(count):
        assert ratios[step] == pytest.approx(envelope.unit / envelope.masses[step], rel=1e-15)
    # Floats decide nothing about a tail, and refuse what lies beyond the law.
    assert all(math.isnan(ratios[step]) for step in (count, count + 1))
    assert ratios[count + 2] == 0


@given(law=laws)
@settings(max_examples=20)
def test_the_error_is_that_of_the_costs_and_of_little_more(law: Law) -> None:
    envelope = envelope_of(law)

    of_costs = law.error(float(510 << envelope.width_bits))

    assert 2.0**-52 < envelope.error - of_costs < 2.0**-47


def total_weight(law: Law) -> float:
    """Return the sum of all weights, which is one over the probability of the mode."""
    if isinstance(law, Poisson):
        return math.exp(law.rate + math.lgamma(law.rate + 1) - law.rate * math.log(law.rate))
    return math.fsum(law.weight_bounds(offset, 64)[1] / 2**64 for offset in range(-99, 100))


@pytest.mark.parametrize(
    ("law", "least"),
    [
        (DiscreteGaussian(Fraction(1, 4)), 1 - 1e-9),
        (DiscreteGaussian(Fraction(9)), 1 - 1e-9),
        (Poisson(1), 1 - 1e-9),
        (Poisson(600), 1 - 1e-9),
        (Poisson(1 << 14), 0.97),
    ],
    ids=str,
)
def test_where_steps_are_one_wide_no_candidate_is_lost(law: Law, least: float) -> None:
    envelope = envelope_of(law)

    accepted = envelope.unit * total_weight(law) / 2 ** (63 + envelope.width_bits)

    assert least < accepted < 1 + 1e-9


@pytest.mark.parametrize("power", [28, 33, 34, 60])
def test_nearly_every_candidate_is_a_good_one(power: int) -> None:
    envelope = envelope_of(DiscreteGaussian(Fraction(1 << power)))

    total = math.sqrt(2 * math.pi * 2**power)

    assert 0.97 < envelope.unit * total / 2 ** (63 + envelope.width_bits) < 1


def test_the_tails_go_on_in_steps_of_one_number_each_their_own_way() -> None:
    up, down = envelope_of(DiscreteGaussian(Fraction(9))).tails

    assert (up.sign, down.sign) == (1, -1)


def test_an_envelope_is_shown_without_its_tables() -> None:
    shown = repr(envelope_of(Poisson(1)))

    assert not any(name in shown for name in ("array", "masses", "ratios", "steps", "starts"))
