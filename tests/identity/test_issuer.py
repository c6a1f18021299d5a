import copy
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kumiai.core.errors import CertificateError, ConfigError, NotFoundError, StorageError
from kumiai.identity import (
    CertificateManager,
    IssuedCertificate,
    Role,
    TrustBundle,
    identity_of,
    signing,
    verify_own_certificate,
)
from kumiai.identity.authority import IssuerFiles
from kumiai.identity.index import IssuedRecord
from kumiai.identity.issuer import SiteIssuer
from kumiai.identity.keys import new_key, private_key_of, private_pem_of
from kumiai.identity.trust import chain_of

DAY_SECONDS = 86_400
PASSPHRASE = b"correct horse battery"


@pytest.fixture
def made(authority: CertificateManager, tmp_path: Path) -> IssuerFiles:
    return authority.delegate(out_dir=tmp_path / "sites", days=100)


@pytest.fixture
def issuer(authority: CertificateManager, made: IssuerFiles, clock: Any) -> SiteIssuer:
    return SiteIssuer.load(made.cert, made.key, authority.certificate_path, clock, None)


def test_a_site_gets_a_short_lived_certificate_of_a_client(
    issuer: SiteIssuer, authority: CertificateManager, tmp_path: Path, clock: Any
) -> None:
    key = new_key()

    signed = issuer.sign(key.public_key(), "site-1", lifetime_seconds=DAY_SECONDS)

    (tmp_path / "a.crt").write_bytes(signed.chain)
    (tmp_path / "a.key").write_bytes(private_pem_of(key))
    (tmp_path / "a.key").chmod(0o600)
    own = verify_own_certificate(
        tmp_path / "a.crt",
        tmp_path / "a.key",
        authority.certificate_path,
        clock,
        role=Role.CLIENT,
    )
    assert own == signed.identity
    assert (own.name, own.issuer_serial) == ("site-1", issuer.serial)
    assert own.not_after == int(clock.now() + DAY_SECONDS)
    assert signed.not_before == int(clock.now() - 300)
    assert issuer.federation == "hospitals"


@pytest.mark.parametrize(("name", "what"), [("cert", "issuer"), ("key", "issuer's key")])
def test_a_file_that_is_missing_or_too_large_is_named(
    authority: CertificateManager, made: IssuerFiles, clock: Any, name: str, what: str
) -> None:
    def load() -> SiteIssuer:
        return SiteIssuer.load(made.cert, made.key, authority.certificate_path, clock, None)

    path = getattr(made, name)
    path.write_bytes(path.read_bytes().ljust(64 * 1024 + 1, b"\n"))
    with pytest.raises(StorageError, match=f"^{what} must be at most 65536 bytes, got more"):
        load()
    path.unlink()
    with pytest.raises(NotFoundError, match=f"^{what} must exist"):
        load()


def test_a_certificate_does_not_outlive_its_issuer(issuer: SiteIssuer, clock: Any) -> None:
    signed = issuer.sign(new_key().public_key(), "a", lifetime_seconds=101 * DAY_SECONDS)

    assert signed.identity.not_after == int(clock.now() + 100 * DAY_SECONDS)


@pytest.mark.parametrize("days", [-1, 101])
def test_an_issuer_out_of_force_signs_nothing(issuer: SiteIssuer, clock: Any, days: int) -> None:
    clock.advance(days * DAY_SECONDS)

    with pytest.raises(CertificateError, match=r"must be valid now.*`kumiai ca delegate`"):
        issuer.sign(new_key().public_key(), "a", lifetime_seconds=60.0)


@pytest.mark.parametrize("days", [-1, 101])
def test_an_issuer_out_of_force_is_not_even_loaded(
    authority: CertificateManager, made: IssuerFiles, clock: Any, days: int
) -> None:
    clock.advance(days * DAY_SECONDS)

    with pytest.raises(CertificateError, match="issuer's certificate must be valid now"):
        SiteIssuer.load(made.cert, made.key, authority.certificate_path, clock, None)


def test_an_issuer_signs_from_its_first_to_its_last_second(issuer: SiteIssuer, clock: Any) -> None:
    certificate = issuer._certificate
    for moment in (certificate.not_valid_before_utc, certificate.not_valid_after_utc):
        clock.wall = moment.timestamp()

        issuer.verify_in_force()


def test_who_steals_the_key_can_make_no_operator_and_no_server(
    issuer: SiteIssuer, made: IssuerFiles, authority: CertificateManager, clock: Any
) -> None:
    stolen = private_key_of(made.key.read_bytes(), "key")
    certificate = x509.load_pem_x509_certificate(made.cert.read_bytes())
    record = IssuedRecord(7, Role.OPERATOR, "eve", (), clock.now() - 1, clock.now() + 99)
    forged = signing.new_member_certificate(
        record, (), new_key().public_key(), issuer=certificate, issuer_key=stolen
    )

    assert TrustBundle.load(authority.certificate_path).root_of((forged, certificate))
    with pytest.raises(CertificateError, match="must be a client's, got kumiai://hospitals/oper"):
        identity_of(forged)


def test_a_sealed_key_is_opened_by_its_passphrase(
    authority: CertificateManager, tmp_path: Path, clock: Any
) -> None:
    made = authority.delegate(out_dir=tmp_path / "sites", passphrase=PASSPHRASE)
    load = (made.cert, made.key, authority.certificate_path, clock)

    assert SiteIssuer.load(*load, PASSPHRASE).serial == made.serial
    with pytest.raises(ConfigError, match="passphrase must be the one that sealed the sites key"):
        SiteIssuer.load(*load, b"another passphrase")


def test_the_authoritys_own_issuer_is_refused_at_a_coordinator(
    authority: CertificateManager, issuer_cert: x509.Certificate, tmp_path: Path, clock: Any
) -> None:
    cert = tmp_path / "issuer.crt"
    cert.write_bytes(issuer_cert.public_bytes(Encoding.PEM))
    (key,) = authority.certificate_path.parent.glob("issuer-*.key")

    with pytest.raises(CertificateError, match="must be one for sites alone"):
        SiteIssuer.load(cert, key, authority.certificate_path, clock, None)


def test_another_issuers_key_and_another_federations_issuer_are_refused(
    authority: CertificateManager,
    made: IssuerFiles,
    stranger: IssuedCertificate,
    tmp_path: Path,
    clock: Any,
) -> None:
    other = authority.delegate(out_dir=tmp_path / "other")

    with pytest.raises(CertificateError, match="must belong to its certificate"):
        SiteIssuer.load(made.cert, other.key, authority.certificate_path, clock, None)
    with pytest.raises(CertificateError, match="must be signed by the authority"):
        SiteIssuer.load(made.cert, made.key, stranger.ca, clock, None)


def test_a_key_that_others_can_read_is_not_used(
    authority: CertificateManager, made: IssuerFiles, clock: Any
) -> None:
    made.key.chmod(0o644)

    with pytest.raises(CertificateError, match="chmod 600"):
        SiteIssuer.load(made.cert, made.key, authority.certificate_path, clock, None)


def test_an_issuer_cannot_be_copied(issuer: SiteIssuer) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        copy.copy(issuer)


def test_the_chain_ends_with_the_issuer(issuer: SiteIssuer, made: IssuerFiles) -> None:
    signed = issuer.sign(new_key().public_key(), "a", lifetime_seconds=60.0)

    assert chain_of(signed.chain)[1].serial_number == made.serial
