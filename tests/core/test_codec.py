"""The codec: exact bytes, strict reading, no copies."""

import json
import mmap
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kumiai.core.arrays import BFLOAT16, ArraySpec, layout_of
from kumiai.core.codec import (
    ARRAY_COUNT_MAX,
    HEADER_SIZE_MAX,
    chunks,
    decode,
    decode_header,
    encode,
    encoded_size,
)
from kumiai.core.errors import CodecError

FLOATS = ["float16", "float32", "float64"]
SIGNED = ["int8", "int16", "int32", "int64"]
UNSIGNED = ["uint8", "uint16", "uint32", "uint64"]
DTYPE_NAMES = [*FLOATS, *SIGNED, *UNSIGNED, "bool"]
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20).filter(
    lambda name: name != "__metadata__"
)
ARRAYS = st.dictionaries(
    NAMES,
    hnp.arrays(
        st.sampled_from([np.dtype(name) for name in DTYPE_NAMES]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    ),
    max_size=6,
)


def blob_of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: object = "U8", shape: object = (2,), offsets: object = (0, 2)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def joined(arrays: Any, metadata: Any = None) -> bytes:
    return b"".join(encode(arrays, metadata))


def assert_same_arrays(found: Any, expected: Any) -> None:
    assert layout_of(found).items() == layout_of(expected).items()
    for name, array in expected.items():
        assert found[name].tobytes() == array.tobytes()


# Round trips


@given(ARRAYS, st.dictionaries(TEXT, TEXT, max_size=3))
def test_what_is_encoded_is_decoded(arrays: Any, metadata: dict[str, str]) -> None:
    decoded = decode(joined(arrays, metadata))

    assert_same_arrays(decoded.arrays, arrays)
    assert decoded.metadata == metadata


@given(ARRAYS, st.dictionaries(TEXT, TEXT, max_size=3), st.randoms(use_true_random=False))
def test_equal_content_gives_equal_bytes(arrays: Any, metadata: Any, random: Any) -> None:
    names, keys = list(arrays), list(metadata)
    random.shuffle(names)
    random.shuffle(keys)
    shuffled = {name: arrays[name] for name in names}

    blob = joined(shuffled, {key: metadata[key] for key in keys})

    assert blob == joined(arrays, metadata)


@given(ARRAYS)
def test_what_is_decoded_encodes_to_the_same_bytes(arrays: Any) -> None:
    blob = joined(arrays)

    assert joined(decode(blob).arrays) == blob


@given(ARRAYS, st.dictionaries(TEXT, TEXT, max_size=3))
def test_the_size_is_known_before_encoding(arrays: Any, metadata: dict[str, str]) -> None:
    assert encoded_size(layout_of(arrays), metadata) == len(joined(arrays, metadata))


@given(ARRAYS, st.dictionaries(TEXT, TEXT, max_size=3))
def test_the_header_alone_tells_layout_and_size(arrays: Any, metadata: dict[str, str]) -> None:
    buffers = encode(arrays, metadata)

    header = decode_header(buffers[0])

    assert header.layout == layout_of(arrays)
    assert header.metadata == metadata
    assert header.data_offset == len(buffers[0])
    assert header.size_bytes == sum(map(len, buffers))


def test_bfloat16_survives_byte_by_byte() -> None:
    array = np.array([[1.5, -0.0, np.nan], [np.inf, 3e38, 1e-40]], dtype=BFLOAT16)

    found = decode(joined({"a": array})).arrays["a"]

    assert found.dtype == BFLOAT16
    assert found.shape == (2, 3)
    assert found.tobytes() == array.tobytes()


def test_no_arrays_make_a_valid_blob() -> None:
    assert decode(joined({})).arrays == {}


def test_views_are_aligned_whatever_the_mix_of_dtypes() -> None:
    arrays = {
        "a": np.ones(3, np.uint8),
        "b": np.ones(5, np.float64),
        "c": np.ones(1, np.float16),
        "d": np.ones(7, np.float32),
    }
    blob = np.frombuffer(joined(arrays), np.uint8)

    offset = decode_header(blob.data).data_offset

    assert offset % 64 == 0
    assert all(array.flags.aligned for array in decode(blob.data).arrays.values())


# No copies


def test_encoding_shares_the_memory_of_contiguous_arrays() -> None:
    array = np.zeros((3, 4), np.float32)

    buffer = encode({"a": array})[1]
    array[0, 0] = 1.0

    assert buffer.readonly
    assert bytes(buffer) == array.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
        np.arange(6, dtype=np.int16)[::2],
        np.arange(6, dtype=">f8"),
        np.arange(6, dtype=">i4").reshape(2, 3).T,
    ],
)
def test_strided_and_big_endian_arrays_are_written_in_order(array: Any) -> None:
    found = decode(joined({"a": array})).arrays["a"]

    assert found.dtype.isnative
    np.testing.assert_array_equal(found, array)


def test_decoded_arrays_are_views_that_cannot_be_written() -> None:
    data = bytearray(joined({"a": np.zeros(3, np.float32)}))

    found = decode(data).arrays["a"]
    data[-4:] = np.float32(7).tobytes()

    assert found[2] == 7
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        found.flags.writeable = True


def test_a_file_cannot_be_unmapped_while_an_array_of_it_lives(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(joined({"a": np.ones(3, np.float32)}))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    view = memoryview(mapped)
    arrays = decode(view).arrays

    with pytest.raises(BufferError):
        mapped.close()
    del arrays
    view.release()
    mapped.close()

    assert mapped.closed


# Chunks


@given(st.lists(st.binary(max_size=20), max_size=8), st.integers(1, 30))
def test_chunks_are_the_same_bytes_in_equal_pieces(buffers: list[bytes], size: int) -> None:
    pieces = list(chunks(buffers, size))

    assert b"".join(pieces) == b"".join(buffers)
    assert all(type(piece) is bytes for piece in pieces)
    assert all(len(piece) == size for piece in pieces[:-1])
    assert all(1 <= len(piece) <= size for piece in pieces)


def test_chunks_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="size_bytes must be at least 1, got 0"):
        next(chunks([b"a"], 0))


# The safetensors library


def test_the_library_reads_what_we_write() -> None:
    arrays = {name: np.ones((2, 3), name) for name in DTYPE_NAMES}
    arrays["scalar"] = np.array(2.5, np.float32)
    arrays["empty"] = np.zeros((0, 4), np.float64)

    found = safetensors.numpy.load(joined(arrays, {"ä": "ö"}))

    assert_same_arrays(found, arrays)


def test_we_read_what_the_library_writes() -> None:
    arrays = {name: np.ones((2, 3), name) for name in DTYPE_NAMES}
    arrays["scalar"] = np.array(2.5, np.float32)
    arrays["empty"] = np.zeros((0, 4), np.float64)

    decoded = decode(safetensors.numpy.save(arrays, {"ä": "ö"}))

    assert_same_arrays(decoded.arrays, arrays)
    assert decoded.metadata == {"ä": "ö"}


def test_bfloat16_interoperates_with_the_library_by_bytes() -> None:
    array = np.array([1.5, -2.0, 3e38], dtype=ml_dtypes.bfloat16)
    theirs = safetensors.numpy.save({"a": array})

    ((name, found),) = safetensors.deserialize(joined({"a": array}))

    assert decode(theirs).arrays["a"].tobytes() == array.tobytes()
    assert (name, found["dtype"], found["shape"]) == ("a", "BF16", [3])
    assert bytes(found["data"]) == array.tobytes()


# What is refused when writing


@pytest.mark.parametrize(
    ("arrays", "metadata", "message"),
    [
        ({"a": [1.0]}, None, "array 'a' must be a numpy array, got list"),
        ({"a": np.array(["x"])}, None, "array 'a' must have one of the dtypes .*, got str32"),
        ({"a": np.array([None])}, None, "array 'a' must have one of the dtypes .*, got object"),
        ({"a": np.ones(1, complex)}, None, "must have one of the dtypes .*, got complex128"),
        ({"": np.ones(1)}, None, "array name must be 1 to 256 characters of text, got ''"),
        ({"a" * 257: np.ones(1)}, None, "array name must be 1 to 256 characters of text"),
        ({"\ud800": np.ones(1)}, None, "array name must be 1 to 256 characters of text"),
        ({3: np.ones(1)}, None, "array name must be 1 to 256 characters of text, got 3"),
        ({"__metadata__": np.ones(1)}, None, "array must not be named '__metadata__'"),
        ({"a": np.ones((1,) * 33)}, None, "array 'a' must have at most 32 dimensions, got 33"),
        ({}, {"a": 1}, "metadata must map text to text, got {'a': 1}"),
        ({}, {1: "a"}, "metadata must map text to text, got {1: 'a'}"),
        ({}, {"a": "\ud800"}, "metadata must map text to text"),
        ({}, {"a": "x" * HEADER_SIZE_MAX}, "header must measure at most 1048576 bytes"),
    ],
)
def test_what_the_format_cannot_hold_is_not_written(
    arrays: Any, metadata: Any, message: str
) -> None:
    with pytest.raises(CodecError, match=message):
        encode(arrays, metadata)


def test_too_many_arrays_are_not_written() -> None:
    array = np.ones(1, np.int8)

    with pytest.raises(CodecError, match="blob must hold at most 10000 arrays, got 10001"):
        encode({str(index): array for index in range(ARRAY_COUNT_MAX + 1)})


def test_a_negative_dimension_has_no_size() -> None:
    with pytest.raises(CodecError, match=r"must have no negative dimension, got \(-1,\)"):
        encoded_size({"a": ArraySpec("float32", (-1,))})


# What is refused when reading


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"", "blob must begin with 8 bytes of length, got 0"),
        (b"\x02\0\0\0\0\0\0", "blob must begin with 8 bytes of length, got 7"),
        (b"\xff" * 8, "header must measure at most 1048576 bytes, got 18446744073709551615"),
        (b"\x03\0\0\0\0\0\0\0{}", "header must be complete at 3 bytes, got 2"),
        (blob_of(b""), "header must be JSON, got Expecting value"),
        (blob_of(b"{"), "header must be JSON"),
        (blob_of(b'{"\xff": 1}'), "header must be UTF-8, got a wrong byte at 2"),
        (blob_of(b"[" * 100_000), "header must be JSON, got maximum recursion depth"),
        (blob_of(b'{"a":' + b"9" * 5000 + b"}"), "header must be JSON, got Exceeds the limit"),
        (blob_of([]), r"header must be a JSON object, got \[\]"),
        (blob_of(b'{"a":1,"b":2,"a":3}'), "header must have each key once, got 'a' twice"),
        (
            blob_of(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"dtype":"I8"}}'),
            "header must have each key once, got 'dtype' twice",
        ),
        (blob_of({"__metadata__": 1}), "metadata must map text to text, got 1"),
        (blob_of({"__metadata__": {"a": 1}}), "metadata must map text to text, got {'a': 1}"),
        (blob_of({"__metadata__": {"\ud800": "a"}}), "metadata must map text to text"),
        (blob_of({"": entry()}, b"ab"), "array name must be 1 to 256 characters of text"),
        (blob_of({"a" * 257: entry()}, b"ab"), "array name must be 1 to 256 characters"),
        (blob_of({"\udc00": entry()}, b"ab"), "array name must be 1 to 256 characters"),
        (blob_of({"a": 1}), "array 'a' must be an object of dtype, shape and data_offsets, got 1"),
        (blob_of({"a": {"dtype": "U8"}}), "array 'a' must be an object of dtype, shape and data"),
        (blob_of({"a": entry() | {"more": 1}}, b"ab"), "array 'a' must be an object of dtype"),
        (blob_of({"a": entry("F8_E4M3")}, b"ab"), "array 'a' must have one of the dtypes F16, "),
        (blob_of({"a": entry(["U8"])}, b"ab"), r"must have one of the dtypes .*, got \['U8'\]"),
        (blob_of({"a": entry(shape=2)}, b"ab"), "must have a list of integers as shape, got 2"),
        (blob_of({"a": entry(shape=[2.0])}, b"ab"), "must have a list of integers as shape"),
        (blob_of({"a": entry(shape=[2, True])}, b"ab"), "must have a list of integers as shape"),
        (blob_of({"a": entry(shape=[-1, -2])}, b"ab"), r"no negative dimension, got \(-1, -2\)"),
        (blob_of({"a": entry(shape=[2] + 32 * [1])}, b"ab"), "at most 32 dimensions, got 33"),
        (blob_of({"a": entry(shape=[2**60])}, b"ab"), "array 'a' must fit in memory"),
        (blob_of({"a": entry(shape=[2**32] * 2)}, b"ab"), "array 'a' must fit in memory"),
        (blob_of({"a": entry(shape=[0, 2**63], offsets=[0, 0])}), "array 'a' must fit in memory"),
        (blob_of({"a": entry(offsets=[0, 1])}, b"a"), r"data_offsets \[0, 2\], got \[0, 1\]"),
        (blob_of({"a": entry(offsets=[0, 3])}, b"abc"), r"data_offsets \[0, 2\], got \[0, 3\]"),
        (blob_of({"a": entry(offsets=[1, 3])}, b"abc"), r"data_offsets \[0, 2\], got \[1, 3\]"),
        (blob_of({"a": entry(offsets=[0.0, 2])}, b"ab"), r"data_offsets \[0, 2\], got \[0.0, 2\]"),
        (blob_of({"a": entry(offsets=[False, 2])}, b"ab"), r"the data_offsets \[0, 2\], got"),
        (blob_of({"a": entry(offsets="02")}, b"ab"), r"data_offsets \[0, 2\], got '02'"),
        (
            blob_of({"a": entry(offsets=[0, 2, 2])}, b"ab"),
            r"data_offsets \[0, 2\], got \[0, 2, 2\]",
        ),
        (
            blob_of({"a": entry(), "b": entry(offsets=[0, 2])}, b"abcd"),
            r"array 'b' must have the data_offsets \[2, 4\], got \[0, 2\]",
        ),
        (
            blob_of({"a": entry(offsets=[2, 4]), "b": entry()}, b"abcd"),
            r"array 'a' must have the data_offsets \[0, 2\], got \[2, 4\]",
        ),
        (blob_of({"a": entry()}, b"a"), "blob must measure .* bytes, got"),
        (blob_of({"a": entry()}, b"abc"), "blob must measure .* bytes, got"),
        (blob_of({}, b"a"), "blob must measure 10 bytes, got 11"),
        (blob_of({"a": entry("BOOL")}, b"\0\2"), "array 'a' must hold bytes 0 and 1 only, got 2"),
    ],
)
def test_a_broken_blob_is_refused_with_the_reason(blob: bytes, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        decode(blob)


def test_arrays_that_end_beyond_addressable_memory_are_refused() -> None:
    huge = 2**60 - 1
    end = 8 * huge
    header = {"a": entry("F64", [huge], [0, end]), "b": entry("F64", [huge], [end, 2 * end])}

    with pytest.raises(CodecError, match="array 'b' must end within 9223372036854775807 bytes"):
        decode_header(blob_of(header))


def test_too_many_arrays_are_refused() -> None:
    empty = entry("U8", [0], [0, 0])
    text = json.dumps({str(i): empty for i in range(ARRAY_COUNT_MAX + 1)}, separators=(",", ":"))

    with pytest.raises(CodecError, match="blob must hold at most 10000 arrays, got 10001"):
        decode_header(blob_of(text.encode()))


def test_the_largest_empty_shape_that_passes_is_one_numpy_takes() -> None:
    blob = blob_of({"a": entry("F64", [0, 2**60 - 1], [0, 0])})

    assert decode(blob).arrays["a"].shape == (0, 2**60 - 1)


def test_a_header_of_the_largest_size_is_read_and_one_byte_more_is_not() -> None:
    assert decode(blob_of(b"{}".ljust(HEADER_SIZE_MAX))).arrays == {}
    with pytest.raises(CodecError, match="header must measure at most 1048576 bytes, got 1048577"):
        decode(blob_of(b"{}".ljust(HEADER_SIZE_MAX + 1)))


BLOB = joined(
    {"a.weight": np.ones((2, 3), np.float32), "b": np.ones(3, bool), "c": np.array(1, np.int64)},
    {"kind": "model"},
)


def decoded_or_refused(blob: bytes) -> None:
    try:
        decoded = decode(blob)
    except CodecError:
        return
    assert sum(array.nbytes for array in decoded.arrays.values()) <= len(blob)
    assert decode(joined(decoded.arrays, decoded.metadata)).metadata == decoded.metadata


@given(st.lists(st.tuples(st.integers(0, len(BLOB) - 1), st.integers(0, 255)), max_size=4))
def test_changed_bytes_are_decoded_or_refused(changes: list[tuple[int, int]]) -> None:
    blob = bytearray(BLOB)
    for index, value in changes:
        blob[index] = value

    decoded_or_refused(bytes(blob))


@given(st.integers(0, len(BLOB)), st.integers(0, len(BLOB)), st.binary(max_size=12))
def test_cut_and_filled_bytes_are_decoded_or_refused(first: int, last: int, fill: bytes) -> None:
    decoded_or_refused(BLOB[: min(first, last)] + fill + BLOB[max(first, last) :])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "BF16", "F64", "BOOL"]) | JSON,
        "shape": st.lists(st.integers(-1, 3) | st.integers(), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-1, 9), min_size=2, max_size=2) | JSON,
    }
)


@given(st.dictionaries(TEXT, ENTRIES, max_size=3) | JSON, st.binary(max_size=24))
def test_any_header_is_decoded_or_refused(header: Any, data: bytes) -> None:
    decoded_or_refused(blob_of(header, data))


@pytest.mark.parametrize("length", range(len(BLOB)))
def test_no_prefix_is_a_blob(length: int) -> None:
    with pytest.raises(CodecError):
        decode(BLOB[:length])


def test_a_header_that_is_remembered_can_not_be_changed_by_its_readers() -> None:
    blob = b"".join(encode({"w": np.ones(3, np.float32)}, {"format": "1"}))

    first = decode_header(blob)
    first.layout.clear()
    first.metadata["format"] = "2"

    assert decode_header(blob).layout == {"w": ArraySpec("float32", (3,))}
    assert decode_header(blob).metadata == {"format": "1"}
    assert decode(blob).arrays["w"].tolist() == [1, 1, 1]


def test_a_header_too_large_to_be_remembered_is_read_all_the_same() -> None:
    arrays = {f"array-{index:05}": np.zeros(0, np.float32) for index in range(1_200)}
    blob = b"".join(encode(arrays))

    assert list(decode_header(blob).layout) == list(arrays)
