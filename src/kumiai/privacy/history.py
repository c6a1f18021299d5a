"""The privacy history: every release in its order, in a chain of digests.

It only grows. The digest of an entry covers the entry and the digest before it, so that the last
one, the head, stands for all: a changed, moved or missing entry leads to another head. Entries cut
off at the end leave a valid, shorter chain; who must notice that keeps the head elsewhere.

As text it has one line of JSON for each entry, and each history has one spelling.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Self

from kumiai.core.digest import digest_of
from kumiai.core.errors import IntegrityError
from kumiai.privacy.checking import whole
from kumiai.privacy.events import COUNT_MAX, Event, event_from_json, event_to_json

__all__ = ["EMPTY_HEAD", "HistoryEntry", "PrivacyHistory"]

EMPTY_HEAD: Final = digest_of([b"KUMIAI-V1-PRIVACY-HISTORY"])
"""The head of a history without entries."""
_SPELLINGS: Final = 1024


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """Some releases of one kind, one after the other.

    Attributes:
        index: from 0.
        event: what was released.
        count: how often.
        digest: of this entry and all before it.
    """

    index: int
    event: Event
    count: int
    digest: str


class PrivacyHistory:
    """All releases so far; iterate over it for the entries."""

    def __init__(self) -> None:
        """Begin without a release."""
        self._entries: list[HistoryEntry] = []
        self._counts: dict[Event, int] = {}

    def __len__(self) -> int:
        """Return how many entries there are."""
        return len(self._entries)

    def __iter__(self) -> Iterator[HistoryEntry]:
        """Give the entries, oldest first."""
        return iter(self._entries)

    def __repr__(self) -> str:
        return f"PrivacyHistory({len(self)} entries, head={self.head})"

    @property
    def head(self) -> str:
        """The digest of everything."""
        return self._entries[-1].digest if self._entries else EMPTY_HEAD

    @property
    def counts(self) -> Mapping[Event, int]:
        """How often each event was released, in the order of their first time."""
        return MappingProxyType(self._counts)

    def append(self, event: Event, count: int = 1) -> HistoryEntry:
        """Add releases.

        Args:
            event: what was released.
            count: how often, one after the other.

        Raises:
            TypeError, ValueError: the event is none, its adjacency is not that of the others, or
                the count is not a number from 1 to 10^12, in all.
        """
        if not isinstance(event, Event):
            raise TypeError(f"event must be an Event, got {type(event).__name__}")
        first = next(iter(self._counts), event)
        if event.adjacency is not first.adjacency:
            raise ValueError(
                f"adjacency must be {first.adjacency} as in the history, got {event.adjacency}: "
                "losses between other neighbours do not add up; keep another history for them"
            )
        before = self._counts.get(event, 0)
        count = whole("count", count, at_least=1, at_most=COUNT_MAX - before)
        content = f'{self.head}{{"count":{count},"event":{_spelling_of(event)}}}'
        entry = HistoryEntry(len(self), event, count, digest_of([content.encode()]))
        self._entries.append(entry)
        self._counts[event] = before + count
        return entry

    def to_text(self) -> str:
        """Return all entries as lines of JSON."""
        return "".join(
            f'{{"count":{entry.count},"digest":"{entry.digest}",'
            f'"event":{_spelling_of(entry.event)}}}\n'
            for entry in self._entries
        )

    @classmethod
    def from_text(cls, text: str, *, head: str | None = None) -> Self:
        """Read a history and check the whole chain.

        Args:
            text: of `to_text`.
            head: what the head must be, where it was kept; without it, entries that were cut off
                at the end are not noticed.

        Raises:
            IntegrityError: an entry was changed, moved, lost or added, or the head is another one.
        """
        history = cls()
        for index, line in enumerate(text.splitlines()):
            try:
                content = json.loads(line)
                event = event_from_json(json.dumps(content["event"], separators=(",", ":")))
                history.append(event, content["count"])
            except (IntegrityError, KeyError, RecursionError, TypeError, ValueError) as error:
                raise IntegrityError(f"entry {index} must be one of a history: {error}") from error
        if history.to_text() != text:
            raise IntegrityError("history must be an unbroken chain, got a changed or moved entry")
        if head is not None and head != history.head:
            raise IntegrityError(f"history must end in {head}, got {history.head}")
        return history


@lru_cache(maxsize=_SPELLINGS)
def _spelling_of(event: Event) -> str:
    return event_to_json(event)
