import pytest

from kumiai.core.errors import ConfigError
from kumiai.node.assembly.studies import load_apps


def test_studies_are_found_by_the_names_of_their_apps() -> None:
    apps = load_apps(("kumiai.node.studies.digits", "kumiai.node.studies.heart"), "client.apps")

    assert {name: app.name for name, app in apps.items()} == {"digits": "digits", "heart": "heart"}
    assert load_apps((), "client.apps") == {}


def test_a_name_that_stands_twice_is_refused() -> None:
    twice = ("kumiai.node.studies.heart", "kumiai.node.studies.heart:app")

    with pytest.raises(
        ConfigError, match=r"client\.apps must name each app once, got 'heart' twice"
    ):
        load_apps(twice, "client.apps")
