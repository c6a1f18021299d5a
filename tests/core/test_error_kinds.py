"""Each error has a word, and the word gives the error back."""

import pytest

from kumiai.core import errors
from kumiai.core.error_kinds import ERRORS_BY_KIND, kind_of


@pytest.mark.parametrize("kind", ERRORS_BY_KIND)
def test_an_error_comes_back_from_its_word(kind: str) -> None:
    assert kind_of(ERRORS_BY_KIND[kind]("x")) == kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.CertificateError("x"), "denied"),
        (errors.CodecError("x"), "integrity"),
        (errors.FencedError("x"), "conflict"),
        (errors.SchemaError("x"), "storage"),
        (errors.TransportError("x"), "internal"),
        (errors.UpdateRejectedError("x"), "internal"),
        (TypeError("x"), "internal"),
    ],
)
def test_an_error_without_a_word_of_its_own_has_that_of_its_nearest_class(
    error: Exception, kind: str
) -> None:
    assert kind_of(error) == kind
