"""Jobs: what is accepted, and what an error tells."""

import pytest

from kumiai.core.errors import ConfigError
from kumiai.node.job import JobSpec, parse_job, parse_job_toml

WHOLE = """
[run]
app = "heart"
rounds = 20
seed = 7

[cohort]
size = 4
over_selection = 0.25
min_reports = 3
deadline_seconds = 60

[strategy]
name = "fedadam"
learning_rate = 0.01

[train]
epochs = 2
rate = 0.1
"""


def test_a_whole_job_is_read() -> None:
    job = parse_job_toml(WHOLE, source="job.toml")

    assert job.run.rounds == 20
    assert job.cohort.quorum(4) == 3
    assert job.strategy.build().name == "fedadam"
    assert job.train == {"epochs": 2, "rate": 0.1}


def test_a_job_survives_its_row() -> None:
    job = parse_job_toml(WHOLE, source="job.toml")

    assert parse_job(job.model_dump()) == job
    assert JobSpec.model_validate_json(job.model_dump_json()) == job


PAILLIER = "[run]\napp = 'a'\n[secure_aggregation]\nmode = 'paillier'\n"
STRATEGY_PARAMETER = "strategy.proximal_mu must be a number of at least 0, got -1"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[run\n", "job.toml must be valid TOML"),
        ("", "job.toml: run must be given"),
        ("[run]\nrounds = 3", "run.app must be given"),
        ("[run]\napp = ''", "job.toml: run.app must name a study that"),
        ("[run]\napp = '../x'", "job.toml: run.app must be 1 to 63 letters"),
        (
            "[run]\napp = 'a'\nrounds = 0",
            "job.toml: run.rounds must be greater than or equal to 1, got 0",
        ),
        ("[run]\napp = 'a'\nrouns = 3", "run.rouns must be removed: no such key"),
        ("[run]\napp = 'a'\n[cohort]\nmin_reports = -1", "cohort.min_reports"),
        (
            "[run]\napp = 'a'\n[cohort]\nsize = 2\nmin_reports = 3",
            "cohort.min_reports must be at most",
        ),
        ("[run]\napp = 'a'\n[cohort]\ndeadline_seconds = inf", "cohort.deadline_seconds"),
        ("[run]\napp = 'a'\n[strategy]\nname = 'fedavgg'", "strategy.name must be one of fedavg, "),
        ("[run]\napp = 'a'\n[strategy]\nname = 'fedprox'\nproximal_mu = -1", STRATEGY_PARAMETER),
        ("[run]\napp = 'a'\n[strategy]\nx = 1", "strategy: parameter of fedavg must be left out"),
        ("[run]\napp = 'a'\n[strategy]\nweighting = 'size'", "strategy.weighting"),
        ("[run]\napp = 'a'\n[train]\nrate = nan", "train.rate must be finite"),
        ("[run]\napp = 'a'\n[train]\nrate = []", "train.rate must be a number, a string"),
        (f"{PAILLIER}ring_bits = 64", "secure_aggregation.ring_bits must be 32 with mode = "),
        (f"{PAILLIER}colluders = 1", "secure_aggregation.colluders must be 0 with mode = "),
        (f"{PAILLIER}key_bits = 1024", "secure_aggregation.key_bits must be 2048, 3072 or 4096"),
        (
            "[run]\napp = 'a'\n[secure_aggregation]\nmode = 'masking'\nkey_bits = 2048",
            'secure_aggregation.key_bits must be left out with mode = "masking", got 2048',
        ),
        ("examples_max = 0\n[run]\napp = 'a'", "examples_max"),
    ],
)
def test_a_bad_job_is_refused_with_key_and_problem(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem.replace(".", r"\.")):
        parse_job_toml(text, source="job.toml")


def test_a_key_may_be_chosen_for_the_mode_that_has_one() -> None:
    job = parse_job_toml(f"{PAILLIER}key_bits = 2048\ncolluders = 0", source="job.toml")

    assert job.secure_aggregation.is_on
    assert job.secure_aggregation.key_bits == 2048


def test_every_problem_has_its_own_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_job({"run": {"app": "a", "rounds": -1}, "cohort": {"size": 0}})

    assert len(str(caught.value).splitlines()) == 2


def test_a_train_table_is_bounded() -> None:
    with pytest.raises(ConfigError, match="at most 64 entries"):
        parse_job({"run": {"app": "a"}, "train": {f"key-{index}": 1 for index in range(65)}})


@pytest.mark.parametrize(
    ("every", "round_number", "is_due"),
    [(1, 0, True), (0, 3, False), (2, 3, False), (2, 4, True), (5, 7, True)],
)
def test_evaluation_is_due_each_so_many_rounds_and_at_the_end(
    every: int, round_number: int, is_due: bool
) -> None:
    job = parse_job({"run": {"app": "a"}, "evaluation": {"every": every}})

    assert job.evaluation.is_due(round_number, 7) is is_due
