"""What every command may be told: output format, config file, settings, debug."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kumiai.core.errors import ConfigError, NotFoundError

if TYPE_CHECKING:
    from kumiai.node.settings import Settings
    from kumiai.node.settings_source import LoadedSettings

__all__ = ["Invocation", "OutputFormat", "invocation_of", "parse_overrides"]


class OutputFormat(StrEnum):
    """How results are written to standard output."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    YAML = "yaml"


@dataclass(slots=True)
class Invocation:
    """The options that all commands share; each may stand anywhere on the line."""

    config: Path | None = None
    overrides: dict[str, str] = field(default_factory=dict)
    output: OutputFormat = OutputFormat.TABLE
    debug: bool = False

    def load(self) -> "LoadedSettings":
        """Return the settings with their origins.

        Raises:
            ConfigError: a setting is wrong.
        """
        from kumiai.node.settings_source import load_settings

        return load_settings(self.config, overrides=self.overrides, environ=os.environ)

    @property
    def settings(self) -> "Settings":
        """The settings alone; loads them."""
        return self.load().settings

    def settings_for(self, role: str) -> "Settings":
        """Return the settings of a member of a federation.

        Raises:
            ConfigError: a setting is wrong.
            NotFoundError: there is neither a config file nor a certificate where the default says.
        """
        loaded = self.load()
        certificate = loaded.settings.identity.certificate
        is_default = loaded.origins.get("identity.certificate") == "default"
        has_token = loaded.settings.operator.token is not None
        if loaded.path is None and is_default and not certificate.exists() and not has_token:
            raise NotFoundError(
                f"a config file must be given, got no kumiai.toml in {Path.cwd()}; name one with "
                f"--config or KUMIAI_CONFIG, or write one with `kumiai config init {role}`"
            )
        return loaded.settings


def invocation_of(ctx: typer.Context) -> Invocation:
    """Return what this invocation of the program was told."""
    found = ctx.find_root().obj
    if not isinstance(found, Invocation):
        raise TypeError(f"context must hold an Invocation, got {type(found).__name__}")
    return found


def parse_overrides(entries: list[str], option: str = "--set") -> Mapping[str, str]:
    """Return ``key=value`` texts by key; of the same key twice the last counts.

    Args:
        entries: as they stand on the line.
        option: what they were given to, for the message.

    Raises:
        ConfigError: there is no ``=`` in one.
    """
    overrides = {}
    for entry in entries:
        key, separator, value = entry.partition("=")
        if not separator or not key:
            raise ConfigError(f"{option} must be key=value, got {entry!r}")
        overrides[key.strip()] = value
    return overrides
