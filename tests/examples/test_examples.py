"""Every example runs as its reader would run it, and learns."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

import kumiai
from kumiai.node.job import parse_job_toml
from kumiai.node.noised_rounds import outlook_of
from kumiai.node.study import initial_model, load_app

EXAMPLES = Path(__file__).parents[2] / "examples"
STUDIES = {
    "private_patients.py": "heart_hospitals.py",
    "private_hospitals.py": "heart_hospitals.py",
    "private_torch.py": "torch_digits.py",
    "private_clients.py": "quickstart.py",
    "private_devices.py": "quickstart.py",
}
PRIVATE = {
    "private_patients.py": 0.74,
    "private_hospitals.py": 0.74,
    "private_torch.py": 0.8,
    "private_clients.py": 0.8,
    "private_devices.py": 0.82,
}
NEEDS = {
    "torch_digits.py": "torch",
    "private_torch.py": "opacus",
    "sklearn_breast_cancer.py": "sklearn",
}


@pytest.fixture(
    params=[
        ("quickstart.py", 5, 10, 0.9),
        ("heart_hospitals.py", 4, 15, 0.74),
        ("torch_digits.py", 5, 15, 0.9),
        ("sklearn_breast_cancer.py", 5, 10, 0.93),
    ],
    ids=lambda case: case[0],
)
def example(request: pytest.FixtureRequest) -> tuple[Path, int, int, float]:
    name, sites, rounds, accuracy_min = request.param
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], exc_type=ModuleNotFoundError)
    return EXAMPLES / name, sites, rounds, accuracy_min


def job_of(name: str) -> Any:
    return parse_job_toml((EXAMPLES / name).with_suffix(".toml").read_text("utf-8"), source=name)


def test_every_example_is_tested() -> None:
    tested = {"quickstart.py", "heart_hospitals.py", *PRIVATE, *NEEDS}

    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


def test_an_example_is_an_app_that_learns(example: tuple[Path, int, int, float]) -> None:
    path, sites, rounds, accuracy_min = example
    app = load_app(str(path))

    result = kumiai.run(app, sites=sites, rounds=rounds, seed=1)

    assert result.evaluation["accuracy"] > accuracy_min
    assert len(result.history) == rounds + 1


def test_an_example_runs_as_a_program(
    example: tuple[Path, int, int, float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    runpy.run_path(str(example[0]), run_name="__main__")

    assert "accuracy" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", PRIVATE)
def test_a_private_example_learns_in_spite_of_its_noise(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], exc_type=ModuleNotFoundError)
    monkeypatch.syspath_prepend(EXAMPLES)

    runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    out = capsys.readouterr().out
    told = re.search(r"accuracy\D*(0\.\d+)", out)
    assert told is not None
    assert float(told[1]) > PRIVATE[name]
    asked = job_of(name).privacy
    spent = re.search(r"epsilon ([\d.]+) at delta ([\d.e-]+) \(.*unit (\w+), adjacency", out)
    assert spent is not None
    assert 0.9 * asked.epsilon < float(spent[1]) <= asked.epsilon
    assert (float(spent[2]), spent[3]) == (asked.delta, asked.unit)


@pytest.mark.parametrize("name", PRIVATE)
def test_a_private_example_says_beforehand_what_it_promises(name: str) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], exc_type=ModuleNotFoundError)
    job = job_of(name)
    study = load_app(str(EXAMPLES / STUDIES[name]))
    dimension = sum(array.size for array in initial_model(study, {}).values())

    promise, *warnings = outlook_of(job, dimension)

    assert job.run.app == study.name
    assert f"epsilon {job.privacy.epsilon:.3g} at delta" in promise
    assert warnings == []


def test_the_quickstart_is_short() -> None:
    lines = (EXAMPLES / "quickstart.py").read_text("utf-8").splitlines()

    assert len([line for line in lines if line.strip()]) <= 25
