"""The vendored data: what they hold, against the counts their sources publish."""

from importlib.resources import files

import numpy as np
import pytest

from kumiai.node.datasets import (
    by_site,
    load_breast_cancer,
    load_digits,
    load_heart,
    load_rand_hie,
)


def test_digits_are_those_of_scikit_learn() -> None:
    source = pytest.importorskip("sklearn.datasets").load_digits()

    digits = load_digits()

    np.testing.assert_array_equal(digits.x, source.data)
    np.testing.assert_array_equal(digits.y, source.target)
    assert digits.features == tuple(source.feature_names)
    assert (digits.x.dtype, digits.y.dtype) == (np.float32, np.int64)
    assert digits.sites == ()


def test_tumours_are_those_of_scikit_learn() -> None:
    source = pytest.importorskip("sklearn.datasets").load_breast_cancer()

    tumours = load_breast_cancer()

    np.testing.assert_array_equal(tumours.x, source.data.astype(np.float32))
    np.testing.assert_array_equal(tumours.y, source.target)
    assert tumours.classes == tuple(source.target_names)
    words = [set(name.split("_")) for name in tumours.features]
    assert words == [set(str(name).split()) for name in source.feature_names]


def test_the_heart_patients_are_those_of_four_hospitals() -> None:
    heart = load_heart()

    counts = {name: len(rows) for name, rows in by_site(heart).items()}
    positive = {name: int(heart.y[rows].sum()) for name, rows in by_site(heart).items()}

    assert counts == {
        "cleveland": 303,
        "budapest": 294,
        "long_beach_va": 200,
        "zurich_basel": 123,
    }
    assert positive == {
        "cleveland": 139,
        "budapest": 106,
        "long_beach_va": 149,
        "zurich_basel": 115,
    }
    assert heart.x.shape == (920, 13)


def test_measures_of_the_heart_patients_that_are_zero_count_as_missing() -> None:
    heart = load_heart()
    chol = heart.x[:, heart.features.index("chol")]
    zurich = by_site(heart)["zurich_basel"]

    assert np.isnan(chol[zurich]).all()
    assert np.nanmin(chol) > 0
    assert np.nanmin(heart.x[:, heart.features.index("trestbps")]) > 0


def test_the_insured_are_5912_people_at_six_sites() -> None:
    insured = load_rand_hie()

    assert insured.x.shape == (20190, 18)
    assert len(np.unique(insured.group)) == 5912
    assert insured.y.mean() == pytest.approx(0.779, abs=5e-4)
    rates = [insured.y[rows].mean() for rows in by_site(insured).values()]
    assert len(rates) == 6
    assert (round(min(rates), 2), round(max(rates), 2)) == (0.66, 0.85)
    assert np.isnan(insured.x).sum() == 4


def test_a_person_was_insured_at_one_site_only() -> None:
    insured = load_rand_hie()

    pairs = np.unique(np.stack([insured.group, insured.site]), axis=1)

    assert pairs.shape[1] == 5912


def test_each_file_is_parsed_once() -> None:
    assert load_rand_hie() is load_rand_hie()


def test_the_vendored_files_are_small_and_each_has_its_licence() -> None:
    folder = files("kumiai.node.datasets")
    data = [file for file in folder.iterdir() if file.name.endswith((".npz", ".gz"))]
    licences = (folder / "LICENSES.md").read_text("utf-8")

    assert sorted(file.name for file in data) == [
        "breast_cancer.npz",
        "digits.npz",
        "heart.csv.gz",
        "rand_hie.csv.gz",
    ]
    assert sum(len(file.read_bytes()) for file in data) < 300_000
    assert all(f"`{file.name}`" in licences for file in data)
