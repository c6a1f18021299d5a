"""Identifiers: fresh ones are distinct and valid, names obey one rule."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import ConfigError
from kumiai.core.ids import new_id, verify_name


def test_fresh_identifiers_are_80_bits_in_base32_after_their_prefix() -> None:
    assert re.fullmatch(r"run-[a-z2-7]{16}", new_id("run"))


def test_fresh_identifiers_differ_and_are_valid_names() -> None:
    ids = {verify_name("run", new_id("run")) for _ in range(1000)}

    assert len(ids) == 1000


@pytest.mark.parametrize("name", ["a", "7", "site-1", "St_Olav.no", "a" * 63, "a.b.c", "a."])
def test_a_valid_name_is_returned(name: str) -> None:
    assert verify_name("client", name) == name


@pytest.mark.parametrize(
    "name",
    ["", "a" * 64, "-a", "_a", ".a", "a..b", "..", "a/b", "a\\b", "a b", "a\n", "a\0", "é", "a٣"],
)
def test_an_invalid_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="client must be 1 to 63 letters, digits"):
        verify_name("client", name)


def test_a_long_name_is_shown_shortened() -> None:
    with pytest.raises(ConfigError) as caught:
        verify_name("client", "x" * 10_000)

    assert str(caught.value).endswith("xxx...'")
    assert len(str(caught.value)) < 250


@given(st.text(max_size=70))
def test_no_valid_name_leaves_its_folder(name: str) -> None:
    try:
        verify_name("client", name)
    except ConfigError:
        return
    assert ".." not in name
    assert name.isascii()
    assert name.isprintable()
    assert not set(name) & set("/\\:*?\"'<>| ")
