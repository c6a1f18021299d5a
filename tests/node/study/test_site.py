"""Site: a name and the options of its data."""

import pytest

from kumiai.core.errors import ConfigError
from kumiai.node.study import Site


def test_a_site_without_options_holds_all_of_unsplit_data() -> None:
    site = Site("a")

    assert (site.partition, site.partitions, dict(site.options)) == (0, 1, {})


def test_the_options_of_a_site_cannot_be_changed_from_outside() -> None:
    options = {"path": "x.csv"}
    site = Site("a", options)

    options["path"] = "y.csv"

    assert site.options["path"] == "x.csv"
    with pytest.raises(TypeError):
        site.options["path"] = "y.csv"  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partitions": 0}, "data.partitions of site 'a' must be an integer >= 1, got 0"),
        ({"partitions": "5"}, "data.partitions of site 'a' must be an integer >= 1, got '5'"),
        ({"partitions": True}, "data.partitions of site 'a' must be an integer >= 1, got True"),
        (
            {"partition": 5, "partitions": 5},
            "data.partition of site 'a' must be an integer from 0 to 4, got 5",
        ),
        ({"partition": -1}, "data.partition of site 'a' must be an integer from 0 to 0, got -1"),
        ({"partition": 0.0}, "data.partition of site 'a' must be an integer from 0 to 0, got 0.0"),
    ],
)
def test_a_partition_outside_the_partitions_is_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Site("a", options)
