"""Content addresses: BLAKE3, whatever way the bytes arrive."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.codec import encode
from kumiai.core.digest import StreamingDigest, digest_of, verify_digest_text
from kumiai.core.errors import IntegrityError

# From the published test vectors of BLAKE3: the bytes 0, 1, ... 250, 0, 1, ... of each length.
VECTORS = {
    0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    1: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
    1024: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
}


@pytest.mark.parametrize("length", VECTORS)
def test_digests_agree_with_the_published_vectors(length: int) -> None:
    data = bytes(index % 251 for index in range(length))

    assert digest_of([data]) == VECTORS[length]


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_only_the_concatenation_matters(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    digest = StreamingDigest()
    for piece in pieces:
        digest.update(memoryview(bytearray(piece)))

    assert digest.hexdigest() == digest_of(pieces) == digest_of([whole])
    assert digest.size_bytes == len(whole)


@given(st.binary(min_size=1, max_size=50), st.data())
def test_a_changed_byte_changes_the_digest(data: bytes, choice: st.DataObject) -> None:
    index = choice.draw(st.integers(0, len(data) - 1))
    changed = bytearray(data)
    changed[index] ^= choice.draw(st.integers(1, 255))

    assert digest_of([changed]) != digest_of([data])


def test_a_digest_can_be_read_on_the_way() -> None:
    digest = StreamingDigest()
    empty = digest.hexdigest()
    digest.update(b"abc")

    assert empty == digest_of([])
    assert digest.hexdigest() == digest_of([b"abc"])


def test_the_size_of_wider_items_is_counted_in_bytes() -> None:
    digest = StreamingDigest()
    array = np.arange(6, dtype=np.float32).reshape(2, 3)

    digest.update(array.data)
    digest.update(array[:0].data)

    assert digest.size_bytes == 24
    assert digest.hexdigest() == digest_of([array.tobytes()])


def test_equal_arrays_have_one_digest_whatever_their_order() -> None:
    arrays = {"b": np.ones(3, np.float32), "a": np.zeros((2, 2))}

    assert digest_of(encode(arrays)) == digest_of(encode(dict(reversed(arrays.items()))))


def test_a_well_written_digest_is_returned() -> None:
    assert verify_digest_text(VECTORS[0]) == VECTORS[0]


@pytest.mark.parametrize(
    "text", ["", VECTORS[0][:-1], VECTORS[0] + "0", VECTORS[0].upper(), "g" * 64, "0" * 63 + "\n"]
)
def test_a_badly_written_digest_is_refused(text: str) -> None:
    with pytest.raises(
        IntegrityError, match="digest must be 64 lower-case hexadecimal digits, got"
    ):
        verify_digest_text(text)
