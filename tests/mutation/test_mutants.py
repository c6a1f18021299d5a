"""A mutant is made for each small mistake that matters, and for no other change."""

import pytest

from tests.mutation.mutants import mutants_of


def labels(source: str) -> list[str]:
    return [mutant.label.removeprefix("module: ") for mutant in mutants_of(source.encode())]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("found = a < b", ["a < b → a <= b"]),
        ("found = a == (b)", ["a == (b) → a != (b)"]),
        ("found = a is not b", ["a is not b → a is b"]),
        ("found = a and (b or c) and d", None),
        ("found = not (a or b)", None),
        ("found = a + b * c", ["a + b * c → a - b * c", "b * c → b + c"]),
        ("found = 'a' + b", ["'a' → \"XX\" 'a'"]),
        ("size = 12", ["12 → 13"]),
        ("size = 0", ["0 → 1"]),
        ("label = b'kumiai v1'", ["b'kumiai v1' → b\"XX\" b'kumiai v1'"]),
        ("is_on = True", ["True → False"]),
        ("names = {a, b}", ["{a, b} → {b}", "{a, b} → {a}"]),
        ("kind = min(a.b(), 1)", ["min(a.b(), 1) → max(a.b(), 1)", "1 → 2"]),
        ("part = text[a:b]", ["text[a:b] → text[:b]", "text[a:b] → text[a:]"]),
        ("verify(1)", ["verify(1) → pass", "1 → 2"]),
        ("made.field = a", ["made.field = a → pass"]),
        ("count += n", ["count += n → pass"]),
    ],
)
def test_a_small_mistake_is_made(source: str, expected: list[str] | None) -> None:
    found = labels(source)

    assert found == (expected or found)
    assert found != []


def test_each_operand_is_left_out_with_its_parentheses() -> None:
    assert labels("found = a and (b or c) and d") == [
        "a and (b or c) and d → (b or c) and d",
        "a and (b or c) and d → a and d",
        "a and (b or c) and d → a and (b or c)",
        "b or c → c",
        "b or c → b",
    ]


def test_a_negation_is_taken_off_and_its_parentheses_stay() -> None:
    assert labels("found = not (a or b)")[0] == "not (a or b) → (a or b)"


def test_a_condition_holds_always_and_never() -> None:
    found = labels("if a == b:\n    verify()\nelse:\n    raise other\n")

    assert found == ["a == b → True", "a == b → False", "verify() → pass", "raise other → pass"]


def test_a_loop_is_not_made_endless() -> None:
    assert labels("while left:\n    left = less(left())\n") == ["left → False"]


def test_a_case_is_left_out() -> None:
    source = "match key:\n    case A() if b:\n        a()\n    case _:\n        c()\n"

    assert labels(source)[:2] == ["A() if b → _ if False", "b → True"]


def test_an_argument_is_left_out_or_nothing() -> None:
    assert labels("found = f(a, mode=b)") == [
        "f(a, mode=b) → f(None, mode=b)",
        "f(a, mode=b) → f(a)",
    ]


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring."""',
        "__all__ = ['a', 'b']",
        "@cached(maxsize=1)\ndef f(a: int = None) -> 'B': ...",
        "raise SomeError('must be one') from error",
        "found = 'one whose key may not sign'",
        "def f():\n    return NotFoundError(f'no{name}')",
        "Alias: TypeAlias = a | b",
    ],
)
def test_what_nobody_could_notice_is_left_alone(source: str) -> None:
    changes = [label for label in labels(source) if not label.endswith("→ pass")]

    assert changes == []


def test_every_mutant_is_another_text_that_compiles() -> None:
    source = "def f(a):\n    if a in (1, 2):\n        return a[1:]\n    return {**a, 'k': 1}\n"

    mutants = mutants_of(source.encode())

    assert len({mutant.source for mutant in mutants}) == len(mutants) > 5
    assert source.encode() not in {mutant.source for mutant in mutants}
    for mutant in mutants:
        compile(mutant.source, "mutant", "exec")


def test_a_mutant_knows_its_place_and_the_lines_of_its_statement() -> None:
    source = "class A:\n    def b(self):\n        call(\n            1,\n        )\n"

    (deleted, grown) = mutants_of(source.encode())

    assert deleted.place == "A.b"
    assert (deleted.lines, grown.lines) == ((3, 5), (3, 5))
    assert grown.line == 4


def test_a_long_text_is_shown_around_the_change() -> None:
    source = f"found = call({', '.join('abcdefgh' * 3 + str(n) for n in range(20))}, last=1)"

    grown = labels(source)[-1]
    whole = [label for label in labels(source) if label.startswith("…") and "None" in label]

    assert grown == "1 → 2"
    assert all(len(label) < 260 for label in whole)
