"""Who pays for a private round, and this coordinator's own memory of the ledger.

    charge ─► (the noise is drawn, the sum becomes known) ─► seal ─► publish

A file beside the database holds how far the ledger was at this coordinator's last charge: a
ledger that does not continue it came back from a backup, and is frozen until it is reconciled.
"""

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from kumiai.core.digest import digest_of
from kumiai.core.errors import BudgetExhaustedError, IntegrityError, NotFoundError
from kumiai.identity import Role, files
from kumiai.identity.audit import Act, Actor, AuditSink, Detail, NewEntry, Outcome
from kumiai.node.auditing.actors import subject_of
from kumiai.privacy import Adjacency, Event, PrivacyUnit, event_to_json
from kumiai.privacy.budget import BudgetLimit
from kumiai.privacy.ledger import (
    BudgetScope,
    Charge,
    ChargeKey,
    Guarantee,
    LedgerHead,
    ScopeKind,
    Spend,
)
from kumiai.privacy.reconciling import KeyedCharge, SiteCopy
from kumiai.storage import BudgetRepository, ChargeRecord, Lease, RunRecord, SealedCharge

__all__ = ["WITNESS_FILE", "BudgetDesk", "charge_of_round", "limit_of_run"]

WITNESS_FILE: Final = "budget-witness.json"


def charge_of_round(
    run: RunRecord,
    unit: str,
    event: Event,
    clients: Iterable[str],
    *,
    count: int = 1,
    model_event: Event | None = None,
) -> Charge:
    """Return what a round costs: each client, its data for this study, and the model pay alike.

    Sites do not share records, so none of them pays for another; the model pays each round once.
    So does the run itself, where its job says how much it may cost.

    Args:
        run: whose round it is; its name is the model's, or else its study's.
        unit: what the noise hides, ``record`` or ``client``.
        event: the release.
        clients: whose data may be in it.
        count: how many of it there are in a round.
        model_event: what the round costs the model and the run, where nobody takes part in every
            round; ``None``: as much as each client.
    """
    models = [BudgetScope(ScopeKind.MODEL, run.name or run.app)]
    if (own := limit_of_run(run)) is not None:
        models.append(own.scope)
    scopes = []
    for client in clients:
        scopes.append(BudgetScope(ScopeKind.CLIENT, client))
        scopes.append(BudgetScope(ScopeKind.DATASET, f"{client}/{run.app}"))
    guarantee = Guarantee(PrivacyUnit(unit), event.adjacency)
    events = {event_to_json(event): count}
    if model_event is None:
        return Charge.alike(guarantee, [*models, *scopes], events)
    of_model = Spend(tuple(sorted(models)), {event_to_json(model_event): count})
    return Charge(guarantee, (Spend(tuple(sorted(scopes)), events), of_model))


def limit_of_run(run: RunRecord) -> BudgetLimit | None:
    """Return what a run may cost in all, attempts that are lost included; ``None``: nobody says."""
    privacy = run.job.get("privacy") or {}
    if privacy.get("epsilon") is None:
        return None
    return BudgetLimit(
        BudgetScope(ScopeKind.MODEL, f"{run.name or run.app}/{run.run_id}"),
        Guarantee(PrivacyUnit(privacy["unit"]), Adjacency.ZERO_OUT),
        epsilon=privacy["epsilon"],
        delta=privacy["delta"],
    )


class BudgetDesk:
    """Charges the rounds that this coordinator leads."""

    def __init__(
        self,
        budgets: BudgetRepository,
        folder: Path,
        coordinator_id: str,
        audit: AuditSink | None = None,
    ) -> None:
        """Charge to this ledger.

        Args:
            budgets: the ledger.
            folder: keeps the witness; the data directory, not the database.
            coordinator_id: this replica's lasting name.
            audit: is told of what was refused; ``None``: nobody is.
        """
        self._budgets = budgets
        self._path = folder / WITNESS_FILE
        self._me = Actor(Role.COORDINATOR.value, coordinator_id)
        self._audit = audit

    @property
    def ledger(self) -> BudgetRepository:
        """The ledger."""
        return self._budgets

    async def open(self) -> str | None:
        """Compare the ledger with what was seen of it; return why it is frozen, if it is.

        Raises:
            IntegrityError: the witness's file is damaged.
            StorageError: the database or the file failed.
        """
        witness = await asyncio.to_thread(self._witness)
        frozen = await self._budgets.freeze_unless_continued(
            witness,
            by=self._me.name,
            entry=NewEntry(Act.BUDGETS_FROZEN, self._me, "budgets/ledger"),
        )
        if frozen is None:
            await self._keep()
        return frozen

    async def open_run(self, run: RunRecord) -> None:
        """Set a run the budget that its job names; one that it has stays as it is.

        Args:
            run: that is to be led now.

        Raises:
            StorageError: the database failed.
        """
        limit = limit_of_run(run)
        if limit is None:
            return
        (found,) = await self._budgets.scopes([limit.scope])
        if found.standings:
            return
        detail: Detail = {
            "guarantee": str(limit.guarantee),
            "epsilon": repr(limit.epsilon),
            "delta": repr(limit.delta),
            "window_days": 0,
        }
        subject = subject_of("budget", str(limit.scope))
        entry = NewEntry(Act.BUDGET_SET, self._me, subject, detail=detail)
        await self._budgets.set_limit(limit, by=self._me.name, entry=entry)

    async def verify_affordable(self, charge: Charge) -> None:
        """Check that the budgets allow a round, before anybody works for it.

        Raises:
            BudgetExhaustedError: one does not.
            ConflictError: the ledger is frozen.
        """
        await self._budgets.verify_affordable(charge)

    async def charge(
        self,
        lease: Lease,
        *,
        round: int,  # noqa: A002
        attempt: int,
        charge: Charge,
    ) -> ChargeRecord:
        """Pay for an attempt at a round's release; paying again for it changes nothing.

        Args:
            lease: held.
            round: of the run.
            attempt: from 1; one with other noise is another attempt.
            charge: who pays what.

        Returns:
            The charge, and what was sealed with it if that was done before.

        Raises:
            BudgetExhaustedError: a budget does not allow it; nothing was charged.
            ConflictError: the ledger is frozen.
            FencedError: another leads.
            StorageError: the database or the witness's file failed.
        """
        adopted = await self._budgets.adopted_attempts(lease.run_id, round)
        key = ChargeKey(lease.run_id, round, adopted + attempt)
        subject = f"run/{lease.run_id}"
        detail = {"round": round, "attempt": key.attempt, "scopes": len(charge.scopes)}
        try:
            paid = await self._budgets.charge(
                lease,
                key,
                charge,
                entry=NewEntry(Act.BUDGET_CHARGED, self._me, subject, detail=detail),
            )
        except BudgetExhaustedError:
            if self._audit is not None:
                self._audit.record(Act.BUDGET_CHARGED, subject, Outcome.REFUSED, self._me, detail)
            raise
        await self._keep()
        return paid

    async def seal(self, lease: Lease, key: ChargeKey, noised: bytes | memoryview) -> SealedCharge:
        """Fix what was paid for; the same bytes again change nothing.

        Raises:
            ConflictError: other bytes were sealed with this charge.
            FencedError: another leads.
            StorageError: the database failed.
        """
        digest = await asyncio.to_thread(digest_of, [noised])
        return await self._budgets.seal(lease, key, digest)

    async def reconcile(
        self,
        copies: Sequence[SiteCopy],
        assumed: Mapping[BudgetScope, int],
        *,
        by: str,
        entry: NewEntry,
    ) -> list[KeyedCharge]:
        """Bring the ledger in line with the sites' ones; see `BudgetRepository.reconcile`.

        Raises:
            ConfigError: a scope is in no copy and in no assumption, or its rounds have no price.
            StorageError: the database or the witness's file failed.
        """
        added = await self._budgets.reconcile(copies, assumed, by=by, entry=entry)
        await self._keep()
        return added

    async def _keep(self) -> None:
        await asyncio.to_thread(self._save, self._budgets.seen)

    def _save(self, head: LedgerHead) -> None:
        told = {"size": head.size, "chain": head.chain.hex()}
        files.write_atomic(self._path, json.dumps(told).encode(), mode=0o600)

    def _witness(self) -> LedgerHead | None:
        try:
            content = files.read_file(self._path, "budget ledger's witness")
        except NotFoundError:
            return None
        try:
            match json.loads(content):
                case {"size": int(size), "chain": str(chain)} if size >= 0:
                    return LedgerHead(size, bytes.fromhex(chain))
        except ValueError:
            pass
        raise IntegrityError(
            f"{self._path} must hold how far the budget ledger was, got a damaged file; restore "
            "it from a backup, or delete it and reconcile the ledger with the sites' ones"
        )
