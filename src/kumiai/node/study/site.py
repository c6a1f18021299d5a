"""A site as its data loader sees it: a name and the options its owner wrote for the data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from kumiai.core.errors import ConfigError

__all__ = ["Site"]


@dataclass(frozen=True, slots=True)
class Site:
    """Where data lives: the argument of an app's data loader.

    Attributes:
        name: the client's id, as in its certificate.
        options: the ``data`` table of the client's settings, for example a path, or for
            data that are split artificially ``{"partition": 0, "partitions": 5}``.

    Raises:
        ConfigError: ``partition`` and ``partitions`` are not integers with
            ``0 <= partition < partitions``.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Freeze the options and check the two that have a fixed meaning."""
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))
        if not _is_integer(self.partitions) or self.partitions < 1:
            raise ConfigError(
                f"data.partitions of site {self.name!r} must be an integer >= 1, "
                f"got {self.partitions!r}"
            )
        if not _is_integer(self.partition) or not 0 <= self.partition < self.partitions:
            raise ConfigError(
                f"data.partition of site {self.name!r} must be an integer from 0 to "
                f"{self.partitions - 1}, got {self.partition!r}"
            )

    @property
    def partition(self) -> int:
        """Which part of artificially split data this site holds; counts from 0."""
        value: int = self.options.get("partition", 0)
        return value

    @property
    def partitions(self) -> int:
        """Into how many parts the data are split; 1 when they are not."""
        value: int = self.options.get("partitions", 1)
        return value


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
