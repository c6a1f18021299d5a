"""What an update is, for every dtype that a model may hold: the one place that says so.

An update has the layout of its model. Let ``trained`` and ``base`` be one array of each:

- floating: ``trained - base``. Means and optimizers compute in float32 for float16, bfloat16 and
  float32, in float64 for float64; only the new model is rounded to the model's dtype.
- integers (counters such as a batch norm's number of batches): ``trained - base``, wrapping. An
  unsigned difference is read as two's complement, so that a counter may also fall. The mean is
  taken in float64, rounded half to even, and added; optimizers leave integers alone.
- bool (masks): ``trained != base``. The mean is the share of weight that wants the value flipped,
  and it flips when that share is more than one half: the model takes the value of the majority.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kumiai.core.arrays import BFLOAT16, NamedArrays, layout_of, verify_layout

__all__ = [
    "Arrays",
    "as_signed",
    "computing_dtype",
    "delta_of",
    "floating_of",
    "is_floating",
    "like",
    "sum_of",
]

Arrays = dict[str, NDArray[Any]]

_FLOAT32: np.dtype[Any] = np.dtype(np.float32)
_FLOAT64: np.dtype[Any] = np.dtype(np.float64)
_COMPUTING = {
    np.dtype(np.float16): _FLOAT32,
    BFLOAT16: _FLOAT32,
    _FLOAT32: _FLOAT32,
    _FLOAT64: _FLOAT64,
}


def delta_of(trained: NamedArrays, base: NamedArrays) -> Arrays:
    """Return the update that leads from ``base`` to ``trained``, in the layout of both.

    A difference that overflows its floating dtype is infinite here and refused by
    ``verify_update`` there.

    Raises:
        UpdateRejectedError: the two differ in a name, dtype or shape.
    """
    verify_layout(layout_of(trained), layout_of(base))
    delta: Arrays = {}
    with np.errstate(over="ignore", invalid="ignore"):
        for name, start in base.items():
            difference = np.not_equal if start.dtype == np.bool_ else np.subtract
            delta[name] = like(start, difference(trained[name], start))
    return delta


def sum_of(model: NamedArrays, steps: NamedArrays) -> Arrays:
    """Return the model after a step, in the model's layout.

    Args:
        model: where the step starts.
        steps: the mean update, or what an optimizer made of it; any real dtypes, same shapes.
            Its memory becomes the new model's where the dtypes agree: another array of the size
            of a large model would be the most that a coordinator ever holds.
    """
    return {name: _moved(array, steps[name]) for name, array in model.items()}


def floating_of(model: NamedArrays) -> Arrays:
    """Return those arrays that optimizers work on."""
    return {name: array for name, array in model.items() if is_floating(array.dtype)}


@lru_cache(maxsize=64)
def is_floating(dtype: np.dtype[Any]) -> bool:
    """Tell whether ``dtype`` is one of the four floating ones, in any byte order."""
    return dtype.newbyteorder("=") in _COMPUTING


def computing_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype in which arrays of ``dtype`` are summed: float32 or float64."""
    native: np.dtype[Any] = dtype.newbyteorder("=")
    return _COMPUTING.get(native, _FLOAT64)


def as_signed(array: NDArray[Any]) -> NDArray[Any]:
    """Return ``array``, unsigned integers seen as two's complement."""
    if array.dtype.kind != "u":
        return array
    return array.view(array.dtype.str.replace("u", "i"))


def like(old: NDArray[Any], new: Any) -> NDArray[Any]:
    """Return ``new`` as an array of the dtype of ``old``.

    Needed because an expression of 0-d arrays is a scalar, in numpy 1 even one of float64.
    """
    return np.asarray(new, dtype=old.dtype)


def _moved(base: NDArray[Any], step: NDArray[Any]) -> NDArray[Any]:
    if is_floating(base.dtype):
        computing = computing_dtype(base.dtype)
        if step.dtype == base.dtype == computing and step.flags.writeable:
            np.add(base, step, out=step)
            return step
        return like(base, np.asarray(base, dtype=computing) + np.asarray(step, dtype=computing))
    if base.dtype == np.bool_:
        return like(base, base != (step > 0.5))
    return like(base, base + _rounded(step, base.dtype))


def _rounded(mean: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the nearest integers that a difference in ``dtype`` can be."""
    # Up to the last float64 below 2^(bits - 1): 2^63 itself has no defined result as an int64.
    bound = 2.0 ** (8 * dtype.itemsize - 1)
    rounded = np.clip(np.rint(mean), -bound, np.nextafter(bound, 0.0))
    return np.asarray(rounded).astype(f"i{dtype.itemsize}").astype(dtype)
