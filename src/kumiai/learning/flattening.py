"""An update as one vector, for those who sum without looking, and the mean back as arrays.

The order is the model's layout's by name, which both ends know.
"""

import math

import numpy as np
from numpy.typing import NDArray

from kumiai.core.arrays import Layout, NamedArrays, layout_of, verify_layout
from kumiai.learning.deltas import Arrays, as_signed, computing_dtype

__all__ = ["dimension_of", "flattened", "unflattened"]


def dimension_of(layout: Layout) -> int:
    """Return how many numbers a model of this layout has."""
    return sum(math.prod(spec.shape) for spec in layout.values())


def flattened(update: NamedArrays, layout: Layout) -> NDArray[np.float32]:
    """Return the update's numbers in a row.

    Args:
        update: of the given layout.
        layout: the model's.

    Returns:
        Shape (dimension_of(layout),), float32; what is too large for it is infinite.

    Raises:
        UpdateRejectedError: the update has another layout.
    """
    verify_layout(layout_of(update), layout)
    vector = np.empty(dimension_of(layout), np.float32)
    at = 0
    with np.errstate(over="ignore"):
        for name in sorted(layout):
            numbers = as_signed(update[name]).reshape(-1)
            vector[at : at + numbers.size] = numbers
            at += numbers.size
    return vector


def unflattened(vector: NDArray[np.float32], layout: Layout) -> Arrays:
    """Return a mean update as arrays, as `mean_of_updates` does.

    Args:
        vector: shape (dimension_of(layout),).
        layout: the model's.

    Raises:
        ValueError: the vector has another length.
    """
    if vector.shape != (dimension := dimension_of(layout),):
        raise ValueError(f"vector must have {dimension} numbers, got shape {vector.shape}")
    places, at = {}, 0
    for name in sorted(layout):
        size = math.prod(layout[name].shape)
        places[name] = slice(at, at + size)
        at += size
    return {
        name: vector[places[name]]
        .reshape(spec.shape)
        .astype(computing_dtype(np.dtype(spec.dtype)), copy=True)
        for name, spec in layout.items()
    }
