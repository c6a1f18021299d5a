"""A round that could not keep what it promises cannot be described."""

from dataclasses import replace

import pytest

from kumiai.core.errors import SecureAggregationError
from kumiai.crypto.norm_statement import NormStatement
from kumiai.crypto.signatures import Ed25519Signer
from kumiai.secagg.descriptor import Member, Proofs, RoundDescriptor
from kumiai.secagg.parameters import Adversary
from tests.secagg.rounds import COORDINATOR, describe, signers_of

SIGNERS = signers_of(10)
MANY = signers_of(210)
NORM = {"proofs": Proofs.NORM, "ring_bits": 64, "weight_bound": 1 << 20}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"run_id": ""}, "run_id must be printable"),
        ({"round_id": bytes(15)}, "round_id must be 16 bytes, got 15"),
        ({"clip": 0.0}, "clip must be a finite number above 0"),
        ({"norm_bound": float("inf")}, "norm_bound must be a finite number above 0"),
        ({"threshold": 1}, "threshold must be 2 to"),
        ({"dimension": 0}, "dimension must be 1 to"),
        ({"value_bits": 1}, "value_bits must be 2 to 24"),
        ({"value_bits": 25}, "value_bits must be 2 to 24"),
        ({"weight_bound": 0}, "weight_bound must be 1 to"),
        ({"ring_bits": 16}, "ring_bits must be 32 or 64, got 16; use 32"),
        ({"norm_bound": 1e300}, "norm_bound must be less than 2^128 steps"),
        ({"clip": 1e-300}, "norm_bound must be less than 2^128 steps"),
        (
            {**NORM, "norm_bound": 1e12},
            "norm_bound must be provable for 37 numbers, got 1000000000",
        ),
        ({**NORM, "norm_bound": 1e9}, "weight_bound must be at most 22 in all for norms"),
        ({"coordinators": ()}, "coordinators must hold at least one"),
        ({"threshold": 8, "minimum_survivors": 7}, "threshold must be at most minimum_survivors 7"),
        ({"minimum_survivors": 11}, "minimum_survivors must be 3 to the 10 clients"),
        ({"threshold": 6}, "threshold must be at least 7 against a malicious coordinator"),
        ({"colluders": 7}, "colluders must be fewer than the threshold 7, got 7"),
        ({"degree": 3}, "degree must be even and below the 10 clients, got 3"),
        ({"degree": 10}, "degree must be even and below the 10 clients, got 10"),
        ({"degree": 4, "threshold": 5}, "threshold must be at most degree 4, got 5"),
        ({"noise_variance": 3}, "noise_variance must be an even number, got 3"),
        ({"noise_variance": 1 << 52}, "noise_variance must be 0 to"),
        ({"noise_variance": 2, "weight_bound": 2}, "weight_bound must be 1 in a round with noise"),
        (
            {"noise_variance": 2, "weight_bound": 1, "proofs": Proofs.NORM, "ring_bits": 64},
            "proofs must be sum or off in a round with noise",
        ),
        (
            {"noise_variance": 1 << 50, "weight_bound": 1},
            "ring_bits must be at least 34, got 32: 30 bits of value_bits and noise",
        ),
        ({"degree": 8}, "must keep the chance of seeing more than the sum below 2"),
    ],
)
def test_a_field_that_must_not_be_is_named_with_its_value(
    changes: dict[str, object], problem: str
) -> None:
    with pytest.raises(SecureAggregationError) as caught:
        describe(SIGNERS, **changes)

    assert problem in str(caught.value)


@pytest.mark.parametrize("norm_bound", [100.0, 1e3, 3.7e6])
def test_a_norm_proof_can_be_made_of_every_round_that_can_be_described(norm_bound: float) -> None:
    fields = {**NORM, "weight_bound": 1, "norm_bound": norm_bound}
    most = describe(SIGNERS, **fields).provable_weight
    roster = describe(SIGNERS).roster

    def statement(weight: int) -> NormStatement:
        bound = describe(SIGNERS, **fields).bound_squared
        return NormStatement(dimension=37, bound_squared=bound, weight=weight)

    describe(SIGNERS, **{**fields, "weight_bound": min(most, 1 << 31)})
    assert statement(most).projection_bits == 53
    with pytest.raises(ValueError, match="must be less than about 2"):
        statement(most + 1)
    with pytest.raises(SecureAggregationError, match=f"weight_bound must be at most {most} in all"):
        describe(
            SIGNERS,
            **{**fields, "weight_bound": most // 2 + 1},
            roster=(replace(roster[0], scale=2), *roster[1:]),
        )


def test_two_members_with_one_key_are_refused() -> None:
    twin = {**SIGNERS, "site-0003": SIGNERS["site-0002"]}
    coordinator = {**SIGNERS, COORDINATOR: SIGNERS["site-0002"]}

    for signers in (twin, coordinator):
        with pytest.raises(SecureAggregationError, match="verification key of its own"):
            describe(signers)


def test_the_roster_has_one_order() -> None:
    descriptor = describe(SIGNERS)

    with pytest.raises(SecureAggregationError, match="roster must increase"):
        replace(descriptor, roster=descriptor.roster[::-1])


def test_more_than_two_hundred_clients_need_a_sparse_graph() -> None:
    with pytest.raises(SecureAggregationError, match="degree must be given for more than 200"):
        describe(MANY)


def test_a_malicious_coordinator_may_not_drop_enough_to_cut_the_graph() -> None:
    fields: dict[str, object] = {"degree": 90, "threshold": 62, "colluders": 5}
    describe(MANY, **fields, minimum_survivors=130, adversary=Adversary.SEMI_HONEST)

    with pytest.raises(SecureAggregationError, match="must be more than 123 against a malicious"):
        describe(MANY, **fields, minimum_survivors=120)


def test_every_field_is_in_the_context() -> None:
    descriptor = describe(SIGNERS)
    changes: list[dict[str, object]] = [
        {"run_id": "run-b"},
        {"round_number": 8},
        {"round_id": bytes(16)},
        {"coordinators": (Member("other", Ed25519Signer.generate().public),)},
        {"roster": (replace(descriptor.roster[0], scale=2), *descriptor.roster[1:])},
        {"threshold": 8, "minimum_survivors": 8},
        {"minimum_survivors": 8},
        {"adversary": Adversary.SEMI_HONEST},
        {"colluders": 1},
        {"dimension": 38},
        {"ring_bits": 64},
        {"clip": 2.0},
        {"value_bits": 15},
        {"weight_bound": 7},
        {"norm_bound": 11.0},
    ]

    contexts = {replace(descriptor, **each).context() for each in changes}  # type: ignore[arg-type]

    assert len(contexts | {descriptor.context()}) == len(changes) + 1


def test_a_quorum_leaves_no_room_for_a_second_sum() -> None:
    sparse = describe(
        MANY,
        degree=100,
        threshold=70,
        colluders=5,
        minimum_survivors=200,
        adversary=Adversary.MALICIOUS,
    )

    assert describe(SIGNERS).quorum == 7
    assert sparse.quorum == 108
    assert replace(sparse, minimum_survivors=210).quorum == 108


def test_whoever_is_not_in_the_roster_has_no_place() -> None:
    with pytest.raises(SecureAggregationError, match="client must be in the round's roster"):
        describe(SIGNERS).index_of("stranger")


def test_bytes_of_a_round_that_must_not_be_are_refused() -> None:
    data = bytearray(describe(SIGNERS).encode())
    place = data.rindex((7).to_bytes(2, "little") * 2)
    data[place] = 3

    with pytest.raises(SecureAggregationError, match=r"threshold|survivors"):
        RoundDescriptor.decode(bytes(data))
