"""Identifiers: how they are made and what a valid name looks like.

Random identifiers are 80 bits, lower-case base32, after a prefix that tells the kind
(``run-3k5x…``). Names that people choose (clients, apps, federations) are short and safe in file
paths, certificates and metric labels.
"""

import base64
import re
import secrets

from kumiai.core.errors import ConfigError

__all__ = ["new_id", "verify_name"]

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,62}")


def new_id(prefix: str) -> str:
    """Return a fresh identifier such as ``run-3k5xq2v7mzt4a6cd``."""
    return f"{prefix}-{base64.b32encode(secrets.token_bytes(10)).decode().lower()}"


def verify_name(field: str, value: str) -> str:
    """Return ``value`` if it is a valid name.

    Args:
        field: what the name is for; begins the error message.
        value: 1 to 63 characters: letters, digits, ``-``, ``_``, ``.``; begins with a letter or
            digit, no two dots in a row.

    Raises:
        ConfigError: the value breaks the rule.
    """
    if not _NAME.fullmatch(value):
        shown = value if len(value) <= 80 else value[:77] + "..."
        raise ConfigError(
            f"{field} must be 1 to 63 letters, digits, '-', '_' or single '.', "
            f"beginning with a letter or digit, got {shown!r}"
        )
    return value
