"""What stands in a ledger of privacy budgets: entries that only come, chained by their hashes.

The coordinator keeps one ledger in SQL, every site one in a file; both write these entries and
both check them here. An entry is JSON with sorted keys and without blanks, so that exactly one
text stands for it. It says what was paid for, never what was released: of the noised bytes only
their digest is in it.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

from kumiai.core.errors import ConfigError, IntegrityError
from kumiai.core.ids import verify_name
from kumiai.privacy.events import Adjacency
from kumiai.privacy.results import PrivacyUnit

__all__ = [
    "CHAIN_START",
    "BudgetScope",
    "Charge",
    "ChargeKey",
    "EntryKind",
    "Guarantee",
    "LedgerEntry",
    "LedgerHead",
    "ScopeKind",
    "Spend",
]

_LABEL: Final = b"kumiai budget ledger v1\0"
_VERSION: Final = 1
_BODY_CHARS_MAX: Final = 1 << 22
_EVENT_CHARS_MAX: Final = 2_000
_SCOPES_MAX: Final = 10_000
_EVENTS_MAX: Final = 64
_COUNT_MAX: Final = 1 << 53
_NAME_PARTS_MAX: Final = 3
_UNITS: Final = (PrivacyUnit.RECORD, PrivacyUnit.CLIENT)
_KEY: Final = re.compile(r"([\x21-\x2e\x30-\x7e]{1,128})/(\d{1,9})/(\d{1,9})")

CHAIN_START: Final = hashlib.sha256(_LABEL).digest()
"""The chain's value before the first entry."""


class ScopeKind(StrEnum):
    """What a budget belongs to."""

    CLIENT = "client"
    DATASET = "dataset"
    MODEL = "model"


class EntryKind(StrEnum):
    """What an entry says."""

    CHARGED = "charged"
    """Scopes have paid for a release that may follow."""
    SEALED = "sealed"
    """These are the noised bytes of the release, and there will be no others."""
    RELEASED = "released"
    """A model that was made of them is published."""
    ADOPTED = "adopted"
    """A site knows of a charge that is not in this ledger."""
    LIMITED = "limited"
    """A budget was set or taken away."""
    FROZEN = "frozen"
    """Nothing is charged until the ledger is reconciled."""
    RECONCILED = "reconciled"
    """The ledger has what the sites know, and charges again."""


@dataclass(frozen=True, slots=True, order=True)
class BudgetScope:
    """Whose budget: a client's, a data set's, a model's, a single run's.

    Attributes:
        kind: which of them.
        name: of a client or model; a data set is named ``<client>/<data set>``, and a run, which is
            of the kind of its model, ``<model>/<run>``.
    """

    kind: ScopeKind
    name: str

    def __post_init__(self) -> None:
        """Check the name.

        Raises:
            ConfigError: it is none.
        """
        parts = self.name.split("/")
        if len(parts) > _NAME_PARTS_MAX:
            raise ConfigError(
                f"scope's name must have at most {_NAME_PARTS_MAX} parts between slashes, "
                f"got {self.name[:80]!r}"
            )
        for part in parts:
            verify_name("scope's name", part)

    @property
    def is_of_run(self) -> bool:
        """Whether it is a single run's."""
        return self.kind is ScopeKind.MODEL and "/" in self.name

    def __str__(self) -> str:
        """Return ``kind/name``."""
        return f"{self.kind.value}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the scope that ``kind/name`` stands for.

        Raises:
            ConfigError: it stands for none.
        """
        kind, _, name = text.partition("/")
        if kind not in set(ScopeKind):
            raise ConfigError(
                f"scope must be client/NAME, dataset/CLIENT/NAME, model/NAME or model/NAME/RUN, "
                f"got {text[:80]!r}"
            )
        return cls(ScopeKind(kind), name)


@dataclass(frozen=True, slots=True, order=True)
class Guarantee:
    """What an epsilon is about.

    Attributes:
        unit: whose part is hidden.
        adjacency: how two data sets differ.
    """

    unit: PrivacyUnit
    adjacency: Adjacency

    def __post_init__(self) -> None:
        """Check the unit.

        Raises:
            ConfigError: nobody has said it.
        """
        if self.unit not in _UNITS:
            raise ConfigError(f"unit must be one of {', '.join(_UNITS)}, got {self.unit}")

    def __str__(self) -> str:
        """Return ``unit/adjacency``."""
        return f"{self.unit.value}/{self.adjacency.value}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the guarantee that ``unit/adjacency`` stands for.

        Raises:
            ConfigError: it stands for none.
        """
        unit, _, adjacency = text.partition("/")
        if unit not in _UNITS or adjacency not in set(Adjacency):
            raise ConfigError(
                f"guarantee must be UNIT/ADJACENCY of {'|'.join(_UNITS)} and "
                f"{'|'.join(Adjacency)}, got {text[:80]!r}"
            )
        return cls(PrivacyUnit(unit), Adjacency(adjacency))

    def covers(self, other: "Guarantee") -> bool:
        """Return whether what holds for this one holds for the other, with the same epsilon.

        Who hides a whole client hides each of its records.
        """
        return self.adjacency == other.adjacency and self.unit in {PrivacyUnit.CLIENT, other.unit}


@dataclass(frozen=True, slots=True, order=True)
class ChargeKey:
    """Which release is paid for.

    Attributes:
        run_id: of the run.
        round: of the run, >= 1.
        attempt: to make a release in this round, >= 1.
    """

    run_id: str
    round: int
    attempt: int

    def __post_init__(self) -> None:
        """Check the parts.

        Raises:
            ValueError: one is not of its form.
        """
        if not _KEY.fullmatch(str(self)) or self.round < 1 or self.attempt < 1:
            raise ValueError(
                f"charge's key must be a run's id and two numbers from 1, got {str(self)[:160]!r}"
            )

    def __str__(self) -> str:
        """Return ``run/round/attempt``."""
        return f"{self.run_id}/{self.round}/{self.attempt}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the key that a text stands for.

        Raises:
            ValueError: it stands for none.
        """
        found = _KEY.fullmatch(text)
        if found is None:
            raise ValueError(f"charge's key must be run/round/attempt, got {text[:160]!r}")
        key = cls(found[1], int(found[2]), int(found[3]))
        if str(key) != text:
            raise ValueError(f"charge's key must be written as {key}, got {text!r}")
        return key


@dataclass(frozen=True, slots=True)
class Spend:
    """What some scopes pay alike.

    Attributes:
        scopes: who pays, sorted, each once.
        events: how often each mechanism ran, by its canonical JSON.
    """

    scopes: tuple[BudgetScope, ...]
    events: Mapping[str, int]

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            ValueError: there is nobody or nothing, or too much, or a count that is none.
        """
        if not 1 <= len(self.scopes) <= _SCOPES_MAX or not 1 <= len(self.events) <= _EVENTS_MAX:
            raise ValueError(
                f"spend must have 1 to {_SCOPES_MAX} scopes and 1 to {_EVENTS_MAX} events, "
                f"got {len(self.scopes)} and {len(self.events)}"
            )
        if list(self.scopes) != sorted(set(self.scopes)):
            raise ValueError("scopes of a spend must be sorted and stand once, got others")
        for event, count in self.events.items():
            if len(event) > _EVENT_CHARS_MAX:
                raise ValueError(
                    f"event must be at most {_EVENT_CHARS_MAX} characters, got {len(event)}"
                )
            if type(count) is not int or not 1 <= count <= _COUNT_MAX:
                raise ValueError(f"count of an event must be 1 to 2^53, got {count!r}")


@dataclass(frozen=True, slots=True)
class Charge:
    """What a release costs: all of its scopes pay, or nobody.

    Attributes:
        guarantee: what it protects.
        spends: who pays what; a scope stands in one of them.
    """

    guarantee: Guarantee
    spends: tuple[Spend, ...]

    def __post_init__(self) -> None:
        """Check that nobody stands twice.

        Raises:
            ValueError: somebody does, or there is nobody.
        """
        scopes = self.scopes
        if not scopes or len(set(scopes)) != len(scopes):
            raise ValueError("scope must stand in one spend of a charge, got none or one twice")

    @classmethod
    def alike(
        cls, guarantee: Guarantee, scopes: Iterable[BudgetScope], events: Mapping[str, int]
    ) -> Self:
        """Return the charge of scopes that all pay the same."""
        return cls(guarantee, (Spend(tuple(sorted(set(scopes))), dict(events)),))

    @property
    def scopes(self) -> list[BudgetScope]:
        """Who pays."""
        return [scope for spend in self.spends for scope in spend.scopes]

    def events_of(self) -> dict[BudgetScope, Mapping[str, int]]:
        """Return what each scope pays."""
        return {scope: spend.events for spend in self.spends for scope in spend.scopes}

    def to_content(self) -> dict[str, Any]:
        """Return it as an entry's content."""
        return {
            "guarantee": str(self.guarantee),
            "spends": [
                {"scopes": [str(scope) for scope in spend.scopes], "events": dict(spend.events)}
                for spend in self.spends
            ],
        }

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> Self:
        """Return the charge that an entry's content stands for.

        Raises:
            IntegrityError: it stands for none.
        """
        try:
            spends = tuple(
                Spend(tuple(map(BudgetScope.parse, spend["scopes"])), dict(spend["events"]))
                for spend in content["spends"]
            )
            charge = cls(Guarantee.parse(content["guarantee"]), spends)
            if charge.to_content() == content:
                return charge
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError):
            pass
        raise IntegrityError("charge must be as it was written, got something else")


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """An entry.

    Attributes:
        sequence: its place, from 0.
        at_us: when, microseconds since 1970-01-01 UTC.
        kind: what it says.
        key: of the charge that it is about; empty if it is about none.
        content: what else, JSON values.
    """

    sequence: int
    at_us: int
    kind: EntryKind
    key: str
    content: Mapping[str, Any]

    @property
    def at(self) -> float:
        """When, seconds since 1970-01-01 UTC."""
        return self.at_us / 1e6

    def to_body(self) -> str:
        """Return the one text that stands for it.

        Raises:
            ValueError: it is too long, or no JSON.
        """
        body = json.dumps(
            {
                "at": self.at_us,
                "content": dict(self.content),
                "key": self.key,
                "kind": self.kind.value,
                "seq": self.sequence,
                "v": _VERSION,
            },
            sort_keys=True,
            separators=(",", ":"),
            allow_nan=False,
        )
        if len(body) > _BODY_CHARS_MAX:
            raise ValueError(f"entry must be at most {_BODY_CHARS_MAX} characters, got {len(body)}")
        return body

    @classmethod
    def from_body(cls, body: str) -> Self:
        """Return the entry that a text stands for.

        Raises:
            IntegrityError: it stands for none, or is not written in the one way.
        """
        try:
            match json.loads(body) if len(body) <= _BODY_CHARS_MAX else None:
                case {
                    "at": int(at_us),
                    "content": dict(content),
                    "key": str(key),
                    "kind": str(kind),
                    "seq": int(sequence),
                    "v": 1,
                }:
                    entry = cls(sequence, at_us, EntryKind(kind), key, content)
                    # A boolean is an integer for Python.
                    if {type(sequence), type(at_us)} == {int} and entry.to_body() == body:
                        return entry
        except (ValueError, RecursionError):
            pass
        raise IntegrityError(
            f"entry of the budget ledger must be as it was written, got {len(body)} characters "
            "of something else"
        )


@dataclass(frozen=True, slots=True)
class LedgerHead:
    """Where a ledger ends.

    Attributes:
        size: how many entries it has.
        chain: the chain's value after the last.
    """

    size: int = 0
    chain: bytes = CHAIN_START

    def appended(
        self, at_us: int, kind: EntryKind, key: str, content: Mapping[str, Any]
    ) -> "tuple[LedgerHead, LedgerEntry, str]":
        """Return the head after one more entry, the entry, and its body."""
        entry = LedgerEntry(self.size, at_us, kind, key, content)
        body = entry.to_body()
        return LedgerHead(self.size + 1, self._chained(body)), entry, body

    def verified(self, body: str, chain: bytes) -> "tuple[LedgerHead, LedgerEntry]":
        """Return the head after an entry that was found behind this one, and the entry.

        Args:
            body: as it was found.
            chain: the chain's value that was recorded with it.

        Raises:
            IntegrityError: it, or one before it, was changed, deleted, moved or put in.
        """
        entry = LedgerEntry.from_body(body)
        if entry.sequence != self.size:
            raise IntegrityError(
                f"entry {self.size} of the budget ledger must follow, got entry {entry.sequence}: "
                "one was deleted, put in or moved"
            )
        found = self._chained(body)
        if not hmac.compare_digest(found, chain):
            raise IntegrityError(
                f"entry {entry.sequence} of the budget ledger must have the hash that was "
                "recorded with it, got another: it, or one before it, was changed"
            )
        return LedgerHead(self.size + 1, found), entry

    def _chained(self, body: str) -> bytes:
        return hashlib.sha256(_LABEL + self.chain + body.encode()).digest()
