"""A sum over records of which each can move it by a known bound and no more: whole numbers.

Each record's contribution is clipped to an L2 norm over all of its coordinates at once, counted in
steps, and rounded to whole ones; the bound is checked on these, in integers. So the sum's
sensitivity is exact, whatever the floats did on the way.

Source: Abadi et al. 2016 (clipping each record); Kairouz, Liu, Steinke 2021 (whole numbers).
"""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kumiai.privacy.checking import positive, whole

__all__ = ["RecordSum", "l2_norm_max_in_steps"]

_STEPS_MAX: Final = 1 << 30
_SHRINK: Final = 1 - 2.0**-40
"""Makes up for what floats lose in a norm, so that nothing is ever beyond the bound by them."""
_BLOCK_NUMBERS: Final = 1 << 20


def l2_norm_max_in_steps(clip: float, step: float, dimension: int) -> float:
    """Return the bound of one clipped contribution's L2 norm, counted in steps.

    Rounding moves each coordinate by at most half a step.

    Args:
        clip: the clipping norm, > 0.
        step: what one step stands for, > 0.
        dimension: how many coordinates there are.
    """
    return clip / step + math.sqrt(dimension) / 2


class RecordSum:
    """The sum of clipped contributions, which come in any number of batches."""

    def __init__(self, dimension: int, *, clip: float, step: float) -> None:
        """Begin with zeros.

        Args:
            dimension: coordinates of a contribution.
            clip: the clipping norm.
            step: what one step stands for; ``clip`` is at most 2^30 of them.

        Raises:
            TypeError, ValueError: an argument is not what it must be.
        """
        self._dimension = whole("dimension", dimension, at_least=1, at_most=1 << 32)
        self._clip = positive("clip", clip)
        self._step = positive("step", step)
        if self._clip > _STEPS_MAX * self._step:
            raise ValueError(f"clip must be at most 2^30 steps of {step!r}, got {clip!r}")
        bound = l2_norm_max_in_steps(self._clip, self._step, self._dimension)
        self._bound_squared = math.floor(bound * bound)
        self._total: NDArray[np.int64] = np.zeros(self._dimension, np.int64)
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """How many contributions counted as zero, because they were not finite; private."""
        return self._dropped

    def total(self) -> NDArray[np.int64]:
        """Return the sum so far, in steps; private until noise is added."""
        return self._total.copy()

    def add(self, rows: NDArray[Any]) -> None:
        """Add the contributions of some records.

        Args:
            rows: shape (records, dimension), floats; a row that is not finite counts as zero.

        Raises:
            ValueError: the shape is another one.
        """
        if rows.ndim != 2 or rows.shape[1] != self._dimension:
            raise ValueError(f"rows must have shape (records, {self._dimension}), got {rows.shape}")
        at_once = max(1, _BLOCK_NUMBERS // self._dimension)
        for start in range(0, len(rows), at_once):
            self._total += self._whole(rows[start : start + at_once]).sum(axis=0)

    def _whole(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """Return contributions as whole steps, each within the bound."""
        numbers = rows.astype(np.float64)
        is_good = np.isfinite(numbers).all(axis=1)
        numbers[~is_good] = 0.0
        # By the largest number first, so that no square overflows.
        scales = np.abs(numbers).max(axis=1, initial=0.0)
        scales[scales == 0] = 1.0
        numbers /= scales[:, None]
        norms = np.sqrt(np.einsum("ij,ij->i", numbers, numbers))
        limit = self._clip * _SHRINK
        factors = np.minimum(scales, limit / np.maximum(norms, 1.0)) / self._step
        numbers *= factors[:, None]
        steps = np.rint(numbers).astype(np.int64)
        # Proven above up to the errors of floats, and held here against all of them.
        is_good &= np.einsum("ij,ij->i", steps, steps) <= self._bound_squared
        steps[~is_good] = 0
        self._dropped += int(np.count_nonzero(~is_good))
        return steps
