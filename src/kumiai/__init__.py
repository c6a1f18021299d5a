"""Kumiai for data scientists: a study in one file.

A whole study::

    import kumiai as km

    app = km.App("digits", data=km.datasets.digits)

    @app.model
    def model(config): ...

    @app.train
    def train(weights, context): ...  # returns km.Update

    km.run(app, sites=4, rounds=20)

Names load on first use, so that ``import kumiai`` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kumiai.node import datasets
    from kumiai.node.adapters.private_torch import train_privately
    from kumiai.node.adapters.sklearn import sklearn
    from kumiai.node.adapters.torch import torch
    from kumiai.node.simulation import run, simulate
    from kumiai.node.study import App, Context, Evaluation, Site, Update

    __version__: str

__all__ = [
    "App",
    "Context",
    "Evaluation",
    "Site",
    "Update",
    "__version__",
    "datasets",
    "run",
    "simulate",
    "sklearn",
    "torch",
    "train_privately",
]

_HOMES = {
    "App": "kumiai.node.study",
    "Context": "kumiai.node.study",
    "Evaluation": "kumiai.node.study",
    "Site": "kumiai.node.study",
    "Update": "kumiai.node.study",
    "run": "kumiai.node.simulation",
    "simulate": "kumiai.node.simulation",
    "sklearn": "kumiai.node.adapters.sklearn",
    "torch": "kumiai.node.adapters.torch",
    "train_privately": "kumiai.node.adapters.private_torch",
}


def __getattr__(name: str) -> Any:
    """Load a public name on its first use."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("kumiai")
    elif name == "datasets":
        value = importlib.import_module("kumiai.node.datasets")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted(__all__)
