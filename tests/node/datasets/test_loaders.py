"""The data loaders: which part of a data set a site gets."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kumiai.core.errors import ConfigError
from kumiai.node import datasets
from kumiai.node.datasets import SiteData
from kumiai.node.study import Site

Loader = Callable[[Site], SiteData]


def parts_of(loader: Loader, partitions: int, **options: Any) -> list[SiteData]:
    return [
        loader(Site(f"site-{i}", {"partition": i, "partitions": partitions, **options}))
        for i in range(partitions)
    ]


def rows_of(data: SiteData) -> int:
    return len(data.y_train) + len(data.y_test)


@pytest.mark.parametrize("loader", [datasets.digits, datasets.breast_cancer])
@pytest.mark.parametrize("options", [{}, {"dirichlet": 0.3, "seed": 3}, {"dirichlet": 1}])
def test_artificial_parts_cover_the_whole_data_set(loader: Loader, options: dict[str, Any]) -> None:
    parts = parts_of(loader, 5, **options)

    assert sum(map(rows_of, parts)) == rows_of(loader(Site("everything")))
    assert min(map(rows_of, parts)) >= 10


def test_rows_are_dealt_evenly_unless_a_dirichlet_is_asked_for() -> None:
    even = parts_of(datasets.digits, 5)
    default = parts_of(lambda site: datasets.digits(site, dirichlet=0.3), 5)
    option = parts_of(datasets.digits, 5, dirichlet=0.3)

    assert [rows_of(part) for part in default] == [rows_of(part) for part in option]
    assert max(map(rows_of, even)) - min(map(rows_of, even)) == 1
    assert max(map(rows_of, option)) - min(map(rows_of, option)) > 50


def test_a_part_knows_its_columns_and_classes_and_holds_out_a_fifth() -> None:
    data = datasets.breast_cancer(Site("a"))

    assert (len(data.features), data.classes) == (30, ("malignant", "benign"))
    assert len(data.y_test) / rows_of(data) == pytest.approx(0.2, abs=0.01)
    assert data.x_train.flags.writeable


def test_a_site_called_like_a_hospital_has_its_patients() -> None:
    data = datasets.heart(Site("cleveland"))

    assert rows_of(data) == 303
    assert data.classes == ("no_disease", "disease")


def test_a_site_may_name_its_hospital_in_the_options() -> None:
    assert rows_of(datasets.heart(Site("a", {"site": "long_beach_va"}))) == 200


def test_as_many_partitions_as_sites_give_each_its_own_and_fewer_share_them() -> None:
    four = [rows_of(part) for part in parts_of(datasets.heart, 4)]
    two = [rows_of(part) for part in parts_of(datasets.heart, 2)]
    one = [rows_of(part) for part in parts_of(datasets.heart, 1)]

    assert four == [303, 294, 123, 200]
    assert two == [426, 494]
    assert one == [920]


def test_no_person_is_on_both_sides_of_a_division() -> None:
    insured = datasets.load_rand_hie()
    rows = datasets.by_site(insured)["site4"]

    data = datasets.rand_hie(Site("site4"))

    people = {
        tuple(row): person for row, person in zip(insured.x[rows], insured.group[rows], strict=True)
    }
    ambiguous = len(rows) - len(people)
    train = {people[tuple(row)] for row in data.x_train if tuple(row) in people}
    test = {people[tuple(row)] for row in data.x_test if tuple(row) in people}
    assert ambiguous < 20
    assert len(train & test) <= ambiguous


@pytest.mark.parametrize(
    ("loader", "site", "message"),
    [
        (datasets.heart, Site("a", {"site": "paris"}), "data.site of site 'a' must be one of clev"),
        (datasets.heart, Site("a"), "site as one of cleveland, budapest, .*, got {}"),
        (
            datasets.rand_hie,
            Site("a", {"partitions": 7}),
            "data.partitions of site 'a' must be at most 6, .* rand_hie, got 7",
        ),
        (
            datasets.digits,
            Site("a", {"dirichlet": "much"}),
            "data.dirichlet must be a number, got 'much'",
        ),
        (datasets.digits, Site("a", {"seed": 1.5}), "data.seed must be a number, got 1.5"),
        (datasets.digits, Site("a", {"dirichlet": True}), "data.dirichlet must be a number"),
        (
            datasets.digits,
            Site("a", {"dirichlet": -1.0}),
            "data options of site 'a': alpha must be finite and > 0, got -1.0",
        ),
        (
            datasets.digits,
            Site("a", {"partitions": 2000, "dirichlet": 0.3}),
            "data options of site 'a': rows must be at least 4000 for 2000 sites, got 1797",
        ),
        (
            datasets.digits,
            Site("a", {"partitions": 1797}),
            "part of digits: data must have at least two rows or groups to divide, got 1",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(loader: Loader, site: Site, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loader(site)


def test_two_loads_of_a_part_are_equal_and_do_not_share_memory() -> None:
    one, two = (datasets.digits(Site("a", {"partition": 1, "partitions": 3})) for _ in range(2))

    np.testing.assert_array_equal(one.x_train, two.x_train)
    assert not np.shares_memory(one.x_train, two.x_train)


def test_the_room_exports_what_it_lists() -> None:
    assert all(hasattr(datasets, name) for name in datasets.__all__)
