"""What the process's exit code says: the one table from errors and run states to codes."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

from kumiai.core.errors import (
    BudgetExhaustedError,
    ConfigError,
    DeadlineError,
    DeniedError,
    IntegrityError,
    KumiaiError,
    NotFoundError,
)

__all__ = ["EXIT_CODES", "ExitCode", "exit_code_of_error", "exit_code_of_run"]


class ExitCode(IntEnum):
    """Part of the command line's contract: scripts rely on them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    DENIED = 4
    DEADLINE = 5
    PRIVACY_BUDGET_EXHAUSTED = 6
    VERIFICATION_FAILED = 7
    INTERRUPTED = 130


EXIT_CODES: Final[Mapping[type[KumiaiError], ExitCode]] = {
    BudgetExhaustedError: ExitCode.PRIVACY_BUDGET_EXHAUSTED,
    ConfigError: ExitCode.USAGE,
    NotFoundError: ExitCode.NOT_FOUND,
    DeniedError: ExitCode.DENIED,
    DeadlineError: ExitCode.DEADLINE,
    IntegrityError: ExitCode.VERIFICATION_FAILED,
    KumiaiError: ExitCode.FAILED,
}
"""The nearest class counts: a QuorumLostError is a DeadlineError."""

_RUN_CODES: Final = {
    "budget_exhausted": ExitCode.PRIVACY_BUDGET_EXHAUSTED,
    "deadline": ExitCode.DEADLINE,
    "quorum_lost": ExitCode.DEADLINE,
}
"""By the kind of error that a run failed with."""


def exit_code_of_error(error: KumiaiError) -> ExitCode:
    """Return the code of the nearest class in the table."""
    return next(EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)


def exit_code_of_run(run: Mapping[str, Any]) -> ExitCode:
    """Return the code for how a run ended.

    Args:
        run: ``state`` and ``end_kind``, as the coordinator tells them.
    """
    if run["state"] == "finished":
        return ExitCode.OK
    return _RUN_CODES.get(run["end_kind"], ExitCode.FAILED)
