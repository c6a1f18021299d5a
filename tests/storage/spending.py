"""Charges to spend, and a budget that allows a known number of them."""

from sqlalchemy import select

from kumiai.privacy import GaussianEvent, PrivacyUnit, event_to_json
from kumiai.privacy.budget import BudgetLimit, epsilon_spent
from kumiai.privacy.events import Adjacency
from kumiai.privacy.ledger import (
    BudgetScope,
    Charge,
    ChargeKey,
    EntryKind,
    Guarantee,
    LedgerEntry,
)
from kumiai.storage import BudgetRepository, ChargeRecord, SealedCharge
from kumiai.storage.budgets import _ENTRIES, _record_of
from tests.storage.leading import Leading

__all__ = [
    "CLIENT_LEVEL",
    "DATA",
    "DELTA",
    "EVENT",
    "MODEL",
    "RECORD_LEVEL",
    "SITE",
    "budget_for",
    "charge_of",
    "key_of",
    "newest_charge",
    "sealed_release",
]

EVENT = event_to_json(GaussianEvent(4.0))
DELTA = 1e-5
RECORD_LEVEL = Guarantee(PrivacyUnit.RECORD, Adjacency.ZERO_OUT)
CLIENT_LEVEL = Guarantee(PrivacyUnit.CLIENT, Adjacency.ZERO_OUT)
SITE = BudgetScope.parse("client/a")
DATA = BudgetScope.parse("dataset/a/heart")
MODEL = BudgetScope.parse("model/heart-net")


def key_of(attempt: int = 1, *, round_: int = 1, run_id: str = "run-a") -> ChargeKey:
    return ChargeKey(run_id, round_, attempt)


def charge_of(*scopes: BudgetScope, count: int = 1, guarantee: Guarantee = CLIENT_LEVEL) -> Charge:
    return Charge.alike(guarantee, scopes or (SITE, DATA, MODEL), {EVENT: count})


def budget_for(
    releases: int,
    scope: BudgetScope = DATA,
    *,
    window_days: int = 0,
    guarantee: Guarantee = CLIENT_LEVEL,
) -> BudgetLimit:
    """Return a budget that just allows so many releases."""
    epsilon = epsilon_spent({EVENT: releases}, DELTA)
    return BudgetLimit(scope, guarantee, epsilon, DELTA, window_days)


async def newest_charge(budgets: BudgetRepository, number: int) -> ChargeRecord | None:
    """Return the newest charge of a round of run-a, with what became of it."""
    keys = _ENTRIES.c.charge_key.startswith(f"run-a/{number}/", autoescape=True)
    found: dict[ChargeKey, dict[EntryKind, LedgerEntry]] = {}
    for entry in await budgets._entries(
        select(_ENTRIES.c.body).where(_ENTRIES.c.run_id == "run-a", keys)
    ):
        found.setdefault(ChargeKey.parse(entry.key), {})[entry.kind] = entry
    return _record_of(found[max(found)]) if found else None


async def sealed_release(
    budgets: BudgetRepository, leading: Leading, *, attempt: int = 1, round_: int = 1
) -> SealedCharge:
    """Charge and seal a release."""
    key = key_of(attempt, round_=round_)
    await budgets.charge(leading.lease, key, charge_of())
    return await budgets.seal(leading.lease, key, f"noised-{round_}.{attempt}")
