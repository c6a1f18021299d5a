"""Layouts: what has to agree before two things can be added."""

from typing import Any

import numpy as np
import pytest

from kumiai.core.arrays import BFLOAT16, ArraySpec, layout_of, verify_layout
from kumiai.core.errors import UpdateRejectedError

LAYOUT = {"w": ArraySpec("float32", (64, 10)), "b": ArraySpec("int64", ())}


def test_a_layout_holds_names_dtypes_and_shapes_in_order() -> None:
    layout = layout_of({"w": np.zeros((64, 10), np.float32), "b": np.array(1, np.int64)})

    assert list(layout.items()) == list(LAYOUT.items())


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(BFLOAT16, "bfloat16"), ("bool", "bool"), (">f4", "float32"), ("<u2", "uint16")],
)
def test_dtypes_have_their_plain_name_in_any_byte_order(dtype: Any, name: str) -> None:
    assert layout_of({"a": np.zeros(1, dtype)})["a"].dtype == name


def test_a_spec_reads_like_a_type() -> None:
    assert [str(spec) for spec in LAYOUT.values()] == ["float32[64, 10]", "int64[]"]


def test_equal_layouts_pass_in_any_order() -> None:
    verify_layout(dict(reversed(LAYOUT.items())), LAYOUT)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"w": LAYOUT["w"]}, "array 'b' must be present, got none of that name"),
        (LAYOUT | {"x": LAYOUT["w"]}, "array 'x' must not be present: the model has none"),
        (
            LAYOUT | {"w": ArraySpec("float32", (10, 64))},
            r"array 'w' must be float32\[64, 10\], got float32\[10, 64\]",
        ),
        (LAYOUT | {"b": ArraySpec("int32", ())}, r"array 'b' must be int64\[\], got int32\[\]"),
    ],
)
def test_the_first_difference_of_two_layouts_is_named(found: Any, message: str) -> None:
    with pytest.raises(UpdateRejectedError, match=message):
        verify_layout(found, LAYOUT)
