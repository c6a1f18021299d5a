import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.node.cli.yaml_text import to_yaml

yaml = pytest.importorskip("yaml", reason="the oracle is another program's reader")

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(
        ["yes", "No", "null", "~", "on", "y", "2001-01-01", "1e3", "0x1F", "a: b", "#"]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def exactly(value: object) -> object:
    """The value with its numbers' types, so that 1, 1.0 and True differ."""
    match value:
        case dict():
            return {key: exactly(each) for key, each in value.items()}
        case list():
            return [exactly(each) for each in value]
        case float():
            return ("float", value)
        case _:
            return (type(value).__name__, value)


@given(values.filter(lambda value: "e" not in repr(value).lower() or not has_exponent(value)))
def test_another_reader_reads_the_same_value(value: object) -> None:
    assert exactly(yaml.safe_load(to_yaml(value))) == exactly(value)


def has_exponent(value: object) -> bool:
    """Whether a float is written with an exponent; readers of YAML 1.1 want a point in it."""
    match value:
        case dict():
            return any(has_exponent(each) for each in value.values())
        case list():
            return any(has_exponent(each) for each in value)
        case float():
            return "e" in repr(value)
        case _:
            return False


def test_objects_and_lists_stand_in_blocks() -> None:
    text = to_yaml({"run": {"name": "a b", "rounds": [1, 2], "none": [], "empty": {}}})

    assert text == 'run:\n  name: "a b"\n  rounds:\n    - 1\n    - 2\n  none: []\n  empty: {}\n'


def test_a_list_of_objects_is_told_apart() -> None:
    assert yaml.safe_load(to_yaml([{"a": 1}, {"b": [{}]}])) == [{"a": 1}, {"b": [{}]}]


@pytest.mark.parametrize(
    ("value", "text"), [(math.inf, ".inf"), (-math.inf, "-.inf"), (math.nan, ".nan")]
)
def test_what_is_no_number_has_yaml_s_own_word(value: float, text: str) -> None:
    assert to_yaml(value) == text + "\n"
