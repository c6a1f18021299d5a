"""Rounds whose updates are committed to: the sum is checked by everybody."""

import numpy as np
import pytest

from kumiai.core.errors import ProofError
from kumiai.secagg.descriptor import Proofs
from tests.secagg.rounds import Network, describe, pedersen_proofs, signers_of


@pytest.mark.parametrize("mode", [Proofs.SUM, Proofs.NORM])
def test_a_proven_sum_is_that_of_all_updates_with_drop_outs_before_the_unmasking(
    mode: Proofs,
) -> None:
    network = Network(4, mode=mode)
    lost = network.names[2]
    del network.updates[lost]

    network.run()

    survivors = tuple(name for name in network.names if name != lost)
    assert network.outcome is not None, network.stopped
    assert network.outcome.survivors == survivors
    assert np.array_equal(network.outcome.total, network.plain_sum(survivors)[0])
    assert sorted(network.receipts) == sorted(survivors)


def test_a_proof_that_nobody_asked_for_is_refused() -> None:
    descriptor = describe(signers_of(4), proofs=Proofs.SUM)
    made = pedersen_proofs().commit(np.ones(38, np.int64), descriptor, b"")

    with pytest.raises(ProofError, match="proof must be empty in this round, got 1 bytes"):
        pedersen_proofs().verify_update(
            made.commitments, b"\0", 1, descriptor=descriptor, context=b""
        )


def test_commitments_of_another_length_are_refused() -> None:
    descriptor = describe(signers_of(4), proofs=Proofs.SUM)
    made = pedersen_proofs().commit(np.ones(38, np.int64), descriptor, b"")

    with pytest.raises(ProofError, match="commitments must have 99 bytes"):
        pedersen_proofs().verify_update(
            made.commitments[:-33], b"", 1, descriptor=descriptor, context=b""
        )


def test_a_proof_of_another_weight_or_round_is_refused() -> None:
    descriptor = describe(signers_of(4), proofs=Proofs.NORM)
    made = pedersen_proofs().commit(np.ones(38, np.int64), descriptor, b"here")

    def verify(weight: int, context: bytes) -> None:
        pedersen_proofs().verify_update(
            made.commitments, made.proof, weight, descriptor=descriptor, context=context
        )

    verify(1, b"here")
    for weight, context in ((2, b"here"), (1, b"there")):
        with pytest.raises(ProofError):
            verify(weight, context)


def test_a_sum_that_is_not_that_of_the_commitments_is_refused() -> None:
    descriptor = describe(signers_of(4), proofs=Proofs.SUM)
    ones, twos = (np.full(38, number, np.int64) for number in (1, 2))
    made = [pedersen_proofs().commit(each, descriptor, b"") for each in (ones, twos)]
    commitments = [each.commitments for each in made]
    blindings = [sum(both) for both in zip(*(each.blindings for each in made), strict=True)]

    pedersen_proofs().verify_sum(commitments, ones + twos, blindings)

    with pytest.raises(ProofError):
        pedersen_proofs().verify_sum(commitments, twos + twos, blindings)


def test_what_hides_the_commitments_stands_in_no_repr() -> None:
    descriptor = describe(signers_of(4), proofs=Proofs.SUM)
    made = pedersen_proofs().commit(np.ones(38, np.int64), descriptor, b"")

    assert str(made.blindings[0]) not in repr(made)
    with pytest.raises(TypeError, match="cannot be pickled"):
        made.__reduce__()
