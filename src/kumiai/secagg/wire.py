"""Bytes of messages: one strict form for each value, and no value for any other bytes.

A `Codec` writes a value and reads it back. Numbers have a fixed width, the least significant byte
first; whatever varies in length says its length first, within a limit. A record is its fields in
order. Nothing is optional and nothing may follow, so that two forms of one value do not exist and
a signature over bytes is one over the value.
"""

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter, ge
from typing import Any, Generic, TypeVar

from kumiai.core.errors import SecureAggregationError

__all__ = [
    "Codec",
    "Reader",
    "blob",
    "choice",
    "fixed",
    "increasing",
    "indices",
    "many",
    "number",
    "real",
    "record",
    "text",
]

T = TypeVar("T")
_LENGTH_SIZE_BYTES = 4


class Reader:
    """Bytes that are taken from the front, one value after the other."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        """Begin at the first byte."""
        self._data = data
        self._at = 0

    def take(self, size_bytes: int, what: str) -> bytes:
        """Return the next bytes.

        Raises:
            SecureAggregationError: fewer are left.
        """
        taken = self._data[self._at : self._at + size_bytes]
        if len(taken) < size_bytes:
            raise SecureAggregationError(
                f"{what} must be {size_bytes} bytes, got the last {len(taken)} of the message"
            )
        self._at += size_bytes
        return taken

    def end(self) -> None:
        """Check that nothing follows.

        Raises:
            SecureAggregationError: bytes are left.
        """
        if self._at < len(self._data):
            raise SecureAggregationError(
                f"message must end after its last field, got {len(self._data) - self._at} bytes"
            )


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    """How a value is written, and how it is read.

    Attributes:
        write: returns the bytes; a value out of its limits is a ``ValueError``.
        read: takes the value from a reader; a ``SecureAggregationError`` if there is none.
    """

    write: Callable[[T], bytes]
    read: Callable[[Reader], T]

    def decode(self, data: bytes) -> T:
        """Return the value that all the bytes stand for.

        Raises:
            SecureAggregationError: they stand for none.
        """
        reader = Reader(data)
        value = self.read(reader)
        reader.end()
        return value


def number(size_bytes: int, what: str, *, least: int = 0, most: int | None = None) -> Codec[int]:
    """Return the form of a whole number of fixed width from ``least`` to ``most``."""
    highest = (1 << 8 * size_bytes) - 1 if most is None else most

    def problem(value: int) -> str:
        return f"{what} must be {least} to {highest}, got {value}"

    def write(value: int) -> bytes:
        if not least <= value <= highest:
            raise ValueError(problem(value))
        return value.to_bytes(size_bytes, "little")

    def read(reader: Reader) -> int:
        value = int.from_bytes(reader.take(size_bytes, what), "little")
        if not least <= value <= highest:
            raise SecureAggregationError(problem(value))
        return value

    return Codec(write, read)


def fixed(size_bytes: int, what: str) -> Codec[bytes]:
    """Return the form of bytes whose number is always the same."""

    def write(value: bytes) -> bytes:
        if len(value) != size_bytes:
            raise ValueError(f"{what} must be {size_bytes} bytes, got {len(value)}")
        return bytes(value)

    return Codec(write, lambda reader: reader.take(size_bytes, what))


def blob(most: int, what: str) -> Codec[bytes]:
    """Return the form of at most so many bytes."""
    length = number(_LENGTH_SIZE_BYTES, f"length of {what}", most=most)

    def write(value: bytes) -> bytes:
        return length.write(len(value)) + value

    return Codec(write, lambda reader: reader.take(length.read(reader), what))


def text(most: int, what: str) -> Codec[str]:
    """Return the form of 1 to so many bytes of printable text."""
    inner = blob(most, what)

    def write(value: str) -> bytes:
        if not (value and value.isprintable()):
            raise ValueError(f"{what} must be printable and not empty, got {len(value)} characters")
        return inner.write(value.encode())

    def read(reader: Reader) -> str:
        data = inner.read(reader)
        try:
            value = data.decode()
        except UnicodeDecodeError as error:
            raise SecureAggregationError(f"{what} must be UTF-8, got {len(data)} bytes") from error
        if not (value and value.isprintable()):
            raise SecureAggregationError(
                f"{what} must be printable and not empty, got {len(data)} bytes"
            )
        return value

    return Codec(write, read)


def real(what: str) -> Codec[float]:
    """Return the form of a finite number above zero: its 8 bytes of IEEE 754."""

    def problem(value: float) -> str | None:
        is_right = 0 < value < math.inf
        return None if is_right else f"{what} must be a finite number above 0, got {value}"

    def write(value: float) -> bytes:
        if found := problem(value):
            raise ValueError(found)
        return struct.pack("<d", value)

    def read(reader: Reader) -> float:
        value = float(struct.unpack("<d", reader.take(8, what))[0])
        if found := problem(value):
            raise SecureAggregationError(found)
        return value

    return Codec(write, read)


def choice(kinds: Sequence[T], what: str) -> Codec[T]:
    """Return the form of one of these values: the byte that counts them from 1."""
    index = number(1, what, least=1, most=len(kinds))
    return Codec(
        lambda value: index.write(kinds.index(value) + 1),
        lambda reader: kinds[index.read(reader) - 1],
    )


def many(item: Codec[T], most: int, what: str) -> Codec[tuple[T, ...]]:
    """Return the form of at most so many values of one kind."""
    count = number(_LENGTH_SIZE_BYTES, f"count of {what}", most=most)

    def write(values: tuple[T, ...]) -> bytes:
        return count.write(len(values)) + b"".join([item.write(value) for value in values])

    def read(reader: Reader) -> tuple[T, ...]:
        return tuple([item.read(reader) for _ in range(count.read(reader))])

    return Codec(write, read)


def indices(count: int, what: str) -> Codec[tuple[int, ...]]:
    """Return the form of places below ``count``, two bytes each, each larger than the last."""
    length = number(_LENGTH_SIZE_BYTES, f"count of {what}", most=count)

    def verify(values: tuple[int, ...], error: type[Exception]) -> tuple[int, ...]:
        _verify_increase(values, what, error)
        # All others lie between the first and the last.
        if values and not 0 <= values[0] <= values[-1] < count:
            raise error(f"{what} must be 0 to {count - 1}, got {values[0]} to {values[-1]}")
        return values

    def write(values: tuple[int, ...]) -> bytes:
        verify(values, ValueError)
        return length.write(len(values)) + struct.pack(f"<{len(values)}H", *values)

    def read(reader: Reader) -> tuple[int, ...]:
        size = length.read(reader)
        values = struct.unpack(f"<{size}H", reader.take(2 * size, what))
        return verify(values, SecureAggregationError)

    return Codec(write, read)


def increasing(
    item: Codec[T], most: int, what: str, *, key: Callable[[T], Any]
) -> Codec[tuple[T, ...]]:
    """Return the form of at most so many values, each larger than the last by its key."""
    inner = many(item, most, what)

    def verify(values: tuple[T, ...], error: type[Exception]) -> tuple[T, ...]:
        _verify_increase([key(value) for value in values], what, error)
        return values

    return Codec(
        lambda values: inner.write(verify(values, ValueError)),
        lambda reader: verify(inner.read(reader), SecureAggregationError),
    )


def record(kind: Callable[..., T], /, **fields: Codec[Any]) -> Codec[T]:
    """Return the form of a value with named fields, in the order given here."""
    # Messages of large rounds hold hundreds of thousands of fields: no generator, no look-up.
    writers = [(attrgetter(name), codec.write) for name, codec in fields.items()]

    def write(value: T) -> bytes:
        return b"".join([write_one(get(value)) for get, write_one in writers])

    def read(reader: Reader) -> T:
        return kind(**{name: codec.read(reader) for name, codec in fields.items()})

    return Codec(write, read)


def _verify_increase(keys: Sequence[Any], what: str, error: type[Exception]) -> None:
    if any(map(ge, keys, keys[1:])):
        raise error(f"{what} must increase, got one that is not larger than the last")
