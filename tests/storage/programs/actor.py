"""One act on a database that `prepare` has filled, until it is killed in the midst of it.

Arguments: the database's URL, and which of the `ACTS`. Each is named for the transaction that it
is about.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from sqlalchemy import text

from kumiai.identity.audit import Act as AuditAct
from kumiai.identity.audit import Actor, AuditScribe, NewEntry
from kumiai.privacy.reconciling import KeyedCharge, SiteCopy
from kumiai.storage import (
    APITokenRepository,
    AuditLog,
    BudgetRepository,
    Changes,
    DatabaseManager,
    EnrolmentRepository,
    EvaluationRecord,
    Lease,
    NewAPIToken,
    NewInvitation,
    SecureRoundRepository,
    SiteCertificate,
    Suspicion,
)
from kumiai.storage.cache.draining import DrainSettings, OutboxDrain
from kumiai.storage.cache.epoch import EpochKeeper
from kumiai.storage.cache.outbox import CacheOutbox
from kumiai.storage.cache.sql_locks import SQLLocks
from kumiai.testing.crash import install_from_environment
from tests.storage.catalogue import Catalogue
from tests.storage.spending import SITE, budget_for, charge_of, key_of

__all__ = ["ACTS", "main", "prepare"]

Act = Callable[[DatabaseManager], Awaitable[object]]

_DESCRIBED = Changes(description="words", add_tags=["tag"])
_FINE, _BAD, _PARKED = "fine", "bad", "parked"
_OLD_CHARGE = key_of(run_id="run-b")
_SETTINGS = DrainSettings(attempts_max=3)


async def prepare(url: str) -> None:
    """Make what the acts act on."""
    database = await _connected(url)
    catalogue = Catalogue(database)
    await catalogue.add_run("run-a")
    await catalogue.add_models("run-a", 3)
    await catalogue.end("run-a")
    await catalogue.add_run("run-b")
    await catalogue.lead("run-b")
    await catalogue.add_clients("site-1")
    outbox = CacheOutbox(database)
    for topic in (_FINE, _BAD, _PARKED):
        async with database.transaction() as connection:
            await outbox.add(connection, topic, [("key", b"value")])
    await OutboxDrain(
        outbox, _PARKED, _refuse, settings=DrainSettings(attempts_max=1), owner="first"
    ).drain_once()
    await EpochKeeper(database, "epoch").register(5.0)
    await _log(database).record([NewEntry(AuditAct.RUN_CREATED, Actor("operator", "bob"))])
    sites = EnrolmentRepository(database)
    for name in ("open", "waiting"):
        await sites.invite(NewInvitation(f"hash-{name}", name, "client", "ann", 3600.0))
    await _claim_enrolment(database, "waiting")
    await _create_token(database, "old")
    budgets = BudgetRepository(database)
    await budgets.charge(await _lease(database), _OLD_CHARGE, charge_of())
    async with database.transaction() as connection:
        await connection.execute(text("DELETE FROM budget_counts WHERE scope <> 'client/a'"))
    await database.close()


async def _connected(url: str) -> DatabaseManager:
    database = DatabaseManager(url, idle_in_transaction_timeout_seconds=30.0)
    await database.connect()
    return database


async def _refuse(*_arguments: Any) -> None:
    raise ValueError("no")


async def _write(connection: Any, _rows: Any) -> None:
    await connection.execute(text("UPDATE clients SET address = 'written late'"))


def _drain(database: DatabaseManager, topic: str, handler: Any, **options: Any) -> OutboxDrain:
    outbox = CacheOutbox(database)
    # A name that lasts: the second life has the lease of the first.
    return OutboxDrain(outbox, topic, handler, settings=_SETTINGS, owner="actor", **options)


async def _retry_parked(database: DatabaseManager) -> None:
    outbox = CacheOutbox(database)
    (row,) = await outbox.parked(_PARKED)
    await outbox.retry_parked(row.seq)


async def _claim(database: DatabaseManager) -> None:
    keeper = EpochKeeper(database, "epoch")
    await keeper.claim("server", await keeper.read())


async def _lease(database: DatabaseManager) -> Lease:
    run = await Catalogue(database).runs.get("run-b")
    return Lease("run-b", str(run.leader), run.epoch)


async def _renew(database: DatabaseManager) -> None:
    await Catalogue(database).runs.renew_lease(await _lease(database), 60)


async def _blame(database: DatabaseManager) -> None:
    suspicions = [Suspicion("a", is_suspect=True)]
    await SecureRoundRepository(database).blame(
        await _lease(database), 1, {("a", "b"): None, ("c",): None}, suspicions=suspicions
    )


async def _charge(database: DatabaseManager) -> None:
    key = key_of(2, run_id="run-b")
    await BudgetRepository(database).charge(await _lease(database), key, charge_of())


async def _seal(database: DatabaseManager) -> None:
    await BudgetRepository(database).seal(await _lease(database), _OLD_CHARGE, "noised")


def _log(database: DatabaseManager) -> AuditLog:
    return AuditLog(database, AuditScribe())


def _audited(act: AuditAct = AuditAct.RUN_CREATED) -> NewEntry:
    return NewEntry(act, Actor("operator", "ann"), "run/run-b")


async def _claim_enrolment(database: DatabaseManager, name: str) -> None:
    await EnrolmentRepository(database).claim(
        f"hash-{name}", key_digest=f"key-{name}", request_pem="PEM", needs_approval=True
    )


async def _create_token(database: DatabaseManager, token_id: str) -> None:
    token = NewAPIToken(token_id, "hash", "nightly", "operator", "ann", ["runs.read"], 60.0)
    await APITokenRepository(database).create(token)


_CERTIFICATE: Final = SiteCertificate(
    serial="a1",
    name="open",
    role="client",
    issuer="f0",
    key_digest="key-open",
    chain="PEM",
    not_before=0.0,
    not_after=4e9,
)


ACTS: Final[Mapping[str, Act]] = {
    "audit_record": lambda database: _log(database).record([_audited()]),
    "audit_redact": lambda database: _log(database).redact(
        "operator", "bob", lambda _: _audited(AuditAct.AUDIT_REDACTED)
    ),
    "audit_checkpoint": lambda database: _log(database).add_checkpoint(
        size=1, key_id="key", at=1.0, note="note"
    ),
    "audit_signer": lambda database: _log(database).add_signer("key", "document"),
    "invite_site": lambda database: EnrolmentRepository(database).invite(
        NewInvitation("hash-new", "new", "client", "ann", 3600.0)
    ),
    "claim_enrolment": lambda database: _claim_enrolment(database, "open"),
    "approve_site": lambda database: EnrolmentRepository(database).approve("waiting"),
    "keep_certificate": lambda database: EnrolmentRepository(database).keep_certificate(
        _CERTIFICATE
    ),
    "change_site": lambda database: EnrolmentRepository(database).suspend(
        "open", by="ann", reason="late"
    ),
    "remove_site": lambda database: EnrolmentRepository(database).remove(
        "open", by="ann", reason="left"
    ),
    "create_token": lambda database: _create_token(database, "new"),
    "revoke_token": lambda database: APITokenRepository(database).revoke("old", by="ann"),
    "note_token_use": lambda database: APITokenRepository(database).note_use("old"),
    "renew_lease": _renew,
    "blame_groups": _blame,
    "charge_budget": _charge,
    "seal_budget": _seal,
    "set_budget": lambda database: BudgetRepository(database).set_limit(budget_for(9), by="ann"),
    "freeze_budgets": lambda database: BudgetRepository(database).freeze("why", by="ann"),
    "reconcile_budgets": lambda database: BudgetRepository(database).reconcile(
        [SiteCopy("a", [KeyedCharge(key_of(run_id="run-c"), charge_of(SITE))])], {}, by="ann"
    ),
    "rebuild_budgets": lambda database: BudgetRepository(database).check(),
    "update_run": lambda database: Catalogue(database).history.update(
        "run-a", _DESCRIBED, by="ann"
    ),
    "delete_run": lambda database: Catalogue(database).history.delete("run-a"),
    "add_evaluations": lambda database: Catalogue(database).history.add_evaluations(
        EvaluationRecord("run-a", number, "site-1", 5, {"loss": 0.5}, 1.0) for number in range(3)
    ),
    "add_models": lambda database: Catalogue(database).add_models("run-a", 5, first=4),
    "update_model": lambda database: Catalogue(database).models.update("run-a.1", _DESCRIBED),
    "delete_model": lambda database: Catalogue(database).models.delete("run-a.1"),
    "register_clients": lambda database: Catalogue(database).add_clients("site-2", "site-3"),
    "update_client": lambda database: Catalogue(database).clients.update("site-1", _DESCRIBED),
    "delete_client": lambda database: Catalogue(database).clients.delete("site-1"),
    "outbox.lease": lambda database: _drain(database, _BAD, _refuse).drain_once(),
    "outbox.failure": lambda database: _drain(database, _BAD, _refuse).drain_once(),
    "outbox.apply": lambda database: _drain(
        database, _FINE, _write, transactional=True
    ).drain_once(),
    "outbox.parked": _retry_parked,
    "cache.claim": _claim,
    "cache.bump": lambda database: EpochKeeper(database, "epoch").bump(),
    "lock.acquire": lambda database: SQLLocks(database).acquire("lock", "actor", 60, waits=True),
}


async def _act(url: str, act: str) -> None:
    database = await _connected(url)
    install_from_environment()
    await ACTS[act](database)
    await database.close()


def main() -> None:
    asyncio.run(_act(*sys.argv[1:]))
