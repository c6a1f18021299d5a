"""How values become bytes: JSON, which any process may read and which runs nothing.

A tuple comes back as a list. What JSON cannot say is refused instead of being changed: numbers that
are not finite, keys that are no text.
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import orjson

from kumiai.core.errors import CodecError

__all__ = ["JSONSerializer", "Serializer"]


# What would come back as something else is refused.
_AS_IT_IS = (
    orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)


class Serializer(Protocol):
    """Values to bytes and back; what comes back equals what went in."""

    def dumps(self, value: Any) -> bytes:
        """Return the bytes of a value.

        Raises:
            ValueError: it has no place in this format.
        """
        ...

    def loads(self, data: bytes) -> Any:
        """Return the value of the bytes.

        Raises:
            CodecError: they are not in this format.
        """
        ...


class JSONSerializer:
    """JSON by way of orjson: text, booleans, null, floats, integers of 64 bits, lists and dicts."""

    def dumps(self, value: Any) -> bytes:
        """Return the bytes of a value.

        Raises:
            ValueError: it has no place in JSON.
        """
        try:
            data = orjson.dumps(value, option=_AS_IT_IS)
        except (TypeError, orjson.JSONEncodeError) as error:
            raise ValueError(f"value must fit JSON, got {error}") from error
        # orjson writes null for NaN and infinity; only then is it worth looking.
        if b"null" in data and not _is_finite(value):
            raise ValueError("value must hold finite numbers only, got NaN or infinity")
        return data

    def loads(self, data: bytes) -> Any:
        """Return the value of the bytes.

        Raises:
            CodecError: they are no JSON.
        """
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise CodecError(f"value must be JSON, got {len(data)} bytes of something else") from (
                error
            )


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(_is_finite(each) for each in value.values())
    if isinstance(value, list | tuple):
        return all(_is_finite(each) for each in value)
    return True
