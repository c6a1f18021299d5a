"""Clients vanish at every phase: up to the threshold the sum stands, one more ends the round."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kumiai.secagg.messages import Kind, Unmasking, decode_body, read_envelope
from kumiai.secagg.parameters import Adversary
from tests.secagg.rounds import COORDINATOR, Network, assert_plain_sum, lose, names_of

ANSWERS = [
    Kind.ADVERTISEMENT,
    Kind.KEY_SHARES,
    Kind.MASKED_INPUT,
    Kind.AGREEMENT,
    Kind.UNMASKING,
    Kind.CONFIRMATION,
]


def survivors_of(losses: dict[str, Kind], count: int) -> tuple[str, ...]:
    early = {name for name, kind in losses.items() if kind <= Kind.MASKED_INPUT}
    return tuple(name for name in names_of(count) if name not in early)


@pytest.mark.parametrize("kind", ANSWERS)
def test_as_many_as_may_vanish_at_one_phase_without_harm(kind: Kind) -> None:
    network = Network(7)
    losses = dict.fromkeys(network.names[1:3], kind)
    lose(network, losses)

    network.run()

    assert_plain_sum(network)
    assert network.outcome is not None
    assert network.outcome.survivors == survivors_of(losses, 7)


@pytest.mark.parametrize("kind", ANSWERS)
def test_one_more_ends_the_round_without_a_secret_rebuilt(kind: Kind) -> None:
    network = Network(7)
    lose(network, dict.fromkeys(network.names[1:4], kind))

    network.run()

    assert network.outcome is None
    assert network.stopped is not None
    if kind < Kind.CONFIRMATION:  # only then is the sum taken out of its masks
        assert not network.server._is_unmasked


def test_before_the_threshold_is_reached_no_secret_has_enough_shares() -> None:
    network = Network(7)
    lose(network, dict.fromkeys(network.names[1:4], Kind.UNMASKING))

    network.run()

    unmaskings = [
        decode_body(envelope, Unmasking)
        for name in network.names
        for send in network.sent[name]
        if name not in network.lost
        and (envelope := read_envelope(send.message, network.descriptor)).kind is Kind.UNMASKING
    ]
    for author in range(7):
        held = [share for each in unmaskings for share in each.shares if share.author == author]
        assert len(held) < network.descriptor.threshold


@st.composite
def losses_of(draw: st.DrawFn) -> tuple[int, int, dict[str, Kind]]:
    count = draw(st.integers(3, 12))
    threshold = draw(st.integers(max(2, count // 2 + 1), count))
    vanishing = draw(
        st.lists(st.sampled_from(names_of(count)), unique=True, max_size=count - max(3, threshold))
    )
    return count, threshold, {name: draw(st.sampled_from(ANSWERS)) for name in vanishing}


@settings(max_examples=20)
@given(losses_of())
def test_whoever_vanishes_wherever_up_to_the_threshold_the_sum_is_exact(
    drawn: tuple[int, int, dict[str, Kind]],
) -> None:
    count, threshold, losses = drawn
    network = Network(
        count,
        threshold=threshold,
        minimum_survivors=max(3, threshold),
        adversary=Adversary.SEMI_HONEST,
        colluders=0,
        dimension=5,
    )
    lose(network, losses)

    network.run()

    assert_plain_sum(network)
    assert network.outcome is not None
    assert network.outcome.survivors == survivors_of(losses, count)


@pytest.mark.parametrize("count", [33, pytest.param(100, marks=pytest.mark.slow)])
def test_in_large_rounds_a_third_may_vanish_at_random_phases(count: int) -> None:
    rng = np.random.default_rng(count)
    network = Network(count, dimension=11)
    vanishing = rng.choice(network.names, count - network.descriptor.threshold, replace=False)
    losses = {str(name): ANSWERS[int(rng.integers(len(ANSWERS)))] for name in vanishing}
    lose(network, losses)

    network.run()

    assert_plain_sum(network)
    assert network.sent[COORDINATOR]
