"""Named arrays: the one shape in which models, updates and optimizer states exist.

A model is a mapping from a name to a numpy array. Its layout is the same mapping with dtypes and
shapes instead of numbers; two things can be added up when their layouts are equal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from kumiai.core.errors import UpdateRejectedError

__all__ = ["BFLOAT16", "ArraySpec", "Layout", "NamedArrays", "layout_of", "verify_layout"]

NamedArrays = Mapping[str, NDArray[Any]]
BFLOAT16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """What one array looks like: numpy's name of the dtype, and the shape."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        """Return for example ``float32[64, 10]``."""
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


Layout = Mapping[str, ArraySpec]


def layout_of(arrays: NamedArrays) -> dict[str, ArraySpec]:
    """Return the layout of ``arrays``, in their order."""
    return {name: ArraySpec(_name_of(array.dtype), array.shape) for name, array in arrays.items()}


def verify_layout(found: Layout, expected: Layout) -> None:
    """Check that two layouts have the same names, dtypes and shapes; the order may differ.

    Raises:
        UpdateRejectedError: they differ; the message names the first difference.
    """
    for name in expected:
        if name not in found:
            raise UpdateRejectedError(f"array {name!r} must be present, got none of that name")
        if found[name] != expected[name]:
            raise UpdateRejectedError(f"array {name!r} must be {expected[name]}, got {found[name]}")
    for name in found:
        if name not in expected:
            raise UpdateRejectedError(f"array {name!r} must not be present: the model has none")


@lru_cache(maxsize=64)
def _name_of(dtype: np.dtype[Any]) -> str:
    # Kept because numpy takes 3 microseconds to spell it, and models have thousands of arrays.
    return dtype.name
