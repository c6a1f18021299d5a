"""Finding a study: from a file or an installed module to its ``App``."""

import hashlib
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from kumiai.core.errors import ConfigError
from kumiai.node.study.app import App
from kumiai.node.study.errors import StudyError
from kumiai.node.study.execution import failure_of

__all__ = ["load_app"]


def load_app(reference: str) -> App:
    """Return the app that ``reference`` names; runs the code of its module.

    Args:
        reference: ``path/to/file.py`` or ``package.module``, either followed by ``:name`` with
            the name of the variable that holds the app; without it the module must hold exactly
            one. A file may import its neighbours: its folder joins the end of ``sys.path``.

    Raises:
        ConfigError: there is no such file, module or app, there are several, or the app lacks a
            function.
        StudyError: the module's code raised.
    """
    place, _, name = reference.partition(":")
    if not place:
        raise ConfigError(
            f"app reference must be path/to/file.py[:name] or package.module[:name], "
            f"got {reference!r}"
        )
    is_file = place.endswith(".py") or os.sep in place
    module = _module_from_file(Path(place)) if is_file else _module_from_name(place)
    app = _app_called(name, module, place) if name else _only_app(module, place)
    app.verify_complete()
    return app


def _module_from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"app reference must name an existing file, got {str(path)!r}")
    location = path.resolve()
    # The full path is part of the name: two studies may both live in a file called study.py.
    digest = hashlib.sha256(os.fsencode(location)).hexdigest()[:12]
    name = f"kumiai_study_{digest}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, location)
    if spec is None or spec.loader is None:
        raise ConfigError(f"app reference must name a Python file, got {str(path)!r}")
    folder = str(location.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it is being run
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        files = frozenset({str(location)})
        raise StudyError(failure_of(f"file {str(path)!r}", error, files=files)) from error
    return module


def _module_from_name(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and _is_part(error.name, name):
            raise ConfigError(
                f"app reference must name an installed module, got {name!r}; "
                "a file is named by its path, such as ./study.py"
            ) from None
        raise StudyError(failure_of(f"module {name!r}", error)) from error


def _is_part(missing: str | None, name: str) -> bool:
    return missing is not None and f"{name}.".startswith(f"{missing}.")


def _app_called(name: str, module: ModuleType, place: str) -> App:
    found = getattr(module, name, None)
    if isinstance(found, App):
        return found
    raise ConfigError(f"{place}:{name} must be an App, got {_described(module)}")


def _only_app(module: ModuleType, place: str) -> App:
    apps = {id(value): value for value in vars(module).values() if isinstance(value, App)}
    if len(apps) == 1:
        return next(iter(apps.values()))
    raise ConfigError(
        f"{place} must hold exactly one App, or be named as {place}:name, got {_described(module)}"
    )


def _described(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, App)]
    return f"a module with apps {', '.join(names)}" if names else "a module without any App"
