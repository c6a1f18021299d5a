"""Gradients as they come: numpy's or PyTorch's, in a list, a tuple or a dict.

PyTorch is never imported. A tensor is known by what it can do, computes where it lies, and only
whole numbers and two floats leave its device.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kumiai.core.arrays import BFLOAT16

__all__ = ["Gradients", "Shapes", "flat_norm", "named", "quantized", "scaled", "shapes_of"]

Gradients: TypeAlias = list[Any] | tuple[Any, ...] | Mapping[Any, Any]
"""Tensors of one model."""
Shapes: TypeAlias = Mapping[Any, tuple[int, ...]]
"""The shapes of tensors by their names, in their order."""


def named(gradients: Gradients) -> dict[Any, Any]:
    """Return tensors by their names; those of a list by their places.

    Raises:
        TypeError: it is no list, tuple or dict, or something in it is no tensor of floats.
        ValueError: it is empty.
    """
    if not isinstance(gradients, Mapping | list | tuple):
        raise TypeError(
            f"gradients must be a list, a tuple or a dict of tensors, "
            f"got {type(gradients).__name__}"
        )
    tensors = dict(gradients if isinstance(gradients, Mapping) else enumerate(gradients))
    if not tensors:
        raise ValueError("gradients must have at least one tensor, got none")
    for name, tensor in tensors.items():
        if not _is_of_floats(tensor):
            raise TypeError(
                f"gradients[{name!r}] must be a tensor of floats of numpy or PyTorch, "
                f"got {getattr(tensor, 'dtype', type(tensor).__name__)}"
            )
    return tensors


def shapes_of(tensors: Mapping[Any, Any]) -> Shapes:
    """Return the shapes by the names."""
    return {name: tuple(map(int, tensor.shape)) for name, tensor in tensors.items()}


def flat_norm(tensors: Mapping[Any, Any]) -> float:
    """Return the L2 norm over all numbers of all tensors, in float64.

    Raises:
        ValueError: a number is NaN or infinite, or the norm is beyond the floats.
    """
    peak = 0.0
    for name, tensor in tensors.items():
        # The largest is NaN if any is.
        found = float(abs(_precise(tensor)).max()) if math.prod(tensor.shape) else 0.0
        if not math.isfinite(found):
            raise ValueError(
                f"gradients[{name!r}] must be finite, got NaN or infinity; leave this update out"
            )
        peak = max(peak, found)
    if peak == 0:
        return 0.0
    # In units of the largest, so that no square overflows, and none that counts vanishes.
    squares = math.fsum(float(((_precise(each) / peak) ** 2).sum()) for each in tensors.values())
    norm = peak * math.sqrt(squares)
    if not math.isfinite(norm):
        raise ValueError("gradients must have a norm below 1.8e308, got a greater one")
    return norm


def scaled(gradients: Gradients, factor: float) -> Any:
    """Return new tensors of the same kinds, each number times the factor, in the same container."""
    if isinstance(gradients, Mapping):
        return {name: _times(tensor, factor) for name, tensor in gradients.items()}
    return type(gradients)([_times(tensor, factor) for tensor in gradients])


def quantized(tensors: Mapping[Any, Any], factor: float) -> NDArray[np.int64]:
    """Return all numbers times a factor, rounded to the nearest whole ones, one after the other.

    Args:
        tensors: of finite numbers.
        factor: so small that no product is beyond 2^53.
    """
    pieces = []
    for tensor in tensors.values():
        numbers = (_precise(tensor) * factor).round()
        if _is_torch(numbers):
            numbers = numbers.cpu().numpy()
        pieces.append(numbers.astype(np.int64).reshape(-1))
    return np.concatenate(pieces)


def _is_torch(tensor: Any) -> bool:
    return hasattr(tensor, "detach")


def _is_of_floats(tensor: Any) -> bool:
    if _is_torch(tensor):
        return bool(tensor.dtype.is_floating_point)
    return isinstance(tensor, np.ndarray | np.floating) and (
        tensor.dtype.kind == "f" or tensor.dtype == BFLOAT16
    )


def _precise(tensor: Any) -> Any:
    """Return a tensor as float64, where it lies."""
    return tensor.detach().double() if _is_torch(tensor) else tensor.astype(np.float64)


def _times(tensor: Any, factor: float) -> Any:
    if _is_torch(tensor):
        return tensor.detach() * factor
    return (_precise(tensor) * factor).astype(tensor.dtype)
