"""Paying for a private round: before its sum is known to anybody, and once."""

from collections.abc import Iterable

from kumiai.core.errors import ConfigError
from kumiai.node.coordinator.budgets import BudgetDesk, charge_of_round
from kumiai.node.coordinator.local import TrainingPayer
from kumiai.node.job import JobSpec
from kumiai.node.local_noise import training_terms_of
from kumiai.node.noised_rounds import event_of_round, terms_of
from kumiai.privacy.ledger import Charge, ChargeKey
from kumiai.secagg import Outcome, RoundDescriptor
from kumiai.storage import Lease, RunRecord, SealedCharge

__all__ = ["RoundPayer", "new_payer"]


class RoundPayer:
    """Pays for the rounds of one private run."""

    def __init__(self, desk: BudgetDesk, lease: Lease, job: JobSpec) -> None:
        """Pay at this desk while the lease holds.

        Raises:
            ConfigError: the job is not private.
        """
        if job.privacy is None:
            raise ConfigError("privacy must be in the job of a private run, got none")
        self._desk = desk
        self._lease = lease
        self._terms = terms_of(job, job.privacy)
        terms = training_terms_of(job)
        self._training = None if terms is None else TrainingPayer(desk, lease, terms)

    async def verify_affordable(
        self, run: RunRecord, attempt: int, descriptor: RoundDescriptor
    ) -> None:
        """Check that all who are invited can pay, before anybody works.

        Raises:
            BudgetExhaustedError: somebody cannot.
            ConflictError: the ledger is frozen.
        """
        names = [member.name for member in descriptor.roster]
        if self._training is not None:
            number = descriptor.round_number
            await self._training.verify_affordable(run, number, names, attempt=attempt)
            return
        await self._desk.verify_affordable(self._charge(run, descriptor, names))

    async def pay(
        self, run: RunRecord, attempt: int, descriptor: RoundDescriptor, clients: Iterable[str]
    ) -> ChargeKey:
        """Let those pay whose data may be in the sum; paying again for it changes nothing.

        Raises:
            BudgetExhaustedError: somebody cannot; nothing was charged.
            ConflictError: the ledger is frozen.
            FencedError: another leads.
            StorageError: the database failed.
        """
        if self._training is not None:
            number = descriptor.round_number
            return (await self._training.pay(run, number, attempt, clients)).key
        paid = await self._desk.charge(
            self._lease,
            round=descriptor.round_number,
            attempt=attempt,
            charge=self._charge(run, descriptor, clients),
        )
        return paid.key

    async def seal(self, key: ChargeKey, outcome: Outcome) -> SealedCharge:
        """Fix the noised sum that was paid for: there will be no other at this price.

        Raises:
            ConflictError: another one was sealed.
            FencedError: another leads.
            StorageError: the database failed.
        """
        return await self._desk.seal(self._lease, key, outcome.total.data.cast("B"))

    def _charge(
        self, run: RunRecord, descriptor: RoundDescriptor, clients: Iterable[str]
    ) -> Charge:
        event = event_of_round(descriptor, self._terms)
        return charge_of_round(run, self._terms.unit, event, sorted(clients))


def new_payer(desk: BudgetDesk | None, lease: Lease, job: JobSpec) -> RoundPayer | None:
    """Return who pays for a run's rounds; ``None`` where nothing is to be paid.

    Raises:
        ConfigError: the run is private, and this coordinator keeps no ledger.
    """
    if job.privacy is None:
        return None
    if desk is None:
        raise ConfigError("privacy must be left out here: this coordinator keeps no ledger")
    return RoundPayer(desk, lease, job)
