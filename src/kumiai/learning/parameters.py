"""What the parameters of strategies may be: one rule per field, checked when one is made."""

import dataclasses
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kumiai.core.errors import ConfigError
from kumiai.learning.verification import is_finite_number

__all__ = ["FRACTION", "NOT_NEGATIVE", "POSITIVE", "TAU", "Rule", "number", "verify_fields"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What a number has to be, in words and as a test."""

    text: str
    holds: Callable[[float], bool]


POSITIVE = Rule("a number greater than 0", lambda value: value > 0)
NOT_NEGATIVE = Rule("a number of at least 0", lambda value: value >= 0)
FRACTION = Rule("a number from 0 to below 1", lambda value: 0 <= value < 1)
# A smaller tau has a square that float32 cannot hold, and 0 / 0 would follow.
TAU = Rule("a number from 1e-15 to 1", lambda value: 1e-15 <= value <= 1)


def number(rule: Rule, default: float) -> float:
    """Return a dataclass field that `verify_fields` holds to ``rule``."""
    field: float = dataclasses.field(default=default, metadata={"rule": rule})
    return field


def verify_fields(strategy: Any) -> None:
    """Check each field: a `number` against its rule, any other for being true or false.

    Args:
        strategy: a dataclass with a ``name``.

    Raises:
        ConfigError: a field breaks its rule.
    """
    for field in dataclasses.fields(strategy):
        value, rule = getattr(strategy, field.name), field.metadata.get("rule")
        if rule is None:
            is_right, text = isinstance(value, bool), "true or false"
        else:
            is_right, text = is_finite_number(value) and rule.holds(value), rule.text
        if not is_right:
            raise ConfigError(
                f"{strategy.name}.{field.name} must be {text}, got {reprlib.repr(value)}"
            )
