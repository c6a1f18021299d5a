"""Every example runs as its reader would run it, and learns."""

import runpy
from pathlib import Path

import pytest

import kumiai
from kumiai.node.study import load_app

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {"torch_digits.py": "torch", "sklearn_breast_cancer.py": "sklearn"}


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


def test_every_example_is_tested() -> None:
    tested = {"quickstart.py", "heart_hospitals.py", *NEEDS}

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


def test_the_quickstart_is_short() -> None:
    lines = (EXAMPLES / "quickstart.py").read_text("utf-8").splitlines()

    assert len([line for line in lines if line.strip()]) <= 25
