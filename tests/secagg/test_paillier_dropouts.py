"""Rounds with a Paillier key in which clients vanish: the sum is that of those who are left."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kumiai.secagg.messages import Kind
from tests.secagg.rounds import assert_plain_sum, lose, names_of, paillier_network

BEFORE_UPLOADS = [Kind.ADVERTISEMENT, Kind.MASKED_INPUT]
AFTER_UPLOADS = [Kind.AGREEMENT, Kind.CONFIRMATION, Kind.OPENING]


@pytest.mark.parametrize("count", [12, 20])
def test_of_many_clients_the_sum_is_the_plain_sum_bit_for_bit(count: int) -> None:
    network = paillier_network(count)

    network.run()

    assert_plain_sum(network)
    assert network.outcome is not None
    assert network.outcome.survivors == tuple(names_of(count))


@st.composite
def losses_of(draw: st.DrawFn) -> tuple[int, dict[str, Kind]]:
    count = draw(st.integers(4, 20))
    most = count - max(3, count // 2 + 1)
    vanishing = draw(st.lists(st.sampled_from(names_of(count)), unique=True, max_size=most))
    kinds = st.sampled_from(BEFORE_UPLOADS + AFTER_UPLOADS)
    return count, {name: draw(kinds) for name in vanishing}


@settings(max_examples=10, deadline=None)
@given(losses_of())
def test_whoever_vanishes_wherever_up_to_the_threshold_the_sum_is_exact(
    drawn: tuple[int, dict[str, Kind]],
) -> None:
    count, losses = drawn
    network = paillier_network(count, dimension=5)
    lose(network, losses)

    network.run()

    assert_plain_sum(network)
    early = {name for name, kind in losses.items() if kind in BEFORE_UPLOADS}
    assert network.outcome is not None
    assert network.outcome.survivors == tuple(n for n in names_of(count) if n not in early)
