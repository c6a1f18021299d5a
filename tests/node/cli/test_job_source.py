from pathlib import Path

import pytest

from kumiai.core.errors import ConfigError, NotFoundError
from kumiai.node.cli.job_source import load_job, split_overrides


def written(text: str) -> Path:
    path = Path("job.toml")
    path.write_text(text)
    return path


def problems_of(text: str, **overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_job(written(text), {key.replace("__", "."): each for key, each in overrides.items()})
    return str(caught.value).split("\n")


def test_single_values_are_set_anew() -> None:
    path = written("[run]\napp = 'digits'\nrounds = 3\n[train]\nlr = 0.5\n")

    job = load_job(
        path,
        {
            "run.rounds": "5",
            "run.name": "nightly",
            "strategy.name": "fedprox",
            "strategy.proximal_mu": "0.1",
            "train.lr": "0.25",
            "train.note": "a = b",
            "train.both": "1\nx = 2",
        },
    )

    assert (job.run.rounds, job.run.name, job.strategy.name) == (5, "nightly", "fedprox")
    assert job.train == {"lr": 0.25, "note": "a = b", "both": "1\nx = 2"}


def test_what_is_not_the_jobs_is_the_settings() -> None:
    job, settings = split_overrides(
        {"run.rounds": "1", "operator.url": "u", "examples_max": "3", "runs.x": "1"}
    )

    assert job == {"run.rounds": "1", "examples_max": "3"}
    assert settings == {"operator.url": "u", "runs.x": "1"}


def test_a_problem_has_file_line_and_key() -> None:
    lines = problems_of("[run]\napp = 'digits'\n\nrounds = 0\n[cohort]\nmin_reports = -1\n")

    assert [line.split(" must")[0].rstrip(":") for line in lines] == [
        "job.toml:4: run.rounds",
        "job.toml:6: cohort.min_reports",
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[run]\napp = 'a'\n[strategy]\nname = 'magic'\n", "job.toml:4: strategy.name must"),
        ("[run]\nrounds = 3\n", "job.toml:1: run.app"),
        ("[cohort]\nsize = 3\n", "job.toml: run"),
        ("[run]\napp = 'a'\nrunds = 3\n", "job.toml:3: run.runds"),
    ],
)
def test_what_is_missing_is_told_at_its_table(text: str, place: str) -> None:
    assert problems_of(text)[0].startswith(place)


def test_a_wrong_override_is_told_as_such() -> None:
    (line,) = problems_of("[run]\napp = 'a'\n", run__rounds="many")

    assert line.startswith("--set: run.rounds")


def test_a_wrong_override_in_a_table_that_the_file_has_not_is_told_as_such() -> None:
    (line,) = problems_of("[run]\napp = 'a'\n", strategy__name="magic")

    assert line.startswith("--set: strategy.name must be one of ")


def test_an_override_below_a_value_is_told() -> None:
    (line,) = problems_of("[run]\napp = 'a'\n", run__app__x="1")

    assert "must be a key of the job, got app, a value" in line


def test_malformed_toml_has_its_line() -> None:
    assert problems_of("[run]\napp = \n")[0].startswith("job.toml:2: must be valid TOML")
    assert problems_of("a = [")[0].startswith("job.toml: must be valid TOML")


def test_a_file_that_can_not_be_read_is_told() -> None:
    Path("bytes.toml").write_bytes(b"\n\xff")
    Path("big.toml").write_bytes(b"#" * ((1 << 20) + 1))

    with pytest.raises(NotFoundError, match=r"none at none\.toml"):
        load_job(Path("none.toml"), {})
    with pytest.raises(ConfigError, match="must be readable"):
        load_job(Path(), {})
    with pytest.raises(ConfigError, match=r"bytes\.toml:2: must be UTF-8"):
        load_job(Path("bytes.toml"), {})
    with pytest.raises(ConfigError, match="at most 1048576 bytes"):
        load_job(Path("big.toml"), {})
