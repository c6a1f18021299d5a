"""The tables of the privacy budgets: a ledger that only grows, and what is quickly asked of it.

The database itself refuses to change or delete an entry, and to shorten the ledger: the triggers
stand in the migration. No row refers to a run, because what a run has spent stays spent when the
run is deleted.
"""

from sqlalchemy import BigInteger, Index, LargeBinary, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from kumiai.storage.tables import Base

__all__ = ["BudgetCountRow", "BudgetEntryRow", "BudgetHeadRow", "BudgetLimitRow"]


class BudgetEntryRow(Base):
    """One entry; ``body`` is what was hashed, the other columns are what it is found by.

    A key stands once with each kind: a charge is made once, sealed once and released once. What
    is about no charge has none.
    """

    __tablename__ = "budget_entries"
    __table_args__ = (UniqueConstraint("charge_key", "kind"), Index(None, "run_id", "sequence"))

    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    kind: Mapped[str]
    charge_key: Mapped[str | None]
    run_id: Mapped[str | None]
    body: Mapped[str]
    chain: Mapped[bytes] = mapped_column(LargeBinary)


class BudgetHeadRow(Base):
    """Where the ledger ends; whoever writes locks this row, so that the chain never forks."""

    __tablename__ = "budget_head"

    name: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    chain: Mapped[bytes] = mapped_column(LargeBinary)
    frozen: Mapped[str | None]


class BudgetLimitRow(Base):
    """A budget: the latest word of the ledger on it. Of a lifetime ``window_days`` is 0."""

    __tablename__ = "budget_limits"

    scope: Mapped[str] = mapped_column(primary_key=True)
    window_days: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    guarantee: Mapped[str]
    epsilon: Mapped[float]
    delta: Mapped[float]


class BudgetCountRow(Base):
    """How often a scope has paid for an event on a day: a cache, rebuilt from the entries."""

    __tablename__ = "budget_counts"

    scope: Mapped[str] = mapped_column(primary_key=True)
    guarantee: Mapped[str] = mapped_column(primary_key=True)
    event: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    times: Mapped[int] = mapped_column(BigInteger)
