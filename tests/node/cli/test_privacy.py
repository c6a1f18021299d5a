"""``kumiai privacy``: budgets at a running coordinator, a site's own ledger, and sums by hand."""

from pathlib import Path

import pytest

from kumiai.core.clock import SystemClock
from kumiai.node.cli.text_plot import Series, text_plot
from kumiai.node.client.budget import SiteLedger
from kumiai.node.job import parse_job_toml
from kumiai.privacy import GaussianEvent
from kumiai.privacy.ledger import ChargeKey
from tests.node.cli.program import invoke
from tests.node.cli.test_token import as_operator
from tests.node.http.api import RunningApi
from tests.node.http.test_budgets import BUDGET, spend, spend_more

EXAMPLES = Path(__file__).parents[3] / "examples"
JOB, STUDY = str(EXAMPLES / "private_patients.toml"), str(EXAMPLES / "heart_hospitals.py")


async def test_a_budget_is_set_listed_and_removed(api: RunningApi) -> None:
    empty = await as_operator(api, "privacy", "budget", "list")
    made = await as_operator(
        api, "privacy", "budget", "set", "client/site-1", "--epsilon", "3", "--unit", "record",
        "--window-days", "365",
    )  # fmt: skip
    listed = await as_operator(api, "privacy", "budget", "list", "-o", "json")
    removed = await as_operator(
        api, "privacy", "budget", "remove", "client/site-1", "--window-days", "365"
    )

    assert "no budgets yet" in empty.out
    assert "record/zero-out  365 d  3" in made.out
    assert listed.data[0]["budgets"][0]["epsilon"] == 3
    assert removed.out == "client/site-1 has no such budget any more\n"


async def test_a_report_tells_what_is_spent_and_left(api: RunningApi) -> None:
    nothing = await as_operator(api, "privacy", "report")
    await api.operator.put("/api/v1/budgets", json=BUDGET)
    await spend(api, 4)

    report = await as_operator(api, "privacy", "report")
    history = await as_operator(api, "privacy", "history", "dataset/site-1/heart")

    assert nothing.out == "nothing was spent yet\n"
    (line,) = [each for each in report.out.splitlines() if each.startswith("dataset/")]
    assert line.split()[-3:] == ["4", "none", "6"]
    assert "spent after 6 more releases like the last" in history.out
    assert history.out.count("*") == 5
    assert history.out.count(".\n") >= 1


async def test_a_history_of_a_budget_of_days_says_so_and_when_nothing_is_left(
    api: RunningApi,
) -> None:
    await api.operator.put("/api/v1/budgets", json={**BUDGET, "window_days": 30})
    lease = await spend(api, 4)
    some = await as_operator(api, "privacy", "history", "dataset/site-1/heart")
    await spend_more(api, lease, range(5, 11))
    none = await as_operator(api, "privacy", "history", "dataset/site-1/heart")

    assert "over its releases of the last 30 days\n" in some.out
    assert "spent after 6 more releases like the last" in some.out
    assert "of which not one more release like the last is left" in none.out


async def test_a_history_without_a_budget_has_no_forecast(api: RunningApi) -> None:
    await spend(api, 2)

    history = await as_operator(api, "privacy", "history", "model/heart")

    assert "forecast" not in history.out


async def test_a_frozen_ledger_is_reconciled_with_the_copies_of_sites(
    api: RunningApi, folder: Path
) -> None:
    await spend(api, 1)
    site = api.certificates.client.identity.name
    ledger = SiteLedger(folder / "client-state", site, SystemClock())
    for round_ in (1, 2):
        ledger.charge(
            ChargeKey("run-a", round_, 1),
            context=b"opening",
            app="heart",
            unit="client",
            event=GaussianEvent(4.0),
        )
    exported = invoke(
        "privacy", "budget", "export", "--out", "copy.json",
        environ={"KUMIAI_IDENTITY__CERTIFICATE": str(api.certificates.client.cert)},
    )  # fmt: skip
    await as_operator(api, "privacy", "budget", "freeze", "--reason", "restored")

    frozen = await as_operator(api, "privacy", "report")
    lacking = await as_operator(api, "privacy", "budget", "reconcile", "--from", "copy.json")
    done = await as_operator(
        api, "privacy", "budget", "reconcile", "--from", "copy.json",
        "--assume", "client/site-1=1", "--assume", "dataset/site-1/heart=0",
    )  # fmt: skip
    checked = await as_operator(api, "privacy", "budget", "check")

    assert exported.out.startswith(f"wrote copy.json: 2 charges of {site}")
    assert "the ledger is frozen: restored" in frozen.out
    assert lacking.code == 2
    assert "got none of client/site-1, dataset/site-1/heart" in lacking.err
    assert done.out == "charged 3 releases that the ledger had lost; it charges again\n"
    assert "6 entries are as they were written\n" in checked.out


@pytest.mark.parametrize("text", ["client/a", "client/a=", "client/a=x", "client/a=-1"])
def test_an_assumption_is_a_scope_and_a_number(text: str) -> None:
    outcome = invoke("privacy", "budget", "reconcile", "--assume", text)

    assert outcome.code == 2
    assert "--assume must be SCOPE=ROUNDS" in outcome.err


def test_noise_is_calibrated_and_what_it_gives_is_simulated() -> None:
    found = invoke(
        "privacy", "calibrate", "--epsilon", "3", "--rounds", "1000", "--sampling-rate", "0.01",
        "-o", "json",
    )  # fmt: skip
    noise = found.data["noise_multiplier"]
    plotted = invoke(
        "privacy", "simulate", "--noise-multiplier", noise, "--rounds", "2000",
        "--sampling-rate", "0.01", "--epsilon", "3",
    )  # fmt: skip

    assert noise == pytest.approx(0.8646, abs=1e-3)
    assert found.data["epsilon"] == pytest.approx(3.0, abs=1e-3)
    assert "enough for 1000 rounds" in plotted.out
    assert "* epsilon" in plotted.out


def test_the_tighter_epsilon_of_a_fixed_plan_is_told_beside() -> None:
    outcome = invoke(
        "privacy", "simulate", "--noise-multiplier", "1.1", "--rounds", "1000",
        "--sampling-rate", "0.01", "--tight", "-o", "json",
    )  # fmt: skip

    assert outcome.data["epsilon"] == pytest.approx(1.7118, abs=1e-3)
    assert outcome.data["epsilon_tight"] == pytest.approx(1.5154, abs=5e-3)


@pytest.mark.parametrize(
    ("job", "study"),
    [
        ("private_hospitals.toml", "heart_hospitals.py"),
        ("private_patients.toml", "heart_hospitals.py"),
        ("private_devices.toml", "quickstart.py"),
    ],
)
def test_a_job_says_itself_what_is_simulated_wherever_its_noise_is_added(
    job: str, study: str
) -> None:
    path = EXAMPLES / job
    asked = parse_job_toml(path.read_text("utf-8"), source=job)
    assert asked.privacy is not None
    assert asked.privacy.epsilon is not None

    outcome = invoke("privacy", "simulate", str(path), "--app", str(EXAMPLES / study), "-o", "json")
    half = invoke(
        "privacy", "simulate", str(path), "--app", str(EXAMPLES / study), "-o", "json",
        "--set", f"privacy.epsilon={asked.privacy.epsilon / 2}",
    )  # fmt: skip

    told = outcome.data
    assert 0.99 * asked.privacy.epsilon < told["epsilon"] <= asked.privacy.epsilon
    assert 0.49 * asked.privacy.epsilon < half.data["epsilon"] <= asked.privacy.epsilon / 2
    assert told["points"][-1]["rounds"] == asked.run.rounds
    assert told["delta"] == asked.privacy.delta
    assert told["sampling"] == ("poisson" if asked.privacy.noise == "local" else "none")
    assert f"for each {asked.privacy.unit}" in told["outlook"][0]


def test_a_job_whose_noise_drowns_the_model_is_told_of_beside_its_plot() -> None:
    outcome = invoke(
        "privacy", "simulate", str(EXAMPLES / "private_hospitals.toml"),
        "--app", str(EXAMPLES / "heart_hospitals.py"), "--set", "privacy.epsilon=0.01",
    )  # fmt: skip

    assert "for each record, over 3 rounds" in outcome.out
    assert "the model will learn next to nothing" in outcome.out
    assert "* epsilon" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "a job must be given, or --noise-multiplier and --rounds"),
        (("--rounds", "3"), "a job must be given, or --noise-multiplier and --rounds"),
        ((JOB, "--app", STUDY, "--rounds", "3", "--delta", "0.1"), "--rounds, --delta must be"),
        ((JOB,), "must be given by one of --app study.py and --model"),
    ],
)
def test_what_says_too_little_or_too_much_to_simulate_is_refused(
    arguments: tuple[str, ...], problem: str
) -> None:
    outcome = invoke("privacy", "simulate", *arguments)

    assert outcome.code == 2
    assert problem in outcome.err


def test_a_job_without_noise_has_no_plan(tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text('[run]\napp = "heart-hospitals"\nrounds = 3\n')

    outcome = invoke("privacy", "simulate", str(job), "--app", STUDY)

    assert outcome.code == 2
    assert "privacy must be a table of the job" in outcome.err


def test_people_read_the_noise_in_a_sentence() -> None:
    outcome = invoke("privacy", "calibrate", "--epsilon", "3", "--rounds", "10")

    assert "for epsilon 3 at delta 1e-05 after 10 rounds" in outcome.out
    assert "(rdp; unit unstated, adjacency zero-out, sampling none)" in outcome.out


def test_the_noise_that_people_read_is_enough_for_what_they_asked_for() -> None:
    found = invoke("privacy", "calibrate", "--epsilon", "2", "--rounds", "50")  # 15.19650582
    noise = found.out.removeprefix("noise multiplier ").partition(":")[0]

    outcome = invoke(
        "privacy", "simulate", "--noise-multiplier", noise, "--rounds", "50", "--epsilon", "2",
    )  # fmt: skip

    assert noise == "15.1966"
    assert "enough for 50 rounds" in outcome.out


def test_what_is_simulated_names_what_its_epsilon_is_about() -> None:
    asked = ("privacy", "simulate", "--noise-multiplier", "1.1", "--rounds", "10")
    sampled = invoke(*asked, "--sampling-rate", "0.01", "--adjacency", "add-or-remove")
    of_job = invoke("privacy", "simulate", JOB, "--app", STUDY)

    assert "(rdp; unit unstated, adjacency add-or-remove, sampling poisson)" in sampled.out
    assert "(rdp; unit record, adjacency zero-out, sampling none)" in of_job.out
    assert invoke(*asked, "-o", "json").data["unit"] == "unstated"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("calibrate", "--epsilon", "nan", "--rounds", "10"), "target_epsilon"),
        (("calibrate", "--epsilon", "1", "--rounds", "10", "--delta", "2"), "target_delta"),
        (("simulate", "--noise-multiplier", "0", "--rounds", "10"), "noise_multiplier"),
        (
            ("simulate", "--noise-multiplier", "1", "--rounds", "10", "--adjacency", "x"),
            "adjacency must be one of",
        ),
        (
            ("simulate", "--noise-multiplier", "1", "--rounds", "10", "--epsilon", "-1"),
            "epsilon must be greater than 0",
        ),
    ],
)
def test_what_can_not_be_is_refused_with_its_name(arguments: tuple[str, ...], words: str) -> None:
    outcome = invoke("privacy", *arguments)

    assert outcome.code == 2
    assert words in outcome.err


def test_a_plot_has_its_marks_where_the_points_are() -> None:
    plot = text_plot([Series("*", [(1, 1.0), (10, 4.0)])], limit=2.0, width=10, height=4)

    assert plot.splitlines() == [
        "       4 |         *",
        "         |----------",
        "         | *",
        "       0 |",
        "         +----------",
        "          0       10",
    ]
    assert text_plot([], width=10, height=2).count("\n") == 3
