"""A coordinator that does nothing but publish noised models, until somebody kills it.

Arguments: the database's URL, the folder of the noised bytes, and its own name. Several of them
race for the lease of the one run. What a reader of models would see goes to the file ``seen``, a
line for each publication: round, digest of the noised bytes, digest of the model.
"""

import asyncio
import os
import secrets
import sys
from pathlib import Path
from typing import Final

from kumiai.core.digest import digest_of
from kumiai.core.errors import (
    BudgetExhaustedError,
    ConflictError,
    KumiaiError,
    NotFoundError,
    StorageError,
)
from kumiai.identity.files import write_atomic
from kumiai.storage import BudgetRepository, DatabaseManager, Lease, RunRepository, SealedCharge
from tests.storage.leading import new_run
from tests.storage.spending import budget_for, charge_of, key_of, newest_charge

__all__ = ["ROUNDS", "SEEN", "main", "prepare"]

SEEN: Final = "seen"
ROUNDS: Final = 100_000
_LEASE_SECONDS: Final = 0.2


async def prepare(url: str, releases: int) -> None:
    """Make the run, and a budget for so many releases."""
    database = DatabaseManager(url)
    await database.connect()
    await RunRepository(database).create(new_run(rounds_total=ROUNDS))
    await BudgetRepository(database).set_limit(budget_for(releases), by="ann")
    await database.close()


async def _release(budgets: BudgetRepository, lease: Lease, number: int, folder: Path) -> bytes:
    """Return the noised bytes of a round, of which its charge is sealed: there is one set."""
    found = await newest_charge(budgets, number)
    if found is not None and found.digest is not None:
        return (folder / found.digest).read_bytes()
    attempt = 1 if found is None else found.key.attempt + 1
    await budgets.charge(lease, key_of(attempt, round_=number), charge_of())
    noised = secrets.token_bytes(32)
    digest = digest_of([noised])
    await asyncio.to_thread(write_atomic, folder / digest, noised, mode=0o600)
    await budgets.seal(lease, key_of(attempt, round_=number), digest)
    return noised


async def _lead(runs: RunRepository, budgets: BudgetRepository, lease: Lease, folder: Path) -> None:
    run = await runs.start(lease)
    current = await runs.round(lease.run_id, run.round)
    if current.stage == "published":
        await runs.open_round(
            lease,
            round=run.round + 1,
            base_digest=run.model_digest,
            target_reports=1,
            min_reports=1,
            deadline_seconds=60.0,
            clients=[("a", 1)],
        )
        return
    if current.stage == "collecting":
        await runs.close_round(lease, run.round, "all reported")
        return
    noised = await _release(budgets, lease, run.round, folder)
    found = await newest_charge(budgets, run.round)
    if found is None or found.digest is None:
        raise ConflictError("a release must be sealed by now")
    model = digest_of([b"model of ", noised])
    await runs.publish_round(
        lease,
        round=run.round,
        model_digest=model,
        model_size_bytes=32,
        state_digest=None,
        reports=1,
        examples=1,
        metrics={},
        charge=SealedCharge(found.key, found.digest),
    )
    with (folder / SEEN).open("a", encoding="utf-8") as seen:
        seen.write(f"{run.round} {found.digest} {model}\n")


async def _serve(url: str, folder: Path, name: str) -> None:
    database = DatabaseManager(url)
    await database.connect()
    runs, budgets = RunRepository(database), BudgetRepository(database)
    while True:
        lease = None
        try:
            lease = await runs.acquire_lease("run-a", name, _LEASE_SECONDS)
            while lease is not None:
                await _lead(runs, budgets, lease, folder)
                await runs.renew_lease(lease, _LEASE_SECONDS)
        except BudgetExhaustedError:
            (folder / "exhausted").touch()
        except (ConflictError, NotFoundError, StorageError):
            pass  # another leads, or holds a lock; try again
        except KumiaiError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(9)
        await asyncio.sleep(_LEASE_SECONDS / 10)


def main() -> None:
    url, folder, name = sys.argv[1:]
    asyncio.run(_serve(url, Path(folder), name))
