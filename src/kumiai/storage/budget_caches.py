"""What is quickly asked of the budget ledger, made again from its entries.

The rows of ``budget_counts`` and ``budget_limits`` are written with the entries that they follow
from. Whoever doubts them folds all entries into these, and lets them mend the tables.
"""

from typing import Any, Protocol

from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.privacy.ledger import Charge, EntryKind, LedgerEntry
from kumiai.storage.budget_tables import BudgetCountRow, BudgetLimitRow
from kumiai.storage.rows import table_of

__all__ = ["CountRows", "FoldedRows", "LimitRows", "day_of"]

_DAY_US = 86_400_000_000


def day_of(at_us: int) -> int:
    """Return the day of a time in microseconds since 1970 UTC, counted from there."""
    return at_us // _DAY_US


class FoldedRows(Protocol):
    """A table's rows, folded from entries in their order."""

    name: str

    def add(self, entry: LedgerEntry) -> None:
        """Take the next entry."""
        ...

    async def mend(self, connection: AsyncConnection) -> bool:
        """Let the table have these rows; return whether it had others."""
        ...


class CountRows:
    """How often each scope has paid for each event on each day."""

    name = "counts"

    def __init__(self) -> None:
        """Begin before the first entry."""
        self._counts: dict[tuple[str, str, str, int], int] = {}

    def add(self, entry: LedgerEntry) -> None:
        """Take the next entry."""
        if entry.kind not in {EntryKind.CHARGED, EntryKind.ADOPTED}:
            return
        charge, day = Charge.from_content(entry.content), day_of(entry.at_us)
        for scope, events in charge.events_of().items():
            for event, count in events.items():
                place = (str(scope), str(charge.guarantee), event, day)
                self._counts[place] = self._counts.get(place, 0) + count

    async def mend(self, connection: AsyncConnection) -> bool:
        """Let the table have these rows; return whether it had others."""
        columns = ("scope", "guarantee", "event", "day", "times")
        rows = [(*place, count) for place, count in self._counts.items()]
        return await _mend(connection, table_of(BudgetCountRow), columns, rows)


class LimitRows:
    """The latest word on each budget."""

    name = "limits"

    def __init__(self) -> None:
        """Begin before the first entry."""
        self._limits: dict[tuple[str, int], tuple[Any, ...]] = {}

    def add(self, entry: LedgerEntry) -> None:
        """Take the next entry."""
        if entry.kind is not EntryKind.LIMITED:
            return
        content = entry.content
        place = (content["scope"], content["window_days"])
        if "epsilon" in content:
            said = (content["guarantee"], content["epsilon"], content["delta"])
            self._limits[place] = (*place, *said)
        else:
            self._limits.pop(place, None)

    async def mend(self, connection: AsyncConnection) -> bool:
        """Let the table have these rows; return whether it had others."""
        columns = ("scope", "window_days", "guarantee", "epsilon", "delta")
        rows = list(self._limits.values())
        return await _mend(connection, table_of(BudgetLimitRow), columns, rows)


async def _mend(
    connection: AsyncConnection, table: Table, columns: tuple[str, ...], rows: list[tuple[Any, ...]]
) -> bool:
    found = await connection.execute(select(*(table.c[name] for name in columns)))
    if {tuple(row) for row in found} == set(rows):
        return False
    await connection.execute(table.delete())
    if rows:
        await connection.execute(
            table.insert(), [dict(zip(columns, row, strict=True)) for row in rows]
        )
    return True
