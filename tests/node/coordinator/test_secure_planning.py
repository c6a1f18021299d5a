"""A job and a cohort make a round, or an error that names the job's key, before anybody trains."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from kumiai.core.errors import ConfigError
from kumiai.crypto.norm_statement import NormStatement
from kumiai.node.coordinator.secure.planning import RoundNames, new_descriptor
from kumiai.node.job import parse_job
from kumiai.secagg import Adversary, Member, RoundDescriptor, Scheme

MEMBERS = [Member(f"site-{number}", bytes([number]) * 32) for number in range(1, 13)]


def planned(
    count: int = 4,
    *,
    dimension: int = 1000,
    rerun_of: RoundDescriptor | None = None,
    asynchronous: Mapping[str, Any] | None = None,
    scale: int = 1,
    **secure: Any,
) -> RoundDescriptor:
    job = parse_job(
        {
            "run": {"app": "digits"},
            "asynchronous": asynchronous,
            "secure_aggregation": {"mode": "masking"} | secure,
        }
    )
    return new_descriptor(
        job,
        RoundNames("run-a", 1, bytes(16)),
        roster=[replace(member, scale=scale) for member in MEMBERS[:count]],
        coordinator=Member("coordinator", bytes(32)),
        dimension=dimension,
        min_reports=count,
        rerun_of=rerun_of,
    )


def test_weights_have_all_the_room_that_the_ring_leaves() -> None:
    assert planned(4).weight_bound == 2**16 // 4
    assert planned(4, ring_bits=64).weight_bound == 2**31 - 1


def test_weights_leave_room_for_what_fresh_updates_count_in_an_asynchronous_run() -> None:
    asynchronous = {"group_size": 4}

    assert planned(4, asynchronous=asynchronous).weight_bound == 2**16 // (16 * 4)
    found = planned(
        ring_bits=64,
        verification="norm",
        norm_bound=1000.0,
        dimension=10**6,
        asynchronous=asynchronous,
        scale=16,
    )
    assert found.weight_bound == found.provable_weight // 16


def test_weights_stay_so_small_that_a_norm_can_be_proven() -> None:
    found = planned(ring_bits=64, verification="norm", norm_bound=1000.0, dimension=10**6)

    NormStatement(
        dimension=found.dimension, bound_squared=found.bound_squared, weight=found.weight_bound
    )
    assert 1 < found.weight_bound == found.provable_weight < 2**31 - 1


def test_a_round_with_a_key_trusts_its_coordinator_and_has_no_colluders() -> None:
    found = planned(10, mode="paillier")

    assert found.scheme is Scheme.PAILLIER
    assert found.adversary is Adversary.SEMI_HONEST
    assert (found.colluders, found.threshold, found.key_bits) == (0, 6, 3072)
    assert planned(10, mode="paillier", key_bits=2048).key_bits == 2048


@pytest.mark.parametrize(
    ("planning", "problem"),
    [
        (
            {"dimension": 10**6},
            r"phase_seconds must be at least 280 to decrypt 1000000 numbers .* got 30; raise it",
        ),
        (
            {"dimension": 2_000_001, "phase_seconds": 600},
            "dimension must be at most 2000000 with scheme paillier",
        ),
        ({"threshold": 2}, "threshold must be at least 3 with scheme paillier, got 2"),
    ],
)
def test_a_key_is_refused_where_it_does_not_fit(planning: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        planned(mode="paillier", **planning)


def test_more_clients_than_can_share_a_key_are_refused() -> None:
    names = [f"site-{number:03}" for number in range(201)]
    members = [Member(name, number.to_bytes(32, "little")) for number, name in enumerate(names, 1)]
    job = parse_job({"run": {"app": "digits"}, "secure_aggregation": {"mode": "paillier"}})

    with pytest.raises(ConfigError, match="roster must have at most 200 clients"):
        new_descriptor(
            job,
            RoundNames("run-a", 1, bytes(16)),
            roster=members,
            coordinator=Member("coordinator", bytes(32)),
            dimension=10,
            min_reports=201,
        )


def test_a_bound_that_cannot_be_proven_is_refused_before_the_round() -> None:
    problem = "secure_aggregation must fit 4 clients: norm_bound must be provable for 1000000"

    with pytest.raises(ConfigError, match=problem):
        planned(verification="norm", norm_bound=1e9, dimension=10**6, value_bits=24)


def test_a_group_of_a_wrong_sum_is_summed_whole_on_the_terms_of_the_whole() -> None:
    whole = planned(12, colluders=1, threshold=11)

    group = planned(4, colluders=1, threshold=11, rerun_of=whole)

    assert (whole.rerun_size, whole.minimum_survivors) == (3, 12)
    assert (group.rerun_size, group.colluders, group.minimum_survivors) == (3, 1, 4)
    assert group.threshold == 4


def test_the_smallest_group_is_as_large_as_the_job_asks_or_as_colluders_allow() -> None:
    assert planned(12).rerun_size == 4
    assert planned(12, colluders=0).rerun_size == 3
    assert planned(12, rerun_size=6).rerun_size == 6
    assert planned(12, rerun_size=0).rerun_size == 0
    assert planned(12, verification="off").rerun_size == 0
    with pytest.raises(ConfigError, match="rerun_size must be 0 or at least 4, got 3"):
        planned(12, rerun_size=3)
