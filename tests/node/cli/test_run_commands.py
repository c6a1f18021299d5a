"""``kumiai run`` and ``kumiai model`` against a coordinator with two clients."""

import json
import os
import pty
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kumiai.core.codec import decode, encode
from kumiai.core.digest import digest_of
from tests.node.cli.program import STUDY, Federation, Outcome, invoke, start

pytestmark = pytest.mark.integration

ENDLESS = ("--set", "cohort.min_clients=9")
"""Waits for clients that never come."""


@pytest.fixture
def job(folder: Path) -> Path:
    path = folder / "job.toml"
    path.write_text('[run]\napp = "counting"\nrounds = 2\nname = "small"\n')
    return path


@pytest.fixture
def submit(federation: Federation, job: Path) -> Callable[..., Outcome]:
    return lambda *more: federation.invoke("run", "submit", job, "--app", STUDY, *more)


@pytest.fixture
def finished(submit: Callable[..., Outcome]) -> str:
    """A run that has ended."""
    outcome = submit("--watch", "-o", "json")
    assert outcome.code == 0, outcome.err
    run_id: str = outcome.data["run_id"]
    return run_id


def test_a_submitted_run_is_watched_to_its_end(submit: Callable[..., Outcome]) -> None:
    outcome = submit("--watch")

    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0].startswith("submitted run-")
    assert any("round 2 published" in line and "loss 0.5" in line for line in lines)
    assert lines[-1].endswith("finished: all 2 rounds are done")
    assert "kumiai model export run-" in outcome.err


def test_submit_tells_the_run_that_was_created(submit: Callable[..., Outcome]) -> None:
    as_json = submit("-o", "json", *ENDLESS, "--set", "run.rounds=7")
    as_table = submit(*ENDLESS)

    assert as_json.data["rounds_total"] == 7
    assert as_json.data["job"]["cohort"]["min_clients"] == 9
    assert "small" in as_table.out
    assert as_json.err == ""
    assert "kumiai run watch run-" in as_table.err


def test_the_same_token_gives_the_same_run(submit: Callable[..., Outcome]) -> None:
    first = submit("--token", "nightly", "-o", "json", *ENDLESS)
    second = submit("--token", "nightly", "-o", "json", *ENDLESS)
    other = submit("--token", "nightly", "-o", "json", *ENDLESS, "--set", "run.rounds=3")

    assert first.data["run_id"] == second.data["run_id"]
    assert other.code == 1
    assert other.err.startswith("error: ")


def test_a_model_file_can_be_the_beginning(federation: Federation, job: Path) -> None:
    model = {"w": np.full(3, 5, np.float32)}
    Path("init.safetensors").write_bytes(b"".join(encode(model)))

    outcome = federation.invoke(
        "run", "submit", job, "--model", "init.safetensors", "--watch", "-o", "json"
    )
    federation.invoke("model", "export", outcome.data["run_id"], "--out", "end.safetensors")

    assert outcome.code == 0, outcome.err
    assert decode(Path("end.safetensors").read_bytes()).arrays["w"].tolist() == [7, 7, 7]


def test_a_dry_run_submits_nothing(federation: Federation, submit: Callable[..., Outcome]) -> None:
    before = federation.invoke("run", "list", "-o", "json").data

    outcome = submit("--dry-run", "-o", "json")

    assert outcome.data["job"]["run"]["rounds"] == 2
    assert outcome.data["model"]["arrays"] == {"w": {"dtype": "float32", "shape": [8]}}
    assert federation.invoke("run", "list", "-o", "json").data == before


def test_a_job_the_coordinator_refuses_is_a_usage_error(submit: Callable[..., Outcome]) -> None:
    outcome = submit("--set", "evaluation.central=true")

    assert outcome.code == 2
    assert "evaluation.central" in outcome.err


def test_runs_are_listed_the_newest_first(
    federation: Federation, submit: Callable[..., Outcome], finished: str
) -> None:
    newest = submit(*ENDLESS, "-o", "json").data["run_id"]

    listed = federation.invoke("run", "list", "--state", "finished", "--limit", 1, "-o", "json")
    table = federation.invoke("run", "list", "--state", "finished")
    lines = federation.invoke("run", "list", "--limit", 2, "-o", "jsonl")

    assert [run["run_id"] for run in listed.data] == [finished]
    assert table.out.splitlines()[0].split()[:3] == ["RUN", "NAME", "APP"]
    assert finished in table.out
    assert [json.loads(line)["run_id"] for line in lines.out.splitlines()] == [newest, finished]


def test_a_list_goes_on_over_pages(federation: Federation, finished: str) -> None:
    outcome = federation.invoke("run", "list", "--limit", 501, "-o", "json")

    assert finished in {run["run_id"] for run in outcome.data}


def test_an_unknown_state_is_a_usage_error(federation: Federation) -> None:
    assert federation.invoke("run", "list", "--state", "asleep").code == 2


def test_a_run_is_shown_with_its_rounds(federation: Federation, finished: str) -> None:
    table = federation.invoke("run", "show", finished[:12])
    data = federation.invoke("run", "show", finished, "-o", "json").data

    assert "all 2 rounds are done" in table.out
    assert "first 2" in table.out
    assert [each["round"] for each in data["rounds"]] == [0, 1, 2]
    assert data["rounds"][2]["evaluation"] == {"first": 2.0}


def test_the_logs_tell_what_happened(federation: Federation, finished: str) -> None:
    plain = federation.invoke("run", "logs", finished)
    followed = federation.invoke("run", "logs", finished, "--follow")
    of_client = federation.invoke("run", "logs", finished, "--client", "nobody")
    rows = federation.invoke("run", "logs", finished, "-o", "json").data

    assert plain.out == followed.out
    assert "round 1 opened for 2 clients" in plain.out
    assert of_client.out == ""
    assert rows[0]["kind"] == "run_submitted"


def test_a_run_explains_itself(
    federation: Federation, submit: Callable[..., Outcome], finished: str
) -> None:
    waiting = submit(*ENDLESS, "-o", "json").data["run_id"]

    text = federation.invoke("run", "explain", waiting)
    data = federation.invoke("run", "explain", finished, "-o", "json").data

    assert waiting in text.out
    assert data["state"] == "finished"


def test_a_run_is_stopped_with_a_reason(
    federation: Federation, submit: Callable[..., Outcome]
) -> None:
    run_id = submit(*ENDLESS, "-o", "json").data["run_id"]

    untouched = federation.invoke("run", "stop", run_id, "--dry-run", "-o", "json")
    untouched_table = federation.invoke("run", "stop", run_id, "--dry-run")
    stopped = federation.invoke("run", "stop", run_id, "--reason", "enough")
    watched = federation.invoke("run", "watch", run_id)

    assert untouched.data["stop_requested"] is False
    assert untouched.err == ""
    assert "nothing was stopped" in untouched_table.err
    assert "enough" in stopped.out
    assert watched.code == 1
    assert "stopped by operator: enough" in watched.out


def test_a_run_that_has_ended_is_deleted(
    federation: Federation, submit: Callable[..., Outcome]
) -> None:
    run_id = submit("--watch", "-o", "json").data["run_id"]

    tried = federation.invoke("run", "delete", run_id, "--dry-run")
    unasked = federation.invoke("run", "delete", run_id)
    gone = federation.invoke("run", "delete", run_id[:12], "--yes", "-o", "json")
    shown = federation.invoke("run", "show", run_id)

    assert (tried.code, unasked.code) == (0, 2)
    assert "nothing was deleted: --dry-run" in tried.err
    assert "--yes must be given" in unasked.err
    assert (gone.code, gone.data["run_id"]) == (0, run_id)
    assert gone.data["count"] + gone.data["left_count"] == 3
    assert shown.code == 3


def test_a_run_that_goes_on_is_not_deleted(
    federation: Federation, submit: Callable[..., Outcome]
) -> None:
    run_id = submit(*ENDLESS, "-o", "json").data["run_id"]

    outcome = federation.invoke("run", "delete", run_id, "--yes")

    assert outcome.code == 1
    assert "stop it first" in outcome.err
    assert federation.invoke("run", "show", run_id).code == 0


@pytest.mark.parametrize(("typed", "code", "told"), [("n", 1, "nothing was"), ("y", 0, "deleted")])
def test_deleting_at_a_terminal_asks_first(
    federation: Federation, submit: Callable[..., Outcome], typed: str, code: int, told: str
) -> None:
    run_id = submit("--watch", "-o", "json").data["run_id"]
    here, there = pty.openpty()

    process = start("--config", federation.config, "run", "delete", run_id, stdin=there)
    os.write(here, f"{typed}\n".encode())
    out, err = process.communicate(timeout=60)
    os.close(there)
    os.close(here)

    assert process.returncode == code
    assert f"Delete run {run_id} (small), round 2, with all its models?" in err
    assert told in out + err
    assert federation.invoke("run", "show", run_id).code == (0 if code else 3)


def test_a_run_that_loses_its_quorum_ends_with_code_five(submit: Callable[..., Outcome]) -> None:
    outcome = submit(
        "--watch",
        "-o",
        "jsonl",
        *ENDLESS,
        "--set",
        "cohort.patience_seconds=0.2",
        "--set",
        "cohort.grace_seconds=0",
    )

    assert outcome.code == 5
    end = json.loads(outcome.out.splitlines()[-1])
    assert (end["kind"], end["end_kind"]) == ("end", "quorum_lost")


def test_a_broken_study_ends_with_code_five(submit: Callable[..., Outcome]) -> None:
    outcome = submit(
        "--watch",
        "--set",
        "train.broken=true",
        "--set",
        "cohort.max_attempts=1",
        "--set",
        "cohort.deadline_seconds=3",
    )

    assert outcome.code == 5
    assert "this site is broken" in outcome.out


def test_models_are_listed_and_shown(federation: Federation, finished: str) -> None:
    table = federation.invoke("model", "list", finished)
    first = federation.invoke("model", "show", finished, "--version", "0", "-o", "json")
    last = federation.invoke("model", "show", finished)

    assert table.out.splitlines()[0].startswith("ROUND")
    assert first.data["round"] == 0
    assert "first 2" in last.out


def test_a_run_is_described_and_found_again(federation: Federation, finished: str) -> None:
    words = ("-d", "the first of Zürich", "--tag", "site:zurich", "--tag", "old")
    dry = federation.invoke("run", "describe", finished, *words, "--dry-run")
    told = federation.invoke("run", "describe", finished, *words, "-o", "json")
    untagged = federation.invoke("run", "describe", finished, "--untag", "old")
    late = federation.invoke("run", "describe", finished, "-d", "late", "--if-version", 1)
    nothing = federation.invoke("run", "describe", finished)
    found = federation.invoke("run", "list", "--search", "zurich fir", "--tag", "site:zurich")
    none = federation.invoke("run", "list", "--app", "nobody")

    assert "nothing was changed" in dry.err
    assert told.data["tags"] == ["old", "site:zurich"]
    assert "site:zurich" in untagged.out
    assert (late.code, nothing.code) == (1, 2)
    assert "must be of version 1, got 3" in late.err
    assert finished in found.out
    assert "no such runs" in none.out


def test_a_list_goes_on_where_it_ended(
    federation: Federation, submit: Callable[..., Outcome], finished: str
) -> None:
    submit(*ENDLESS, "-o", "json")

    first = federation.invoke("run", "list", "--limit", 1, "-o", "json")
    cursor = first.err.split("--cursor ")[1].split()[0]
    rest = federation.invoke("run", "list", "--cursor", cursor, "-o", "json")
    foreign = federation.invoke("run", "list", "--cursor", cursor, "--order", "name")

    whole = federation.invoke("run", "list", "-o", "json").data
    assert [run["run_id"] for run in first.data + rest.data] == [run["run_id"] for run in whole]
    assert foreign.code == 2
    assert "cursor must be of this list" in foreign.err


def test_models_of_all_runs_are_listed_and_described(federation: Federation, finished: str) -> None:
    described = federation.invoke(
        "model", "describe", finished, "--version", "0", "--tag", "baseline"
    )
    dry = federation.invoke("model", "describe", finished, "--tag", "other", "--dry-run")
    found = federation.invoke("model", "list", "--tag", "baseline", "-o", "json")
    table = federation.invoke("model", "list")
    none = federation.invoke("model", "list", "--search", "nothing of the kind")
    by_metric = federation.invoke("model", "list", finished, "--metric", "unknown", "--lowest")
    wrong = federation.invoke("model", "list", "--lowest")

    assert "baseline" in described.out
    assert "nothing was changed" in dry.err
    assert [(each["run_id"], each["round"]) for each in found.data] == [(finished, 0)]
    assert table.out.splitlines()[0].startswith("RUN")
    assert "no such models" in none.out
    assert "no such models" in by_metric.out
    assert wrong.code == 2


@pytest.mark.parametrize(("version", "code"), [("9", 3), ("newest", 2)])
def test_a_wrong_version_is_told(
    federation: Federation, finished: str, version: str, code: int
) -> None:
    assert federation.invoke("model", "show", finished, "-v", version).code == code


def test_a_model_is_exported_whole_and_verified(federation: Federation, finished: str) -> None:
    told = federation.invoke("model", "export", finished, "-o", "json").data
    content = Path(told["path"]).read_bytes()

    assert told["path"] == f"{finished}-round2.safetensors"
    assert digest_of([content]) == told["digest"]
    assert decode(content).arrays["w"].tolist() == [2.0] * 8
    assert [path.name for path in Path.cwd().iterdir() if path.suffix == ".part"] == []


def test_an_export_replaces_a_file_only_when_told(federation: Federation, finished: str) -> None:
    Path("m.safetensors").write_text("mine")
    export = ("model", "export", finished, "--out", "m.safetensors")

    refused = federation.invoke(*export)
    dry = federation.invoke(*export, "--force", "--dry-run")
    kept = Path("m.safetensors").read_text()
    forced = federation.invoke(*export, "--force")

    assert refused.code == 1
    assert "--force" in refused.err
    assert (dry.code, kept) == (0, "mine")
    assert dry.out.startswith("would write")
    assert forced.code == 0
    assert Path("m.safetensors").stat().st_size > 4


def test_an_export_into_nowhere_fails_and_leaves_nothing(
    federation: Federation, finished: str
) -> None:
    outcome = federation.invoke("model", "export", finished, "--out", "none/m.safetensors")

    assert outcome.code == 1
    assert "cannot write none/m.safetensors" in outcome.err


@pytest.mark.parametrize(
    "command", [("show",), ("watch",), ("logs",), ("logs", "-f"), ("stop",), ("explain",)]
)
def test_an_unknown_run_is_not_found(federation: Federation, command: tuple[str, ...]) -> None:
    outcome = federation.invoke("run", *command, "run-nothing")

    assert outcome.code == 3
    assert outcome.err.startswith("error: ")


def test_a_clients_certificate_opens_no_operators_door(federation: Federation) -> None:
    site = federation.processes.folder.path / "clients" / "site-1" / "kumiai.toml"

    outcome = invoke(
        "--config", site, "run", "list", "--set", f"operator.url={federation.processes.url}"
    )

    assert outcome.code == 4
    assert "operator" in outcome.err


def test_a_foreign_certificate_is_refused_with_the_mend(
    federation: Federation, folder: Path
) -> None:
    invoke("ca", "init", "others")
    invoke("ca", "issue", "operator", "eve", "--out", "eve")
    ca = federation.processes.folder.path / "ca" / "ca.crt"

    outcome = invoke(
        *("--set", f"operator.url={federation.processes.url}", "--set", f"identity.ca={ca}"),
        *("--set", "identity.certificate=eve/eve.crt", "--set", "identity.key=eve/eve.key"),
        *("run", "list"),
    )

    assert outcome.code == 4
    assert "use one that this federation issued" in outcome.err


def test_a_coordinator_that_is_not_there_is_told_with_the_mend(federation: Federation) -> None:
    outcome = federation.invoke("run", "list", "--set", "operator.url=https://127.0.0.1:9")

    assert outcome.code == 1
    assert "start the coordinator" in outcome.err


def read_until(descriptor: int, text: bytes, seconds: float = 60.0) -> bytes:
    """Read a terminal until it has shown the text."""
    seen, end = b"", time.monotonic() + seconds
    while text not in seen:
        ready, _, _ = select.select([descriptor], [], [], max(end - time.monotonic(), 0))
        if not ready:
            raise TimeoutError(seen.decode(errors="replace"))
        try:
            seen += os.read(descriptor, 65536)
        except OSError as error:
            raise EOFError(seen.decode(errors="replace")) from error
    return seen


def test_on_a_terminal_the_rounds_are_a_live_table(federation: Federation, finished: str) -> None:
    ours, theirs = pty.openpty()
    process = start(
        *("--config", federation.config, "run", "watch", finished),
        stdout=theirs,
        stderr=theirs,
        environ={"COLUMNS": "120", "TERM": "xterm"},
    )
    os.close(theirs)

    seen = read_until(ours, b"all 2 rounds are done\r\n")

    assert process.wait(30) == 0
    assert b"2/2" in seen
    assert b"\x1b[" in seen
    os.close(ours)


def test_without_colour_a_terminal_gets_none(federation: Federation, finished: str) -> None:
    ours, theirs = pty.openpty()
    process = start(
        *("--config", federation.config, "run", "list", "--state", "finished"),
        stdout=theirs,
        stderr=theirs,
        environ={"COLUMNS": "200", "TERM": "xterm", "NO_COLOR": "1"},
    )
    os.close(theirs)

    seen = read_until(ours, finished.encode())

    assert process.wait(30) == 0
    assert b"\x1b[3" not in seen
    os.close(ours)


def test_whoever_stops_watching_does_not_stop_the_run(
    federation: Federation, submit: Callable[..., Outcome]
) -> None:
    run_id = submit(*ENDLESS, "-o", "json").data["run_id"]
    process = start("--config", federation.config, "run", "watch", run_id)
    assert process.stdout is not None
    for line in process.stdout:
        if "waiting for clients" in line:
            break

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)

    assert process.returncode == 130
    assert f"kumiai run watch {run_id}" in err
    assert federation.invoke("run", "show", run_id, "-o", "json").data["state"] == "running"


def test_a_watch_outlives_a_coordinator_that_is_killed(
    federation: Federation, submit: Callable[..., Outcome]
) -> None:
    run_id = submit(*ENDLESS, "-o", "json").data["run_id"]
    process = start("--config", federation.config, "run", "watch", run_id)
    assert process.stdout is not None
    assert process.stderr is not None
    first = next(line for line in process.stdout if "waiting for clients" in line)

    federation.do(federation.processes.kill_coordinator())
    lost = process.stderr.readline()
    federation.do(federation.processes.start_coordinator())
    federation.do(federation.processes.wait_until_attached())
    federation.invoke("run", "stop", run_id)
    out, _ = process.communicate(timeout=60)

    assert process.returncode == 1
    assert lost.startswith("connection lost, trying again")
    assert first not in out
    assert f"run {run_id} stopped" in out
