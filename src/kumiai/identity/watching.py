"""Values made of files that are replaced while a program runs: certificates, keys, authorities.

Replaced files are taken up without a restart; files that do not fit together (a new certificate
beside the old key, a half-written one) are not: the last good value stays in force, the trouble
is told, and the files are tried again. Reads files; may be used from several threads.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

from kumiai.core.clock import Clock
from kumiai.core.errors import KumiaiError

__all__ = ["WatchedFiles"]

RETRY_SECONDS: Final = 1.0

_Value = TypeVar("_Value")
_Fingerprint = tuple[tuple[int, ...] | None, ...]


class WatchedFiles(Generic[_Value]):
    """The newest good value of some files. Asking costs one ``stat`` a file."""

    def __init__(self, paths: Sequence[Path], load: Callable[[], _Value], clock: Clock) -> None:
        """Load the value; without a good one there is no watcher.

        Args:
            paths: the files; replace them by renaming.
            load: makes the value of them; raises a ``KumiaiError`` if they are not fit for use.
            clock: paces new tries.

        Raises:
            KumiaiError: what ``load`` raises.
        """
        self._paths = tuple(paths)
        self._load = load
        self._clock = clock
        self._lock = threading.Lock()
        self._retry_at = 0.0
        self.error: KumiaiError | None = None
        """What is wrong with the files as they are now, while an older value is in force."""
        self.version = 1
        """Grows with each new value."""
        self._seen = self._fingerprint()
        self._value = load()

    @property
    def value(self) -> _Value:
        """The value in force, without a look at the files."""
        return self._value

    def current(self) -> _Value:
        """Return the newest good value, reading the files again if they changed."""
        with self._lock:
            seen = self._fingerprint()
            if seen != self._seen or self._is_retry_due():
                # Remembered before reading: a change in between is then seen at the next call.
                self._seen = seen
                self._reload()
            return self._value

    def _is_retry_due(self) -> bool:
        return self.error is not None and self._clock.monotonic() >= self._retry_at

    def _reload(self) -> None:
        try:
            self._value = self._load()
        except KumiaiError as error:
            self.error = error
            self._retry_at = self._clock.monotonic() + RETRY_SECONDS
        else:
            self.error = None
            self.version += 1

    def _fingerprint(self) -> _Fingerprint:
        return tuple(map(_fingerprint_of, self._paths))


def _fingerprint_of(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
