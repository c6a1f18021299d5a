"""The weighted mean of a round's updates and of its metrics.

``mean_of_updates`` takes the updates one at a time and keeps nothing of them: it needs one
accumulator of the model's size and one block of about a mebibyte per thread, however many clients
there are. It splits the work by coordinates, never by clients, so each number is the same chain
of additions whatever the number of threads, and the result is equal bit by bit.

Strategy: all accumulators of one dtype are one flat vector, cut into blocks that stay in the
processor's cache between the multiplication and the addition. A block is a part of a large array
or a row of small ones; small ones are copied together first, because with thousands of arrays
the calls would cost more than the numbers.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kumiai.core.arrays import Layout, NamedArrays, layout_of, verify_layout
from kumiai.learning.deltas import as_signed, computing_dtype

__all__ = ["mean_of_updates", "weighted_metrics", "weights_of"]

_BLOCK_SIZE = 1 << 20  # bytes of the accumulator; measured best from half to two mebibytes
_SMALL_COUNT = 1 << 14  # numbers; below, a call costs about as much as its work
_WEIGHT_TOLERANCE = 1e-6

FloatArray = NDArray[np.float64]


def weights_of(examples: Sequence[int], weighting: str = "examples") -> FloatArray:
    """Return how much each client counts.

    Args:
        examples: per client, how many it trained on, each > 0.
        weighting: ``examples`` in proportion to them, ``uniform`` all alike.

    Returns:
        Shape (len(examples),), float64, sum 1 up to rounding.

    Raises:
        ValueError: there is no client, a count is not positive, or ``weighting`` is neither.

    Source: McMahan et al. 2017, Algorithm 1 (n_k / n).
    """
    if not examples:
        raise ValueError("examples must hold at least one client, got none")
    if min(examples) <= 0:
        raise ValueError(f"examples must be positive, got {min(examples)}")
    if weighting == "uniform":
        return np.full(len(examples), 1.0 / len(examples))
    if weighting == "examples":
        counts = np.asarray(examples, dtype=np.float64)
        weights: FloatArray = counts / math.fsum(counts)
        return weights
    raise ValueError(f"weighting must be 'examples' or 'uniform', got {weighting!r}")


def mean_of_updates(
    updates: Iterable[tuple[NamedArrays, float]],
    layout: Layout,
    *,
    executor: Executor | None = None,
    threads: int = 1,
) -> dict[str, NDArray[Any]]:
    """Return the weighted mean of updates, taking them one at a time.

    When the next update is asked for, nothing refers to the last one any more, so that its memory
    may be unmapped.

    Args:
        updates: update and weight; each of the given layout, finite, best C-contiguous (others
            are copied first); weights > 0 with the sum 1, as ``weights_of`` returns them.
        layout: the model's.
        executor: runs all shares of the work but one; never the executor that this call itself
            runs in, which could wait for itself.
        threads: in how many shares the coordinates are split.

    Returns:
        The layout's names and shapes, in its order, writable; float32 where the layout has
        float16, bfloat16 or float32, else float64 (see ``kumiai.learning.deltas``).

    Raises:
        UpdateRejectedError: an update does not have the layout.
        ValueError: there is no update, a weight is not positive, the weights do not sum to 1, or
            ``threads`` asks for an executor that is not there.
    """
    if threads < 1 or (threads > 1 and executor is None):
        raise ValueError(f"threads must be 1, or more with an executor, got {threads}")
    fold = _Fold(layout, executor, threads)
    total = 0.0
    for update, weight in updates:
        if not 0 < weight <= 1 + _WEIGHT_TOLERANCE:
            raise ValueError(f"weight must be more than 0 and at most 1, got {weight}")
        fold.add(update, weight)
        total += weight
        del update  # the caller unmaps it now
    if not abs(total - 1) <= _WEIGHT_TOLERANCE:
        raise ValueError(f"weights must sum to 1 as those of weights_of do, got {total}")
    return fold.result


def weighted_metrics(reports: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """Return each metric's mean over the clients that report it, weighted by their examples.

    Args:
        reports: per client, its examples (> 0) and its metrics (finite).

    Returns:
        By name, in alphabetical order; always between the smallest and the largest report, and
        independent of the order of the reports.
    """
    reported: dict[str, list[tuple[int, float]]] = {}
    for examples, metrics in reports:
        for name, value in metrics.items():
            reported.setdefault(name, []).append((examples, float(value)))
    return {name: _mean(reported[name]) for name in sorted(reported)}


def _mean(values: Sequence[tuple[int, float]]) -> float:
    total = sum(examples for examples, _ in values)
    # Halved, so that no partial sum overflows; bounded, so that rounding shows nothing absurd.
    mean = 2.0 * math.fsum(examples / total * (value / 2.0) for examples, value in values)
    numbers = [value for _, value in values]
    return max(min(numbers), min(max(numbers), mean))


@dataclass(frozen=True, slots=True)
class _Block:
    """A stretch of the accumulator and where its numbers come from.

    Attributes:
        names: one array, or several small ones in a row.
        start: index of the first number in the (flattened) array; 0 for several.
        target: the stretch, 1-D.
    """

    names: tuple[str, ...]
    start: int
    target: NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Share:
    """What one thread adds, and its memory for the products of one block."""

    blocks: Sequence[_Block]
    scratch: NDArray[np.uint8]


class _Fold:
    """The accumulator, and the one update that is being added."""

    def __init__(self, layout: Layout, executor: Executor | None, threads: int) -> None:
        self._layout = layout
        self._executor = executor
        self._expected = [(name, np.dtype(spec.dtype), spec.shape) for name, spec in layout.items()]
        views: dict[str, NDArray[Any]] = {}
        blocks: list[_Block] = []
        for flat, counts in self._flat_vectors():
            blocks.extend(_blocks(flat, counts))
            views.update(_views(flat, counts, layout))
        self.result = {name: views[name] for name in layout}
        self._shares = [
            _Share(part, np.empty(_BLOCK_SIZE, np.uint8)) for part in _parts(blocks, threads)
        ]
        self._update: NamedArrays = {}
        self._weight = 0.0

    def _flat_vectors(self) -> Iterator[tuple[NDArray[Any], dict[str, int]]]:
        """Yield one vector per computing dtype, with its arrays' names and lengths in a row."""
        groups: dict[np.dtype[Any], dict[str, int]] = {}
        for name, dtype, shape in self._expected:
            groups.setdefault(computing_dtype(dtype), {})[name] = math.prod(shape)
        for dtype, counts in groups.items():
            yield np.zeros(sum(counts.values()), dtype), counts

    def add(self, update: NamedArrays, weight: float) -> None:
        if not self._fits(update):
            verify_layout(layout_of(update), self._layout)
        # Handed over in attributes: an executor may hold on to arguments after the result is out.
        self._update, self._weight = update, float(weight)
        first, *others = self._shares
        futures: list[Future[None]] = []
        try:
            if self._executor is not None:
                for share in others:
                    futures.append(self._executor.submit(self._add_share, share))  # noqa: PERF401 - all that began are waited for
            self._add_share(first)
        finally:
            wait(futures)  # whatever happened: the caller unmaps the update next
            self._update = {}
        for future in futures:
            future.result()

    def _fits(self, update: NamedArrays) -> bool:
        return len(update) == len(self._expected) and all(
            (array := update.get(name)) is not None
            and array.dtype == dtype
            and array.shape == shape
            for name, dtype, shape in self._expected
        )

    def _add_share(self, share: _Share) -> None:
        for block in share.blocks:
            dtype, size = block.target.dtype, block.target.size
            scratch = share.scratch.view(dtype)[:size]
            if len(block.names) == 1:
                flat = as_signed(self._update[block.names[0]]).reshape(-1)
                numbers = flat[block.start : block.start + size]
            else:
                arrays = [as_signed(self._update[name]) for name in block.names]
                numbers = np.concatenate(arrays, axis=None, out=scratch)
            np.multiply(numbers, self._weight, out=scratch, dtype=dtype)
            np.add(block.target, scratch, out=block.target)


def _views(
    flat: NDArray[Any], counts: Mapping[str, int], layout: Layout
) -> Iterator[tuple[str, NDArray[Any]]]:
    start = 0
    for name, count in counts.items():
        yield name, flat[start : start + count].reshape(layout[name].shape)
        start += count


def _blocks(flat: NDArray[Any], counts: Mapping[str, int]) -> Iterator[_Block]:
    size = _BLOCK_SIZE // flat.dtype.itemsize
    small = min(_SMALL_COUNT, size)
    row: list[str] = []
    begin = end = 0  # of the row of small arrays that waits to become a block
    for name, count in counts.items():
        if row and (count > small or end + count - begin > size):
            yield _Block(tuple(row), 0, flat[begin:end])
            row, begin = [], end
        if count > small:
            for start in range(0, count, size):
                stop = min(start + size, count)
                yield _Block((name,), start, flat[end + start : end + stop])
            begin = end + count
        else:
            row.append(name)
        end += count
    if row:
        yield _Block(tuple(row), 0, flat[begin:end])


def _parts(blocks: Sequence[_Block], count: int) -> list[list[_Block]]:
    """Split the blocks into one to ``count`` runs of about the same size."""
    total = sum(block.target.nbytes for block in blocks)
    parts: list[list[_Block]] = [[]]
    done = 0
    for block in blocks:
        if parts[-1] and len(parts) < count and done * count >= total * len(parts):
            parts.append([])
        parts[-1].append(block)
        done += block.target.nbytes
    return parts
