"""The project speaks of itself alone: no path of somebody's machine, no unfinished remark."""

import re
from pathlib import Path

import pytest

from tests.meta.repository import ROOT, committed_files

BINARY = {".gz", ".npz", ".png", ".safetensors"}
# Written in pieces, so that this file does not hold what it looks for.
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.$}])/(" + "work|root|farm" + r")/",
    "a home folder": r"(?<![\w.])/(home|Users)/[a-z]+/",
    "a page that is not in the repository": r"\b(" + "STYLE|ARCHITECTURE|SPEC" + r")\.md\b",
    "a folder that is not in the repository": r"\b(" + "design|shared" + r")/\w+\.md\b",
    "a name of a merge that was not finished": r"^(<{7}|>{7}) ",
}


def texts() -> list[Path]:
    return [path for path in committed_files() if path.suffix not in BINARY]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what], re.MULTILINE)

    found = [
        f"{path.relative_to(ROOT)}: {match.group()!r}"
        for path in texts()
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
    ]

    assert found == []


@pytest.mark.parametrize(
    "path", ["/wor" + "k/main", "see /roo" + "t/x", "'/hom" + "e/ann/key.pem'"]
)
def test_a_path_of_one_machine_would_be_found(path: str) -> None:
    assert any(re.search(pattern, path) for pattern in FORBIDDEN.values())


def test_every_text_ends_with_a_line_break_and_is_utf_8() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in texts()
        if (text := path.read_text(encoding="utf-8")) and not text.endswith("\n")
    ]

    assert wrong == []
