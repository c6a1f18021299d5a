"""Updates that are noised already, kept on this site's disk until they have surely left.

    train, noise ─► keep ─► charge ─► send

What was paid for is these bytes. A task that comes again, after a crash or because the round asks
anew, sends them once more: with fresh noise it would be another release. If they are gone, the
charge stands in the way of another training for this round.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from kumiai.core import failpoints
from kumiai.core.arrays import NamedArrays
from kumiai.core.codec import decode, encode
from kumiai.core.digest import digest_of
from kumiai.core.errors import ConflictError, StorageError
from kumiai.core.ids import verify_name
from kumiai.identity import files
from kumiai.node.client.budget import SiteLedger
from kumiai.node.study import Update
from kumiai.privacy import TrainingTerms
from kumiai.privacy.ledger import ChargeKey

__all__ = ["PrivateUpdates"]

_KEPT: Final = 4


class PrivateUpdates:
    """The newest noised updates of this site."""

    def __init__(self, folder: Path, ledger: SiteLedger) -> None:
        """Keep them in a folder that is made when it is needed, and pay to this ledger."""
        self._folder = folder
        self._ledger = ledger

    def paid(
        self, run_id: str, number: int, app: str, terms: TrainingTerms, train: Callable[[], Update]
    ) -> NamedArrays:
        """Return the model that a task has trained, noise in it: kept, or made now; blocking.

        Args:
            run_id: of the task.
            number: of the task's round, all of whose attempts have one update.
            app: the study, whose data it is.
            terms: by which the task trains.
            train: trains by them.

        Raises:
            BudgetExhaustedError: the site's own budget does not allow it; nothing leaves.
            ConflictError: another update was paid for in this round, and it is gone.
            ConfigError: no run can be called so.
            IntegrityError: the ledger is damaged.
            StorageError: a file cannot be used.
            KumiaiError: the training failed.
        """
        key = ChargeKey(verify_name("run", run_id), number, 1)
        path = self._path(key, app, terms)
        content = _find(path)
        if content is None:
            self._ledger.verify_affordable(
                app=app, unit="record", event=terms.event, count=terms.steps
            )
            content = b"".join(encode(train().weights))
            self._keep(path, content)
            failpoints.reach("client.private.kept")
        try:
            self._ledger.charge(
                key,
                context=bytes.fromhex(digest_of([content])),
                app=app,
                unit="record",
                event=terms.event,
                # As asked for, also where the study took fewer: how many may tell of its data.
                count=terms.steps,
            )
        except ConflictError as error:
            raise ConflictError(
                f"round {number} of run {run_id} must have the update that this site has paid for, "
                "got a task that needs another: it is gone, or the terms have changed; the site "
                "takes part in the next round"
            ) from error
        failpoints.reach("client.private.charged")
        return decode(memoryview(content)).arrays

    def _path(self, key: ChargeKey, app: str, terms: TrainingTerms) -> Path:
        # An update goes at the price of its own noise: by other terms it is another one.
        made = digest_of([f"{app}\n{terms!r}".encode()])
        return self._folder / f"{key.run_id}.{key.round}.{made[:16]}.safetensors"

    def _keep(self, path: Path, content: bytes) -> None:
        files.new_private_directory(self._folder)
        kept = sorted(self._folder.glob("*.safetensors"), key=lambda each: each.stat().st_mtime_ns)
        for old in kept[: max(0, len(kept) - _KEPT + 1)]:
            old.unlink(missing_ok=True)
        files.write_atomic(path, content, mode=0o600)


def _find(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
