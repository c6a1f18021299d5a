"""Updates that a site made ahead of their round: kept, found again, and summed in one round."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import kumiai as km
from kumiai.core.codec import decode
from kumiai.core.errors import ConfigError, IntegrityError, SecureAggregationError, StorageError
from kumiai.node.client.held import HeldUpdate, HeldUpdates, trained_ahead
from kumiai.secagg import BufferPolicy, TrainedAhead

POLICY = BufferPolicy(staleness_max=3, staleness_exponent=0.25)
RUN = "run-a"


def held(version: int = 0, value: float = 1.0) -> HeldUpdate:
    arrays = {"vector": np.full(4, value, np.float32)}
    return HeldUpdate(
        TrainedAhead(version, POLICY), "digest", 12, {"loss": 0.5}, arrays, is_hidden=True
    )


@pytest.fixture
def updates(tmp_path: Path) -> HeldUpdates:
    return HeldUpdates(tmp_path / "held")


def test_an_update_is_found_again_with_all_that_was_told_of_it(
    updates: HeldUpdates, tmp_path: Path
) -> None:
    updates.keep(RUN, held(2))

    found = HeldUpdates(tmp_path / "held").find(RUN, 2)

    assert found is not None
    assert (found.base_digest, found.is_hidden) == ("digest", True)
    assert (found.ahead, found.examples, found.metrics) == (
        TrainedAhead(2, POLICY),
        12,
        {"loss": 0.5},
    )
    np.testing.assert_array_equal(found.contribution().vector, np.ones(4))
    assert found.contribution().ahead == TrainedAhead(2, POLICY)
    assert decode(b"".join(found.upload().chunks(0, 7))).arrays.keys() == {"vector"}


def test_only_the_update_from_the_version_that_is_asked_is_found(updates: HeldUpdates) -> None:
    assert updates.find(RUN, 0) is None
    updates.keep(RUN, held(1))

    assert updates.find(RUN, 0) is None
    assert updates.find("run-b", 1) is None


def test_a_newer_update_takes_the_place_of_an_older_one(
    updates: HeldUpdates, tmp_path: Path
) -> None:
    updates.keep(RUN, held(0, 1.0))
    before = updates.find(RUN, 0)
    updates.keep(RUN, held(1, 2.0))

    assert updates.find(RUN, 0) is None
    assert before is not None
    assert before.arrays["vector"][0] == 1.0  # who is reading it still can
    assert [path.name for path in (tmp_path / "held").iterdir()] == [f"{RUN}.update"]


def test_an_update_goes_into_the_sums_of_one_round_alone(
    updates: HeldUpdates, tmp_path: Path
) -> None:
    updates.keep(RUN, held(2))
    updates.use(RUN, 2, 4)

    updates.use(RUN, 2, 4)
    for version, number in ((2, 5), (2, 3), (1, 5)):
        with pytest.raises(SecureAggregationError, match="2, which was summed in round 4, got one"):
            HeldUpdates(tmp_path / "held").use(RUN, version, number)
    updates.use(RUN, 3, 5)
    updates.use("run-b", 0, 1)


def test_no_update_is_made_again_that_was_summed(updates: HeldUpdates) -> None:
    updates.keep(RUN, held(2))
    updates.verify_unused(RUN, 2)
    updates.use(RUN, 2, 4)

    updates.verify_unused(RUN, 3)
    for version in (2, 1):
        with pytest.raises(SecureAggregationError, match="must be from a newer version than 2"):
            updates.verify_unused(RUN, version)


def test_what_was_summed_stays_known_when_the_update_is_forgotten(updates: HeldUpdates) -> None:
    updates.keep(RUN, held(2))
    updates.use(RUN, 2, 4)

    updates.forget(RUN)
    updates.forget(RUN)

    assert updates.find(RUN, 2) is None
    with pytest.raises(SecureAggregationError):
        updates.verify_unused(RUN, 2)


def test_what_was_summed_stays_known_when_an_old_copy_of_the_updates_comes_back(
    tmp_path: Path,
) -> None:
    folder, notes, copy = tmp_path / "held", tmp_path / "counters" / "held", tmp_path / "copy"
    updates = HeldUpdates(folder, notes)
    updates.keep(RUN, held(2))
    shutil.copytree(folder, copy)
    updates.use(RUN, 2, 4)

    shutil.rmtree(folder)
    copy.rename(folder)

    again = HeldUpdates(folder, notes)
    assert again.find(RUN, 2) is not None
    with pytest.raises(SecureAggregationError, match="summed in round 4"):
        again.use(RUN, 2, 5)


def test_what_a_crash_has_left_of_an_update_goes(updates: HeldUpdates, tmp_path: Path) -> None:
    updates.keep("run-b", held())
    (tmp_path / "held" / "run-b.update").rename(tmp_path / "held" / "run-b.part")

    updates.keep(RUN, held())

    assert [path.name for path in (tmp_path / "held").iterdir()] == [f"{RUN}.update"]


def test_only_so_many_runs_have_an_update_here(updates: HeldUpdates, tmp_path: Path) -> None:
    for number in range(10):
        updates.keep(f"run-{number}", held())
        os.utime(tmp_path / "held" / f"run-{number}.update", ns=(number, number))

    assert updates.find("run-0", 0) is None
    assert updates.find("run-9", 0) is not None
    assert len(list((tmp_path / "held").iterdir())) == 8


@pytest.mark.parametrize("content", [b"", b"junk", b"\x00" * 64])
def test_a_damaged_file_is_told_and_not_used(
    updates: HeldUpdates, tmp_path: Path, content: bytes
) -> None:
    updates.keep(RUN, held())
    (tmp_path / "held" / f"{RUN}.update").write_bytes(content)

    with pytest.raises(IntegrityError, match="held update must be what this site wrote"):
        updates.find(RUN, 0)


@pytest.mark.parametrize("content", ["junk", "[1]", '["a", 1]', "{}"])
def test_a_damaged_note_keeps_the_site_out(
    updates: HeldUpdates, tmp_path: Path, content: str
) -> None:
    updates.keep(RUN, held(2))
    (tmp_path / "held" / f"{RUN}.used").write_text(content)

    with pytest.raises(IntegrityError, match="note must be what this site wrote"):
        updates.use(RUN, 2, 3)


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / f"{RUN}.update").mkdir()
    updates = HeldUpdates(tmp_path / "held")

    with pytest.raises(StorageError, match="cannot write"):
        updates.keep(RUN, held())
    with pytest.raises(StorageError, match="cannot read"):
        updates.find(RUN, 0)


def test_a_name_that_leads_elsewhere_is_refused(updates: HeldUpdates) -> None:
    with pytest.raises(ConfigError):
        updates.find("../run", 0)


@pytest.mark.parametrize(("is_hidden", "names"), [(True, {"vector"}), (False, {"w", "b"})])
def test_the_study_makes_the_difference_to_the_version(is_hidden: bool, names: set[str]) -> None:
    app = km.App("adding", data=lambda site: 3)
    app.model(lambda config: {})

    @app.train
    def train(weights: dict[str, np.ndarray], context: km.Context) -> km.Update:  # type: ignore[type-arg]
        return km.Update(
            {name: array + context.data for name, array in weights.items()},
            examples=5,
            metrics={"loss": 1.0},
        )

    base = {"w": np.ones(3, np.float32), "b": np.zeros(1, np.float32)}
    context = app.context(km.Site("a", {}), round=1, rounds=2, config={}, seed=1)

    ahead = TrainedAhead(0, POLICY)
    made = trained_ahead(app, base, context, ahead, base_digest="digest", is_hidden=is_hidden)

    assert (made.examples, made.metrics, made.ahead.version) == (5, {"loss": 1.0}, 0)
    assert (made.base_digest, made.is_hidden) == ("digest", is_hidden)
    assert made.arrays.keys() == names
    assert {float(value) for array in made.arrays.values() for value in array} == {3.0}
