"""Privacy budgets over HTTP: how they stand, their history, and what operators do with them."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Self

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from kumiai.core.errors import ConfigError, IntegrityError, NotFoundError
from kumiai.identity.audit import Act, Detail, NewEntry
from kumiai.node.auditing.actors import actor_of, subject_of
from kumiai.node.http.access import Caller, GuardedRouter
from kumiai.node.http.dependencies import Parts
from kumiai.privacy import event_from_json
from kumiai.privacy.budget import (
    ROUNDS_MAX,
    BudgetLimit,
    Paid,
    Standing,
    epsilon_spent,
    merged,
    releases_left,
)
from kumiai.privacy.ledger import BudgetScope, Charge, ChargeKey, Guarantee, LedgerEntry
from kumiai.privacy.reconciling import KeyedCharge, SiteCopy
from kumiai.storage import ScopeRecord

__all__ = ["new_router"]

_POINTS_MAX: Final = 200
_FORECAST_POINTS: Final = 20

Scope = Annotated[str, Query(min_length=3, max_length=200)]
Delta = Annotated[float | None, Query(gt=0, lt=1)]
_DELTA: Final = 1e-5
"""At which epsilons are stated where neither a budget nor anybody who asks names another."""


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class BudgetBody(_Body):
    """A budget that is to be set."""

    scope: Annotated[str, Field(max_length=200)]
    guarantee: str
    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    window_days: Annotated[int, Field(ge=0)] = 0


class ReasonBody(_Body):
    """Why the ledger is frozen."""

    reason: Annotated[str, Field(min_length=1, max_length=500)]


class CopyBody(_Body):
    """A site's own ledger: its charges by their keys."""

    site: Annotated[str, Field(min_length=1, max_length=63)]
    charges: Annotated[list[tuple[str, dict[str, Any]]], Field(max_length=1_000_000)]

    def to_copy(self) -> SiteCopy:
        """Return what it says.

        Raises:
            ConfigError: it says nothing that can be charged.
        """
        try:
            return SiteCopy(
                self.site,
                [
                    KeyedCharge(ChargeKey.parse(key), Charge.from_content(content))
                    for key, content in self.charges
                ],
            )
        except (ValueError, IntegrityError) as error:
            raise ConfigError(f"copy of {self.site} must hold charges: {error}") from error


class ReconcileBody(_Body):
    """What the ledger is brought in line with."""

    copies: Annotated[list[CopyBody], Field(max_length=10_000)] = []
    assumed: dict[str, Annotated[int, Field(ge=0, le=1_000_000)]] = {}


class SpentView(_View):
    """What was paid for, all of it, whatever the budgets are.

    Attributes:
        epsilon: at ``delta``, over the scope's whole life.
        releases: how many mechanisms ran.
        sampling: what is claimed about who took part.
    """

    guarantee: str
    epsilon: float
    delta: float
    releases: int
    sampling: list[str]


class StandingView(_View):
    """How a budget stands; ``spent`` is ``null`` where no epsilon covers what was paid for."""

    guarantee: str
    epsilon: float
    delta: float
    window_days: int
    spent: float | None
    left: float
    rounds_left: int | None

    @classmethod
    def of(cls, now: Standing, paid: Sequence[Paid]) -> Self:
        """Return the view; rounds are counted at the price of the last one."""
        limit = now.limit
        return cls(
            guarantee=str(limit.guarantee),
            epsilon=limit.epsilon,
            delta=limit.delta,
            window_days=limit.window_days,
            spent=_finite(now.spent),
            left=now.left,
            rounds_left=releases_left(now, last) if (last := _last_of(paid)) else None,
        )


class ScopeView(_View):
    """How a scope stands."""

    scope: str
    spent: list[SpentView]
    budgets: list[StandingView]

    @classmethod
    def of(cls, record: ScopeRecord, delta: float | None = None) -> Self:
        """Return the view of a record, at its budget's delta if none is given."""
        guarantees = sorted({paid.guarantee for paid in record.paid})
        budget = _shown_budget(record)
        own = _DELTA if budget is None else budget.limit.delta
        return cls(
            scope=str(record.scope),
            spent=[_spent(record.paid, guarantee, delta or own) for guarantee in guarantees],
            budgets=[StandingView.of(now, record.paid) for now in record.standings],
        )


class BudgetsView(_View):
    """All scopes, and the ledger that they stand in."""

    scopes: list[ScopeView]
    entries: int
    chain: str
    frozen: str | None


class PointView(_View):
    """The epsilon behind a charge, or behind so many more rounds of the same price."""

    at: float | None
    run: str | None
    round: int | None
    rounds: int
    epsilon: float


class HistoryView(_View):
    """How the epsilon of a scope has grown, and how it would go on until its budget is spent.

    Attributes:
        window_days: of how many days; 0: of the scope's whole life.
        limit: the budget; ``null``: there is none.
        rounds_left: how many more releases like the last it allows.
    """

    scope: str
    guarantee: str
    delta: float
    window_days: int
    limit: float | None
    rounds_left: int | None
    points: list[PointView]
    forecast: list[PointView]


class CheckView(_View):
    """What reading the whole ledger found."""

    entries: int
    chain: str
    mended: list[str]


class ReconciledView(_View):
    """What was charged so that the ledger knows what the sites know."""

    charged: list[str]


def new_router() -> APIRouter:
    """Return the routes."""
    router = GuardedRouter("budgets")
    router.get("/api/v1/budgets")(list_budgets)
    router.put("/api/v1/budgets")(set_budget)
    router.delete("/api/v1/budgets")(drop_budget)
    router.get("/api/v1/budgets/history")(history)
    router.post("/api/v1/budgets/check")(check)
    router.post("/api/v1/budgets/freeze")(freeze)
    router.post("/api/v1/budgets/reconcile")(reconcile)
    return router


async def list_budgets(
    parts: Parts, scope: Scope | None = None, delta: Delta = None
) -> BudgetsView:
    """Return how a scope stands, or all that have paid or have a budget."""
    ledger = parts.budgets.ledger
    records = await ledger.scopes(None if scope is None else [BudgetScope.parse(scope)])
    state = await ledger.state()
    views = await asyncio.to_thread(lambda: [ScopeView.of(record, delta) for record in records])
    return BudgetsView(
        scopes=views,
        entries=state.head.size,
        chain=state.head.chain.hex(),
        frozen=state.frozen,
    )


async def set_budget(body: BudgetBody, parts: Parts, caller: Caller) -> ScopeView:
    """Set a budget, in place of the scope's other one of the same window."""
    scope = BudgetScope.parse(body.scope)
    try:
        limit = BudgetLimit(
            scope, Guarantee.parse(body.guarantee), body.epsilon, body.delta, body.window_days
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error
    detail: Detail = {
        "guarantee": body.guarantee,
        "epsilon": repr(limit.epsilon),
        "delta": repr(limit.delta),
        "window_days": limit.window_days,
    }
    entry = NewEntry(Act.BUDGET_SET, actor_of(caller), _subject(scope), detail=detail)
    await parts.budgets.ledger.set_limit(limit, by=caller.name, entry=entry)
    (record,) = await parts.budgets.ledger.scopes([scope])
    return ScopeView.of(record)


async def drop_budget(
    parts: Parts,
    caller: Caller,
    scope: Scope,
    window_days: Annotated[int, Query(ge=0)] = 0,
) -> ScopeView:
    """Take a budget away; what was paid stays."""
    found = BudgetScope.parse(scope)
    detail: Detail = {"window_days": window_days, "epsilon": None}
    entry = NewEntry(Act.BUDGET_SET, actor_of(caller), _subject(found), detail=detail)
    await parts.budgets.ledger.drop_limit(found, window_days, by=caller.name, entry=entry)
    (record,) = await parts.budgets.ledger.scopes([found])
    return ScopeView.of(record)


async def history(parts: Parts, scope: Scope, delta: Delta = None) -> HistoryView:
    """Return how a scope's epsilon grew, and how it would go on until its budget is spent.

    With a budget it is stated as that says: the one of its lifetime, or else of those of so many
    days the one that is spent first; of what was paid, only what falls into those days is shown.
    """
    found = BudgetScope.parse(scope)
    (record,) = await parts.budgets.ledger.scopes([found])
    entries = await parts.budgets.ledger.charges_of(found)
    return await asyncio.to_thread(_history, record, entries, delta)


async def check(parts: Parts) -> CheckView:
    """Read the whole ledger, verify every hash, and rebuild what is counted from it."""
    found = await parts.budgets.ledger.check()
    return CheckView(
        entries=found.head.size, chain=found.head.chain.hex(), mended=list(found.mended)
    )


async def freeze(body: ReasonBody, parts: Parts, caller: Caller) -> BudgetsView:
    """Let nothing be charged until the ledger is reconciled, as after a restore."""
    entry = NewEntry(Act.BUDGETS_FROZEN, actor_of(caller), "budgets/ledger")
    await parts.budgets.ledger.freeze(body.reason, by=caller.name, entry=entry)
    return await list_budgets(parts)


async def reconcile(body: ReconcileBody, parts: Parts, caller: Caller) -> ReconciledView:
    """Charge what the sites know and this ledger does not, and let it charge again."""
    copies = await asyncio.to_thread(lambda: [copy.to_copy() for copy in body.copies])
    assumed = {BudgetScope.parse(text): rounds for text, rounds in body.assumed.items()}
    detail: Detail = {"copies": len(copies), "assumed": len(assumed)}
    entry = NewEntry(Act.BUDGETS_RECONCILED, actor_of(caller), "budgets/ledger", detail=detail)
    added = await parts.budgets.reconcile(copies, assumed, by=caller.name, entry=entry)
    return ReconciledView(charged=[str(each.key) for each in added])


def _subject(scope: BudgetScope) -> str:
    return subject_of("budget", str(scope))


def _finite(epsilon: float) -> float | None:
    return epsilon if epsilon < float("inf") else None


def _spent(all_paid: Sequence[Paid], guarantee: Guarantee, delta: float) -> SpentView:
    paid = [each for each in all_paid if each.guarantee.covers(guarantee)]
    events = merged({each.event: each.count} for each in paid)
    return SpentView(
        guarantee=str(guarantee),
        epsilon=epsilon_spent(events, delta),
        delta=delta,
        releases=sum(events.values()),
        sampling=sorted({event_from_json(event).sampling.value for event in events}),
    )


def _last_of(paid: Sequence[Paid]) -> Mapping[str, int]:
    """Return one release like the last: of the newest day, the most frequent event."""
    last = max(paid, key=lambda each: (each.day, each.count, each.event), default=None)
    return {} if last is None else {last.event: 1}


def _history(
    record: ScopeRecord, entries: Sequence[LedgerEntry], delta: float | None
) -> HistoryView:
    charges = [(entry, Charge.from_content(entry.content)) for entry in entries]
    now, last = _shown_budget(record), _last_of(record.paid)
    if now is not None:
        guarantee, stated_at = now.limit.guarantee, now.limit.delta
        charges = _in_its_days(now, charges)
    elif charges:
        guarantee, stated_at = charges[-1][1].guarantee, delta or _DELTA
    else:
        raise NotFoundError(f"scope must have paid or have a budget, got {record.scope}")
    covering = [(entry, charge) for entry, charge in charges if charge.guarantee.covers(guarantee)]
    return HistoryView(
        scope=str(record.scope),
        guarantee=str(guarantee),
        delta=stated_at,
        window_days=0 if now is None else now.limit.window_days,
        limit=None if now is None else now.limit.epsilon,
        rounds_left=releases_left(now, last) if now is not None and last else None,
        points=_points(record.scope, covering, stated_at),
        forecast=[] if now is None else _forecast(now, last, len(covering)),
    )


def _shown_budget(record: ScopeRecord) -> Standing | None:
    """Return the budget of a scope's lifetime, or of its others the one that is spent first."""
    last = _last_of(record.paid)

    def place(now: Standing) -> tuple[bool, int, int]:
        days = now.limit.window_days
        return days > 0, releases_left(now, last) if last else 0, days

    return min(record.standings, key=place, default=None)


def _in_its_days(
    now: Standing, charges: Sequence[tuple[LedgerEntry, Charge]]
) -> list[tuple[LedgerEntry, Charge]]:
    """Return the newest charges, as many as count for a budget."""
    left = sum(now.events.values())
    counted = []
    for entry, charge in reversed(charges):
        if left <= 0:
            break
        counted.append((entry, charge))
        left -= sum(charge.events_of()[now.limit.scope].values())
    return counted[::-1]


def _points(
    scope: BudgetScope, charges: Sequence[tuple[LedgerEntry, Charge]], delta: float
) -> list[PointView]:
    shown = set(_spread(len(charges), _POINTS_MAX))
    points, so_far = [], dict[str, int]()
    for number, (entry, charge) in enumerate(charges, 1):
        so_far = merged([so_far, charge.events_of()[scope]])
        if number in shown:
            key = ChargeKey.parse(entry.key)
            points.append(
                PointView(
                    at=entry.at,
                    run=key.run_id,
                    round=key.round,
                    rounds=number,
                    epsilon=epsilon_spent(so_far, delta),
                )
            )
    return points


def _forecast(now: Standing, last: Mapping[str, int], rounds: int) -> list[PointView]:
    left = releases_left(now, last) if last else 0
    if left == ROUNDS_MAX:
        return []
    return [
        PointView(
            at=None,
            run=None,
            round=None,
            rounds=rounds + more,
            epsilon=epsilon_spent(
                merged([now.events, {event: more * count for event, count in last.items()}]),
                now.limit.delta,
            ),
        )
        for more in _spread(left, _FORECAST_POINTS)
    ]


def _spread(count: int, points_max: int) -> list[int]:
    """Return whole numbers from 1 to ``count``, evenly spread, the last one among them."""
    points = min(count, points_max)
    return [-(-count * number // points) for number in range(1, points + 1)]
