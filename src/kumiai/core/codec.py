"""Named arrays as bytes and back, without copying the numbers.

The layout is that of safetensors files: eight bytes with the length of the header (little-endian),
the header (a JSON object padded with spaces), the data. Files written here can be read by the
safetensors library and, within the limits below, the other way round. It is not a container for
anything else: no objects, no strings, no code.

Rules kept here:

- Equal content gives equal bytes, hence one digest: arrays stand in the order of falling item
  size, then of name, whatever the order of the mapping. The order of the mapping is not kept.
- With that order and a header that ends on a multiple of 64 bytes every array starts at a
  multiple of its item size, so the views that ``decode`` returns are aligned when the buffer is.
- What is read is checked before it is used: a blob is either exactly right or a ``CodecError``
  that says what is wrong and where. Data never overlaps, never has gaps, never runs over.
"""

import json
import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kumiai.core.arrays import BFLOAT16, ArraySpec, Layout, NamedArrays, layout_of
from kumiai.core.digest import Buffer
from kumiai.core.errors import CodecError

__all__ = [
    "ARRAY_COUNT_MAX",
    "DIMENSION_COUNT_MAX",
    "HEADER_SIZE_MAX",
    "NAME_LENGTH_MAX",
    "Decoded",
    "Header",
    "chunks",
    "decode",
    "decode_header",
    "encode",
    "encoded_size",
]

HEADER_SIZE_MAX = 1 << 20  # bytes, the padding included and the eight bytes of length not
ARRAY_COUNT_MAX = 10_000
NAME_LENGTH_MAX = 256  # characters
DIMENSION_COUNT_MAX = 32

_KNOWN_SIZE_MAX = 64 << 10  # bytes of a header that is remembered
_LENGTH_SIZE = 8
_ALIGNMENT = 64
_SIZE_MAX = 2**63 - 1  # bytes; what numpy can address
_METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}
_CODES = {
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "bool": "BOOL",
}
_DTYPES: dict[str, np.dtype[Any]] = {
    name: BFLOAT16 if name == "bfloat16" else np.dtype(name).newbyteorder("<") for name in _CODES
}
_NAMES = {code: name for name, code in _CODES.items()}


@dataclass(frozen=True, slots=True)
class Header:
    """What a blob says of itself before its data begin.

    Attributes:
        layout: names, dtypes and shapes, in the order of the data.
        metadata: free text by name.
        data_offset: bytes from the start of the blob to the first number.
        size_bytes: what the whole blob has to measure.
    """

    layout: dict[str, ArraySpec]
    metadata: dict[str, str]
    data_offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Decoded:
    """A blob's content: read-only views onto its buffer, and its metadata."""

    arrays: dict[str, NDArray[Any]]
    metadata: dict[str, str]


def encode(arrays: NamedArrays, metadata: Mapping[str, str] | None = None) -> list[memoryview]:
    """Return buffers whose concatenation is the blob; equal content gives equal bytes.

    The first buffer is the header; then comes one read-only buffer per array, which shares the
    array's memory when that is C-contiguous and little-endian. Do not change the arrays while
    the buffers are in use.

    Args:
        arrays: any shape, 0-d and empty ones included; float16, bfloat16, float32, float64, bool
            and the integers of 8 to 64 bits.
        metadata: free text by name, such as a format version.

    Raises:
        CodecError: a name, dtype or shape that the format or our limits do not allow.
    """
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise CodecError(f"array {name!r} must be a numpy array, got {type(array).__name__}")
    layout = layout_of(arrays)
    header = _encode_header(layout, metadata)
    data = (_bytes_of(arrays[name], _DTYPES[layout[name].dtype]) for name in _order(layout))
    return [memoryview(header), *data]


def encoded_size(layout: Layout, metadata: Mapping[str, str] | None = None) -> int:
    """Return how many bytes arrays of this layout take when encoded.

    Raises:
        CodecError: a name, dtype or shape that the format or our limits do not allow.
    """
    return len(_encode_header(layout, metadata)) + sum(map(_size_of, layout.values()))


def chunks(buffers: Iterable[Buffer], size_bytes: int = 1 << 20) -> Iterator[bytes]:
    """Yield the buffers' concatenation in pieces of ``size_bytes``; only the last may be shorter.

    Each byte is copied once, because gRPC takes nothing but ``bytes``.
    """
    if size_bytes < 1:
        raise ValueError(f"size_bytes must be at least 1, got {size_bytes}")
    pieces: list[memoryview] = []
    room = size_bytes
    for buffer in buffers:
        rest = memoryview(buffer).cast("B")
        while len(rest) >= room:
            pieces.append(rest[:room])
            rest = rest[room:]
            yield b"".join(pieces)
            pieces, room = [], size_bytes
        if rest:
            pieces.append(rest)
            room -= len(rest)
    if pieces:
        yield b"".join(pieces)


def decode(data: Buffer) -> Decoded:
    """Return the arrays of a blob as read-only views onto ``data``, in the blob's order.

    Args:
        data: the whole blob, C-contiguous; it lives as long as one of the views does.

    Raises:
        CodecError: the bytes are not exactly one blob.
    """
    view = memoryview(data).cast("B").toreadonly()
    header = decode_header(view)
    if len(view) != header.size_bytes:
        raise CodecError(f"blob must measure {header.size_bytes} bytes, got {len(view)}")
    # Through one array of bytes, because that holds on to the buffer: an array made of the buffer
    # itself would let a file be unmapped under it.
    flat = np.frombuffer(view, np.uint8)
    arrays: dict[str, NDArray[Any]] = {}
    offset = header.data_offset
    for name, spec in header.layout.items():
        array: NDArray[Any] = np.ndarray(spec.shape, _DTYPES[spec.dtype], flat, offset)
        if spec.dtype == "bool":
            _verify_bools(name, array)
        arrays[name] = array
        offset += array.nbytes
    return Decoded(arrays, header.metadata)


def decode_header(prefix: Buffer) -> Header:
    """Return what a blob says of itself, without looking at its data.

    Args:
        prefix: the blob's first bytes, C-contiguous; ``8 + HEADER_SIZE_MAX`` are always enough.

    Raises:
        CodecError: the header is cut off, breaks a rule of the format or exceeds a limit.
    """
    view = memoryview(prefix).cast("B")
    if len(view) < _LENGTH_SIZE:
        raise CodecError(f"blob must begin with {_LENGTH_SIZE} bytes of length, got {len(view)}")
    length = int.from_bytes(view[:_LENGTH_SIZE], "little")
    if length > HEADER_SIZE_MAX:
        raise CodecError(f"header must measure at most {HEADER_SIZE_MAX} bytes, got {length}")
    data_offset = _LENGTH_SIZE + length
    if len(view) < data_offset:
        raise CodecError(
            f"header must be complete at {length} bytes, got {len(view) - _LENGTH_SIZE}"
        )
    text = bytes(view[_LENGTH_SIZE:data_offset])
    header = _known_header(text) if length <= _KNOWN_SIZE_MAX else _header(text)
    return replace(header, layout=dict(header.layout), metadata=dict(header.metadata))


# Writing


def _encode_header(layout: Layout, metadata: Mapping[str, str] | None) -> bytes:
    """Return the eight bytes of length and the padded header."""
    _verify_count(len(layout))
    entries: dict[str, object] = {}
    if metadata:
        entries[_METADATA] = dict(sorted(_verified_metadata(dict(metadata)).items()))
    for name, spec in layout.items():
        _verify_name(name)
        if name == _METADATA:
            raise CodecError(f"array must not be named {_METADATA!r}: the format keeps that name")
        if spec.dtype not in _CODES:
            raise CodecError(
                f"array {name!r} must have one of the dtypes {', '.join(_CODES)}, got {spec.dtype}"
            )
        _verify_shape(name, spec.shape)
    start = 0
    for name in _order(layout):
        spec = layout[name]
        end = start + _size_of(spec)
        entries[name] = {
            "dtype": _CODES[spec.dtype],
            "shape": spec.shape,
            "data_offsets": (start, end),
        }
        start = end
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(_LENGTH_SIZE + len(text)) % _ALIGNMENT)
    if len(text) > HEADER_SIZE_MAX:
        raise CodecError(f"header must measure at most {HEADER_SIZE_MAX} bytes, got {len(text)}")
    return len(text).to_bytes(_LENGTH_SIZE, "little") + text


def _order(layout: Layout) -> list[str]:
    return sorted(layout, key=lambda name: (-_DTYPES[layout[name].dtype].itemsize, name))


def _size_of(spec: ArraySpec) -> int:
    return math.prod(spec.shape) * _DTYPES[spec.dtype].itemsize


def _bytes_of(array: NDArray[Any], dtype: np.dtype[Any]) -> memoryview:
    # As bytes, because bfloat16 has no buffer protocol and memoryview cannot cast empty shapes.
    contiguous = np.ascontiguousarray(array, dtype=dtype)
    return contiguous.reshape(-1).view(np.uint8).data.toreadonly()


# Reading


def _header(text: bytes) -> Header:
    entries = _parse(text)
    metadata = _verified_metadata(entries.pop(_METADATA, {}))
    layout, data_size = _verified_layout(entries)
    data_offset = _LENGTH_SIZE + len(text)
    return Header(layout, metadata, data_offset, data_offset + data_size)


# All updates of a run have one header, and parsing it can cost more than reading a small update.
_known_header = lru_cache(maxsize=16)(_header)


def _parse(header: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(str(header, "utf-8"), object_pairs_hook=_without_duplicates)
    except UnicodeDecodeError as error:
        raise CodecError(f"header must be UTF-8, got a wrong byte at {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise CodecError(f"header must be JSON, got {error}") from error
    if not isinstance(parsed, dict):
        raise CodecError(f"header must be a JSON object, got {reprlib.repr(parsed)}")
    return parsed


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise CodecError(f"header must have each key once, got {reprlib.repr(twice)} twice")
    return result


def _verified_layout(entries: dict[str, Any]) -> tuple[dict[str, ArraySpec], int]:
    """Return the layout and the size of the data in bytes."""
    _verify_count(len(entries))
    layout: dict[str, ArraySpec] = {}
    start = 0
    for name, entry in entries.items():
        _verify_name(name)
        if not isinstance(entry, dict) or entry.keys() != _FIELDS:
            raise CodecError(
                f"array {name!r} must be an object of dtype, shape and data_offsets, "
                f"got {reprlib.repr(entry)}"
            )
        code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(code, str) or code not in _NAMES:
            raise CodecError(
                f"array {name!r} must have one of the dtypes {', '.join(_NAMES)}, "
                f"got {reprlib.repr(code)}"
            )
        if not _are_integers(shape):
            raise CodecError(
                f"array {name!r} must have a list of integers as shape, got {reprlib.repr(shape)}"
            )
        spec = ArraySpec(_NAMES[code], tuple(shape))
        _verify_shape(name, spec.shape)
        end = start + _size_of(spec)
        if end > _SIZE_MAX:
            raise CodecError(f"array {name!r} must end within {_SIZE_MAX} bytes, got {end}")
        if not _are_integers(offsets) or offsets != [start, end]:
            raise CodecError(
                f"array {name!r} must have the data_offsets [{start}, {end}], "
                f"got {reprlib.repr(offsets)}"
            )
        layout[name] = spec
        start = end
    return layout, start


def _are_integers(value: object) -> bool:
    # By exact type: True is an int to Python, and 1.0 equals 1.
    return isinstance(value, list) and all(type(item) is int for item in value)


def _verify_bools(name: str, array: NDArray[Any]) -> None:
    # numpy computes nonsense with a bool that is neither 0 nor 1.
    largest = int(array.view(np.uint8).max(initial=0))
    if largest > 1:
        raise CodecError(f"array {name!r} must hold bytes 0 and 1 only, got {largest}")


# Rules for both directions


def _verify_count(count: int) -> None:
    if count > ARRAY_COUNT_MAX:
        raise CodecError(f"blob must hold at most {ARRAY_COUNT_MAX} arrays, got {count}")


def _verify_name(name: object) -> None:
    if not isinstance(name, str) or not 1 <= len(name) <= NAME_LENGTH_MAX or not _is_text(name):
        raise CodecError(
            f"array name must be 1 to {NAME_LENGTH_MAX} characters of text, "
            f"got {reprlib.repr(name)}"
        )


def _verify_shape(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) > DIMENSION_COUNT_MAX:
        raise CodecError(
            f"array {name!r} must have at most {DIMENSION_COUNT_MAX} dimensions, got {len(shape)}"
        )
    if min(shape, default=0) < 0:
        raise CodecError(
            f"array {name!r} must have no negative dimension, got {reprlib.repr(shape)}"
        )
    # A zero among the dimensions hides the others from the product, but not from numpy.
    if math.prod(filter(None, shape)) > _SIZE_MAX // 8:
        raise CodecError(f"array {name!r} must fit in memory, got {reprlib.repr(shape)}")


def _verified_metadata(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(
        isinstance(text, str) and _is_text(text) for item in value.items() for text in item
    ):
        raise CodecError(f"metadata must map text to text, got {reprlib.repr(value)}")
    return value


def _is_text(value: str) -> bool:
    """Tell whether UTF-8 can say it: JSON may hide half of a surrogate pair behind an escape."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
