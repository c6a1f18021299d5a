from pathlib import Path
from typing import Any

import pytest

from kumiai.core.errors import ConfigError
from kumiai.identity import WatchedFiles


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        path.write_text("1")
    return paths


@pytest.fixture
def watched(paths: list[Path], clock: Any) -> WatchedFiles[str]:
    def load() -> str:
        texts = {path.read_text() for path in paths}
        if len(texts) > 1:
            raise ConfigError("files must fit together")
        return texts.pop()

    return WatchedFiles(paths, load, clock)


def replace(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def test_files_that_stay_are_read_once(watched: WatchedFiles[str]) -> None:
    assert (watched.current(), watched.value, watched.version) == ("1", "1", 1)
    assert (watched.current(), watched.version) == ("1", 1)


def test_replaced_files_are_taken_up_once_all_fit_together(
    watched: WatchedFiles[str], paths: list[Path]
) -> None:
    replace(paths[0], "2")
    half_way = watched.current()
    trouble = watched.error

    replace(paths[1], "2")

    assert (half_way, str(trouble)) == ("1", "files must fit together")
    assert (watched.current(), watched.error, watched.version) == ("2", None, 2)
    assert (watched.current(), watched.version) == ("2", 2)


def test_files_that_do_not_fit_are_tried_again_after_a_pause(
    watched: WatchedFiles[str], paths: list[Path], clock: Any
) -> None:
    replace(paths[0], "2")
    watched.current()
    # As if the file was replaced without a trace in what `stat` tells.
    watched._seen = watched._fingerprint()
    watched._load = lambda: "mended"

    before = watched.current()
    clock.advance(1.0)

    assert (before, watched.current()) == ("1", "mended")


def test_a_file_that_vanishes_leaves_the_last_good_value(
    watched: WatchedFiles[str], paths: list[Path]
) -> None:
    watched._load = _missing
    paths[0].unlink()

    assert watched.current() == "1"
    assert "must exist" in str(watched.error)


def test_without_a_good_value_there_is_no_watcher(tmp_path: Path, clock: Any) -> None:
    with pytest.raises(ConfigError):
        WatchedFiles((tmp_path / "none",), _missing, clock)


def _missing() -> str:
    raise ConfigError("file must exist")
