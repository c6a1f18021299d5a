"""Whole rounds, from the first key to the last receipt."""

import numpy as np
import pytest

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.descriptor import Proofs
from kumiai.secagg.protocol import SecureAggregationProtocol
from tests.secagg.rounds import (
    VERIFIER,
    Network,
    describe,
    pedersen_proofs,
    signers_of,
    updates_of,
)


@pytest.mark.parametrize("count", [3, 4, 7, 10])
def test_the_sum_is_that_of_all_updates_bit_for_bit(count: int) -> None:
    network = Network(count)

    network.run()

    assert network.outcome is not None
    total, weight = network.plain_sum(tuple(network.names))
    assert np.array_equal(network.outcome.total, total)
    assert network.outcome.weight == weight
    assert sorted(network.receipts) == network.names


def test_a_round_in_one_process_gives_the_weighted_mean() -> None:
    signers = signers_of(5)
    descriptor = describe(signers)
    updates = updates_of(descriptor)

    result = SecureAggregationProtocol(VERIFIER).run(descriptor, signers, updates)

    weights = np.array([weight for _, weight in updates.values()], np.float64)
    wanted = weights @ np.stack([update for update, _ in updates.values()]) / weights.sum()
    assert np.allclose(result.outcome.mean(), wanted, atol=2 / 2**15)
    assert sorted(result.receipts) == sorted(updates)
    assert result.excluded == {}
    assert "receipts" not in repr(result)


def test_a_round_in_one_process_may_have_proofs() -> None:
    signers = signers_of(4)
    descriptor = describe(signers, proofs=Proofs.SUM)

    protocol = SecureAggregationProtocol(VERIFIER, pedersen_proofs())
    result = protocol.run(descriptor, signers, updates_of(descriptor))

    assert len(result.receipts) == 4


def test_a_client_without_an_update_drops_out_and_two_are_too_many() -> None:
    signers = signers_of(4)
    descriptor = describe(signers)
    updates = updates_of(descriptor)
    protocol = SecureAggregationProtocol(VERIFIER)
    del updates["site-0001"]

    result = protocol.run(descriptor, signers, updates)
    del updates["site-0002"]

    assert result.outcome.survivors == ("site-0000", "site-0002", "site-0003")
    with pytest.raises(SecureAggregationError, match="got none: collecting needs 3 clients, got 2"):
        protocol.run(descriptor, signers, updates)
