"""What a study's functions return, checked at the line that builds it.

A mistake raises ``TypeError`` or ``ValueError`` right there, so that the traceback points into the
study; ``execution`` turns it into a ``StudyError`` that names the function and the line.
"""

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import numpy as np

from kumiai.core.arrays import NamedArrays
from kumiai.core.errors import ConfigError
from kumiai.core.ids import verify_name

__all__ = ["METRIC_COUNT_MAX", "Evaluation", "Update", "verify_arrays"]

METRIC_COUNT_MAX = 64


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """What ``train`` returns.

    Attributes:
        weights: the trained model in full (not the difference), with the names, shapes and dtypes
            of the model that was handed in.
        examples: how many examples it was trained on, > 0; the weight of this site in the mean.
        metrics: name to finite number, at most 64; names as in ``kumiai.core.ids.verify_name``.

    Raises:
        TypeError: a field has the wrong type.
        ValueError: a number or a name is out of its range.
    """

    weights: NamedArrays
    examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every field; numbers become plain ``int`` and ``float``."""
        object.__setattr__(self, "weights", verify_arrays("weights", self.weights))
        object.__setattr__(self, "examples", _positive("examples", self.examples))
        object.__setattr__(self, "metrics", _finite_metrics(self.metrics))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What ``evaluate`` returns.

    Attributes:
        examples: how many examples were evaluated, > 0; the weight of this site in the mean.
        metrics: name to finite number, at most 64; names as in ``kumiai.core.ids.verify_name``.

    Raises:
        TypeError: a field has the wrong type.
        ValueError: a number or a name is out of its range.
    """

    examples: int
    metrics: Mapping[str, float]

    def __post_init__(self) -> None:
        """Check both fields; numbers become plain ``int`` and ``float``."""
        object.__setattr__(self, "examples", _positive("examples", self.examples))
        object.__setattr__(self, "metrics", _finite_metrics(self.metrics))


def verify_arrays(field_name: str, arrays: object) -> dict[str, np.ndarray[Any, Any]]:
    """Return ``arrays`` as a dict if it maps non-empty names to numpy arrays.

    Raises:
        TypeError: it is no mapping, a name is no string or a value is no array.
        ValueError: it is empty or a name is.
    """
    if not isinstance(arrays, Mapping):
        raise TypeError(
            f"{field_name} must be a mapping from names to numpy arrays, got {_type_name(arrays)}"
        )
    if not arrays:
        raise ValueError(f"{field_name} must hold at least one array, got none")
    for name, array in arrays.items():
        if not isinstance(name, str):
            raise TypeError(f"names in {field_name} must be strings, got {_type_name(name)}")
        if not name:
            raise ValueError(f"names in {field_name} must not be empty, got ''")
        if not isinstance(array, np.ndarray):
            raise TypeError(
                f"{field_name}[{name!r}] must be a numpy array, got {_type_name(array)}"
            )
    return dict(arrays)


def _positive(field_name: str, value: SupportsIndex) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{field_name} must be an integer, got {_type_name(value)}")
    number = operator.index(value)
    if number <= 0:
        raise ValueError(f"{field_name} must be > 0, got {number}")
    return number


def _finite_metrics(metrics: object) -> dict[str, float]:
    if not isinstance(metrics, Mapping):
        raise TypeError(
            f"metrics must be a mapping from names to numbers, got {_type_name(metrics)}"
        )
    if len(metrics) > METRIC_COUNT_MAX:
        raise ValueError(f"metrics must be at most {METRIC_COUNT_MAX}, got {len(metrics)}")
    return {_metric_name(name): _finite(name, value) for name, value in metrics.items()}


def _metric_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"metric name must be a string, got {_type_name(name)}")
    try:
        return verify_name("metric name", name)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _finite(name: str, value: Any) -> float:
    # Scalars of numpy and torch share no type, only this method; text does not have it.
    if not hasattr(value, "__float__") or getattr(value, "ndim", 0) != 0:
        raise TypeError(f"metric {name!r} must be a number, got {_type_name(value)}")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"metric {name!r} must be finite, got {number}")
    return number


def _type_name(value: object) -> str:
    return type(value).__name__
