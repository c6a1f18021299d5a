"""Reading the vendored files. Each is parsed once per process."""

import csv
import gzip
import io
from functools import cache
from importlib.resources import files

import numpy as np

from kumiai.node.datasets.dataset import Dataset

__all__ = ["load_breast_cancer", "load_digits", "load_heart", "load_rand_hie"]

_MEASURES = (
    *("radius", "texture", "perimeter", "area", "smoothness", "compactness"),
    *("concavity", "concave_points", "symmetry", "fractal_dimension"),
)


@cache
def load_digits() -> Dataset:
    """Return 1,797 handwritten digits, 8 x 8 pixels of 0 to 16, ten classes, no natural sites."""
    with np.load(io.BytesIO(_content("digits.npz")), allow_pickle=False) as arrays:
        x, y = arrays["x"].astype(np.float32), arrays["y"].astype(np.int64)
    features = tuple(f"pixel_{row}_{column}" for row in range(8) for column in range(8))
    return _without_sites("digits", x, y, features, tuple("0123456789"))


@cache
def load_breast_cancer() -> Dataset:
    """Return 569 tumours with 30 measures of their cells, malignant or benign, no natural sites."""
    with np.load(io.BytesIO(_content("breast_cancer.npz")), allow_pickle=False) as arrays:
        x, y = arrays["x"].astype(np.float32), arrays["y"].astype(np.int64)
    features = tuple(f"{kind}_{what}" for kind in ("mean", "error", "worst") for what in _MEASURES)
    return _without_sites("breast_cancer", x, y, features, ("malignant", "benign"))


@cache
def load_heart() -> Dataset:
    """Return 920 heart patients of four hospitals: 13 features, disease or not.

    Missing values are NaN; so are ``chol`` and ``trestbps`` of 0, which two hospitals wrote for
    "not measured".
    """
    rows = list(csv.DictReader(io.StringIO(_text("heart.csv.gz"))))
    features = tuple(name for name in rows[0] if name not in ("hospital", "num"))
    x = np.array([[float(row[name] or "nan") for name in features] for row in rows], np.float32)
    for name in ("chol", "trestbps"):
        column = x[:, features.index(name)]
        column[column == 0] = np.nan
    sites = tuple(dict.fromkeys(row["hospital"] for row in rows))
    return Dataset(
        name="heart",
        x=x,
        y=np.array([int(row["num"]) > 0 for row in rows], np.int64),
        features=features,
        classes=("no_disease", "disease"),
        sites=sites,
        site=np.array([sites.index(row["hospital"]) for row in rows], np.int64),
        group=np.arange(len(rows)),
    )


@cache
def load_rand_hie() -> Dataset:
    """Return 20,190 person-years at six sites: 18 features, any medical expense or none.

    Missing values are NaN. ``group`` numbers the 5,912 people, who appear in up to five years each.
    """
    text = _text("rand_hie.csv.gz")
    columns = text[: text.index("\n")].strip().split(",")
    # The only text in the table is "site1" to "site6"; twice, as runs of empty fields overlap.
    numbers = text.replace("site", "").replace(",,", ",nan,").replace(",,", ",nan,")
    table = np.loadtxt(io.StringIO(numbers), delimiter=",", skiprows=1)
    kept = [name for name in columns if name not in ("site", "person", "any_expense", "admitted")]
    return Dataset(
        name="rand_hie",
        x=table[:, [columns.index(name) for name in kept]].astype(np.float32),
        y=table[:, columns.index("any_expense")].astype(np.int64),
        features=tuple(kept),
        classes=("no_expense", "any_expense"),
        sites=tuple(f"site{number}" for number in range(1, 7)),
        site=table[:, columns.index("site")].astype(np.int64) - 1,
        group=table[:, columns.index("person")].astype(np.int64),
    )


def _without_sites(
    name: str,
    x: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    y: np.ndarray[tuple[int], np.dtype[np.int64]],
    features: tuple[str, ...],
    classes: tuple[str, ...],
) -> Dataset:
    return Dataset(
        name=name,
        x=x,
        y=y,
        features=features,
        classes=classes,
        sites=(),
        site=np.zeros(len(y), np.int64),
        group=np.arange(len(y)),
    )


def _content(name: str) -> bytes:
    return (files("kumiai.node.datasets") / name).read_bytes()


def _text(name: str) -> str:
    return gzip.decompress(_content(name)).decode("utf-8")
