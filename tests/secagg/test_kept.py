"""What stays of a round makes its outcome again, and everybody's receipt."""

import struct

import numpy as np
import pytest

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg import verify_receipt
from kumiai.secagg.kept import KeptInput, KeptSum
from tests.secagg.forms import changed_at, size
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


SMALL = KeptSum(bytes(32), 7, 0.5, b"e", (KeptInput("a", b"m"), KeptInput("b", b"")))
FORM = b"".join(
    [
        bytes(32),
        (7).to_bytes(8, "little"),
        struct.pack("<d", 0.5),
        size(1) + b"e",
        size(2),
        size(1) + b"a" + size(1) + b"m",
        size(1) + b"b" + size(0),
    ]
)


def test_its_bytes_are_these() -> None:
    assert SMALL.encode() == FORM
    assert KeptSum.decode(FORM) == SMALL


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (FORM[:31], "total_digest must be 32 bytes, got the last 31"),
        (changed_at(FORM, 32, bytes(8)), "weight must be 1 to 18446744073709551615, got 0"),
        (changed_at(FORM, 40, bytes(8)), "step must be a finite number above 0, got 0"),
        (
            changed_at(FORM, 48, size(2**28 + 1)),
            "length of evidence must be 0 to 268435456, got 268435457",
        ),
        (changed_at(FORM, 53, size(4097)), "count of inputs must be 0 to 4096, got 4097"),
        (changed_at(FORM, 57, size(129)), "length of client must be 0 to 128, got 129"),
        (
            changed_at(FORM, 62, size(2**28 + 1)),
            "length of input must be 0 to 268435456, got 268435457",
        ),
        (changed_at(FORM, 61, b"b"), "inputs must increase"),
    ],
)
def test_what_is_beyond_a_limit_is_refused_by_its_name(data: bytes, problem: str) -> None:
    with pytest.raises(SecureAggregationError, match=f"^{problem}"):
        KeptSum.decode(data)
