"""On which line of a TOML text a key stands, for error messages.

Not a parser: ``tomllib`` has accepted the text before, so this only has to find keys, and to
step over strings, arrays and inline tables without taking what is inside them for keys.
"""

import re
import tomllib

__all__ = ["key_lines"]

_KEY = re.compile(r"""[ \t]*(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')[ \t]*""")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
# What a value is made of. A closing delimiter of three quotes may follow one or two that belong
# to the text, hence up to five.
_PIECE = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[\[{]|[\]}]|\n"
    r"""|[^"'#\[\]{}\n]+""",
    re.DOTALL,
)


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """Return the line, counted from 1, of each table header and each key.

    Args:
        text: valid TOML.

    Returns:
        By path; a key inside an inline table or an array is not in it. Of tables of the same
        name in an array the last one counts.
    """
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    position = _skip_blank(text, 0)
    while position < len(text):
        line = text.count("\n", 0, position) + 1
        if text[position] == "[":
            opening = 2 if text.startswith("[[", position) else 1
            table, position = _read_path(text, position + opening)
            position += opening
            lines[table] = line
        else:
            path, position = _read_path(text, position)
            lines[table + path] = line
            position = _skip_value(text, position + 1)
        position = _skip_blank(text, position)
    return lines


def _skip_blank(text: str, position: int) -> int:
    match = _BLANK.match(text, position)
    return match.end() if match else position


def _read_path(text: str, position: int) -> tuple[tuple[str, ...], int]:
    """Read ``a."b".c``; return its parts and where it ends."""
    parts = []
    while match := _KEY.match(text, position):
        parts.append(_unquoted(match.group().strip()))
        position = match.end()
        if not text.startswith(".", position):
            break
        position += 1
    return tuple(parts), position


def _unquoted(key: str) -> str:
    if key[0] not in "\"'":
        return key
    value: str = tomllib.loads(f"key = {key}")["key"]
    return value


def _skip_value(text: str, position: int) -> int:
    """Return where the statement ends: at the first line end outside of any bracket."""
    depth = 0
    while match := _PIECE.match(text, position):
        piece = match.group()
        if piece == "\n" and depth == 0:
            break
        depth += (piece in {"[", "{"}) - (piece in {"]", "}"})
        position = match.end()
    return position
