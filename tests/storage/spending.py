"""Charges to spend, and a budget that allows a known number of them."""

from kumiai.privacy import GaussianEvent, event_to_json
from kumiai.privacy.budget import BudgetLimit, epsilon_of
from kumiai.privacy.events import Adjacency
from kumiai.privacy.ledger import BudgetScope, Charge, ChargeKey, Guarantee, Unit
from kumiai.storage import BudgetRepository, SealedCharge
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
    "sealed_release",
]

EVENT = event_to_json(GaussianEvent(4.0))
DELTA = 1e-5
RECORD_LEVEL = Guarantee(Unit.RECORD, Adjacency.ZERO_OUT)
CLIENT_LEVEL = Guarantee(Unit.CLIENT, Adjacency.ZERO_OUT)
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
    epsilon = epsilon_of({EVENT: releases}, DELTA)
    return BudgetLimit(scope, guarantee, epsilon, DELTA, window_days)


async def sealed_release(
    budgets: BudgetRepository, leading: Leading, *, attempt: int = 1, round_: int = 1
) -> SealedCharge:
    """Charge and seal a release."""
    key = key_of(attempt, round_=round_)
    await budgets.charge(leading.lease, key, charge_of())
    return await budgets.seal(leading.lease, key, f"noised-{round_}.{attempt}")
