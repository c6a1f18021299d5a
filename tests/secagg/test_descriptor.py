"""A round that could not keep what it promises cannot be described."""

import hashlib
import math
import struct
from dataclasses import replace
from typing import Any

import pytest

from kumiai.core.errors import SecureAggregationError
from kumiai.crypto.norm_statement import NormStatement
from kumiai.crypto.signatures import Ed25519Signer
from kumiai.secagg.descriptor import (
    KEY_BITS,
    PROTOCOL_VERSION,
    Member,
    Proofs,
    RoundDescriptor,
    Scheme,
)
from kumiai.secagg.parameters import Adversary
from tests.secagg.forms import changed_at, size
from tests.secagg.rounds import COORDINATOR, PAILLIER, describe, names_of, signers_of

SIGNERS = signers_of(10)
MANY = signers_of(210)
NORM = {"proofs": Proofs.NORM, "ring_bits": 64, "weight_bound": 1 << 20}
TRUSTED: dict[str, Any] = {"adversary": Adversary.SEMI_HONEST, "colluders": 0}
QUIET: dict[str, Any] = {"noise_variance": 2, "weight_bound": 1}


def members(count: int, *scales: int) -> tuple[Member, ...]:
    """Return members with keys that nobody has, the first ones with these scales."""
    padded = (*scales, *(1,) * (count - len(scales)))
    return tuple(
        Member(name, name.encode().ljust(32, b"."), scale)
        for name, scale in zip(names_of(count), padded, strict=True)
    )


FIELDS: dict[str, Any] = {
    "run_id": "r",
    "round_number": 0x0102030405060708,
    "round_id": bytes(range(16)),
    "coordinators": (Member("c", b"C"), Member("d", b"D")),
    "roster": (Member("u", b"U", 2), Member("v", b"V"), Member("w", b"WW"), Member("x", b"X")),
    "threshold": 4,
    "minimum_survivors": 4,
    "adversary": Adversary.MALICIOUS,
    "colluders": 2,
    "degree": 0,
    "dimension": 0x10000001,
    "ring_bits": 64,
    "clip": 2.0,
    "value_bits": 17,
    "weight_bound": 0x01020304,
    "norm_bound": 0.5,
    "proofs": Proofs.SUM,
    "rerun_size": 4,
}
ROUND = b"".join(
    [
        *(size(1), b"r", bytes.fromhex("0807060504030201"), bytes(range(16))),
        *(size(2), size(1), b"c", size(1), b"C", size(1), size(1), b"d", size(1), b"D", size(1)),
        *(size(4), size(1), b"u", size(1), b"U", size(2), size(1), b"v", size(1), b"V", size(1)),
        *(size(1), b"w", size(2), b"WW", size(1), size(1), b"x", size(1), b"X", size(1)),
        *(b"\x04\0", b"\x04\0", b"\x02", b"\x02\0", b"\0\0", bytes.fromhex("0100001000000000")),
        *(b"\x40", struct.pack("<d", 2.0), b"\x11", bytes.fromhex("04030201")),
        *(struct.pack("<d", 0.5), b"\x02", b"\x04\0", bytes(8), b"\x01", b"\0\0"),
    ]
)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"run_id": ""}, "run_id must be printable"),
        ({"run_id": "x" * 129}, "length of run_id must be 0 to 128, got 129"),
        ({"round_number": 1 << 64}, f"round_number must be 0 to {2**64 - 1}, got"),
        ({"round_id": bytes(15)}, "round_id must be 16 bytes, got 15"),
        ({"clip": 0.0}, "clip must be a finite number above 0"),
        ({"norm_bound": float("inf")}, "norm_bound must be a finite number above 0"),
        ({"threshold": 1}, "threshold must be 2 to 4096, got 1"),
        ({"threshold": 4097}, "threshold must be 2 to 4096, got 4097"),
        ({"minimum_survivors": 4097}, "minimum_survivors must be 0 to 4096, got 4097"),
        ({"colluders": 4097}, "colluders must be 0 to 4096, got 4097"),
        ({"degree": 4097}, "degree must be 0 to 4096, got 4097"),
        ({"rerun_size": 4097}, "rerun_size must be 0 to 4096, got 4097"),
        ({"dimension": 0}, "dimension must be 1 to 4294967296, got 0"),
        ({"dimension": 2**32 + 1}, "dimension must be 1 to 4294967296, got 4294967297"),
        ({"value_bits": 1}, "value_bits must be 2 to 24, got 1"),
        ({"value_bits": 25}, "value_bits must be 2 to 24, got 25"),
        ({"weight_bound": 0}, "weight_bound must be 1 to 4294967295, got 0"),
        ({"key_bits": 65536}, "key_bits must be 0 to 65535, got 65536"),
        ({"ring_bits": 256}, "ring_bits must be 0 to 255, got 256"),
        ({"ring_bits": 16}, "ring_bits must be 32 or 64, got 16; use 32"),
        ({"norm_bound": 1e300}, "norm_bound must be less than 2^128 steps"),
        ({"clip": 1e-300}, "norm_bound must be less than 2^128 steps"),
        ({"norm_bound": 2.0**128, "value_bits": 2}, "norm_bound must be less than 2^128 steps"),
        (
            {**NORM, "norm_bound": 1e12},
            "norm_bound must be provable for 37 numbers, got 1000000000",
        ),
        ({**NORM, "norm_bound": 1e9}, "weight_bound must be at most 22 in all for norms"),
        ({"coordinators": ()}, "coordinators must hold at least one"),
        ({"coordinators": members(17)}, "count of coordinators must be 0 to 16, got 17"),
        ({"coordinators": members(2)[::-1]}, "coordinators must increase"),
        ({"roster": members(4097)}, "count of roster must be 0 to 4096, got 4097"),
        ({"roster": (Member("x" * 129, b"k"),)}, "length of name must be 0 to 128, got 129"),
        (
            {"roster": (Member("x", bytes(513)),)},
            "length of verification_key must be 0 to 512, got 513",
        ),
        ({"roster": members(10, 0)}, "scale must be 1 to 65536, got 0"),
        ({"roster": members(10, 65537)}, "scale must be 1 to 65536, got 65537"),
        (
            {"roster": members(10, 65528), "weight_bound": 1},
            (
                "ring_bits must be at least 33, got 32: 16 bits of value_bits and noise, and 17 "
                "for weights of up to 65537 in all"
            ),
        ),
        (
            {"roster": members(10, 39991), "weight_bound": 3},
            (
                "ring_bits must be at least 33, got 32: 16 bits of value_bits and noise, and 17 "
                "for weights of up to 120000 in all"
            ),
        ),
        ({"threshold": 8, "minimum_survivors": 7}, "threshold must be at most minimum_survivors 7"),
        ({"minimum_survivors": 11}, "minimum_survivors must be 3 to the 10 clients"),
        (
            {"minimum_survivors": 2, "threshold": 2, **TRUSTED},
            "minimum_survivors must be 3 to the 10 clients of the roster, got 2",
        ),
        (
            {**TRUSTED, "colluders": 6},
            "minimum_survivors must be at least 8, two more than colluders, got 7",
        ),
        ({"threshold": 6}, "threshold must be at least 7 against a malicious coordinator"),
        ({"colluders": 7}, "colluders must be fewer than the threshold 7, got 7"),
        ({"degree": 3}, "degree must be even and below the 10 clients, got 3"),
        ({"degree": 10}, "degree must be even and below the 10 clients, got 10"),
        ({"degree": 4, "threshold": 5}, "threshold must be at most degree 4, got 5"),
        ({"noise_variance": 3}, "noise_variance must be an even number, got 3"),
        ({"noise_variance": 1 << 52}, f"noise_variance must be 0 to {2**51}, got"),
        ({"noise_variance": 2, "weight_bound": 2}, "weight_bound must be 1 in a round with noise"),
        (
            {**QUIET, "roster": members(10, 1, 2)},
            "weight_bound must be 1 in a round with noise, and every scale, got 1 and 2",
        ),
        (
            {**QUIET, "proofs": Proofs.NORM, "ring_bits": 64},
            "proofs must be sum or off in a round with noise",
        ),
        (
            {"noise_variance": 1 << 50, "weight_bound": 1},
            "ring_bits must be at least 34, got 32: 30 bits of value_bits and noise",
        ),
        (
            {"degree": 8},
            "degree 8 and threshold 7 must keep the chance of seeing more than the sum below 2^-40",
        ),
        (
            {"proofs": Proofs.SUM, "rerun_size": 2, **TRUSTED},
            "rerun_size must be 0 or at least 3, got 2",
        ),
        (
            {"proofs": Proofs.SUM, "rerun_size": 4},
            "rerun_size must be 0 or at least 5, got 4",
        ),
        ({"rerun_size": 5}, "rerun_size must be 0 without proofs"),
        (
            {"rerun_size": 5, "proofs": Proofs.SUM, **PAILLIER},
            "rerun_size must be 0 without proofs, with scheme paillier",
        ),
        (
            {"rerun_size": 5, "proofs": Proofs.SUM, **QUIET},
            "rerun_size must be 0 without proofs, with scheme paillier and with noise, got 5",
        ),
        ({"key_bits": 2048}, "key_bits must be 0 with masks, got 2048; leave it out"),
        (
            {**PAILLIER, "key_bits": 1024},
            "key_bits must be one of 2048, 3072, 4096, got 1024; use 3072",
        ),
        (
            {**PAILLIER, "adversary": Adversary.MALICIOUS},
            "colluders must be 0 with scheme paillier, and the adversary semi-honest, got 0 and",
        ),
        (
            {**PAILLIER, "colluders": 1},
            "colluders must be 0 with scheme paillier, and the adversary semi-honest, got 1 and",
        ),
        (
            {**PAILLIER, "degree": 8},
            "roster must have at most 200 clients with scheme paillier, and degree be 0, got 10",
        ),
        (
            {**PAILLIER, "roster": members(201), "threshold": 101, "minimum_survivors": 101},
            "roster must have at most 200 clients with scheme paillier, and degree be 0, got 201",
        ),
        (
            {**PAILLIER, "ring_bits": 64},
            "ring_bits must be 32 with scheme paillier, got 64",
        ),
        (
            {**PAILLIER, "dimension": 2_000_001},
            "dimension must be at most 2000000 with scheme paillier, got 2000001",
        ),
        (
            {**PAILLIER, "threshold": 5},
            "threshold must be at least 6 with scheme paillier, got 5",
        ),
    ],
)
def test_a_field_that_must_not_be_is_named_with_its_value(
    changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SecureAggregationError) as caught:
        describe(SIGNERS, **changes)

    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize(
    "changes",
    [
        {"run_id": "x" * 128},
        {"coordinators": members(16)},
        {"roster": (*members(9), Member("x" * 128, bytes(512)))},
        {"roster": members(10, 65527), "weight_bound": 1},
        {"roster": members(10, 65536), "weight_bound": 1, "ring_bits": 64},
        {"noise_variance": 1 << 51, "weight_bound": 1, "ring_bits": 64},
        {"value_bits": 2, "norm_bound": math.nextafter(2.0**128, 0)},
        {**NORM, "weight_bound": 1, "norm_bound": 2.2e10},
        {"minimum_survivors": 3, "threshold": 3, **TRUSTED},
        {**TRUSTED, "colluders": 5},
        {"rerun_size": 3, "proofs": Proofs.SUM, **TRUSTED},
        {"rerun_size": 5, "proofs": Proofs.NORM},
        {"roster": members(200), "threshold": 134, "minimum_survivors": 134},
        {**PAILLIER, "roster": members(200), "threshold": 101, "minimum_survivors": 101},
        {**PAILLIER, "dimension": 2_000_000, "threshold": 6},
        *({**PAILLIER, "key_bits": key_bits} for key_bits in (2048, 3072, 4096)),
    ],
)
def test_rounds_at_the_edge_of_a_limit_can_be_described(changes: dict[str, Any]) -> None:
    describe(SIGNERS, **changes)


def test_the_bytes_of_a_round_are_these() -> None:
    descriptor = describe(SIGNERS, **FIELDS)

    assert descriptor.encode() == ROUND
    assert RoundDescriptor.decode(ROUND) == descriptor
    assert descriptor.context() == hashlib.sha256(b"kumiai/secagg/round/v1/" + ROUND).digest()
    assert PROTOCOL_VERSION == 2


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        (-49, "adversary must be 1 to 2, got 0"),
        (-14, "proofs must be 1 to 3, got 0"),
        (-3, "scheme must be 1 to 2, got 0"),
    ],
)
def test_bytes_that_are_no_choice_are_refused(place: int, problem: str) -> None:
    with pytest.raises(SecureAggregationError, match=f"^{problem}"):
        RoundDescriptor.decode(changed_at(ROUND, len(ROUND) + place, b"\0"))


def test_jobs_and_events_call_schemes_and_proofs_by_these_words() -> None:
    assert [each.value for each in Scheme] == ["masking", "paillier"]
    assert [each.value for each in Proofs] == ["off", "sum", "norm"]
    assert KEY_BITS == (2048, 3072, 4096)


def test_numbers_reach_what_their_bits_hold_and_twelve_deviations_of_noise_more() -> None:
    quiet, noisy = describe(SIGNERS), describe(SIGNERS, **{**QUIET, "noise_variance": 4})

    assert (quiet.levels, quiet.noised_levels, quiet.noised_bits) == (32767, 32767, 16)
    assert (noisy.levels, noisy.noised_levels, noisy.noised_bits) == (32767, 32767 + 24, 17)
    assert describe(SIGNERS, value_bits=2).levels == 1


def test_a_bound_in_steps_has_room_for_half_a_step_of_rounding_in_each_number() -> None:
    descriptor = describe(SIGNERS, value_bits=2, clip=4.0, norm_bound=12.0, dimension=16)

    assert descriptor.bound_squared == (3 + 2) ** 2


def test_an_upload_has_a_word_more_than_numbers_for_its_weight() -> None:
    assert describe(SIGNERS, dimension=16).upload_words == 17


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
    describe(MANY, **fields, minimum_survivors=120, adversary=Adversary.SEMI_HONEST)
    describe(MANY, **fields, minimum_survivors=124)

    with pytest.raises(SecureAggregationError, match="must be more than 123 against a malicious"):
        describe(MANY, **fields, minimum_survivors=123)


def test_a_secret_may_take_the_shares_of_all_neighbours() -> None:
    describe(MANY, degree=100, threshold=100, minimum_survivors=150, **TRUSTED)


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
    assert describe(SIGNERS, threshold=8, minimum_survivors=9, **TRUSTED).quorum == 8


def test_whoever_is_not_in_the_roster_has_no_place() -> None:
    with pytest.raises(SecureAggregationError, match="client must be in the round's roster"):
        describe(SIGNERS).index_of("stranger")
    assert describe(SIGNERS).index_of("site-0003") == 3


def test_bytes_of_a_round_that_must_not_be_are_refused() -> None:
    data = bytearray(describe(SIGNERS).encode())
    place = data.rindex((7).to_bytes(2, "little") * 2)
    data[place] = 3

    with pytest.raises(SecureAggregationError, match=r"threshold|survivors"):
        RoundDescriptor.decode(bytes(data))
