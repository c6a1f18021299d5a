"""From an answer that tells an error to the error that it was at the coordinator."""

import json

from kumiai.core.error_kinds import ERRORS_BY_KIND
from kumiai.core.errors import KumiaiError

__all__ = ["find_error"]


def find_error(body: bytes) -> KumiaiError | None:
    """Return the error in an answer's body, or ``None`` if no coordinator wrote it."""
    try:
        error = json.loads(body)["error"]
        return ERRORS_BY_KIND[error["kind"]](str(error["message"]))
    except (ValueError, KeyError, TypeError):
        return None
