"""The public API: lazy names, cheap import."""

import subprocess
import sys

import pytest

import kumiai


def test_importing_kumiai_loads_nothing_else() -> None:
    code = (
        "import sys, kumiai; "
        "print(*(m for m in sys.modules if m == 'numpy' or m.startswith('kumiai.')))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == ""


def test_the_study_needs_no_server_libraries() -> None:
    code = (
        "import sys, kumiai as km; km.App, km.Site, km.datasets; "
        "print(*(m for m in ('grpc', 'sqlalchemy', 'fastapi', 'pydantic', 'sklearn', 'torch') "
        "if m in sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == ""


def test_public_names_are_those_of_the_study_room() -> None:
    from kumiai.node import study

    for name in ("App", "Context", "Evaluation", "Site", "Update"):
        assert getattr(kumiai, name) is getattr(study, name)
    assert kumiai.__version__.count(".") == 2
    assert set(kumiai.__all__) <= set(dir(kumiai))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'kumiai' has no attribute 'surely_not'"):
        _ = kumiai.surely_not


def test_the_study_room_exports_what_it_lists() -> None:
    from kumiai.node import study

    assert all(hasattr(study, name) for name in study.__all__)
