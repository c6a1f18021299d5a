import json
from pathlib import Path

import pytest

from kumiai.core.codec import decode
from tests.node.cli.program import STUDY, invoke, start


def test_a_study_is_simulated_in_this_process() -> None:
    outcome = invoke("simulate", STUDY, "--sites", 3, "--rounds", 2, "--out", "m.safetensors")

    assert outcome.code == 0, outcome.err
    assert "round 0 of 2; initial model; evaluation: first 0" in outcome.out
    assert "round 2 of 2; 3 updates; training: loss 0.5; evaluation: first 2" in outcome.out
    assert "model in m.safetensors" in outcome.out
    assert decode(Path("m.safetensors").read_bytes()).arrays["w"].tolist() == [2.0] * 8


def test_a_simulation_takes_a_job_and_single_values_of_it() -> None:
    Path("job.toml").write_text('[run]\napp = "counting"\nrounds = 9\n')

    line = ("simulate", STUDY, "--job", "job.toml", "--rounds", 3, "--set", "train.size=2")
    told = invoke(*line, "-o", "json").data
    lines = invoke(*line, "-o", "jsonl").out.splitlines()

    assert [each["round"] for each in told["rounds"]] == [0, 1, 2, 3]
    assert told["evaluation"] == {"first": 3.0}
    assert told["model"] is None
    assert len(lines) == 4


def test_a_study_that_does_not_evaluate_is_simulated_without() -> None:
    study = Path("quiet.py")
    study.write_text(STUDY.read_text().partition("@app.evaluate")[0])

    outcome = invoke("simulate", study, "--rounds", 1)

    assert outcome.code == 0, outcome.err
    assert "evaluation" not in outcome.out


def test_a_simulation_hands_its_sites_data_options() -> None:
    Path("options.py").write_text(
        STUDY.read_text().replace(
            'examples=10, metrics={"first"',
            'examples=context.data_options["size"], metrics={context.data_options["name"]',
        )
    )

    line = ("simulate", "options.py", "--rounds", 1)
    outcome = invoke(
        *line, *("--site-option", "size=3"), *("--site-option", "name=mine"), "-o", "json"
    )
    refused = invoke(*line, "--site-option", "size")

    assert outcome.data["evaluation"] == {"mine": 1.0}
    assert (refused.code, refused.err) == (
        2,
        "error: --site-option must be key=value, got 'size'\n",
    )


def test_a_simulation_writes_results_and_no_log() -> None:
    job = '[run]\napp = "counting"\n[cohort]\nmax_attempts = 2\ndeadline_seconds = 5\n'
    Path("job.toml").write_text(job)

    line = ("simulate", STUDY, "--job", "job.toml", "--set", "train.broken=true")
    ended = start(*line, "-o", "jsonl")
    out, err = ended.communicate(timeout=60)

    assert ended.returncode == 5
    assert [json.loads(line)["round"] for line in out.splitlines()] == [0]
    assert err.startswith("error: ")
    assert "this site is broken" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (("simulate", "none.py"), 2),
        (("simulate", STUDY, "--job", "none.toml"), 3),
        (("simulate", STUDY, "--sites", "0"), 2),
        (("simulate", STUDY, "--set", "run.rounds=0"), 2),
        (("demo", "--study", "numbers"), 2),
        (("dev", "--clients", "0"), 2),
    ],
)
def test_a_wrong_wish_is_a_usage_error(line: tuple[object, ...], code: int) -> None:
    outcome = invoke(*line)

    assert outcome.code == code
    assert outcome.err.startswith("error: ")


@pytest.mark.integration
def test_the_demo_ends_by_itself_with_json() -> None:
    outcome = invoke("demo", "--clients", 2, "--rounds", 2, "--no-kill", "--json")

    assert outcome.code == 0, outcome.err
    assert isinstance(outcome.data, dict)
