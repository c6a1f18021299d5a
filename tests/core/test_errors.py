"""The tree of errors is the one that its docstring draws."""

import re

import pytest

from kumiai.core import errors

CLASSES = [getattr(errors, name) for name in errors.__all__]


def drawn_tree() -> dict[str, str]:
    """Return each error's parent as the module's docstring draws it."""
    parents: dict[str, str] = {}
    above = {-1: "Exception"}
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"    ([│├└─ ]*)(\w+Error)\b", line):
            depth = len(found[1]) // 4
            above[depth] = found[2]
            parents[found[2]] = above[depth - 1]
    return parents


def test_the_docstring_draws_the_tree_that_is_there() -> None:
    assert drawn_tree() == {each.__name__: each.__base__.__name__ for each in CLASSES}


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_says_what_it_means_in_one_line(error: type[Exception]) -> None:
    assert error.__doc__
    assert "\n" not in error.__doc__
    assert error.__doc__.endswith(".")


def test_a_mistake_of_the_caller_is_none_of_ours() -> None:
    assert not any(issubclass(each, ValueError | TypeError | OSError) for each in CLASSES)
