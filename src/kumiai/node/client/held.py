"""Updates that this site made ahead of their round, on its disk until a round takes them in.

An update is durable before the coordinator hears that it is there, so that a restart loses no
training. It goes into the sums of one round: in which one is written down before it leaves, and no
update from that version, or an older one, goes into another round's. Two sums with the same update
and different others would tell more of it than one.
"""

import contextlib
import json
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from kumiai.core import failpoints
from kumiai.core.arrays import NamedArrays
from kumiai.core.codec import decode, encode
from kumiai.core.errors import (
    CodecError,
    ConfigError,
    IntegrityError,
    NotFoundError,
    SecureAggregationError,
    StorageError,
)
from kumiai.core.ids import verify_name
from kumiai.identity import files
from kumiai.learning import delta_of
from kumiai.node.client.deltas import ArraysUpload
from kumiai.node.contributions import Contribution, contribution_of
from kumiai.node.study import App, Context, run_train
from kumiai.secagg import BufferPolicy, TrainedAhead

__all__ = ["HeldUpdate", "HeldUpdates", "trained_ahead"]

_TOLD: Final = "kumiai.held"
_VECTOR: Final = "vector"
_UPDATES_KEPT: Final = 8
_NOTES_KEPT: Final = 1024
_NOTE_SIZE_BYTES_MAX: Final = 1 << 10


@dataclass(frozen=True, slots=True)
class HeldUpdate:
    """An update that waits for its round.

    Attributes:
        ahead: when it was made, and under which policy.
        base_digest: of the model that it is the difference to; a coordinator that was put back may
            call another one by the same version.
        examples: how many it was trained on.
        metrics: what the study measured.
        arrays: the update, or one vector that is to be hidden.
        is_hidden: whether it was made for a sum alone, and never leaves open.
    """

    ahead: TrainedAhead
    base_digest: str
    examples: int
    metrics: Mapping[str, float]
    arrays: NamedArrays = field(repr=False)
    is_hidden: bool

    def contribution(self) -> Contribution:
        """Return what is to be hidden."""
        return Contribution(self.arrays[_VECTOR], self.examples, self.metrics, ahead=self.ahead)

    def upload(self) -> ArraysUpload:
        """Return what leaves where updates are not hidden."""
        return ArraysUpload.prepare(self.arrays)


def trained_ahead(
    app: App,
    base: NamedArrays,
    context: Context,
    ahead: TrainedAhead,
    *,
    base_digest: str,
    is_hidden: bool,
) -> HeldUpdate:
    """Let the study make an update that will wait.

    Args:
        app: the study.
        base: the model of the version.
        context: the task.
        ahead: the version, and what it will count.
        base_digest: of the model.
        is_hidden: whether the coordinator will see the sum alone.

    Raises:
        StudyError, UpdateRejectedError, TaskCancelledError: as the study's function.
    """
    if is_hidden:
        made = contribution_of(app, base, context, None)
        examples, metrics = made.examples, made.metrics
        arrays: NamedArrays = {_VECTOR: np.asarray(made.vector)}
    else:
        update = run_train(app, base, context)
        examples, metrics = update.examples, update.metrics
        arrays = delta_of(update.weights, base)
    return HeldUpdate(ahead, base_digest, examples, metrics, arrays, is_hidden=is_hidden)


class HeldUpdates:
    """What this site holds, one update of each run."""

    def __init__(self, folder: Path, notes: Path | None = None) -> None:
        """Use folders; they are made when there is something to hold.

        Args:
            folder: for the updates.
            notes: for what was summed, best where no backup of ``folder`` brings back an older
                state; ``None``: beside them.
        """
        self._folder = folder
        self._notes = notes or folder

    def keep(self, run_id: str, held: HeldUpdate) -> None:
        """Write an update down, durably; an older one of the run gives way.

        Raises:
            StorageError: it cannot be written.
        """
        files.new_private_directory(self._folder)
        told = {
            "version": held.ahead.version,
            "staleness_max": held.ahead.policy.staleness_max,
            "staleness_exponent": held.ahead.policy.staleness_exponent,
            "base_digest": held.base_digest,
            "is_hidden": held.is_hidden,
            "examples": held.examples,
            "metrics": dict(held.metrics),
        }
        path = self._update(run_id)
        temporary = path.with_suffix(".part")
        try:
            with temporary.open("wb") as file:
                for buffer in encode(held.arrays, {_TOLD: json.dumps(told)}):
                    file.write(buffer)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            files.sync_directory(self._folder)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error
        failpoints.reach("client.update.held")
        self._forget_oldest()

    def find(self, run_id: str, version: int) -> HeldUpdate | None:
        """Return the update of a run from a version of its model, if it is here.

        Raises:
            IntegrityError: the file is damaged.
            StorageError: it cannot be read.
        """
        path = self._update(run_id)
        try:
            # The mapping lives as long as an array of it; the file may be replaced meanwhile.
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            decoded = decode(memoryview(mapped))
            told = json.loads(decoded.metadata[_TOLD])
            policy = BufferPolicy(
                staleness_max=told["staleness_max"],
                staleness_exponent=told["staleness_exponent"],
            )
            found = HeldUpdate(
                TrainedAhead(told["version"], policy),
                told["base_digest"],
                told["examples"],
                told["metrics"],
                decoded.arrays,
                is_hidden=told["is_hidden"],
            )
        except FileNotFoundError:
            return None
        except (CodecError, ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                f"held update must be what this site wrote, got something else in {path}; delete "
                "it, and the site trains anew"
            ) from error
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error
        return found if found.ahead.version == version else None

    def use(self, run_id: str, version: int, round_number: int) -> None:
        """Write down in which round an update is summed, before it leaves; again is no other.

        Raises:
            SecureAggregationError: it was summed in another round, or a newer one was.
            IntegrityError: what was written is damaged.
            StorageError: it cannot be written.
        """
        used = self._used(run_id)
        if used == (version, round_number):
            return
        _verify_newer(version, used)
        files.new_private_directory(self._notes)
        content = json.dumps([version, round_number]).encode()
        files.write_atomic(self._note(run_id), content, mode=0o600)

    def verify_unused(self, run_id: str, version: int, *, but_in: int | None = None) -> None:
        """Check that no update from this version, or a newer one, was in a sum yet.

        Args:
            run_id: the run.
            version: from which the update is.
            but_in: the round in which it may have been: the one that will ask for it again.

        Raises:
            SecureAggregationError: one was.
            IntegrityError: what was written is damaged.
        """
        used = self._used(run_id)
        if used != (version, but_in):
            _verify_newer(version, used)

    def forget(self, run_id: str) -> None:
        """Delete the update of a run that is over; in which round one was summed stays known.

        What cannot be deleted, or is none of this site's, is left: newer updates take its place.
        """
        with contextlib.suppress(OSError, ConfigError):
            self._update(run_id).unlink(missing_ok=True)

    def _used(self, run_id: str) -> tuple[int, int]:
        """Return the version and the round of the newest update that was summed."""
        path = self._note(run_id)
        try:
            content = files.read_file(path, "note", size_bytes_max=_NOTE_SIZE_BYTES_MAX)
            version, number = json.loads(content)
            return int(version), int(number)
        except NotFoundError:
            return -1, -1
        except (ValueError, TypeError) as error:
            raise IntegrityError(
                f"note must be what this site wrote, got something else in {path}; the run goes on "
                "without this site"
            ) from error

    def _forget_oldest(self) -> None:
        updates, notes = self._folder.glob("*.update"), self._notes.glob("*.used")
        for paths, count in ((updates, _UPDATES_KEPT), (notes, _NOTES_KEPT)):
            found = sorted(paths, key=lambda path: path.stat().st_mtime_ns)
            for path in found[:-count]:
                path.unlink(missing_ok=True)
        # One is written at a time, so that a part is what a crash has left.
        for path in self._folder.glob("*.part"):
            path.unlink(missing_ok=True)

    def _update(self, run_id: str) -> Path:
        return self._folder / f"{verify_name('run', run_id)}.update"

    def _note(self, run_id: str) -> Path:
        return self._notes / f"{verify_name('run', run_id)}.used"


def _verify_newer(version: int, used: tuple[int, int]) -> None:
    if version <= used[0]:
        raise SecureAggregationError(
            f"update must be from a newer version than {used[0]}, which was summed in round "
            f"{used[1]}, got one from version {version}; two sums would tell more of it than one"
        )
