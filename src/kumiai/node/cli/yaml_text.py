"""JSON values as YAML text, so that nothing in it can be taken for something else.

Objects and lists stand in block style; every scalar is written as JSON, except words that no
YAML reader takes for anything but text.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["to_yaml"]

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
# What some version of YAML reads as a boolean or as nothing.
_RESERVED = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"})
# What JSON writes as it is and YAML does not allow, or reads as a line end.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")


def to_yaml(value: Any) -> str:
    """Return the value as YAML, ending with a line end.

    Args:
        value: made of dicts with text keys, lists, text, numbers, booleans and ``None``.
    """
    return "\n".join(_lines(value)) + "\n"


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for key, entry in value.items():
            yield from _entry(f"{_scalar(str(key))}:", entry)
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        for entry in value:
            yield from _entry("-", entry)
    else:
        yield _scalar(value)


def _entry(head: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping | list | tuple) and value:
        yield head
        yield from (f"  {line}" for line in _lines(value))
    else:
        yield f"{head} {_scalar(value)}"


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        if _WORD.fullmatch(value) and value.lower() not in _RESERVED:
            return value
        quoted = json.dumps(value, ensure_ascii=False)
        return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match.group()):04x}", quoted)
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else (".inf" if value > 0 else "-.inf")
    return json.dumps(value)
