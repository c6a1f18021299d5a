"""Clients come when they are ready: groups of their own, stale updates count less."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.buffering import (
    FRESH_SCALE,
    BufferPolicy,
    TrainedAhead,
    next_group,
    verify_scales,
)
from kumiai.secagg.descriptor import Member, RoundDescriptor
from tests.secagg.rounds import Network, describe, names_of, signers_of

POLICY = BufferPolicy(staleness_max=8)
VERSION = 9
BASES = dict(zip(names_of(4), (9, 8, 6, 1), strict=True))


def roster_of(bases: dict[str, int], policy: BufferPolicy = POLICY) -> tuple[Member, ...]:
    return tuple(
        Member(name, name.encode().ljust(32, b"."), policy.scale(VERSION - base))
        for name, base in bases.items()
    )


def described(bases: dict[str, int] = BASES) -> RoundDescriptor:
    described = describe(signers_of(len(bases)))
    return replace(described, round_number=VERSION + 1, weight_bound=1, roster=roster_of(bases))


def test_a_group_adds_up_exactly_with_weights_that_fall_with_staleness() -> None:
    signers = signers_of(4)
    group = next_group(BASES, VERSION, size=4, policy=POLICY)
    assert group == BASES
    roster = tuple(
        Member(name, signers[name].public, POLICY.scale(VERSION - base))
        for name, base in group.items()
    )
    network = Network(signers=signers, roster=roster)

    network.run()

    scales = [member.scale for member in roster]
    assert scales == [16, 11, 8, 5]
    assert network.outcome is not None
    weights = np.array([w * s for (_, w), s in zip(network.updates.values(), scales, strict=True)])
    updates = np.stack([update for update, _ in network.updates.values()])
    wanted = weights @ updates / weights.sum()
    assert np.allclose(network.outcome.mean(), wanted, atol=2 / 2**15)
    assert np.array_equal(network.outcome.total, network.plain_sum(tuple(network.names))[0])


def test_whoever_came_first_is_in_the_next_group() -> None:
    waiting = {"late": 3, "early": 1, "last": 3}

    assert next_group(waiting, 3, size=2, policy=POLICY) == {"late": 3, "early": 1}


def test_no_group_forms_of_too_few() -> None:
    assert next_group({"a": 1, "b": 1}, 1, size=3, policy=POLICY) is None


def test_whoever_is_too_far_behind_is_passed_over() -> None:
    waiting = {"a": 1, "b": 9, "c": 3}

    assert next_group(waiting, 11, size=2, policy=POLICY) == {"b": 9, "c": 3}
    assert next_group(waiting, 12, size=2, policy=POLICY) is None
    assert POLICY.oldest(11) == 3


def test_an_update_from_the_future_is_refused() -> None:
    with pytest.raises(SecureAggregationError, match="'b' must have trained from version 1 or"):
        next_group({"a": 1, "b": 2}, 1, size=2, policy=POLICY)


@given(st.integers(0, 8), st.floats(0, 4))
def test_scales_are_bounded_and_never_rise(staleness: int, exponent: float) -> None:
    policy = BufferPolicy(staleness_max=8, staleness_exponent=exponent)

    scale = policy.scale(staleness)

    assert 1 <= scale <= FRESH_SCALE
    assert scale <= policy.scale(max(0, staleness - 1))
    assert policy.scale(0) == FRESH_SCALE


@pytest.mark.parametrize("staleness", [-1, 9])
def test_no_update_counts_that_is_too_far_behind_or_ahead(staleness: int) -> None:
    with pytest.raises(SecureAggregationError, match="0 to 8 versions behind"):
        POLICY.scale(staleness)


@pytest.mark.parametrize(
    "fields",
    [
        {"staleness_max": -1},
        {"staleness_max": 10_001},
        {"staleness_exponent": -0.1},
        {"staleness_exponent": 4.1},
        {"staleness_exponent": float("nan")},
    ],
)
def test_a_policy_out_of_its_limits_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        BufferPolicy(**fields)


def test_the_widest_and_the_narrowest_policy_may_be_chosen() -> None:
    assert BufferPolicy() == BufferPolicy(staleness_max=20, staleness_exponent=0.5)
    assert BufferPolicy(staleness_max=0).scale(0) == FRESH_SCALE
    assert BufferPolicy(staleness_max=10_000, staleness_exponent=4).scale(10_000) == 1


def test_every_member_can_check_what_it_counts() -> None:
    for name, base in BASES.items():
        verify_scales(described(), name, TrainedAhead(base, POLICY))


def test_a_member_refuses_a_round_that_counts_it_as_fresher_or_staler() -> None:
    with pytest.raises(SecureAggregationError, match=r"'site-0001' must be 16 .* got 11"):
        verify_scales(described(), "site-0001", TrainedAhead(9, POLICY))


def test_a_member_refuses_a_round_in_which_its_update_is_too_old() -> None:
    with pytest.raises(SecureAggregationError, match="0 to 8 versions behind, got 9"):
        verify_scales(described(), "site-0003", TrainedAhead(0, POLICY))


def test_a_member_refuses_a_round_that_it_is_not_in() -> None:
    with pytest.raises(SecureAggregationError, match=r"'other' must be 16 .* got nothing"):
        verify_scales(described(), "other", TrainedAhead(9, POLICY))


def test_a_member_refuses_a_round_in_which_another_one_stands_out() -> None:
    descriptor = described()
    roster = (replace(descriptor.roster[0], scale=17), *descriptor.roster[1:])

    with pytest.raises(SecureAggregationError, match="at most 16, got 17"):
        verify_scales(replace(descriptor, roster=roster), "site-0001", TrainedAhead(8, POLICY))


def test_in_a_synchronous_round_nobody_counts_more_than_once() -> None:
    descriptor = described()
    even = tuple(replace(member, scale=1) for member in descriptor.roster)

    verify_scales(replace(descriptor, roster=even), "site-0000", None)
    for roster in (descriptor.roster, (replace(even[0], scale=2), *even[1:])):
        with pytest.raises(SecureAggregationError, match="must be 1 in a synchronous round, got"):
            verify_scales(replace(descriptor, roster=roster), "site-0000", None)
