"""Steps of private training: clipped, noised, drawn by coins, and each let out once."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kumiai.privacy import DEFAULT_ORDERS, rdp_of, training
from kumiai.privacy.conversion import epsilon_of
from kumiai.privacy.events import PoissonDiscreteGaussianEvent
from kumiai.privacy.keystream import Keystream
from kumiai.privacy.records import RecordSum
from kumiai.privacy.training import (
    NOISE_MULTIPLIER_MAX,
    PrivateTraining,
    TrainingStep,
    TrainingTerms,
)
from tests.privacy.auditing import audited_epsilon, rate_at_least

RIGHT: dict[str, Any] = {
    "clip": 2.0,
    "noise_multiplier": 1.5,
    "sampling_rate": 0.25,
    "steps": 4,
    "batch": 10.0,
    "learning_rate": 0.5,
}


def terms(**changes: Any) -> TrainingTerms:
    return TrainingTerms(**{**RIGHT, **changes})


def step_of(dimension: int, **changes: Any) -> TrainingStep:
    return next(PrivateTraining(terms(**changes)).steps(dimension))


SILENT = {"noise_multiplier": 1e-6, "sampling_rate": 1.0}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("clip", 0),
        ("clip", math.nan),
        ("noise_multiplier", 0),
        ("noise_multiplier", NOISE_MULTIPLIER_MAX * 1.001),
        ("sampling_rate", 0),
        ("sampling_rate", 1.001),
        ("steps", 0),
        ("steps", 2.5),
        ("steps", 10**6 + 1),
        ("batch", -1),
        ("learning_rate", math.inf),
    ],
)
def test_terms_that_are_none_are_refused_by_the_name_of_their_field(
    field: str, value: float
) -> None:
    with pytest.raises(ValueError, match=f"^{field} must"):
        terms(**{field: value})


def test_terms_are_of_plain_numbers_up_to_their_limits() -> None:
    made = terms(sampling_rate=np.float32(1), steps=np.int64(10**6))

    assert (type(made.sampling_rate), type(made.steps)) == (float, int)
    assert made.steps == 10**6
    assert made.step_size == 2.0 / 2**20
    without = {name: value for name, value in RIGHT.items() if name != "learning_rate"}
    assert TrainingTerms(**without).learning_rate == 0.1


@pytest.mark.parametrize("dimension", [0, 2**32 + 1])
def test_a_dimension_that_is_none_is_refused(dimension: int) -> None:
    with pytest.raises(ValueError, match=r"^dimension must"):
        next(PrivateTraining(terms()).steps(dimension))


def test_a_step_costs_sampled_whole_noise_and_has_no_less() -> None:
    asked = terms(noise_multiplier=NOISE_MULTIPLIER_MAX)
    mechanism = asked.mechanism(10**8)

    assert asked.event == PoissonDiscreteGaussianEvent(0.25, NOISE_MULTIPLIER_MAX)
    assert mechanism.variance >= NOISE_MULTIPLIER_MAX**2 * mechanism.l2_norm_squared
    # A clip, what floats may add to it, and what rounding may.
    assert math.sqrt(mechanism.l2_norm_squared) >= 1.0078 * 2**20 + 10**4


def test_each_record_moves_the_mean_by_its_clip_at_most() -> None:
    step = step_of(3, **SILENT)
    rows = np.array([[30.0, 0, 0], [0, 0.5, 0], [0, np.nan, 1.0], [0, 0, -np.inf]])

    step.picked(4)
    step.add(rows)

    assert step.dropped == 2
    assert step.mean() == pytest.approx([0.2, 0.05, 0], abs=1e-5)


def test_a_sum_that_was_clipped_elsewhere_counts_as_it_is() -> None:
    step = step_of(2, **SILENT)

    step.picked(3)
    step.add(np.array([[0.0, 1.0]]))
    step.add_clipped(np.array([4.0, 0.0], np.float32), 2)

    assert step.mean() == pytest.approx([0.4, 0.1], abs=1e-5)


def test_a_sum_may_be_as_long_as_floats_make_it_and_no_longer() -> None:
    longest = 2.0 * (1 + 2**-7)
    step = step_of(2, **SILENT)
    step.picked(5)

    step.add_clipped(np.array([longest, 0.0]), 1)
    step.add_clipped(np.array([0.0, 3 * longest]), 3)

    with pytest.raises(ValueError, match="no longer than its clipped gradients"):
        step.add_clipped(np.array([1.01 * longest, 0.0]), 1)
    with pytest.raises(ValueError, match="must have shape"):
        step.add_clipped(np.zeros(1), 1)
    assert step.mean() == pytest.approx([longest / 10, 3 * longest / 10], abs=1e-5)


def test_sums_that_come_in_parts_are_rounded_once() -> None:
    step = step_of(2, **SILENT)
    step.picked(1000)

    for _ in range(1000):
        step.add_clipped(np.array([0.4, -0.4]) * step._terms.step_size, 1)

    np.testing.assert_allclose(step.mean() * 10 / step._terms.step_size, [400, -400], atol=20)


def test_the_noise_is_the_multiplier_times_the_clip_whoever_came() -> None:
    empty = step_of(20_000, sampling_rate=1e-9)
    full = step_of(20_000, sampling_rate=1.0)

    empty.picked(30)
    full.picked(30)
    full.add(np.zeros((30, 20_000)))

    for step in (empty, full):
        mean = step.mean()
        assert mean.std() == pytest.approx(1.5 * 2.0 / 10 * 1.0079, rel=0.03)
        assert abs(mean.mean()) < 6 * 0.3 / math.sqrt(20_000)


@pytest.mark.parametrize("rate", [0.003, 0.25, 0.9])
def test_each_record_joins_by_a_coin_of_its_own(rate: float) -> None:
    count = 100_000
    training_now = PrivateTraining(terms(sampling_rate=rate))
    once, again = (step.picked(count) for step, _ in zip(training_now.steps(1), "ab", strict=False))

    deviation = math.sqrt(count * rate * (1 - rate))
    assert once.size == pytest.approx(count * rate, abs=6 * deviation)
    both = np.intersect1d(once, again).size
    assert both == pytest.approx(count * rate**2, abs=6 * math.sqrt(count * rate**2))
    assert np.all(np.diff(once) > 0)


def test_nobody_joins_more_often_than_is_charged_for() -> None:
    class Words(Keystream):
        def fill(self, words: NDArray[np.uint64]) -> None:
            words[:] = [0, below - 1, below, (1 << 64) - 1]

    below = int(0.1 * 2.0**64)

    picked = step_of(1, sampling_rate=0.1)._picked_with(Words(bytes(32)), 4)

    assert picked.tolist() == [0, 1]


def test_steps_are_counted_and_there_are_no_more_than_were_asked_for() -> None:
    training_now = PrivateTraining(terms(steps=3))

    first = [step.mean() for step, _ in zip(training_now.steps(2), "ab", strict=False)]
    taken = training_now.taken
    rest = [step.mean() for step in training_now.steps(2)]

    assert training_now.terms.steps == 3
    assert (len(first), taken, len(rest)) == (2, 3, 0)


@pytest.mark.parametrize("dimension", [0, 2.5, 2**33])
def test_a_model_without_numbers_has_no_steps(dimension: Any) -> None:
    with pytest.raises(ValueError, match="dimension"):
        next(PrivateTraining(terms()).steps(dimension))


def test_a_step_lets_out_one_mean_and_takes_nothing_afterwards() -> None:
    step = step_of(2, **SILENT)
    step.picked(5)
    step.mean()

    for call in (
        step.mean,
        lambda: step.picked(1),
        lambda: step.add(np.zeros((1, 2))),
        lambda: step.add_clipped(np.zeros(2), 1),
    ):
        with pytest.raises(RuntimeError, match="begin another"):
            call()


def test_records_that_no_coin_has_picked_are_refused() -> None:
    step = step_of(2, **SILENT)
    step.picked(3)
    step.add(np.zeros((2, 2)))

    with pytest.raises(ValueError, match="records that the step has picked"):
        step.add(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="records that the step has picked"):
        step.add_clipped(np.zeros(2), 2)


@pytest.mark.parametrize(
    ("total", "problem"),
    [
        (np.zeros(3), "shape"),
        (np.array([4.1, 0.0]), "no longer than its clipped gradients"),
        (np.array([np.nan, 0.0]), "no longer than its clipped gradients"),
        (np.array([0.0, np.inf]), "no longer than its clipped gradients"),
    ],
)
def test_a_sum_of_gradients_that_were_not_clipped_is_refused(
    total: NDArray[Any], problem: str
) -> None:
    step = step_of(2, **SILENT)
    step.picked(2)

    with pytest.raises(ValueError, match=problem):
        step.add_clipped(total, 2)


# ------------------------------------------------------------------------------------------- audit

DELTA = 1e-5
RUNS = 2_000
CANARY = np.array([30.0, 40.0, 0.0, 0.0])
OTHERS = np.full((3, 4), -9.0)
WHOLE = terms(noise_multiplier=1.1, sampling_rate=1.0, steps=1)
SAMPLED = terms(noise_multiplier=0.8, sampling_rate=0.02, steps=4)


def claimed(asked: TrainingTerms) -> float:
    return epsilon_of(DEFAULT_ORDERS, asked.steps * rdp_of(asked.event), DELTA)


def scores_of(asked: TrainingTerms, *, with_it: bool) -> NDArray[np.float64]:
    """Return how far each of many trainings went the canary's way."""
    rows = np.vstack([OTHERS, CANARY if with_it else 0 * CANARY])
    scores = []
    for _ in range(RUNS):
        total = np.zeros(4)
        for step in PrivateTraining(asked).steps(4):
            step.add(rows[step.picked(len(rows))])
            total += step.mean()
        scores.append(float(total @ CANARY))
    return np.array(scores)


def bound_of_any(with_it: NDArray[Any], without: NDArray[Any]) -> float:
    """Return what epsilon is at least, by the definition alone."""
    half = RUNS // 2
    best = 0.0
    for threshold in np.quantile(without[:half], [0.9, 0.98, 0.998, 1.0]):
        found = rate_at_least(int(np.count_nonzero(with_it[half:] > threshold)), half)
        spared = rate_at_least(int(np.count_nonzero(without[half:] <= threshold)), half)
        if found > DELTA:
            best = max(best, math.log((found - DELTA) / (1 - spared)))
    return best


def audited(asked: TrainingTerms) -> float:
    scores = scores_of(asked, with_it=True), scores_of(asked, with_it=False)
    return audited_epsilon(*scores, DELTA) if asked is WHOLE else bound_of_any(*scores)


def with_a_wide_clip(patch: pytest.MonkeyPatch) -> None:
    def wide(dimension: int, *, clip: float, step: float) -> RecordSum:
        return RecordSum(dimension, clip=2 * clip, step=step)

    patch.setattr(training, "RecordSum", wide)


def with_half_the_noise(patch: pytest.MonkeyPatch) -> None:
    mechanism = TrainingTerms.mechanism

    def half(asked: TrainingTerms, dimension: int) -> Any:
        return mechanism(terms(noise_multiplier=asked.noise_multiplier / 2), dimension)

    patch.setattr(TrainingTerms, "mechanism", half)


def with_everybody_in_every_step(patch: pytest.MonkeyPatch) -> None:
    picked = TrainingStep.picked

    def everybody(step: TrainingStep, count: int) -> NDArray[np.intp]:
        picked(step, count)
        step._left = count
        return np.arange(count)

    patch.setattr(TrainingStep, "picked", everybody)


@pytest.mark.usefixtures("same_noise")
def test_an_audit_of_a_step_finds_nearly_what_is_claimed_and_no_more() -> None:
    assert 0.6 * claimed(WHOLE) < audited(WHOLE) <= claimed(WHOLE)


@pytest.mark.usefixtures("same_noise")
def test_an_audit_of_sampled_steps_finds_no_more_than_is_claimed() -> None:
    assert audited(SAMPLED) <= claimed(SAMPLED)


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize(
    ("plant", "asked"),
    [
        (with_a_wide_clip, WHOLE),
        (with_half_the_noise, WHOLE),
        (with_everybody_in_every_step, SAMPLED),
    ],
)
def test_an_audit_finds_each_planted_mistake(
    plant: Callable[[pytest.MonkeyPatch], None],
    asked: TrainingTerms,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)

    assert audited(asked) > 1.05 * claimed(asked)
