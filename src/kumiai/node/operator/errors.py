"""From an answer that tells an error to the error that it was at the coordinator."""

import json
from collections.abc import Mapping
from typing import Final

from kumiai.core.errors import (
    ConfigError,
    ConflictError,
    DeadlineError,
    DeniedError,
    IntegrityError,
    KumiaiError,
    NotFoundError,
    StorageError,
)

__all__ = ["ERRORS_BY_KIND", "find_error"]

ERRORS_BY_KIND: Final[Mapping[str, type[KumiaiError]]] = {
    "config": ConfigError,
    "conflict": ConflictError,
    "deadline": DeadlineError,
    "denied": DeniedError,
    "integrity": IntegrityError,
    "internal": KumiaiError,
    "not_found": NotFoundError,
    "storage": StorageError,
}


def find_error(body: bytes) -> KumiaiError | None:
    """Return the error in an answer's body, or ``None`` if no coordinator wrote it."""
    try:
        error = json.loads(body)["error"]
        return ERRORS_BY_KIND[error["kind"]](str(error["message"]))
    except (ValueError, KeyError, TypeError):
        return None
