"""In which runs this site has hidden an update: in none of them does it ever send one open.

A run's job does not change. A coordinator that asks for an open update after hidden ones wants to
see what it could not see.
"""

from pathlib import Path

from kumiai.core.ids import verify_name
from kumiai.identity import files

__all__ = ["HiddenRuns"]


class HiddenRuns:
    """Remembers runs, each by a file of its name."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, made where it does not exist.

        Raises:
            StorageError: it cannot be used.
        """
        files.new_private_directory(folder)
        self._folder = folder

    def add(self, run_id: str) -> None:
        """Remember a run durably.

        Raises:
            StorageError: it cannot be written.
        """
        path = self._path(run_id)
        if not path.exists():
            files.write_atomic(path, b"", mode=0o600)

    def has(self, run_id: str) -> bool:
        """Return whether this site has hidden an update in the run.

        Raises:
            ConfigError: no run can be called so.
        """
        return self._path(run_id).exists()

    def _path(self, run_id: str) -> Path:
        return self._folder / verify_name("run", run_id)
