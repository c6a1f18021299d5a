"""What the pages say is true as far as a program can tell: links, commands, examples."""

import ast
import re
from pathlib import Path

import pytest

from tests.meta.repository import ROOT, markdown_files

PAGES = markdown_files()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose_of(page: Path) -> str:
    return BLOCK.sub("", text_of(page))


def blocks(page: Path, *languages: str) -> list[str]:
    return [body for language, body in BLOCK.findall(text_of(page)) if language in languages]


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ +(.+?) *$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_link(page: Path, target: str) -> bool:
    if re.match(r"https?://|mailto:", target):
        return False
    name, _, anchor = target.partition("#")
    place = (page.parent / name).resolve() if name else page
    if not place.exists():
        return True
    return bool(anchor) and place.suffix == ".md" and anchor not in anchors(place)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = [link for link in LINK.findall(prose_of(page)) if broken_link(page, link)]

    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_python_example_parses(page: Path) -> None:
    for block in blocks(page, "python"):
        ast.parse(block)


def test_every_page_of_the_docs_can_be_reached_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    reached = {index}
    waiting = [index]
    while waiting:
        page = waiting.pop()
        for link in LINK.findall(text_of(page)):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.is_file() and target not in reached:
                reached.add(target)
                waiting.append(target)

    lost = [ids(page) for page in PAGES if page.is_relative_to(index.parent)]

    assert [name for name in lost if ROOT / name not in reached] == []


def test_every_attack_of_the_corpus_stands_on_its_page() -> None:
    page = ROOT / "docs" / "explanation" / "secure-aggregation.md"
    files = {path.name for path in (ROOT / "tests" / "attacks").glob("test_*.py")}

    assert files == set(re.findall(r"`(test_\w+\.py)`", text_of(page)))


def test_every_decision_has_its_parts_and_numbers_follow_each_other() -> None:
    records = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))

    numbers = [int(record.name[:4]) for record in records]
    partless = [
        ids(record)
        for record in records
        if not {"context", "options", "outcome"} <= anchors(record)
    ]

    assert numbers == list(range(1, len(records) + 1))
    assert partless == []


def test_news_are_named_by_their_kind() -> None:
    kinds = ("added", "changed", "deprecated", "removed", "fixed", "security")
    names = [page.name for page in (ROOT / "changes").glob("*.md") if page.name != "README.md"]

    assert [
        name for name in names if not name.startswith(tuple(f"{kind}-" for kind in kinds))
    ] == []
