"""A site's own ledger of what its data has paid: nobody but the site writes it, or puts it back.

A coordinator may be wrong about what was spent, by a restore or on purpose. So the site charges
before its contribution leaves, and refuses by itself when its own budget is spent. Lines of a
file, each an entry and the chain's value behind it; a line that a crash cut off was followed by
nothing that left, and goes. An entry that was changed anywhere else stops the site.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from kumiai.core.clock import Clock
from kumiai.core.errors import ConflictError, IntegrityError, StorageError
from kumiai.identity import files
from kumiai.node.settings import ClientSettings
from kumiai.privacy import Adjacency, Event, PrivacyUnit, event_to_json
from kumiai.privacy.budget import (
    BudgetLimit,
    Paid,
    Standing,
    standing,
    verify_affordable,
    verify_charge,
)
from kumiai.privacy.ledger import (
    BudgetScope,
    Charge,
    ChargeKey,
    EntryKind,
    Guarantee,
    LedgerHead,
    ScopeKind,
)
from kumiai.privacy.reconciling import KeyedCharge, SiteCopy

__all__ = ["LEDGER_FILE", "SiteLedger", "ledger_folder", "limits_of", "read_copy"]

LEDGER_FILE: Final = "budget-ledger.jsonl"
_DAY_US: Final = 86_400_000_000


@dataclass(frozen=True, slots=True)
class _Paid:
    """A charge, and for which round: a coordinator that was put back opens another by its key."""

    charge: Charge
    context: str


@dataclass(slots=True)
class _Known:
    """What was read of the file so far."""

    size_bytes: int = 0
    head: LedgerHead = field(default_factory=LedgerHead)
    charges: dict[ChargeKey, _Paid] = field(default_factory=dict)
    counts: dict[BudgetScope, dict[tuple[Guarantee, int, str], int]] = field(default_factory=dict)

    def add(self, at_us: int, key: ChargeKey, paid: _Paid) -> None:
        self.charges[key] = paid
        day, charge = at_us // _DAY_US, paid.charge
        for scope, events in charge.events_of().items():
            counts = self.counts.setdefault(scope, {})
            for event, count in events.items():
                place = (charge.guarantee, day, event)
                counts[place] = counts.get(place, 0) + count

    def paid(self, scopes: Iterable[BudgetScope]) -> dict[BudgetScope, list[Paid]]:
        return {
            scope: [Paid(*place, count) for place, count in self.counts.get(scope, {}).items()]
            for scope in scopes
        }


class SiteLedger:
    """What this site's data has paid, and what it may pay.

    Args:
        folder: of this client's own.
        site: this client's name.
        clock: dates the entries; windows are as right as it is.
        limits: of the scopes of this site.
    """

    def __init__(
        self, folder: Path, site: str, clock: Clock, limits: Sequence[BudgetLimit] = ()
    ) -> None:
        self._path = folder / LEDGER_FILE
        self._site = site
        self._clock = clock
        self._known = _Known()
        self._limits: dict[BudgetScope, list[BudgetLimit]] = {}
        for limit in limits:
            self._limits.setdefault(limit.scope, []).append(limit)

    @property
    def is_limited(self) -> bool:
        """Whether this site has set itself a budget."""
        return bool(self._limits)

    def verify_affordable(self, *, app: str, unit: str, event: Event, count: int = 1) -> None:
        """Check that a contribution can be paid for, before anybody works for it.

        Args: as of `charge`.

        Raises:
            BudgetExhaustedError: the site's own budget does not allow it.
            IntegrityError: the ledger is damaged.
            StorageError: it cannot be read.
        """
        charge = self._charge_of(app, unit, event, count)
        with self._opened():
            paid = self._known.paid(charge.scopes)
            verify_affordable(charge, self._limits, paid, self._today())

    def charge(
        self,
        key: ChargeKey,
        *,
        context: bytes,
        app: str,
        unit: str,
        event: Event,
        count: int = 1,
    ) -> None:
        """Pay for a contribution, durably, before it leaves; paying again for it changes nothing.

        Args:
            key: of the round's attempt.
            context: tells this opening of the attempt from every other one.
            app: the study, whose data it is.
            unit: what the noise hides, ``record`` or ``client``.
            event: the release.
            count: how many of it there are in this contribution.

        Raises:
            BudgetExhaustedError: the site's own budget does not allow it; nothing was written.
            ConflictError: the key stands for another charge, or for another opening of the
                attempt: the coordinator asks twice for one price.
            IntegrityError: the ledger is damaged.
            StorageError: it cannot be written.
        """
        charge = self._charge_of(app, unit, event, count)
        verify_charge(charge)
        paid = _Paid(charge, context.hex())
        with self._opened() as file:
            known = self._known
            if key in known.charges:
                if known.charges[key] != paid:
                    raise ConflictError(
                        f"charge {key} must stay what it is, got another one: the coordinator "
                        "asks twice for one price, as one that was put back to an older state "
                        "does; its next attempt is paid for anew"
                    )
                return
            verify_affordable(charge, self._limits, known.paid(charge.scopes), self._today())
            at_us = self._now_us()
            head, _, body = known.head.appended(
                at_us, EntryKind.CHARGED, str(key), {**charge.to_content(), "context": paid.context}
            )
            line = f"{head.chain.hex()} {body}\n".encode()
            file.write(line)
            os.fsync(file.fileno())
            known.head, known.size_bytes = head, known.size_bytes + len(line)
            known.add(at_us, key, paid)

    def standings(self) -> list[Standing]:
        """Return how the budgets of this site stand, by scope.

        Raises:
            IntegrityError: the ledger is damaged.
            StorageError: it cannot be read.
        """
        with self._opened():
            paid, today = self._known.paid(self._limits), self._today()
        return [
            standing(limit, paid[scope], today)
            for scope in sorted(self._limits)
            for limit in self._limits[scope]
        ]

    def export(self) -> bytes:
        """Return a copy for the coordinator's operator, to reconcile the ledger there with.

        Raises:
            IntegrityError: the ledger is damaged.
            StorageError: it cannot be read.
        """
        with self._opened() as file:
            file.seek(0)
            return json.dumps({"site": self._site}).encode() + b"\n" + file.read()

    def _charge_of(self, app: str, unit: str, event: Event, count: int) -> Charge:
        scopes = [
            BudgetScope(ScopeKind.CLIENT, self._site),
            BudgetScope(ScopeKind.DATASET, f"{self._site}/{app}"),
        ]
        guarantee = Guarantee(PrivacyUnit(unit), event.adjacency)
        return Charge.alike(guarantee, scopes, {event_to_json(event): count})

    def _now_us(self) -> int:
        return int(self._clock.now() * 1e6)

    def _today(self) -> int:
        return self._now_us() // _DAY_US

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """Lend the file to its end, locked, with all of it known."""
        try:
            files.new_private_directory(self._path.parent)
            is_new = not self._path.exists()
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "r+b", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if is_new:
                    files.sync_directory(self._path.parent)
                self._catch_up(file)
                yield file
        except OSError as error:
            raise StorageError(f"cannot use {self._path}: {error.strerror}") from error

    def _catch_up(self, file: BinaryIO) -> None:
        known = self._known
        if os.fstat(file.fileno()).st_size < known.size_bytes:
            raise IntegrityError(
                f"{self._path} must only grow, got a shorter one than before: it was put back; "
                "restore the newest copy of it"
            )
        file.seek(known.size_bytes)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            # Cut off by a crash: nothing had left for it yet.
            file.truncate(known.size_bytes + whole)
            file.seek(known.size_bytes + whole)
        known.head, entries = _read(content[:whole], known.head, str(self._path))
        known.size_bytes += whole
        for at_us, key, paid in entries:
            known.add(at_us, key, paid)


def ledger_folder(settings: ClientSettings) -> Path:
    """Return where a client keeps its ledger: best where no backup brings an older one back."""
    return settings.counters_dir or settings.state_dir


def limits_of(settings: ClientSettings, site: str) -> list[BudgetLimit]:
    """Return the budget that a site has set itself, for all of its studies together."""
    if settings.budget_epsilon is None:
        return []
    # Who hides a whole client hides its records, so all that is released counts for this one.
    guarantee = Guarantee(PrivacyUnit.RECORD, Adjacency.ZERO_OUT)
    return [
        BudgetLimit(
            BudgetScope(ScopeKind.CLIENT, site),
            guarantee,
            epsilon=settings.budget_epsilon,
            delta=settings.budget_delta,
            window_days=settings.budget_window_days,
        )
    ]


def read_copy(content: bytes) -> SiteCopy:
    """Return the site's ledger that `SiteLedger.export` wrote, every hash verified.

    Raises:
        IntegrityError: it is something else, or was changed.
    """
    first, _, rest = content.partition(b"\n")
    try:
        match json.loads(first):
            case {"site": str(site)}:
                _, charges = _read(rest, LedgerHead(), "the copy")
                return SiteCopy(site, [KeyedCharge(key, paid.charge) for _, key, paid in charges])
    except ValueError:
        pass
    raise IntegrityError(
        "copy of a site's ledger must be one of `kumiai privacy budget export`, got "
        f"{len(content)} bytes of something else"
    )


def _read(
    content: bytes, head: LedgerHead, where: str
) -> tuple[LedgerHead, list[tuple[int, ChargeKey, _Paid]]]:
    charges = []
    for line in content.splitlines():
        chain, _, body = line.partition(b" ")
        try:
            head, entry = head.verified(body.decode(), bytes.fromhex(chain.decode()))
            said = dict(entry.content)
            context = str(said.pop("context"))
            key, charge = ChargeKey.parse(entry.key), Charge.from_content(said)
        except (ValueError, KeyError, IntegrityError) as error:
            raise IntegrityError(
                f"entry {head.size} of {where} must be as it was written: {error}; restore the "
                "newest copy of it"
            ) from error
        charges.append((entry.at_us, key, _Paid(charge, context)))
    return head, charges
