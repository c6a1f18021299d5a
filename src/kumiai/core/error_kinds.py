"""A word for each kind of error, for where a class can not go: rows, answers, messages."""

from collections.abc import Mapping
from typing import Final

from kumiai.core.errors import (
    BudgetExhaustedError,
    ConfigError,
    ConflictError,
    DeadlineError,
    DeniedError,
    DivergedError,
    IntegrityError,
    KumiaiError,
    NotFoundError,
    QuorumLostError,
    StorageError,
)

__all__ = ["ERRORS_BY_KIND", "kind_of"]

ERRORS_BY_KIND: Final[Mapping[str, type[KumiaiError]]] = {
    "budget_exhausted": BudgetExhaustedError,
    "config": ConfigError,
    "conflict": ConflictError,
    "deadline": DeadlineError,
    "denied": DeniedError,
    "diverged": DivergedError,
    "integrity": IntegrityError,
    "internal": KumiaiError,
    "not_found": NotFoundError,
    "quorum_lost": QuorumLostError,
    "storage": StorageError,
}

_KINDS: Final = {error: kind for kind, error in ERRORS_BY_KIND.items()}


def kind_of(error: BaseException) -> str:
    """Return the word for the error's nearest class; of an error that is none of ours, internal."""
    return next((_KINDS[each] for each in type(error).__mro__ if each in _KINDS), "internal")
