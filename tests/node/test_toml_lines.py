import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.node.toml_lines import key_lines

TRICKY = '''\
# listen = "in a comment"
top = 1

[coordinator]   # a header
listen = "a:1"  # a key
text = """
listen = "inside"
[client]
a = \\"""
ends in two quotes"""""
raw = \'\'\'
key = 2
\'\'\'
apps = [
    "a",  # ] not the end
    "b = [",
]
"quoted key" = {inner = 1, other = [1, 2]}
a.b."c.d" = 'x # y'

[client.data]
partition = 3
[[things]]
name = "one"
[[things]]
name = "two"
last = true'''


def paths_of(data: dict[str, Any], above: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Every path that ``tomllib`` sees, tables included; an array of tables as its last table."""
    found = set()
    for key, value in data.items():
        path = (*above, key)
        found.add(path)
        if isinstance(value, dict):
            found |= paths_of(value, path)
        elif isinstance(value, list) and value and isinstance(value[-1], dict):
            found |= paths_of(value[-1], path)
    return found


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("coordinator",), 4),
        (("coordinator", "listen"), 5),
        (("coordinator", "text"), 6),
        (("coordinator", "raw"), 11),
        (("coordinator", "apps"), 14),
        (("coordinator", "quoted key"), 18),
        (("coordinator", "a", "b", "c.d"), 19),
        (("client", "data"), 21),
        (("client", "data", "partition"), 22),
        (("things",), 25),
        (("things", "name"), 26),
        (("things", "last"), 27),
    ],
)
def test_a_key_stands_on_its_line(path: tuple[str, ...], line: int) -> None:
    tomllib.loads(TRICKY)

    assert key_lines(TRICKY)[path] == line


def test_nothing_inside_a_value_is_taken_for_a_key() -> None:
    real = paths_of(tomllib.loads(TRICKY))

    assert set(key_lines(TRICKY)) <= real


def test_an_empty_text_has_no_keys() -> None:
    assert key_lines("") == {}
    assert key_lines("\n# only a comment") == {}


def test_lines_may_end_as_on_windows() -> None:
    assert key_lines('[a]\r\nb = "x"\r\nc = 2\r\n') == {("a",): 1, ("a", "b"): 2, ("a", "c"): 3}


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
names = st.from_regex(r"[a-z][a-z0-9_-]{0,7}", fullmatch=True)


def written(value: Any) -> str:
    match value:
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case list():
            return "[\n" + ",\n".join(written(each) for each in value) + "]"
        case bool():
            return str(value).lower()
        case _:
            return str(value)


values = st.one_of(texts, st.integers(), st.booleans(), st.lists(texts, max_size=3))


@given(st.dictionaries(names, st.dictionaries(names, values, max_size=4), max_size=4))
def test_every_key_of_a_written_file_is_found_where_it_was_written(
    tables: dict[str, dict[str, Any]],
) -> None:
    expected, lines = {}, []
    for table, content in tables.items():
        expected[table,] = len(lines) + 1
        lines.append(f"[{table}]")
        for key, value in content.items():
            expected[table, key] = len(lines) + 1
            lines += f"{key} = {written(value)}".split("\n")
    text = "\n".join(lines)

    assert tomllib.loads(text) == tables
    assert key_lines(text) == expected
