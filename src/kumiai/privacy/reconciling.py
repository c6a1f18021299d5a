"""What a ledger lacks that the sites' ledgers know: the more of both counts, for each round.

A ledger that comes back from a backup has forgotten what was charged since. Each site has its own,
which nobody but the site can put back. Of the two the higher count holds, for each round, scope
and event: whatever is wrong about the others' copies then costs budget, never privacy.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kumiai.core.errors import ConfigError
from kumiai.privacy.ledger import (
    BudgetScope,
    Charge,
    ChargeKey,
    EntryKind,
    Guarantee,
    LedgerEntry,
    ScopeKind,
    Spend,
)

__all__ = [
    "KeyedCharge",
    "SiteCopy",
    "assumed_charges",
    "charges_in",
    "missing_charges",
    "unaccounted",
]


@dataclass(frozen=True, slots=True)
class KeyedCharge:
    """A charge, and which release it paid for."""

    key: ChargeKey
    charge: Charge


@dataclass(frozen=True, slots=True)
class SiteCopy:
    """What a site's own ledger says.

    Attributes:
        site: the client's name.
        charges: all that it was charged.
    """

    site: str
    charges: Sequence[KeyedCharge]


_Counts = dict[tuple[str, int], dict[tuple[Guarantee, BudgetScope, str], int]]
"""How often each scope has paid for each event in each round of each run."""


def charges_in(entries: Iterable[LedgerEntry]) -> list[KeyedCharge]:
    """Return the charges among entries, those that were adopted included.

    Raises:
        IntegrityError: one is none.
    """
    return [
        KeyedCharge(ChargeKey.parse(entry.key), Charge.from_content(entry.content))
        for entry in entries
        if entry.kind in {EntryKind.CHARGED, EntryKind.ADOPTED}
    ]


def missing_charges(ours: Iterable[KeyedCharge], copies: Iterable[SiteCopy]) -> list[KeyedCharge]:
    """Return what has to be charged so that our counts are at least those of each copy.

    Sites do not know models. What a run lost is charged to its model, too, and to the run itself
    where it has a budget; a run that is not known at all may have been any model's, so all models
    that are known pay for it.

    Args:
        ours: what our ledger knows.
        copies: what the sites know.

    Returns:
        Charges with keys that are not taken, in the order of their keys.
    """
    ours = list(ours)
    known, wanted = _counted(ours), _Counts()
    for copy in copies:
        for place, counts in _counted(copy.charges).items():
            most = wanted.setdefault(place, {})
            for payer, count in counts.items():
                most[payer] = max(most.get(payer, 0), count)
    keys, models = _NextKeys(ours), _models_of(ours)
    everyone = {scope for scope in set().union(*models.values()) if not scope.is_of_run}
    missing: list[KeyedCharge] = []
    for place in sorted(wanted):
        have = known.get(place, {})
        lacking = {
            payer: count - have.get(payer, 0)
            for payer, count in wanted[place].items()
            if count > have.get(payer, 0)
        }
        lacking = _with_models(lacking, models.get(place[0], everyone))
        missing += [keys.keyed(place, charge) for charge in _charges_of(lacking)]
    return missing


def assumed_charges(
    ours: Sequence[KeyedCharge], rounds: Mapping[BudgetScope, int]
) -> list[KeyedCharge]:
    """Return what has to be charged for rounds of which nobody can tell whether they were.

    Args:
        ours: what our ledger knows, in its order.
        rounds: how many there may have been, for each scope; as expensive as its last one.

    Raises:
        ConfigError: a scope has never paid, so nobody knows what a round of it costs.
    """
    keys = _NextKeys(ours)
    assumed: list[KeyedCharge] = []
    for scope in sorted(rounds):
        last = next((each for each in reversed(ours) if scope in each.charge.scopes), None)
        if rounds[scope] == 0:
            continue
        if last is None:
            raise ConfigError(f"scope must have paid before to assume rounds of it, got {scope}")
        events = last.charge.events_of()[scope]
        charge = Charge.alike(last.charge.guarantee, [scope], events)
        for number in range(1, rounds[scope] + 1):
            place = (last.key.run_id, last.key.round + number)
            assumed.append(keys.keyed(place, charge))
    return assumed


def unaccounted(
    ours: Iterable[KeyedCharge], copies: Iterable[SiteCopy], rounds: Iterable[BudgetScope]
) -> list[BudgetScope]:
    """Return the scopes of sites for which there is neither a copy nor an assumption."""
    sites, assumed = {copy.site for copy in copies}, set(rounds)
    scopes = {scope for each in ours for scope in each.charge.scopes}
    return sorted(
        scope
        for scope in scopes - assumed
        if scope.kind is not ScopeKind.MODEL and scope.name.partition("/")[0] not in sites
    )


_Lacking = dict[tuple[Guarantee, BudgetScope, str], int]


def _models_of(charges: Iterable[KeyedCharge]) -> dict[str, set[BudgetScope]]:
    """Return the models that each run was charged to."""
    found: dict[str, set[BudgetScope]] = {}
    for each in charges:
        models = {scope for scope in each.charge.scopes if scope.kind is ScopeKind.MODEL}
        found.setdefault(each.key.run_id, set()).update(models)
    return found


def _with_models(lacking: _Lacking, models: Iterable[BudgetScope]) -> _Lacking:
    """Let models pay as much as the site that lacks most, for each event."""
    paid = dict(lacking)
    for (guarantee, scope, event), count in lacking.items():
        if scope.kind is not ScopeKind.MODEL:
            for model in models:
                payer = (guarantee, model, event)
                paid[payer] = max(paid.get(payer, 0), count)
    return paid


class _NextKeys:
    """Hands out keys that no charge has."""

    def __init__(self, taken: Iterable[KeyedCharge]) -> None:
        self._last: dict[tuple[str, int], int] = {}
        for each in taken:
            place = (each.key.run_id, each.key.round)
            self._last[place] = max(self._last.get(place, 0), each.key.attempt)

    def keyed(self, place: tuple[str, int], charge: Charge) -> KeyedCharge:
        attempt = self._last[place] = self._last.get(place, 0) + 1
        return KeyedCharge(ChargeKey(*place, attempt), charge)


def _counted(charges: Iterable[KeyedCharge]) -> _Counts:
    found: _Counts = {}
    for each in charges:
        counts = found.setdefault((each.key.run_id, each.key.round), {})
        for scope, events in each.charge.events_of().items():
            for event, count in events.items():
                payer = (each.charge.guarantee, scope, event)
                counts[payer] = counts.get(payer, 0) + count
    return found


def _charges_of(lacking: _Lacking) -> list[Charge]:
    by_guarantee: dict[Guarantee, dict[BudgetScope, dict[str, int]]] = {}
    for (guarantee, scope, event), count in lacking.items():
        by_guarantee.setdefault(guarantee, {}).setdefault(scope, {})[event] = count
    return [
        Charge(
            guarantee,
            tuple(Spend((scope,), events) for scope, events in sorted(by_scope.items())),
        )
        for guarantee, by_scope in sorted(by_guarantee.items())
    ]
