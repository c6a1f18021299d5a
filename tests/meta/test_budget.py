"""Installing Kumiai stays cheap: people run the client on hospital servers."""

from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGES_MAX = 45
SIZE_MEGABYTES_MAX = 150.0


def core_packages() -> dict[str, Distribution]:
    """Return Kumiai and everything that it brings without any extra."""
    found: dict[str, Distribution] = {}
    waiting = [("kumiai", "")]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        package = found.setdefault(name, distribution(name))
        for line in package.requires or []:
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                for inner in ("", *wanted.extras):
                    entry = (canonicalize_name(wanted.name), inner)
                    waiting += [entry] if entry not in seen else []
                    seen.add(entry)
    return found


def size_bytes(package: Distribution) -> int:
    """Return what a package takes on disk, compiled Python left out."""
    listed = [Path(str(file.locate())) for file in package.files or [] if file.suffix != ".pyc"]
    return sum(path.stat().st_size for path in listed if path.is_file())


def test_the_core_is_few_packages() -> None:
    names = sorted(core_packages())

    assert "numpy" in names
    assert "greenlet" in names
    assert len(names) <= PACKAGES_MAX


def test_the_core_is_small() -> None:
    megabytes = {name: size_bytes(each) / 1e6 for name, each in core_packages().items()}

    assert sum(megabytes.values()) > 100
    assert sum(megabytes.values()) <= SIZE_MEGABYTES_MAX, megabytes
