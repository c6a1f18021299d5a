"""The clipping norm finds the median of the norms, and only noisy numbers ever move it."""

import copy
import math
import pickle  # noqa: TID251 - a clipper must refuse it
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.privacy.accountant import RDPAccountant
from kumiai.privacy.clipping import AdaptiveClipping, next_clipping_norm
from kumiai.privacy.results import PrivacyUnit


def vector_of(norm: float) -> list[Any]:
    return [np.array([0.6 * norm]), np.array([0.0, -0.8 * norm])]


class StandIn:
    """Does with numpy what the code asks of a tensor of PyTorch, which may not be installed."""

    class _Kind:
        is_floating_point = True

    def __init__(self, numbers: Any) -> None:
        self.numbers = np.asarray(numbers)
        self.dtype = self._Kind()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.numbers.shape

    def detach(self) -> "StandIn":
        return self

    def double(self) -> "StandIn":
        return StandIn(self.numbers.astype(np.float64))

    def __abs__(self) -> "StandIn":
        return StandIn(abs(self.numbers))

    def max(self) -> float:
        return float(self.numbers.max())

    def sum(self) -> float:
        return float(self.numbers.sum())

    def __truediv__(self, divisor: float) -> "StandIn":
        return StandIn(self.numbers / divisor)

    def __pow__(self, exponent: int) -> "StandIn":
        return StandIn(self.numbers**exponent)

    def __mul__(self, factor: float) -> "StandIn":
        return StandIn((self.numbers * factor).astype(self.numbers.dtype))

    def round(self) -> "StandIn":
        return StandIn(self.numbers.round())

    def cpu(self) -> "StandIn":
        return self

    def numpy(self) -> Any:
        return self.numbers


# ----------------------------------------------------------------------------- as the users call it


def test_one_object_clips_and_follows_as_the_call_was_promised() -> None:
    gradients = [np.array([3.0, 0.0]), np.array([[4.0]])]
    clipper = AdaptiveClipping(
        initial_clipping_norm=1.0, noise_multiplier=1.1, target_delta=1e-5, learning_rate=0.1
    )

    clipped_gradients, grad_norm, clip_norm = clipper.clip_gradients(gradients)

    assert grad_norm == 5.0
    assert clip_norm == 1.0
    assert [each.tolist() for each in clipped_gradients] == [[0.6000000000000001, 0.0], [[0.8]]]


def test_the_tenth_call_ends_a_round() -> None:
    clipper = AdaptiveClipping()

    norms = [clipper.clip_gradients(vector_of(100.0))[2] for _ in range(11)]

    assert norms[:10] == [1.0] * 10
    assert norms[10] == clipper.statistics.clipping_norm != 1.0
    assert clipper.statistics.rounds == 1


def test_gradients_within_the_norm_come_back_as_they_are() -> None:
    clipped, norm, _ = AdaptiveClipping().clip_gradients([np.array([0.3, 0.4])])

    assert clipped[0].tolist() == [0.3, 0.4]
    assert norm == 0.5


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_sequence_comes_back_as_one(kind: Any) -> None:
    gradients = kind([np.array([3.0], np.float32), np.array([4.0])])
    clipper = AdaptiveClipping(cohort_size=1)

    clipped, _, _ = clipper.clip_gradients(gradients)

    assert type(clipped) is kind
    assert [each.dtype for each in clipped] == [np.float32, np.float64]
    assert [mean.shape for mean in clipper.mean_gradients()] == [(1,), (1,)]


def test_a_dict_comes_back_as_one_and_so_does_its_mean() -> None:
    shapes = {"weight": (2, 3), "bias": (2,), "scale": (), "last": (4, 1)}
    clipper = AdaptiveClipping(cohort_size=1)

    clipped, _, _ = clipper.clip_gradients({name: np.ones(shapes[name]) for name in shapes})

    assert list(clipped) == list(shapes)
    means = clipper.mean_gradients()
    assert isinstance(means, dict)
    assert {name: mean.shape for name, mean in means.items()} == shapes


def test_gradients_are_never_changed_in_place() -> None:
    long, short = np.array([30.0]), np.array([0.1])
    clipper = AdaptiveClipping()

    of_long = clipper.clip_gradients([long])[0][0]
    of_short = clipper.clip_gradients([short])[0][0]
    of_short[0] = 7

    assert (long[0], short[0], of_long[0]) == (30.0, 0.1, 1.0)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_every_kind_of_float_is_clipped_and_keeps_its_kind(kind: Any) -> None:
    clipped, norm, _ = AdaptiveClipping().clip_gradients([np.array([300.0, 400.0]).astype(kind)])

    assert norm == 500.0
    assert clipped[0].dtype == kind
    assert clipped[0].astype(float).tolist() == pytest.approx([0.6, 0.8], abs=5e-3)


def test_a_tensor_that_is_not_numpys_is_clipped_by_its_own_methods() -> None:
    clipper = AdaptiveClipping(cohort_size=2)

    clipped, norm, _ = clipper.clip_gradients([StandIn([3.0]), StandIn([[4.0]])])

    assert norm == 5.0
    assert [each.numbers.tolist() for each in clipped] == [[0.6000000000000001], [[0.8]]]
    assert clipper.end_round().mean.shape == (2,)


def test_pytorch_gives_what_numpy_gives() -> None:
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(1).normal(size=(20, 5)).astype(np.float32)
    gradients = [torch.tensor(values, requires_grad=True), torch.ones(3, dtype=torch.bfloat16)]
    same = [values, np.ones(3, ml_dtypes.bfloat16)]
    by_torch, by_numpy = AdaptiveClipping(), AdaptiveClipping()

    clipped, norm, _ = by_torch.clip_gradients(gradients)
    expected, expected_norm, _ = by_numpy.clip_gradients(same)

    assert norm == pytest.approx(expected_norm, rel=1e-12)
    assert [each.dtype for each in clipped] == [torch.float32, torch.bfloat16]
    assert not clipped[0].requires_grad
    assert np.allclose(clipped[0].numpy(), expected[0], rtol=1e-6)
    difference = by_torch._total - by_numpy._total  # type: ignore[operator]
    assert abs(difference).max() <= 1
    with pytest.raises(TypeError, match=r"gradients\[0\] must be a tensor of floats"):
        by_torch.clip_gradients([torch.ones(3, dtype=torch.int64)])
    with pytest.raises(ValueError, match=r"gradients\[0\] must be finite"):
        AdaptiveClipping().clip_gradients([torch.tensor([1.0, float("nan")])])


# ---------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_update_that_is_not_finite_is_refused_and_not_counted(bad: float) -> None:
    clipper = AdaptiveClipping(cohort_size=2)
    clipper.clip_gradients({"a": np.ones(2), "b": np.ones(2)})

    with pytest.raises(ValueError, match=r"gradients\['b'\] must be finite, got NaN or infinity"):
        clipper.clip_gradients({"a": np.ones(2), "b": np.array([0.0, bad])})

    assert clipper.statistics.rounds == 0
    clipper.clip_gradients({"a": np.ones(2), "b": np.ones(2)})
    assert clipper.statistics.rounds == 1


def test_an_update_of_zeros_and_empty_tensors_has_norm_zero() -> None:
    clipped, norm, _ = AdaptiveClipping().clip_gradients([np.zeros(3), np.zeros((0, 4))])

    assert norm == 0.0
    assert [each.tolist() for each in clipped] == [[0.0, 0.0, 0.0], []]


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_neither_tiny_nor_huge_numbers_spoil_the_norm(size: float) -> None:
    gradients = [np.array([3 * size]), np.zeros(0), np.array([4 * size])]

    _, norm, _ = AdaptiveClipping().clip_gradients(gradients)

    assert norm == pytest.approx(5 * size, rel=1e-12, abs=0)


def test_a_norm_beyond_the_floats_is_refused() -> None:
    with pytest.raises(ValueError, match=r"norm below 1\.8e308"):
        AdaptiveClipping().clip_gradients([np.full(4, 1.7e308)])


@pytest.mark.parametrize(
    ("gradients", "error", "message"),
    [
        (np.ones(3), TypeError, "gradients must be a list, a tuple or a dict of tensors, got nda"),
        ("gradients", TypeError, "gradients must be a list, a tuple or a dict of tensors, got str"),
        ([], ValueError, "gradients must have at least one tensor"),
        ({}, ValueError, "gradients must have at least one tensor"),
        (
            [np.ones(3), None],
            TypeError,
            r"gradients\[1\] must be a tensor of floats .*got NoneType",
        ),
        ({"w": np.ones(3, int)}, TypeError, r"gradients\['w'\] must be a tensor .*got int64"),
        ([[1.0, 2.0]], TypeError, r"gradients\[0\] must be a tensor of floats .*got list"),
    ],
)
def test_what_is_no_collection_of_tensors_is_refused(
    gradients: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        AdaptiveClipping().clip_gradients(gradients)


@pytest.mark.parametrize(
    "other",
    [
        {"a": np.ones(2)},
        {"a": np.ones(2), "c": np.ones(3)},
        {"a": np.ones(2), "b": np.ones((3, 1))},
        {"b": np.ones(3), "a": np.ones(2)},
    ],
)
def test_gradients_of_another_model_are_refused(other: Any) -> None:
    clipper = AdaptiveClipping()
    clipper.clip_gradients({"a": np.ones(2), "b": np.ones(3)})

    with pytest.raises(ValueError, match="gradients must have the same names and shapes"):
        clipper.clip_gradients(other)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("initial_clipping_norm", 0, ValueError),
        ("initial_clipping_norm", math.nan, ValueError),
        ("initial_clipping_norm", True, TypeError),
        ("noise_multiplier", 0, ValueError),
        ("noise_multiplier", "1.1", TypeError),
        ("target_delta", 0, ValueError),
        ("target_delta", 1, ValueError),
        ("learning_rate", -0.1, ValueError),
        ("cohort_size", 0, ValueError),
        ("target_quantile", 1, ValueError),
        ("clipping_norm_min", 0, ValueError),
        ("clipping_norm_max", math.inf, ValueError),
        ("count_deviation", 0.1, ValueError),
    ],
)
def test_bad_settings_are_refused_by_name(field: str, value: Any, error: type[Exception]) -> None:
    settings: dict[str, Any] = {field: value}

    with pytest.raises(error, match=f"^{field} "):
        AdaptiveClipping(**settings)


@pytest.mark.parametrize("limits", [{"clipping_norm_min": 2.0}, {"clipping_norm_max": 0.5}])
def test_a_first_norm_beyond_its_limits_is_refused(limits: Any) -> None:
    with pytest.raises(ValueError, match=r"^initial_clipping_norm must be from clipping_norm_min"):
        AdaptiveClipping(1.0, **limits)


# ------------------------------------------------------------------------------ what moves the norm


@given(
    norm=st.floats(1e-3, 1e3),
    fraction=st.floats(0, 1),
    learning_rate=st.floats(0.01, 1),
    quantile=st.floats(0.1, 0.9),
)
def test_too_many_clipped_let_the_norm_grow_and_too_few_let_it_shrink(
    norm: float, fraction: float, learning_rate: float, quantile: float
) -> None:
    following = next_clipping_norm(
        norm, fraction, learning_rate=learning_rate, target_quantile=quantile
    )

    assert following == pytest.approx(norm * math.exp(learning_rate * (quantile - fraction)))
    assert (following > norm) == (quantile > fraction) or math.isclose(following, norm)


def test_without_the_dynamic_rate_each_step_is_the_papers() -> None:
    clipper = AdaptiveClipping(learning_rate=0.2, dynamic_learning_rate=False)
    for _ in range(50):
        clipper.clip_gradients(vector_of(3.0))

        statistics = clipper.statistics
        if clipper.last_release is not None and statistics.rounds > 0:
            (*_, before) = statistics.clipping_norms
            fraction = clipper.last_release.unclipped_fraction
            assert statistics.clipping_norm == before * math.exp(-0.2 * (fraction - 0.5))
            assert statistics.learning_rate == 0.2


def test_the_learning_rate_rises_while_the_norm_is_far_off_and_falls_again() -> None:
    clipper = AdaptiveClipping(cohort_size=50)
    rates = []
    for _ in range(100):
        for norm in np.linspace(50, 150, 50):
            clipper.clip_gradients(vector_of(float(norm)))
        rates.append(clipper.statistics.learning_rate)

    assert 0.3 < max(rates) <= 0.5
    assert float(np.median(rates[-30:])) < 0.25
    assert min(rates) >= 0.1


def test_settings_of_the_first_round_hold_for_the_next_ones() -> None:
    clipper = AdaptiveClipping(
        cohort_size=1, learning_rate=0.3, target_quantile=0.8, count_deviation=5
    )
    clipper.clip_gradients(vector_of(3.0))

    following = clipper.current_round

    fraction = clipper.statistics.unclipped_fraction
    assert fraction is not None
    boost = 4 * 0.2 * abs(fraction - 0.8) / 0.8
    assert clipper.learning_rate == pytest.approx(0.3 * (1 + boost))
    moved = math.exp(-clipper.learning_rate * (fraction - 0.8))
    assert following.clipping_norm == pytest.approx(moved)
    assert (following.count_deviation, following.cohort_size) == (5, 1)
    assert following.noise_multiplier == 1.1


def test_the_limits_are_a_millionth_and_a_million_times_the_first_norm_unless_given() -> None:
    clipper = AdaptiveClipping(10.0)

    assert (clipper._norm_min, clipper._norm_max) == (1e-5, 1e7)


def test_a_norm_whose_limits_are_itself_never_moves() -> None:
    clipper = AdaptiveClipping(
        2.0, cohort_size=1, clipping_norm_min=2.0, clipping_norm_max=2.0, learning_rate=1.0
    )

    norms = {clipper.clip_gradients(vector_of(9.0))[2] for _ in range(20)}

    assert norms == {2.0}


def test_of_the_norms_the_last_ten_thousand_are_kept() -> None:
    assert AdaptiveClipping()._norms.maxlen == 10_000


def test_the_norm_moves_only_between_its_limits() -> None:
    clipper = AdaptiveClipping(
        cohort_size=1, learning_rate=1.0, clipping_norm_min=0.5, clipping_norm_max=1.5
    )
    for _ in range(100):
        clipper.clip_gradients(vector_of(1000.0))

    assert min(clipper.statistics.clipping_norms) >= 0.5
    assert max(clipper.statistics.clipping_norms) == 1.5


def test_the_norm_within_a_round_does_not_depend_on_what_is_clipped() -> None:
    clipper = AdaptiveClipping(cohort_size=100)

    norms = {clipper.clip_gradients(vector_of(10.0**power))[2] for power in range(-9, 9)}

    assert norms == {1.0}


@pytest.mark.parametrize("learning_rate", [0.1, 0.2])
@pytest.mark.parametrize("start", [0.1, 10.0])
def test_from_ten_times_off_the_norm_comes_within_a_quarter_of_the_median(
    start: float, learning_rate: float
) -> None:
    clipper = AdaptiveClipping(start, 1.1, 1e-5, learning_rate)
    norms = np.random.default_rng(1).lognormal(0, 0.5, (40, 10))

    for cohort in norms:
        for norm in cohort:
            clipper.clip_gradients(vector_of(float(norm)))

    reached = [each for each in clipper.statistics.clipping_norms if 0.75 <= each <= 1.25]
    assert len(reached) >= 5


def test_once_there_the_norm_stays_near_a_median_that_drifts() -> None:
    clipper = AdaptiveClipping(1.0, cohort_size=50)
    generator = np.random.default_rng(2)
    errors = []

    for number in range(150):
        median = math.exp(-number / 100)
        for norm in generator.lognormal(math.log(median), 0.5, 50):
            clipper.clip_gradients(vector_of(float(norm)))
        errors.append(abs(math.log(clipper.clipping_norm / median)))

    assert float(np.median(errors)) < 0.15


# --------------------------------------------------------------------------------- what is released


def test_a_round_is_charged_once_before_it_is_released() -> None:
    accountant = RDPAccountant(unit=PrivacyUnit.CLIENT)
    clipper = AdaptiveClipping(accountant=accountant)
    event = clipper.current_round.event
    for _ in range(30):
        clipper.clip_gradients(vector_of(2.0))

    spent = clipper.privacy_spent()

    # Three rounds, whatever norm each of them had.
    assert accountant.history.counts == {event: 3}
    assert spent == accountant.epsilon(1e-5)
    assert spent.unit is PrivacyUnit.CLIENT


class Refusing(RDPAccountant):
    """An accountant whose budget is spent."""

    def compose(self, event: Any, count: int = 1) -> None:
        raise RuntimeError("spent")


def test_a_round_that_is_not_paid_for_is_not_released() -> None:
    clipper = AdaptiveClipping(accountant=Refusing(), cohort_size=2)
    clipper.clip_gradients(vector_of(1.0))

    with pytest.raises(RuntimeError, match="spent"):
        clipper.clip_gradients(vector_of(1.0))

    assert clipper.last_release is None
    assert clipper.statistics.rounds == 0


def test_the_mean_of_a_round_has_the_expected_cohort_as_its_denominator() -> None:
    clipper = AdaptiveClipping(noise_multiplier=0.001, cohort_size=1000)
    for _ in range(400):
        clipper.clip_gradients([np.array([0.6]), np.array([[0.0, -0.8]])])

    release = clipper.end_round()

    first, second = clipper.mean_gradients()
    assert first == pytest.approx([0.24], abs=1e-4)
    assert second.ravel() == pytest.approx([0.0, -0.32], abs=1e-4)
    assert release.unclipped_fraction == pytest.approx(0.7, abs=0.3)


def test_an_empty_round_is_charged_and_released_as_any_other() -> None:
    clipper = AdaptiveClipping(cohort_size=1)
    clipper.clip_gradients(vector_of(1.0))

    release = clipper.end_round()

    assert release.mean.shape == (3,)
    assert release.mean.any()
    assert sum(clipper.accountant.history.counts.values()) == 2


def test_a_round_ends_only_when_shapes_are_known() -> None:
    clipper = AdaptiveClipping()

    with pytest.raises(RuntimeError, match="clip_gradients must be called before end_round"):
        clipper.end_round()
    with pytest.raises(RuntimeError, match="a round must have ended"):
        clipper.mean_gradients()


def test_statistics_hold_nothing_that_has_no_noise() -> None:
    clipper = AdaptiveClipping(cohort_size=5)
    before = clipper.statistics
    for norm in (1.0, 2.0, 3.0):
        clipper.clip_gradients(vector_of(norm))

    amid = clipper.statistics

    assert before.noise_norm is None
    assert amid.noise_norm == pytest.approx(1.0493 * 1.1 * math.sqrt(3) / 5, rel=1e-3)
    assert (amid.rounds, amid.unclipped_fraction, amid.clipping_norms) == (0, None, ())
    clipper.end_round()
    assert clipper.statistics.unclipped_fraction == clipper.last_release.unclipped_fraction  # type: ignore[union-attr]


def test_a_clipper_shows_no_secrets_and_is_neither_pickled_nor_copied() -> None:
    clipper = AdaptiveClipping()
    clipper.clip_gradients([np.array([123456.0])])

    assert repr(clipper) == "<AdaptiveClipping to 1 after 0 rounds>"
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(clipper)
    with pytest.raises(TypeError, match="cannot be pickled"):
        copy.copy(clipper)
