"""The gate that every update passes before it may enter the sum.

One NaN in one update would make the whole model NaN, and one absurd example count would outweigh
all other clients; both are refused here, with a reason that the client's operator understands.
"""

import math
import reprlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kumiai.core.arrays import BFLOAT16, Layout, NamedArrays, layout_of, verify_layout
from kumiai.core.errors import ConfigError, UpdateRejectedError
from kumiai.core.ids import verify_name
from kumiai.learning.deltas import is_floating

__all__ = [
    "METRIC_COUNT_MAX",
    "is_finite_number",
    "nonfinite_count",
    "verify_report",
    "verify_update",
]

METRIC_COUNT_MAX = 64

_BLOCK_COUNT = 1 << 17  # numbers looked at in one go
_EXPONENT_BITS = {np.dtype(np.float16): 0x7C00, BFLOAT16: 0x7F80}


def verify_update(
    update: NamedArrays,
    layout: Layout,
    examples: int,
    metrics: Mapping[str, float],
    *,
    examples_max: int,
) -> None:
    """Check that a client's update may enter the sum.

    Args:
        update: the delta.
        layout: the model's.
        examples: how many the client says it trained on.
        metrics: what it measured; at most ``METRIC_COUNT_MAX``, finite, with valid names.
        examples_max: the most that one client may count.

    Raises:
        UpdateRejectedError: it may not; the message says why.
    """
    verify_report(examples, metrics, examples_max=examples_max)
    verify_layout(layout_of(update), layout)
    for name, array in update.items():
        if count := nonfinite_count(array):
            raise UpdateRejectedError(
                f"array {name!r} must be finite, got {count} of {array.size} numbers that are "
                f"NaN or infinite; the training may have diverged"
            )


def verify_report(examples: int, metrics: Mapping[str, float], *, examples_max: int) -> None:
    """Check that what a client counted and measured may be averaged.

    Args:
        examples: how many the client says it used.
        metrics: what it measured; at most ``METRIC_COUNT_MAX``, finite, with valid names.
        examples_max: the most that one client may count.

    Raises:
        UpdateRejectedError: it may not; the message says why.
    """
    if type(examples) is not int or not 1 <= examples <= examples_max:
        raise UpdateRejectedError(
            f"examples must be a whole number from 1 to {examples_max}, "
            f"got {reprlib.repr(examples)}"
        )
    _verify_metrics(metrics)


def nonfinite_count(array: NDArray[Any]) -> int:
    """Return how many numbers are NaN or infinite; 0 for integers and bool.

    Takes about one read of the memory when there is none, and never a copy of a C-contiguous
    array.
    """
    if not is_floating(array.dtype):
        return 0
    if array.dtype.itemsize == 2:
        return sum(map(_nonfinite_of_16_bits, _blocks(array)))
    with np.errstate(over="ignore", invalid="ignore"):
        # NaN and infinities never leave a sum again; a finite sum means that there are none.
        # The other way round large numbers may overflow, so then each is looked at.
        if math.isfinite(np.add.reduce(array, axis=None)):
            return 0
    return sum(int(np.count_nonzero(~np.isfinite(block))) for block in _blocks(array))


def is_finite_number(value: object) -> bool:
    """Tell whether ``value`` is an int or float (not bool) that is neither NaN nor infinite."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max  # false for NaN, and no overflow for long integers
    )


def _blocks(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    flat = array.reshape(-1)
    for start in range(0, flat.size, _BLOCK_COUNT):
        yield flat[start : start + _BLOCK_COUNT]


def _nonfinite_of_16_bits(block: NDArray[Any]) -> int:
    # By the bits, because a sum of 16-bit numbers overflows at once and isfinite converts each:
    # NaN and infinities are the numbers with all bits of the exponent set.
    native = block.dtype.newbyteorder("=")
    bits = block.astype(native, copy=False).view(np.uint16) & 0x7FFF
    exponent = _EXPONENT_BITS[native]
    return int(np.count_nonzero(bits >= exponent)) if bits.max() >= exponent else 0


def _verify_metrics(metrics: Mapping[str, float]) -> None:
    if len(metrics) > METRIC_COUNT_MAX:
        raise UpdateRejectedError(f"metrics must be at most {METRIC_COUNT_MAX}, got {len(metrics)}")
    for name, value in metrics.items():
        try:
            verify_name("metric name", name)
        except ConfigError as error:
            raise UpdateRejectedError(str(error)) from error
        if not is_finite_number(value):
            raise UpdateRejectedError(
                f"metric {name!r} must be a finite number, got {reprlib.repr(value)}"
            )
