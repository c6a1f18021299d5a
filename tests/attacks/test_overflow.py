"""Sums at the very edge of the ring are exact; a ring one bit smaller cannot be described."""

import numpy as np
import pytest

from kumiai.core.errors import SecureAggregationError
from tests.secagg.rounds import Network, describe, signers_of


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("ring_bits", "value_bits", "weight_bound"),
    [(32, 16, 1 << 14), (32, 24, 1 << 6), (64, 24, 1 << 30)],
)
def test_all_at_the_largest_value_with_the_largest_weight_do_not_wrap(
    sign: int, ring_bits: int, value_bits: int, weight_bound: int
) -> None:
    network = Network(
        4,
        ring_bits=ring_bits,
        value_bits=value_bits,
        weight_bound=weight_bound,
        norm_bound=1e6,
        dimension=3,
    )
    network.updates = {
        name: (np.full(3, sign * 2.0, np.float32), weight_bound) for name in network.names
    }

    network.run()

    assert network.outcome is not None
    levels = 2 ** (value_bits - 1) - 1
    assert network.outcome.total.tolist() == [sign * 4 * weight_bound * levels] * 3
    assert np.array_equal(network.outcome.mean(), np.full(3, sign, np.float32))


@pytest.mark.parametrize(
    ("value_bits", "weight_bound"), [(16, (1 << 14) + 1), (17, 1 << 14), (24, 1 << 7)]
)
def test_what_could_wrap_cannot_be_described(value_bits: int, weight_bound: int) -> None:
    with pytest.raises(SecureAggregationError, match="ring_bits must be at least 33"):
        describe(signers_of(4), value_bits=value_bits, weight_bound=weight_bound)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_before_it_is_masked(value: float) -> None:
    network = Network(4)
    update, weight = network.updates.pop("site-0000")
    network.begin()
    network.deliver()
    update[5] = value

    with pytest.raises(SecureAggregationError, match="update must be finite"):
        network.clients["site-0000"].submit(update, weight)


@pytest.mark.parametrize("weight", [0, -1, 9])
def test_a_weight_out_of_its_bounds_is_refused(weight: int) -> None:
    network = Network(4)
    update, _ = network.updates.pop("site-0000")
    network.begin()
    network.deliver()

    with pytest.raises(SecureAggregationError, match="weight must be 1 to"):
        network.clients["site-0000"].submit(update, weight)
