from collections.abc import Collection
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import CertificateError
from kumiai.identity import Identity, IssuedCertificate, RevocationList, Role, verify_peer

NOTHING_REVOKED = RevocationList(frozenset(), 1, 0.0, 4e9)


def judged(
    cert: bytes | x509.Certificate | None,
    now: float,
    *,
    federation: str = "hospitals",
    roles: Collection[Role] = (Role.CLIENT,),
    revoked: RevocationList | None = NOTHING_REVOKED,
) -> Identity:
    return verify_peer(cert, federation=federation, roles=roles, revoked=revoked, now=now)


def test_a_good_peer_is_told_by_its_identity(client: IssuedCertificate, clock: Any) -> None:
    pem = client.cert.read_bytes()

    assert judged(pem, clock.now()) == client.identity
    assert judged(x509.load_pem_x509_certificate(pem), clock.now()) == client.identity
    assert judged(pem, clock.now(), roles=set(Role), revoked=None) == client.identity


@pytest.mark.parametrize("cert", [None, b""])
def test_no_certificate_is_refused(cert: bytes | None) -> None:
    with pytest.raises(CertificateError, match="peer must show a certificate, got none"):
        judged(cert, 0)


def test_an_unreadable_certificate_is_refused() -> None:
    with pytest.raises(CertificateError, match="do not parse"):
        judged(b"junk", 0)


@pytest.mark.parametrize("federation", ["banks", "hospital", "Hospitals", ""])
def test_another_federation_is_refused(
    client: IssuedCertificate, clock: Any, federation: str
) -> None:
    with pytest.raises(CertificateError, match=f"must be of federation '{federation}', got kumiai"):
        judged(client.cert.read_bytes(), clock.now(), federation=federation)


@pytest.mark.parametrize(
    ("roles", "allowed"),
    [
        ((Role.OPERATOR,), "operator"),
        ((Role.OPERATOR, Role.COORDINATOR), "coordinator or operator"),
        ((), "nobody"),
    ],
)
def test_a_role_without_access_is_refused(
    client: IssuedCertificate, clock: Any, roles: tuple[Role, ...], allowed: str
) -> None:
    with pytest.raises(
        CertificateError,
        match=f"must have the role {allowed}, got kumiai://hospitals/client/site-1",
    ):
        judged(client.cert.read_bytes(), clock.now(), roles=roles)


def test_a_peer_may_enter_until_its_certificates_last_second(client: IssuedCertificate) -> None:
    end = client.identity.not_after

    assert judged(client.cert.read_bytes(), end)
    with pytest.raises(CertificateError, match=r"expired 2 s ago; .* check both clocks"):
        judged(client.cert.read_bytes(), end + 2)


def test_a_revoked_peer_is_refused_by_serial_number(client: IssuedCertificate, clock: Any) -> None:
    serial = client.identity.serial
    revoked = RevocationList(frozenset({serial}), 1, 0.0, 4e9)

    with pytest.raises(CertificateError, match=f"must not be revoked, got serial {serial:x}"):
        judged(client.cert.read_bytes(), clock.now(), revoked=revoked)


@given(st.binary(max_size=200))
def test_no_bytes_get_in_or_raise_another_error(content: bytes) -> None:
    with pytest.raises(CertificateError):
        judged(content, 0.0, roles=set(Role))
