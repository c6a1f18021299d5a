from pathlib import Path

import numpy as np
import pytest

from kumiai.core.codec import encode
from kumiai.core.errors import CodecError, ConfigError, NotFoundError
from kumiai.core.ids import verify_name
from kumiai.node.cli.submission import prepare, run_id_of_token
from kumiai.node.study import StudyError
from tests.node.cli.program import STUDY, invoke


@pytest.fixture
def job() -> Path:
    path = Path("job.toml")
    path.write_text('[run]\napp = "counting"\n')
    return path


def test_the_study_builds_the_model_from_the_jobs_table(job: Path) -> None:
    prepared, settings = prepare(
        job,
        {"train.size": "3", "operator.url": "https://x"},
        app_reference=f"{STUDY}:app",
        model=None,
        token=None,
    )

    assert prepared.arrays["w"].shape == (3,)
    assert settings == {"operator.url": "https://x"}
    assert prepared.run_id.startswith("run-")


@pytest.mark.parametrize(("app", "model"), [(None, None), ("a.py", Path("m"))])
def test_the_model_comes_from_one_place(job: Path, app: str | None, model: Path | None) -> None:
    with pytest.raises(ConfigError, match="one of --app"):
        prepare(job, {}, app_reference=app, model=model, token=None)


def test_the_study_must_be_the_jobs(job: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.app must be .*'counting', got 'other'"):
        prepare(job, {"run.app": "other"}, app_reference=str(STUDY), model=None, token=None)


def test_a_study_that_fails_is_told(job: Path) -> None:
    Path("bad.py").write_text("1 / 0\n")

    with pytest.raises(StudyError, match=r"bad\.py:1"):
        prepare(job, {}, app_reference="bad.py", model=None, token=None)


def test_a_model_file_is_read_strictly(job: Path) -> None:
    content = b"".join(encode({"w": np.zeros(3, np.float32)}))
    Path("cut.safetensors").write_bytes(content[:-1])

    with pytest.raises(CodecError, match=r"cut\.safetensors: "):
        prepare(job, {}, app_reference=None, model=Path("cut.safetensors"), token=None)
    with pytest.raises(NotFoundError, match="none at none"):
        prepare(job, {}, app_reference=None, model=Path("none"), token=None)
    with pytest.raises(ConfigError, match="must be readable"):
        prepare(job, {}, app_reference=None, model=Path(), token=None)


def test_a_token_always_gives_the_same_valid_id() -> None:
    first, second, other = map(run_id_of_token, ("nightly", "nightly", "weekly é"))

    assert first == second != other
    assert verify_name("run id", first).startswith("run-")


@pytest.mark.parametrize("token", ["", "x" * 1001])
def test_a_token_has_a_length(token: str) -> None:
    with pytest.raises(ConfigError, match="1 to 1000 characters"):
        run_id_of_token(token)


def test_a_dry_run_needs_no_coordinator_and_no_certificate(job: Path) -> None:
    outcome = invoke("run", "submit", job, "--app", STUDY, "--dry-run")
    code_of_bad_model = invoke("run", "submit", job, "--model", job, "--dry-run").code

    assert outcome.code == 0
    assert "1 array, 8 numbers" in outcome.out
    assert outcome.out.endswith("nothing was submitted: --dry-run\n")
    assert code_of_bad_model == 7
