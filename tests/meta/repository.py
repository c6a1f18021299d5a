"""The repository as the house rules see it: where it stands and which files it holds."""

import subprocess
from pathlib import Path

__all__ = ["ROOT", "committed_files", "markdown_files"]

ROOT = Path(__file__).resolve().parents[2]


def committed_files() -> list[Path]:
    """Return the files of the repository that are there, those not yet committed included."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return sorted(path for path in paths if path.is_file())


def markdown_files() -> list[Path]:
    """Return the pages: everything written for people."""
    return [path for path in committed_files() if path.suffix == ".md"]
