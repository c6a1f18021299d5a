"""The studies that a program is told to load."""

from kumiai.core.errors import ConfigError
from kumiai.node.study import App, load_app

__all__ = ["load_apps"]


def load_apps(references: tuple[str, ...], field: str) -> dict[str, App]:
    """Return the apps by name.

    Args:
        references: as for `load_app`.
        field: the setting, for the messages.

    Raises:
        ConfigError: a reference is wrong, an app is not complete, or a name stands twice.
    """
    apps: dict[str, App] = {}
    for reference in references:
        app = load_app(reference)
        app.verify_complete()
        if app.name in apps:
            raise ConfigError(f"{field} must name each app once, got {app.name!r} twice")
        apps[app.name] = app
    return apps
