"""Finding rows by words: one notion of a term, the same in Python, PostgreSQL and SQLite.

The databases' own tokenizers differ (``v1.2-beta`` is one word here and four there), and so would
what they find. So text is cut into terms here, once, and each database only ever sees terms
separated by spaces: PostgreSQL as a ``tsvector`` under a GIN index, SQLite as an FTS5 table whose
tokenizer splits at ASCII blanks. What a user asks is cut by the same rule; no character that
means something to either query language survives it.

A term is a run of letters, digits and marks, without case, accents and compatibility forms, at
most `TERM_CHARS_MAX` long. Each term of a question must begin some term of the row. Scripts that
put no blanks between words are found by the beginning of each run of characters only.
"""

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    Column,
    ColumnElement,
    Table,
    and_,
    cast,
    column,
    false,
    literal,
    literal_column,
    select,
    table,
)
from sqlalchemy.dialects.postgresql import TSQUERY, TSVECTOR
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import ConfigError
from kumiai.storage.filters import has_entry

__all__ = [
    "QUESTION_CHARS_MAX",
    "QUESTION_TERMS_MAX",
    "TERM_CHARS_MAX",
    "Searchable",
    "search_terms",
    "terms_of",
]

TERM_CHARS_MAX: Final = 64
QUESTION_CHARS_MAX: Final = 500
QUESTION_TERMS_MAX: Final = 16


def terms_of(text: str) -> list[str]:
    """Return the terms of a text, each once, in order of their first appearance."""
    plain = text
    # Twice: folding the case can make new compatibility forms.
    for _ in range(2):
        plain = unicodedata.normalize("NFKD", plain).casefold()
    kept = "".join(_as_term(character) for character in unicodedata.normalize("NFKD", plain))
    return list(dict.fromkeys(word[:TERM_CHARS_MAX] for word in kept.split()))


@lru_cache(maxsize=256)  # the models of a run share their name, and are entered in bulk
def search_terms(*texts: str) -> str:
    """Return what the column ``search_terms`` holds for a row that these texts describe."""
    return " ".join(terms_of(" ".join(texts)))


def _as_term(character: str) -> str:
    if unicodedata.combining(character):
        return ""  # an accent, already parted from its letter
    return character if unicodedata.category(character)[0] in "LNM" else " "


@dataclass(frozen=True, slots=True)
class Searchable:
    """A table whose rows can be found by their terms and by their tags.

    Attributes:
        rows: has the columns ``search_terms`` and ``tags_json``.
        key: unique; SQLite's FTS5 table knows the rows by it.
    """

    rows: Table
    key: Column[Any]

    def matches(self, connection: AsyncConnection, question: str) -> ColumnElement[bool]:
        """Return the condition that every term of ``question`` begins a term of the row.

        A question that has no letter and no digit in it finds nothing.

        Raises:
            ConfigError: it is too long.
        """
        if len(question) > QUESTION_CHARS_MAX:
            raise ConfigError(
                f"search must be at most {QUESTION_CHARS_MAX} characters, got {len(question)}"
            )
        terms = terms_of(question)
        if len(terms) > QUESTION_TERMS_MAX:
            raise ConfigError(
                f"search must be at most {QUESTION_TERMS_MAX} words, got {len(terms)}"
            )
        return self._has(connection, terms, prefix=True) if terms else false()

    def has_tag(self, connection: AsyncConnection, tag: str) -> ColumnElement[bool]:
        """Return the condition that the row carries exactly this tag."""
        # The tag's terms are among the row's: the search index finds the few rows to look at.
        likely = self._has(connection, terms_of(tag), prefix=False)
        return and_(likely, has_entry(connection, self.rows.c.tags_json, tag))

    def _has(
        self, connection: AsyncConnection, terms: list[str], *, prefix: bool
    ) -> ColumnElement[bool]:
        # Terms are letters, digits and marks alone: the quotes are for their keywords.
        if connection.dialect.name == "postgresql":
            end = ":*" if prefix else ""
            query = " & ".join(f"'{term}'{end}" for term in terms)
            found = cast(self.rows.c.search_terms, TSVECTOR).op("@@", is_comparison=True)
            return found(cast(literal(query), TSQUERY))
        end = "*" if prefix else ""
        query = " ".join(f'"{term}"{end}' for term in terms)
        index = f"search_{self.rows.name}"
        entries = table(index, column("rowid"))
        keys = table(f"{index}_keys", column("entry_id"), column(self.key.name))
        matching = (
            select(entries.c.rowid)
            .select_from(entries)
            .where(literal_column(index).op("MATCH", is_comparison=True)(query))
        )
        return self.key.in_(select(keys.c[self.key.name]).where(keys.c.entry_id.in_(matching)))
