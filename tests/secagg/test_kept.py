"""What stays of a round makes its outcome again, and everybody's receipt."""

import numpy as np
import pytest

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg import verify_receipt
from kumiai.secagg.kept import KeptSum
from tests.secagg.rounds import VERIFIER, Network


@pytest.fixture(scope="module")
def network() -> Network:
    network = Network(12)
    del network.updates["site-0003"]
    network.run()
    return network


@pytest.fixture(scope="module")
def kept(network: Network) -> KeptSum:
    assert network.outcome is not None
    return KeptSum.of(network.outcome, bytes(32), network.server.proven)


def test_it_gives_the_outcome_again(network: Network, kept: KeptSum) -> None:
    expected = network.outcome
    assert expected is not None

    found = KeptSum.decode(kept.encode()).outcome(expected.total)

    assert (found.weight, found.step) == (expected.weight, expected.step)
    assert found.survivors == expected.survivors
    assert np.array_equal(found.mean(), expected.mean())


def test_every_survivor_has_the_receipt_that_it_got(network: Network, kept: KeptSum) -> None:
    read = KeptSum.decode(kept.encode())

    assert {name: read.find_receipt(name) for name in read.survivors} == network.receipts
    assert read.find_receipt("site-0003") is None
    roster = {each.name: each.verification_key for each in network.descriptor.roster}
    receipt = read.find_receipt("site-0011")
    assert receipt is not None
    assert verify_receipt(receipt, roster, verifier=VERIFIER).client == "site-0011"


def test_it_shows_no_message(kept: KeptSum) -> None:
    assert "evidence" not in repr(kept)
    assert "message" not in repr(kept)


def test_junk_is_refused() -> None:
    with pytest.raises(SecureAggregationError):
        KeptSum.decode(b"junk")
