"""The rounds of runs whose sites add the noise themselves: what the ledger here knows of them.

Each update is noised before this coordinator has it, so that whoever is asked has to have paid
before: asked anew after a lost deadline, it trains with fresh noise and pays again.
"""

from collections.abc import Iterable, Sequence

from kumiai.core.errors import ConfigError
from kumiai.node.coordinator.budgets import charge_of_round
from kumiai.node.coordinator.engine import RoundEngine
from kumiai.node.job import JobSpec
from kumiai.node.local_noise import training_terms_of
from kumiai.privacy import TrainingTerms
from kumiai.privacy.ledger import Charge
from kumiai.storage import ChargeRecord, Lease, RoundRecord, RunRecord, SealedCharge, UpdateRecord

__all__ = ["LocalRounds", "charge_of_training", "new_local_rounds"]


def charge_of_training(run: RunRecord, terms: TrainingTerms, clients: Iterable[str]) -> Charge:
    """Return what a round of private training costs each of its clients, and the model once."""
    return charge_of_round(run, "record", terms.event, sorted(clients), count=terms.steps)


class LocalRounds:
    """The rounds of one such run whose updates are not hidden, while its lease holds."""

    def __init__(self, engine: RoundEngine, lease: Lease, terms: TrainingTerms) -> None:
        """Pay for the run of this lease; `new_local_rounds` makes one.

        Raises:
            ConfigError: this coordinator keeps no ledger.
        """
        if engine.budgets is None:
            raise ConfigError("privacy must be left out here: this coordinator keeps no ledger")
        self._runs = engine.runs
        self._desk = engine.budgets
        self._lease = lease
        self._terms = terms

    async def verify_affordable(self, run: RunRecord, clients: Iterable[str]) -> None:
        """Check that all who are to be asked can pay, before anybody works.

        Raises:
            BudgetExhaustedError: somebody cannot.
            ConflictError: the ledger is frozen.
        """
        await self._desk.verify_affordable(charge_of_training(run, self._terms, clients))

    async def pay(self, run: RunRecord, number: int) -> ChargeRecord:
        """Let those pay who are asked in a round's newest attempt; again it changes nothing.

        Raises:
            BudgetExhaustedError: somebody cannot; nothing was charged.
            ConflictError: the ledger is frozen.
            FencedError: another leads.
            StorageError: the database failed.
        """
        current = await self._runs.round(run.run_id, number)
        asked = [
            each.client_id
            for each in await self._runs.assignments(run.run_id, number)
            if each.kind == "train" and each.attempt == current.attempt
        ]
        charge = charge_of_training(run, self._terms, asked)
        return await self._desk.charge(
            self._lease, round=number, attempt=current.attempt, charge=charge
        )

    async def sealed(
        self, run: RunRecord, current: RoundRecord, updates: Sequence[UpdateRecord]
    ) -> SealedCharge:
        """Fix which updates the model of a closed round is made of.

        Raises:
            ConflictError: others were, or the ledger is frozen.
            FencedError: another leads.
            StorageError: the database failed.
        """
        paid = await self.pay(run, current.round)
        digests = "\n".join(f"{each.client_id} {each.digest}" for each in updates)
        return await self._desk.seal(self._lease, paid.key, digests.encode())


def new_local_rounds(engine: RoundEngine, lease: Lease, job: JobSpec) -> LocalRounds | None:
    """Return who pays for a run's rounds; ``None`` where its sites add no noise of their own.

    Raises:
        ConfigError: they do, and this coordinator keeps no ledger.
    """
    terms = training_terms_of(job)
    if terms is None or job.secure_aggregation.is_on:
        return None
    return LocalRounds(engine, lease, terms)
