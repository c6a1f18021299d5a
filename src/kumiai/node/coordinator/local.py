"""The rounds of runs whose sites add the noise themselves: what the ledger here knows of them.

Each update is noised before this coordinator has it, so that whoever is asked has to have paid
before. A site has one update for a round: asked anew, it sends the same one, and all who have paid
for the round pay no more.
"""

from collections.abc import Iterable, Sequence

from kumiai.core.errors import ConfigError
from kumiai.node.coordinator.budgets import BudgetDesk, charge_of_round
from kumiai.node.coordinator.engine import RoundEngine
from kumiai.node.job import JobSpec
from kumiai.node.local_noise import training_terms_of
from kumiai.privacy import TrainingTerms
from kumiai.privacy.ledger import BudgetScope, Charge, ChargeKey, EntryKind, LedgerEntry
from kumiai.storage import ChargeRecord, Lease, RoundRecord, RunRecord, SealedCharge, UpdateRecord

__all__ = ["LocalRounds", "TrainingPayer", "charge_of_training", "new_local_rounds"]


def charge_of_training(run: RunRecord, terms: TrainingTerms, clients: Iterable[str]) -> Charge:
    """Return what a round of private training costs each of its clients, and the model once."""
    return charge_of_round(run, "record", terms.event, sorted(clients), count=terms.steps)


class TrainingPayer:
    """Lets each scope pay once for a round of private training, however many attempts it takes."""

    def __init__(self, desk: BudgetDesk, lease: Lease, terms: TrainingTerms) -> None:
        """Pay at this desk while the lease holds."""
        self._desk = desk
        self._lease = lease
        self._terms = terms

    async def verify_affordable(
        self, run: RunRecord, number: int, clients: Iterable[str], *, attempt: int = 1
    ) -> None:
        """Check that all who have not paid for the round can, before anybody works.

        Raises:
            BudgetExhaustedError: somebody cannot.
            ConflictError: the ledger is frozen.
        """
        charge = charge_of_training(run, self._terms, clients)
        first = await self._first(run, number) if attempt > 1 else None
        unpaid = await self._unpaid(charge, first, number)
        if unpaid is not None:
            await self._desk.verify_affordable(unpaid)

    async def pay(
        self, run: RunRecord, number: int, attempt: int, clients: Iterable[str]
    ) -> ChargeRecord:
        """Let those pay who have not; return the round's first charge, which its model is for.

        Raises:
            BudgetExhaustedError: somebody cannot; nothing was charged.
            ConflictError: the ledger is frozen.
            FencedError: another leads.
            StorageError: the database failed.
        """
        charge = charge_of_training(run, self._terms, clients)
        first = await self._first(run, number) if attempt > 1 else None
        if first is None:
            return await self._charge(number, attempt, charge)
        unpaid = await self._unpaid(charge, first, number)
        if unpaid is not None:
            await self._charge(number, attempt, unpaid)
        return await self._charge(number, *first)

    async def _charge(self, number: int, attempt: int, charge: Charge) -> ChargeRecord:
        return await self._desk.charge(self._lease, round=number, attempt=attempt, charge=charge)

    async def _first(self, run: RunRecord, number: int) -> tuple[int, Charge] | None:
        """Return the charge that the model has paid with, and in which attempt."""
        model = charge_of_training(run, self._terms, ()).scopes[0]
        entries = await self._charges(model, number)
        if not entries:
            return None
        first = entries[0]
        adopted = await self._desk.ledger.adopted_attempts(run.run_id, number)
        return ChargeKey.parse(first.key).attempt - adopted, Charge.from_content(first.content)

    async def _unpaid(
        self, charge: Charge, first: tuple[int, Charge] | None, number: int
    ) -> Charge | None:
        if first is None:
            return charge
        have_paid = set(first[1].scopes)
        scopes = [
            scope
            for scope in charge.scopes
            if scope not in have_paid and not await self._charges(scope, number)
        ]
        events = charge.spends[0].events
        return Charge.alike(charge.guarantee, scopes, events) if scopes else None

    async def _charges(self, scope: BudgetScope, number: int) -> list[LedgerEntry]:
        """Return what a scope was charged here for a round, the first before the others."""
        run_id = self._lease.run_id
        adopted = await self._desk.ledger.adopted_attempts(run_id, number)
        keys = {
            entry.key: entry
            for entry in await self._desk.ledger.charges_of(scope)
            if entry.kind is EntryKind.CHARGED
        }
        parsed = {ChargeKey.parse(key): entry for key, entry in keys.items()}
        return [
            parsed[key]
            for key in sorted(parsed)
            if (key.run_id, key.round) == (run_id, number) and key.attempt > adopted
        ]


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
        self._payer = TrainingPayer(engine.budgets, lease, terms)

    async def verify_affordable(self, run: RunRecord, number: int, clients: Iterable[str]) -> None:
        """Check that all who are to be asked can pay; see `TrainingPayer.verify_affordable`."""
        await self._payer.verify_affordable(run, number, clients)

    async def pay(self, run: RunRecord, number: int) -> ChargeRecord:
        """Let all pay who are asked in a round; see `TrainingPayer.pay`."""
        current = await self._runs.round(run.run_id, number)
        asked = [
            each.client_id
            for each in await self._runs.assignments(run.run_id, number)
            if each.kind == "train"
        ]
        return await self._payer.pay(run, number, current.attempt, asked)

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
