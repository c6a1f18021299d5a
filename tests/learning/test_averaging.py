"""The mean of a round: right, the same for any number of threads, one update at a time."""

import gc
import math
import sys
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.arrays import BFLOAT16, layout_of
from kumiai.core.codec import decode, encode
from kumiai.core.errors import UpdateRejectedError
from kumiai.learning import averaging, mean_of_updates, weighted_metrics, weights_of

EXAMPLES = st.lists(st.integers(1, 10**9), min_size=1, max_size=20)


def update_like(seed: int, shapes: dict[str, tuple[str, tuple[int, ...]]]) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {
        name: np.asarray(np.clip(generator.normal(0, 20, shape), -100, 100))
        .astype(BFLOAT16 if dtype == "bfloat16" else dtype.replace("uint", "int"))
        .astype(BFLOAT16 if dtype == "bfloat16" else dtype)
        for name, (dtype, shape) in shapes.items()
    }


MIXED = {
    "scalar": ("float32", ()),
    "empty": ("float32", (0, 3)),
    "half": ("float16", (7,)),
    "brain": ("bfloat16", (2, 5)),
    "single": ("float32", (100, 30)),
    "double": ("float64", (11,)),
    "count": ("int64", ()),
    "bytes": ("uint8", (9,)),
    "words": ("uint32", (4,)),
    "mask": ("bool", (6,)),
    "large": ("float32", (300, 100)),
    "large double": ("float64", (200, 99)),
    "last": ("float32", (3,)),
}
SIGNED = {"uint8": "int8", "uint32": "int32"}


def oracle(updates: list[dict[str, Any]], weights: Any, name: str) -> Any:
    """Return the mean in float64, computed the other way round: one array, all clients."""
    stack = np.stack(
        [
            update[name].view(SIGNED.get(update[name].dtype.name, update[name].dtype))
            for update in updates
        ]
    ).astype(np.float64)
    return np.tensordot(np.asarray(weights), stack, axes=1)


# The mean


@pytest.mark.parametrize("block_size", [1 << 8, 1 << 12, 1 << 20])
@pytest.mark.parametrize("small_count", [0, 8, 1 << 14])
def test_the_mean_agrees_with_a_float64_oracle(
    monkeypatch: pytest.MonkeyPatch, block_size: int, small_count: int
) -> None:
    monkeypatch.setattr(averaging, "_BLOCK_SIZE", block_size)
    monkeypatch.setattr(averaging, "_SMALL_COUNT", small_count)
    updates = [update_like(seed, MIXED) for seed in range(5)]
    weights = weights_of([3, 1, 4, 1, 5])

    mean = mean_of_updates(zip(updates, weights, strict=True), layout_of(updates[0]))

    assert list(mean) == list(MIXED)
    for name, array in mean.items():
        assert array.shape == updates[0][name].shape
        np.testing.assert_allclose(array, oracle(updates, weights, name), rtol=1e-5, atol=1e-5)


def test_the_mean_has_the_dtype_it_was_summed_in() -> None:
    update = update_like(0, MIXED)

    mean = mean_of_updates([(update, 1.0)], layout_of(update))

    singles = {"scalar", "empty", "half", "brain", "single", "large", "last"}
    assert {name for name, array in mean.items() if array.dtype == np.float32} == singles
    assert all(mean[name].dtype == np.float64 for name in MIXED.keys() - singles)


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(0, 20), st.integers(1, 3))
def test_blocks_of_any_cut_cover_every_number_once(
    sizes: list[int], small_count: int, threads: int
) -> None:
    update = {str(i): np.arange(1, size + 1, dtype=np.float32) for i, size in enumerate(sizes)}

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(threads) as executor:
        patch.setattr(averaging, "_BLOCK_SIZE", 64)
        patch.setattr(averaging, "_SMALL_COUNT", small_count)
        mean = mean_of_updates(
            [(update, 0.5), (update, 0.5)], layout_of(update), executor=executor, threads=threads
        )

    assert {name: array.tolist() for name, array in mean.items()} == {
        name: array.tolist() for name, array in update.items()
    }


def test_float64_and_integers_are_summed_in_float64() -> None:
    layout = {"a": np.array([1e-12]), "b": np.array([2**40 + 1], np.int64)}
    other = {"a": np.array([1.0]), "b": np.array([1], np.int64)}

    mean = mean_of_updates([(layout, 0.5), (other, 0.5)], layout_of(layout))

    assert mean["a"][0] == 0.5 + 0.5e-12
    assert mean["b"][0] == 2**39 + 1


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_the_mean_is_equal_bit_by_bit_for_any_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(averaging, "_BLOCK_SIZE", 1 << 10)
    monkeypatch.setattr(averaging, "_SMALL_COUNT", 16)
    updates = [update_like(seed, MIXED) for seed in range(4)]
    weighted = list(zip(updates, weights_of([5, 1, 2, 9]), strict=True))
    alone = mean_of_updates(weighted, layout_of(updates[0]))

    with ThreadPoolExecutor(threads) as executor:
        together = mean_of_updates(
            weighted, layout_of(updates[0]), executor=executor, threads=threads
        )

    assert {name: array.tobytes() for name, array in together.items()} == {
        name: array.tobytes() for name, array in alone.items()
    }


def test_the_order_of_the_arrays_does_not_matter() -> None:
    updates = [update_like(seed, MIXED) for seed in range(3)]
    shuffled = [dict(reversed(update.items())) for update in updates]
    weights = weights_of([1, 2, 3])

    mean = mean_of_updates(zip(updates, weights, strict=True), layout_of(updates[0]))
    other = mean_of_updates(zip(shuffled, weights, strict=True), layout_of(updates[0]))

    assert list(other) == list(mean)
    assert all(other[name].tobytes() == mean[name].tobytes() for name in mean)


@given(EXAMPLES)
def test_the_mean_of_equal_updates_is_the_update(examples: list[int]) -> None:
    update = update_like(1, MIXED)

    mean = mean_of_updates(((update, weight) for weight in weights_of(examples)), layout_of(update))

    for name, array in mean.items():
        expected = oracle([update], [1.0], name)
        np.testing.assert_allclose(array, expected, rtol=1e-6, atol=0)


@given(EXAMPLES, st.integers(2, 1000))
def test_only_the_ratio_of_the_examples_matters(examples: list[int], factor: int) -> None:
    scaled = [count * factor for count in examples]

    np.testing.assert_allclose(weights_of(scaled), weights_of(examples), rtol=1e-14)


def test_strided_and_big_endian_updates_are_added_like_any_other() -> None:
    plain = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.arange(4, dtype=np.uint16)}
    strided = {"a": np.asfortranarray(plain["a"]), "b": plain["b"].astype(">u2")}

    mean = mean_of_updates([(plain, 0.5), (strided, 0.5)], layout_of(plain))

    np.testing.assert_array_equal(mean["a"], plain["a"])
    np.testing.assert_array_equal(mean["b"], plain["b"])


def test_a_model_without_numbers_has_an_empty_mean() -> None:
    update = {"a": np.zeros((0, 2), np.float32)}

    assert mean_of_updates([({}, 1.0)], {}) == {}
    assert mean_of_updates([(update, 1.0)], layout_of(update))["a"].shape == (0, 2)


def test_the_mean_can_be_written_to() -> None:
    mean = mean_of_updates([({"a": np.ones(2)}, 1.0)], layout_of({"a": np.ones(2)}))

    mean["a"][0] = 7

    assert mean["a"][0] == 7


# One at a time


@pytest.mark.parametrize("threads", [1, 2])
def test_nothing_refers_to_an_update_when_the_next_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(averaging, "_BLOCK_SIZE", 1 << 10)
    blob = b"".join(encode(update_like(0, MIXED)))
    layout = layout_of(decode(blob).arrays)

    def mapped_one_at_a_time() -> Iterator[tuple[dict[str, Any], float]]:
        for _ in range(20):
            data = bytearray(blob)
            yield decode(data).arrays, 1 / 20
            data.clear()  # BufferError while any view of it is alive

    gc.disable()  # reference counts alone have to do it
    try:
        with ThreadPoolExecutor(threads) as executor:
            mean = mean_of_updates(
                mapped_one_at_a_time(), layout, executor=executor, threads=threads
            )
    finally:
        gc.enable()

    assert mean.keys() == layout.keys()


@pytest.mark.parametrize("clients", [2, 50])
def test_memory_is_one_accumulator_and_one_block_however_many_clients(clients: int) -> None:
    update = {"a": np.ones(1_000_000, np.float32), "b": np.ones(10_000, np.float16)}
    layout = layout_of(update)
    weighted = [(update, 1 / clients)] * clients

    tracemalloc.start()
    mean_of_updates(weighted, layout)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 4 * 1_010_000 + (1 << 20) + 100_000


class FailingExecutor(ThreadPoolExecutor):
    """Refuses the second task of each update."""

    submitted = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.submitted += 1
        if self.submitted % 2 == 0:
            raise RuntimeError("cannot schedule new futures after shutdown")
        return super().submit(fn, *args, **kwargs)


def test_when_an_executor_fails_what_it_began_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(averaging, "_BLOCK_SIZE", 1 << 10)
    update = update_like(0, MIXED)

    with (
        FailingExecutor(4) as executor,
        pytest.raises(RuntimeError, match="cannot schedule new futures"),
    ):
        mean_of_updates([(update, 1.0)], layout_of(update), executor=executor, threads=4)


class BrokenExecutor(Executor):
    """Its tasks all end with an error."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_exception(MemoryError("no memory in the other thread"))
        return future


def test_an_error_in_another_thread_is_raised_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(averaging, "_BLOCK_SIZE", 1 << 10)
    update = update_like(0, MIXED)

    with pytest.raises(MemoryError, match="no memory in the other thread"):
        mean_of_updates([(update, 1.0)], layout_of(update), executor=BrokenExecutor(), threads=2)


# What is refused


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"a": np.ones(3, np.float32)}, "array 'b' must be present"),
        (
            {"a": np.ones(3, np.float32), "b": np.ones(2, np.int32)},
            r"must be int64\[2\], got int32",
        ),
        (
            {"a": np.ones(4, np.float32), "b": np.ones(2, np.int64)},
            r"must be float32\[3\], got flo",
        ),
        (
            {"a": np.ones(3, np.float32), "b": np.ones(2, np.int64), "c": np.ones(1)},
            "array 'c' must not be present",
        ),
        ({"a": np.ones(3, np.float32), "c": np.ones(2, np.int64)}, "array 'b' must be present"),
    ],
)
def test_an_update_of_another_layout_is_refused(update: Any, message: str) -> None:
    layout = layout_of({"a": np.ones(3, np.float32), "b": np.ones(2, np.int64)})

    with pytest.raises(UpdateRejectedError, match=message):
        mean_of_updates([(update, 1.0)], layout)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([], "weights must sum to 1 .*, got 0.0"),
        ([0.5, 0.4], "weights must sum to 1 .*, got 0.9"),
        ([0.7, 0.7], "weights must sum to 1 .*, got 1.4"),
        ([0.0, 1.0], "weight must be more than 0 and at most 1, got 0.0"),
        ([-0.5, 1.5], "weight must be more than 0 and at most 1, got -0.5"),
        ([math.nan], "weight must be more than 0 and at most 1, got nan"),
        ([32.0], "weight must be more than 0 and at most 1, got 32.0"),
    ],
)
def test_weights_that_make_no_mean_are_refused(weights: list[float], message: str) -> None:
    update = {"a": np.ones(3, np.float32)}

    with pytest.raises(ValueError, match=message):
        mean_of_updates([(update, weight) for weight in weights], layout_of(update))


@pytest.mark.parametrize("threads", [0, -1, 2])
def test_threads_need_an_executor(threads: int) -> None:
    with pytest.raises(ValueError, match="threads must be 1, or more with an executor, got"):
        mean_of_updates([], {}, threads=threads)


# Weights


def test_weights_by_examples_are_their_shares() -> None:
    assert weights_of([1, 3]).tolist() == [0.25, 0.75]


def test_uniform_weights_are_all_alike() -> None:
    assert weights_of([1, 3, 100, 1], "uniform").tolist() == [0.25] * 4


@given(EXAMPLES, st.sampled_from(["examples", "uniform"]))
def test_weights_sum_to_one(examples: list[int], weighting: str) -> None:
    assert math.isclose(weights_of(examples, weighting).sum(), 1.0, rel_tol=1e-14)


@pytest.mark.parametrize(
    ("examples", "weighting", "message"),
    [
        ([], "examples", "examples must hold at least one client, got none"),
        ([3, 0], "uniform", "examples must be positive, got 0"),
        ([3, -1], "examples", "examples must be positive, got -1"),
        ([3], "median", "weighting must be 'examples' or 'uniform', got 'median'"),
    ],
)
def test_weights_of_nonsense_are_refused(examples: list[int], weighting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weights_of(examples, weighting)


# Metrics


def test_a_metric_is_averaged_over_those_that_report_it() -> None:
    reports = [(1, {"loss": 1.0, "auc": 0.5}), (3, {"loss": 2.0}), (7, {})]

    assert weighted_metrics(reports) == {"auc": 0.5, "loss": 1.75}


def test_no_reports_have_no_metrics() -> None:
    assert weighted_metrics([]) == {}


@pytest.mark.parametrize("examples", [[7], [5, 5, 5], [31, 6, 28], [2, 21, 21]])
def test_the_largest_metric_of_all_is_its_own_mean(examples: list[int]) -> None:
    largest = sys.float_info.max

    assert weighted_metrics([(count, {"m": largest}) for count in examples]) == {"m": largest}


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(st.integers(1, 10**12), FINITE), min_size=1, max_size=10))
def test_a_mean_metric_is_right_and_within_what_was_reported(
    reports: list[tuple[int, float]],
) -> None:
    values = [value for _, value in reports]
    exact = sum(count * Fraction(value) for count, value in reports) / sum(n for n, _ in reports)

    mean = weighted_metrics([(count, {"m": value}) for count, value in reports])["m"]

    assert min(values) <= mean <= max(values)
    assert abs(Fraction(mean) - exact) <= Fraction(max(map(abs, values))) / 10**15 + Fraction(
        1e-300
    )


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(-1e6, 1e6)), max_size=10),
    st.randoms(use_true_random=False),
)
def test_the_order_of_the_reports_does_not_matter(
    reports: list[tuple[int, float]], random: Any
) -> None:
    named = [(count, {"m": value}) for count, value in reports]
    shuffled = list(named)
    random.shuffle(shuffled)

    assert weighted_metrics(shuffled) == weighted_metrics(named)
