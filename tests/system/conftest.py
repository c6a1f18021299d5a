"""What the tests of whole federations share: the parent of their processes, a run to compare."""

import re
import statistics
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from kumiai.testing.databases import SQLiteTemplate
from tests.system import study
from tests.system.federation import SITES, Federation, Mortal, Trace, trace_of
from tests.zygote import Zygote

JOB = {
    "run": {"app": "wandering", "rounds": 3, "seed": 7},
    # Everybody takes part in every round; nobody who is slow is left out.
    "cohort": {"size": 3, "min_reports": 3, "grace_seconds": 120.0},
    "strategy": {"name": "fedadam"},
}


_RECOVERIES = pytest.StashKey[list[tuple[float, str]]]()
# What a coordinator does before it takes up a run again.
_NOT_YET = re.compile(r"storage\.(attach|detach|acquire_lease|start)\.")


@pytest.fixture
def note_recovery(request: pytest.FixtureRequest) -> Callable[[str, Mortal], None]:
    """Lend a way to note how long a run stood still; told at the end of the test run."""
    recoveries = request.config.stash.setdefault(_RECOVERIES, [])

    def note(death: str, mortal: Mortal) -> None:
        life = mortal.lives[-1]
        points = [at for at, name in life.points() if not _NOT_YET.match(name)]
        if points:  # none when it died with nothing left to do
            recoveries.append((points[0] - life.started_at, death))

    return note


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Tell how long runs stood still after their coordinator was started again."""
    if recoveries := sorted(config.stash.get(_RECOVERIES, [])):
        seconds = [each for each, _ in recoveries]
        terminalreporter.write_line(
            f"{len(seconds)} killed coordinators went on with their round after "
            f"{statistics.median(seconds):.2f} s (median), {seconds[-1]:.2f} s at most "
            f"({recoveries[-1][1]}), counted from their start"
        )


@pytest.fixture
async def federation(
    tmp_path: Path, database_url: str, zygote: Zygote
) -> AsyncIterator[Federation]:
    """Lend a federation on each database, none of whose members runs yet."""
    federation = Federation(tmp_path, database_url, zygote)
    yield federation
    study.release_all()
    await federation.stop()


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """A run in which nobody was killed: what it left behind, and the points it passed."""

    trace: Trace
    coordinator_points: tuple[str, ...]


@pytest.fixture(scope="session")
def _undisturbed_once() -> list[Undisturbed]:
    return []


@pytest.fixture
async def undisturbed(
    _undisturbed_once: list[Undisturbed],
    zygote: Zygote,
    sqlite_template: SQLiteTemplate,
    tmp_path: Path,
) -> Undisturbed:
    """Lend a run in which nobody is killed; it is made once."""
    if not _undisturbed_once:
        folder = tmp_path / "undisturbed"
        folder.mkdir()
        url = sqlite_template.copy_to(folder / "kumiai.db")
        federation = Federation(folder, url, zygote)
        try:
            _undisturbed_once.append(await _run_undisturbed(federation))
        finally:
            await federation.stop()
    return _undisturbed_once[0]


async def _run_undisturbed(federation: Federation) -> Undisturbed:
    await federation.start_coordinator()
    federation.start_living_clients(*SITES)
    async with federation.within(60):
        run_id = await federation.submit(JOB)
        await federation.wait_for_end(run_id)
    names = federation.coordinator.lives[0].names()
    return Undisturbed(await trace_of(federation, run_id), tuple(names))
