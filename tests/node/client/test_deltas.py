"""Updates as they go over the wire."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.codec import decode, encode
from kumiai.core.digest import digest_of
from kumiai.learning import delta_of
from kumiai.node.client.deltas import ArraysUpload, DeltaUpload

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int64, np.uint8, np.bool_]


def models(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.Generator(np.random.PCG64(seed))
    shapes = [(), (3,), (17, 5), (0,), (1_000,), (2, 3, 4)]
    made = [
        {
            f"array-{index}": np.asarray(rng.integers(0, 200, shape)).astype(dtype)
            for index, (shape, dtype) in enumerate((s, d) for s in shapes for d in DTYPES)
        }
        for _ in range(2)
    ]
    return made[0], made[1]


@given(chunk=st.integers(1, 5_000), seed=st.integers(0, 5))
def test_the_chunks_join_to_the_encoded_delta(chunk: int, seed: int) -> None:
    trained, base = models(seed)

    upload = DeltaUpload.prepare(trained, base, chunk_bytes=chunk)

    whole = b"".join(bytes(buffer) for buffer in encode(delta_of(trained, base)))
    sent = list(upload.chunks(0, chunk))
    assert b"".join(sent) == whole
    assert all(len(each) == chunk for each in sent[:-1])
    assert upload.size_bytes == len(whole)
    assert upload.digest == digest_of([whole])


@given(st.data())
def test_any_offset_goes_on_where_the_last_attempt_stopped(data: st.DataObject) -> None:
    trained, base = models()
    upload = DeltaUpload.prepare(trained, base, chunk_bytes=512)
    offset = data.draw(st.integers(0, upload.size_bytes))

    rest = b"".join(upload.chunks(offset, 512))

    assert rest == b"".join(upload.chunks(0, 512))[offset:]


def test_what_arrives_decodes_to_the_difference() -> None:
    trained, base = {"w": np.array([1.5, 4], np.float32)}, {"w": np.array([1, 1], np.float32)}

    upload = DeltaUpload.prepare(trained, base, chunk_bytes=7)

    arrived = decode(b"".join(upload.chunks(0, 7))).arrays
    np.testing.assert_array_equal(arrived["w"], np.array([0.5, 3], np.float32))


@pytest.mark.filterwarnings("error")
def test_an_overflow_is_sent_for_the_coordinator_to_refuse() -> None:
    trained = {"w": np.array([3e38], np.float32)}
    base = {"w": np.array([-3e38], np.float32)}

    upload = DeltaUpload.prepare(trained, base, chunk_bytes=64)

    assert np.isinf(decode(b"".join(upload.chunks(0, 64))).arrays["w"]).all()


@given(offset=st.integers(0, 400), chunk=st.integers(1, 500))
def test_arrays_that_go_as_they_are_can_be_sent_from_any_offset(offset: int, chunk: int) -> None:
    arrays = {"steps": np.arange(60, dtype=np.int32)}
    whole = b"".join(encode(arrays))
    upload = ArraysUpload.prepare(arrays)

    pieces = list(upload.chunks(offset, chunk))

    assert b"".join(pieces) == whole[offset:]
    assert all(len(piece) <= chunk for piece in pieces)
    assert (upload.digest, upload.size_bytes) == (digest_of([whole]), len(whole))
    assert "steps" not in repr(upload)
