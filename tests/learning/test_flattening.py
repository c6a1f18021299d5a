"""Updates as vectors and back."""

import ml_dtypes
import numpy as np
import pytest

from kumiai.core.arrays import layout_of
from kumiai.core.errors import UpdateRejectedError
from kumiai.learning import dimension_of, flattened, unflattened

MODEL = {
    "weights": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bias": np.array([1.5, -2.0]),
    "half": np.array([0.5], ml_dtypes.bfloat16),
    "count": np.array(7),
    "flags": np.array([True, False]),
    "levels": np.array([255, 1], np.uint8),
    "none": np.zeros((0, 3), np.float32),
}
LAYOUT = layout_of(MODEL)


def test_a_mean_comes_back_in_the_models_shapes() -> None:
    vector = flattened(MODEL, LAYOUT)

    arrays = unflattened(vector, LAYOUT)

    assert vector.dtype == np.float32
    assert vector.size == dimension_of(LAYOUT) == 14
    assert list(arrays) == list(MODEL)
    assert arrays["weights"].dtype == np.float32
    assert arrays["half"].dtype == np.float32
    assert arrays["bias"].dtype == arrays["count"].dtype == np.float64
    np.testing.assert_array_equal(arrays["weights"], MODEL["weights"])
    np.testing.assert_array_equal(arrays["bias"], MODEL["bias"])
    assert arrays["count"] == 7
    # An unsigned difference goes both ways, as everywhere in this room.
    np.testing.assert_array_equal(arrays["levels"], [-1, 1])
    arrays["weights"][0, 0] = 9
    assert vector[0] != 9


def test_the_order_of_the_arrays_does_not_matter() -> None:
    backwards = dict(reversed(MODEL.items()))

    np.testing.assert_array_equal(flattened(backwards, LAYOUT), flattened(MODEL, LAYOUT))


def test_another_layout_is_refused() -> None:
    with pytest.raises(UpdateRejectedError, match="'bias' must be present"):
        flattened({name: array for name, array in MODEL.items() if name != "bias"}, LAYOUT)
    with pytest.raises(ValueError, match="must have 14 numbers"):
        unflattened(np.zeros(13, np.float32), LAYOUT)


def test_what_is_too_large_for_float32_is_infinite() -> None:
    model = {"w": np.array([1e300])}

    assert np.isinf(flattened(model, layout_of(model))).all()
