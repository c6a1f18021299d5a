"""What the numbers of differential privacy may be: whatever is not plainly right is refused.

A NaN must never turn into an epsilon of 0, nor a word or a truth value into a number. Integers,
floats and numpy's scalars of the same value are the same number.

Raises, throughout: ``TypeError`` for what is no number, ``ValueError`` for a number out of range.
"""

import reprlib
from typing import Any

import numpy as np

__all__ = ["at_least_zero", "finite", "fraction", "open_fraction", "positive", "whole"]


def finite(name: str, value: Any) -> float:
    """Return a finite number as a float."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number, got {reprlib.repr(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    if not np.isfinite(number):
        raise ValueError(f"{name} must be a finite number, got {reprlib.repr(value)}")
    return number


def positive(name: str, value: Any) -> float:
    """Return a number greater than 0 as a float."""
    number = finite(name, value)
    if number <= 0:
        raise ValueError(f"{name} must be greater than 0, got {value!r}")
    return number


def at_least_zero(name: str, value: Any) -> float:
    """Return a number of at least 0 as a float."""
    number = finite(name, value)
    if number < 0:
        raise ValueError(f"{name} must be at least 0, got {value!r}")
    return number


def fraction(name: str, value: Any) -> float:
    """Return a number from 0 to 1, both included, as a float."""
    number = finite(name, value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name} must be from 0 to 1, got {value!r}")
    return number + 0.0  # a zero has no sign


def open_fraction(name: str, value: Any) -> float:
    """Return a number between 0 and 1, neither included, as a float."""
    number = finite(name, value)
    if not 0 < number < 1:
        raise ValueError(f"{name} must be greater than 0 and less than 1, got {value!r}")
    return number


def whole(name: str, value: Any, *, at_least: int, at_most: int) -> int:
    """Return a whole number within limits as an int; 5.0 is one, 5.5 is none."""
    number = finite(name, value)
    if number != np.floor(number):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if not at_least <= number <= at_most:
        raise ValueError(f"{name} must be from {at_least} to {at_most}, got {value!r}")
    return int(value)
