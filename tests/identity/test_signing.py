from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from kumiai.core.errors import CertificateError
from kumiai.identity.signing import federation_of


def test_an_authoritys_certificate_names_its_federation(authority_cert: x509.Certificate) -> None:
    assert federation_of(authority_cert) == "hospitals"


@pytest.mark.parametrize("organisations", [[], ["a", "b"]])
def test_none_or_two_federations_are_refused(
    new_certificate: Callable[..., x509.Certificate], organisations: list[str]
) -> None:
    certificate = new_certificate(None, organisations=organisations)

    with pytest.raises(CertificateError, match=f"one organisation, got {len(organisations)}"):
        federation_of(certificate)


def test_an_unreadable_subject_is_refused(new_certificate: Callable[..., x509.Certificate]) -> None:
    der = new_certificate(None).public_bytes(serialization.Encoding.DER)
    damaged = x509.load_der_x509_certificate(
        der.replace(b"\x0c\x09hosp", b"\x0c\x09\xff\xff\xff\xff")
    )

    with pytest.raises(CertificateError, match="readable subject"):
        federation_of(damaged)
