import inspect

import pytest

from kumiai.core import errors
from kumiai.node.cli.exit_codes import ExitCode, exit_code_of_error, exit_code_of_run
from kumiai.node.study import StudyError

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.ConfigError, 2),
        (errors.NotFoundError, 3),
        (errors.DeniedError, 4),
        (errors.CertificateError, 4),
        (errors.DeadlineError, 5),
        (errors.QuorumLostError, 5),
        (errors.BudgetExhaustedError, 6),
        (errors.IntegrityError, 7),
        (errors.CodecError, 7),
        (errors.ConflictError, 1),
        (errors.TransportError, 1),
        (errors.SchemaError, 1),
        (StudyError, 1),
    ],
)
def test_the_nearest_class_counts(kind: type[errors.KumiaiError], code: int) -> None:
    assert exit_code_of_error(kind("x")) == code


@pytest.mark.parametrize("kind", ALL)
def test_every_error_has_a_code_and_none_is_zero(kind: type[errors.KumiaiError]) -> None:
    assert exit_code_of_error(kind("x")) > ExitCode.OK


@pytest.mark.parametrize(
    ("state", "end_kind", "code"),
    [
        ("finished", None, 0),
        ("stopped", None, 1),
        ("failed", "quorum_lost", 5),
        ("failed", "deadline", 5),
        ("failed", "budget_exhausted", 6),
        ("failed", "config", 1),
        ("failed", "internal", 1),
        ("failed", "of a later version", 1),
        ("failed", None, 1),
    ],
)
def test_a_run_ends_with_its_own_code(state: str, end_kind: str | None, code: int) -> None:
    assert exit_code_of_run({"state": state, "end_kind": end_kind}) == code
