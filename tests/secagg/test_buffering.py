"""Clients come when they are ready: groups of their own, stale updates count less."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.buffering import BufferPolicy, GroupBuffer
from tests.secagg.rounds import Network, names_of, signers_of

POLICY = BufferPolicy(group_size=4, staleness_max=8)


def joined(bases: list[int], policy: BufferPolicy = POLICY) -> GroupBuffer:
    buffer = GroupBuffer(policy)
    for name, base in zip(names_of(len(bases)), bases, strict=True):
        buffer.join(name, name.encode(), base)
    return buffer


def test_a_group_adds_up_with_weights_that_fall_with_staleness() -> None:
    signers = signers_of(4)
    buffer = GroupBuffer(POLICY)
    for name, base in zip(names_of(4), (9, 8, 6, 1), strict=True):
        buffer.join(name, signers[name].public, base)
    group = buffer.form(9)
    assert group is not None
    network = Network(signers=signers, roster=group.members)

    network.run()

    scales = [member.scale for member in group.members]
    assert scales == [16, 11, 8, 5]
    assert network.outcome is not None
    weights = np.array([w * s for (_, w), s in zip(network.updates.values(), scales, strict=True)])
    updates = np.stack([update for update, _ in network.updates.values()])
    wanted = weights @ updates / weights.sum()
    assert np.allclose(network.outcome.mean(), wanted, atol=2 / 2**15)
    assert np.array_equal(network.outcome.total, network.plain_sum(tuple(network.names))[0])


def test_whoever_comes_while_a_group_adds_up_waits_for_the_next() -> None:
    buffer = joined([1, 1, 1, 1, 1])

    first, second = buffer.form(1), buffer.form(1)

    assert first is not None
    assert [member.name for member in first.members] == names_of(4)
    assert second is None
    assert list(buffer.waiting) == ["site-0004"]


def test_whoever_is_too_far_behind_is_told_to_train_again() -> None:
    buffer = joined([1, 9, 9, 2, 9, 9])

    group = buffer.form(11)

    assert group is not None
    assert group.stale == ("site-0000", "site-0003")
    assert len(buffer.waiting) == 0


def test_nobody_is_sent_away_for_a_group_that_does_not_form() -> None:
    buffer = joined([1, 9, 9, 9])

    assert buffer.form(11) is None
    assert len(buffer.waiting) == 4


def test_coming_again_is_nothing_new_but_two_updates_at_once_are_refused() -> None:
    buffer = joined([1, 1])

    buffer.join("site-0000", b"site-0000", 1)
    with pytest.raises(SecureAggregationError, match="'site-0000' must wait with one update"):
        buffer.join("site-0000", b"site-0000", 2)
    buffer.leave("site-0000")
    buffer.leave("site-0000")
    buffer.join("site-0000", b"site-0000", 2)

    assert buffer.waiting == {"site-0001": 1, "site-0000": 2}


def test_an_update_from_the_future_is_refused() -> None:
    with pytest.raises(SecureAggregationError, match="0 to 8 versions behind, got -1"):
        joined([2, 2, 2, 2]).form(1)


@given(st.integers(0, 8), st.integers(1, 256))
def test_scales_are_bounded_and_never_rise(staleness: int, fresh: int) -> None:
    policy = BufferPolicy(group_size=3, staleness_max=8, fresh_scale=fresh)

    scale = policy.scale(staleness)

    assert 1 <= scale <= fresh
    assert scale <= policy.scale(max(0, staleness - 1))
    assert policy.scale(0) == fresh


@pytest.mark.parametrize(
    "fields",
    [
        {"group_size": 2},
        {"group_size": 3, "staleness_max": -1},
        {"group_size": 3, "fresh_scale": 0},
        {"group_size": 3, "fresh_scale": 257},
    ],
)
def test_a_policy_out_of_its_limits_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        BufferPolicy(**fields)
