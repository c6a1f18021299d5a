"""Rounds on a schedule cost what is said, and their noise takes itself back."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.privacy import DEFAULT_ORDERS, rdp_of
from kumiai.privacy.clipping_round import STEPS, ClippedSum
from kumiai.privacy.mechanisms import GaussianMechanism
from kumiai.privacy.scheduled_sum import SEPARATION_MAX, EarlierRound, ScheduledSum
from tests.privacy.auditing import audited_epsilon, gaussian_epsilon

COORDINATES = 3_000


def scheduled(separation: int, **facts: float) -> ScheduledSum:
    given = {"clipping_norm": 2.0, "noise_multiplier": 1.1, "cohort_size": 10, **facts}
    return ScheduledSum(separation=separation, **given)  # type: ignore[arg-type]


def run(this: ScheduledSum, totals: list[np.ndarray]) -> list[np.ndarray]:
    before: list[EarlierRound] = []
    for total in totals:
        released = this.released(total, before)
        before.insert(0, EarlierRound(total, released))
    return [each.released for each in reversed(before)]


def test_the_coefficients_are_those_of_the_square_root_of_the_summing_matrix() -> None:
    size = 8
    coefficients = np.array(scheduled(size).coefficients) / 256
    root = sum(np.eye(size, k=-index) * coefficients[index] for index in range(size))

    assert np.allclose(root @ root, np.tril(np.ones((size, size))), atol=0.03)
    assert coefficients[0] == 1


@given(separation=st.integers(2, SEPARATION_MAX), rounds=st.integers(1, 40), data=st.data())
def test_what_a_client_moves_in_all_blends_is_paid_with_each_participation(
    separation: int, rounds: int, data: st.DataObject
) -> None:
    this = scheduled(separation)
    gaps = st.integers(separation, 2 * separation)
    takes, at = [data.draw(st.integers(0, separation))], 0
    while takes[-1] < rounds:
        takes.append(takes[-1] + data.draw(gaps))

    moved = np.zeros(rounds)
    for at in takes[:-1]:
        for index, coefficient in enumerate(this.coefficients):
            if at + index < rounds:
                moved[at + index] += coefficient * STEPS

    bound = this.mechanism.l2_norm_squared
    assert (moved**2).sum() <= (len(takes) - 1) * bound
    # And the model, for whom the worst of all clients counts, has paid for it round by round.
    at_most = sum(this.event_at(place).l2_norm_max ** 2 for place in range(rounds))
    assert (moved**2).sum() <= at_most


def test_a_participation_costs_what_one_in_a_round_of_its_own_does() -> None:
    alone = ClippedSum(clipping_norm=2.0, noise_multiplier=1.1, cohort_size=10)

    curves = [rdp_of(each.event, DEFAULT_ORDERS) for each in (scheduled(8), alone)]

    assert np.allclose(curves[0], curves[1], rtol=1e-6)
    in_all = sum(rdp_of(scheduled(8).event_at(place), DEFAULT_ORDERS) for place in range(8))
    assert np.allclose(in_all, curves[0], rtol=1e-6)


@pytest.mark.parametrize(("separation", "gain"), [(2, 0.748), (4, 0.565), (8, 0.433)])
def test_the_noise_of_the_running_model_is_less_than_independent_noise(
    separation: int, gain: float
) -> None:
    this, rounds = scheduled(separation, noise_multiplier=1e-2), 256
    nothing = [np.zeros(COORDINATES, np.int64)] * rounds

    noise = np.cumsum(run(this, nothing), axis=0)

    independent = this.noise_multiplier * STEPS * math.sqrt((rounds + 1) / 2)
    assert math.sqrt((noise**2).mean()) / independent == pytest.approx(gain, rel=0.05)


def test_what_is_let_out_is_each_rounds_own_sum_with_noise_on_it() -> None:
    this = scheduled(3, noise_multiplier=0.01)
    totals = [np.full(COORDINATES, (-1) ** number * 5 * STEPS) for number in range(6)]

    released = run(this, totals)

    for total, found in zip(totals, released, strict=True):
        assert (found / STEPS).mean() == pytest.approx(total[0] / STEPS, abs=0.01)
    assert this.mean_of(released[0]).mean() == pytest.approx(5 * 2.0 / 10, rel=0.01)
    first = this.sum_deviation * STEPS / this.clipping_norm
    assert (released[0] - totals[0]).std() == pytest.approx(first, rel=0.06)


@pytest.mark.parametrize("left", [0, 1])
def test_rounds_before_that_are_lost_take_no_noise_back_and_make_no_mistake(left: int) -> None:
    this = scheduled(3, noise_multiplier=0.01)
    totals = [np.full(COORDINATES, number * STEPS) for number in (3, -2, 7)]
    before = [EarlierRound(*each) for each in zip(totals, run(this, totals), strict=True)][1::-1]

    released = this.released(totals[2], before[:left])

    assert (released / STEPS).mean() == pytest.approx(7, abs=0.01)
    alone = this.sum_deviation * STEPS / this.clipping_norm
    assert released.std() == pytest.approx(alone * (1 + left / 4) ** 0.5, rel=0.06)


def test_two_releases_of_one_round_have_noise_of_their_own() -> None:
    this, nothing = scheduled(4), np.zeros(COORDINATES, np.int64)

    first, second = this.released(nothing, []), this.released(nothing, [])

    assert abs(np.corrcoef(first, second)[0, 1]) < 6 / math.sqrt(COORDINATES)


@pytest.mark.parametrize("separation", [1, 0, -2, SEPARATION_MAX + 1])
def test_a_schedule_that_is_none_is_refused(separation: int) -> None:
    with pytest.raises(ValueError, match=r"^separation must"):
        scheduled(separation)


def test_a_separation_of_another_type_is_the_same_number() -> None:
    assert type(scheduled(np.int64(4)).separation) is int  # type: ignore[arg-type]


def test_the_longest_rest_leaves_room_for_the_noise() -> None:
    this = scheduled(SEPARATION_MAX)

    assert this.mechanism.l2_norm_squared < 1 << 52
    assert len(this.coefficients) == SEPARATION_MAX
    assert min(this.coefficients) > 0


# --------------------------------------------------------------------------------------- an audit

RUNS, LONG = 40_000, 64
DELTA = 1e-5
CLAIM = gaussian_epsilon(1 / 1.1, DELTA)


def audited(this: ScheduledSum) -> float:
    """Return what all rounds of a rest show at least of one who was in the first of them.

    Each coordinate is a run of its own, of one who is there as far as the clip lets it, or not.
    """
    weights, scores = np.array(this.coefficients), []
    for is_there in (1, 0):
        first = np.full(RUNS, is_there * STEPS)
        released = run(this, [first, *[np.zeros(RUNS, np.int64)] * (this.separation - 1)])
        # No test can do better than to look at the blends again, each as it shows the first round.
        blends = [
            sum(weights[back] * released[at - back] for back in range(at + 1))
            for at in range(this.separation)
        ]
        scores.append(sum(weights[at] * blend for at, blend in enumerate(blends)))
    return audited_epsilon(np.asarray(scores[0]), np.asarray(scores[1]), DELTA)


@pytest.mark.usefixtures("same_noise")
def test_an_audit_of_all_blends_finds_nearly_what_a_participation_costs_and_no_more() -> None:
    assert 0.6 * CLAIM < audited(scheduled(LONG)) <= CLAIM


@pytest.mark.usefixtures("same_noise")
def test_an_audit_finds_noise_that_was_made_for_one_blend_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = GaussianMechanism(1.1, STEPS**2 * scheduled(LONG).coefficients[0] ** 2)
    monkeypatch.setattr(ScheduledSum, "mechanism", alone)

    assert audited(scheduled(LONG)) > CLAIM
