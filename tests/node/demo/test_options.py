"""What the demo is asked for becomes sites and a job, or a clear refusal."""

from pathlib import Path
from typing import Any

import pytest

from kumiai.core.errors import ConfigError
from kumiai.node.demo import DemoOptions
from kumiai.node.demo.options import new_plan


def test_digits_lie_unevenly_over_numbered_sites() -> None:
    plan = new_plan(DemoOptions(clients=3, dirichlet=0.5, seed=9))

    assert plan.app == "kumiai.node.studies.digits"
    assert dict(plan.sites) == {
        f"site-{index + 1}": {"partition": index, "partitions": 3, "dirichlet": 0.5, "seed": 9}
        for index in range(3)
    }


def test_five_sites_are_usual() -> None:
    assert len(new_plan(DemoOptions()).sites) == 5


def test_hospitals_keep_their_names() -> None:
    plan = new_plan(DemoOptions(study="heart"))

    assert len(plan.sites) == 4
    assert all(not name.startswith("site-") for name in plan.sites)


def test_fewer_clients_than_hospitals_share_them() -> None:
    plan = new_plan(DemoOptions(study="heart", clients=2))

    assert plan.sites == {
        "site-1": {"partition": 0, "partitions": 2},
        "site-2": {"partition": 1, "partitions": 2},
    }


@pytest.mark.parametrize(("clients", "quorum"), [(1, 1), (2, 1), (5, 4)])
def test_a_round_waits_for_everybody_but_can_do_without_one(clients: int, quorum: int) -> None:
    cohort = new_plan(DemoOptions(clients=clients)).job.cohort

    assert (cohort.size, cohort.min_reports) == (clients, quorum)


def test_a_client_in_the_middle_is_killed_after_a_third_of_the_rounds() -> None:
    plan = new_plan(DemoOptions(rounds=30))

    assert (plan.victim, plan.kill_after_round) == ("site-3", 10)


def test_in_a_short_run_the_first_round_is_hit() -> None:
    assert new_plan(DemoOptions(rounds=3)).kill_after_round == 0


def test_nobody_needs_to_be_killed() -> None:
    assert new_plan(DemoOptions(kill=False)).victim is None


def test_the_model_goes_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert new_plan(DemoOptions()).out == tmp_path / "demo-model.safetensors"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"study": "mnist"}, "study must be one of digits, heart, got 'mnist'"),
        ({"clients": 0}, "clients must be 1 to 50 for the study digits, got 0"),
        ({"clients": 51}, "got 51"),
        ({"clients": 5, "study": "heart"}, "clients must be 1 to 4 for the study heart, got 5"),
        ({"rounds": 0}, "rounds must be 1 to 10000, got 0"),
        ({"dirichlet": 0.0}, "dirichlet must be a number above 0, got 0.0"),
        ({"dirichlet": float("nan")}, "dirichlet must be a number above 0, got nan"),
        ({"seed": -1}, "seed must be"),
        ({"out": Path("no-such-folder/model")}, "out must be in a folder that exists"),
    ],
)
def test_an_option_that_breaks_its_rule_is_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        new_plan(DemoOptions(**options))


def test_noise_hides_each_patient_and_the_job_says_how_far() -> None:
    plan = new_plan(DemoOptions(study="heart", dp=True))

    privacy = plan.job.privacy
    assert privacy is not None
    assert (privacy.unit, privacy.epsilon, privacy.delta) == ("record", 1.7, 1e-4)
    assert (privacy.records, privacy.records_per_site) == (920, 303)
    assert plan.job.evaluation.every == 0
    assert plan.open_job is not None
    assert plan.open_job.privacy is not None
    assert plan.open_job.privacy.noise_multiplier == 1e-6


def test_hospitals_that_were_divided_anew_may_have_all_patients_at_one() -> None:
    privacy = new_plan(DemoOptions(study="heart", clients=3, dp=True)).job.privacy

    assert privacy is not None
    assert privacy.records_per_site == privacy.records == 920


def test_without_noise_there_is_nothing_to_compare_with() -> None:
    plan = new_plan(DemoOptions(study="heart"))

    assert plan.job.privacy is None
    assert plan.open_job is None


@pytest.mark.parametrize("options", [{"study": "digits"}, {"study": "heart", "clients": 2}])
def test_noise_is_for_hospitals_of_which_there_are_three(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="dp must be used with the study heart at 3 sites"):
        new_plan(DemoOptions(dp=True, **options))
