from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kumiai.core.errors import CertificateError, NotFoundError
from kumiai.identity import (
    CertificateManager,
    Identity,
    IssuedCertificate,
    Role,
    TrustBundle,
    verify_own_certificate,
)

DAY_SECONDS = 86_400


def checked(
    issued: IssuedCertificate, clock: Any, *, role: Role = Role.CLIENT, **files: Path
) -> Identity:
    return verify_own_certificate(
        files.get("cert", issued.cert),
        files.get("key", issued.key),
        files.get("ca", issued.ca),
        clock,
        role=role,
    )


def test_a_certificate_that_is_fit_tells_whose_it_is(client: IssuedCertificate, clock: Any) -> None:
    assert checked(client, clock) == client.identity


def test_another_role_is_refused_with_the_mend(client: IssuedCertificate, clock: Any) -> None:
    with pytest.raises(
        CertificateError,
        match=r"role coordinator, got client in .*`kumiai ca issue coordinator`",
    ):
        checked(client, clock, role=Role.COORDINATOR)


def test_another_authority_of_the_same_name_is_refused(
    client: IssuedCertificate, stranger: IssuedCertificate, clock: Any
) -> None:
    with pytest.raises(CertificateError, match="must be signed by the authority in the ca file"):
        checked(client, clock, ca=stranger.ca)


def test_another_federations_authority_is_refused(
    client: IssuedCertificate, tmp_path: Path, clock: Any
) -> None:
    other = CertificateManager(tmp_path / "banks", clock=clock).create("banks")

    with pytest.raises(CertificateError, match="must be signed by the authority"):
        checked(client, clock, ca=other)


def test_a_second_authority_may_be_trusted_while_one_replaces_the_other(
    client: IssuedCertificate, stranger: IssuedCertificate, tmp_path: Path, clock: Any
) -> None:
    bundle = tmp_path / "both.crt"
    bundle.write_bytes(stranger.ca.read_bytes() + client.ca.read_bytes())

    assert checked(client, clock, ca=bundle) == client.identity
    assert checked(stranger, clock, ca=bundle) == stranger.identity
    assert len(TrustBundle.load(bundle).authorities) == 2


def test_a_certificate_is_fit_until_its_last_second(client: IssuedCertificate, clock: Any) -> None:
    clock.wall = client.identity.not_after
    assert checked(client, clock)

    clock.advance(0.5)

    with pytest.raises(CertificateError, match=rf"certificate {client.cert} .*expired at .* UTC"):
        checked(client, clock)


def test_a_certificate_is_fit_from_its_first_second(client: IssuedCertificate, clock: Any) -> None:
    certificate = x509.load_pem_x509_certificate(client.cert.read_bytes())
    clock.wall = certificate.not_valid_before_utc.timestamp()
    assert checked(client, clock)

    clock.advance(-0.5)

    with pytest.raises(CertificateError, match=r"valid from .* UTC; this machine's clock is prob"):
        checked(client, clock)


def test_a_certificate_of_an_expired_authority_is_refused(
    new_certificate: Callable[..., x509.Certificate],
    pem_of: Callable[[x509.Certificate], bytes],
    key_pem_of: Callable[..., bytes],
    tmp_path: Path,
    clock: Any,
) -> None:
    key, authority_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = new_certificate(None, key=authority_key, is_authority=True, not_after=1e9)
    names = [x509.UniformResourceIdentifier("kumiai://hospitals/client/a")]
    certificate = new_certificate(names, key=key, signer=authority_key)
    (tmp_path / "a.crt").write_bytes(pem_of(certificate))
    (tmp_path / "ca.crt").write_bytes(pem_of(authority))
    (tmp_path / "a.key").write_bytes(key_pem_of(key))
    (tmp_path / "a.key").chmod(0o600)

    with pytest.raises(CertificateError, match=r"ca certificate .*ca\.crt must be valid now"):
        verify_own_certificate(
            tmp_path / "a.crt", tmp_path / "a.key", tmp_path / "ca.crt", clock, role=Role.CLIENT
        )


def test_a_certificate_that_claims_another_federation_is_refused(
    new_certificate: Callable[..., x509.Certificate],
    pem_of: Callable[[x509.Certificate], bytes],
    key_pem_of: Callable[..., bytes],
    tmp_path: Path,
    clock: Any,
) -> None:
    key, authority_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = new_certificate(None, key=authority_key, is_authority=True)
    names = [x509.UniformResourceIdentifier("kumiai://banks/client/a")]
    certificate = new_certificate(names, key=key, signer=authority_key)
    (tmp_path / "a.crt").write_bytes(pem_of(certificate))
    (tmp_path / "ca.crt").write_bytes(pem_of(authority))
    (tmp_path / "a.key").write_bytes(key_pem_of(key))
    (tmp_path / "a.key").chmod(0o600)

    with pytest.raises(CertificateError, match="federation 'hospitals', got 'banks'"):
        verify_own_certificate(
            tmp_path / "a.crt", tmp_path / "a.key", tmp_path / "ca.crt", clock, role=Role.CLIENT
        )


def test_another_certificates_key_is_refused(
    client: IssuedCertificate, stranger: IssuedCertificate, clock: Any
) -> None:
    with pytest.raises(CertificateError, match="private key must belong to the certificate"):
        checked(client, clock, key=stranger.key)


def test_a_key_that_others_can_read_is_refused_with_the_mend(
    client: IssuedCertificate, clock: Any
) -> None:
    client.key.chmod(0o640)

    with pytest.raises(CertificateError, match=f"got mode 0640; run `chmod 600 {client.key}`"):
        checked(client, clock)


def test_an_encrypted_key_is_refused(
    client: IssuedCertificate, clock: Any, key_pem_of: Callable[..., bytes]
) -> None:
    key = serialization.load_pem_private_key(client.key.read_bytes(), None)
    client.key.write_bytes(key_pem_of(key, serialization.BestAvailableEncryption(b"passphrase")))

    with pytest.raises(CertificateError, match="PEM without a passphrase"):
        checked(client, clock)


def test_a_certificate_in_place_of_the_key_is_refused(
    client: IssuedCertificate, clock: Any
) -> None:
    client.key.write_bytes(client.cert.read_bytes())

    with pytest.raises(CertificateError, match="private key must be PEM"):
        checked(client, clock)


def test_no_refusal_shows_the_key(client: IssuedCertificate, clock: Any) -> None:
    secret = client.key.read_text().splitlines()[1]
    client.key.write_text(client.key.read_text().replace("-----END", "-----END OF"))

    with pytest.raises(CertificateError) as caught:
        checked(client, clock)

    assert secret not in str(caught.value)


@pytest.mark.parametrize("missing", ["cert", "key", "ca"])
def test_a_missing_file_is_named(client: IssuedCertificate, clock: Any, missing: str) -> None:
    path = getattr(client, missing)
    path.unlink()

    with pytest.raises(NotFoundError, match=f"must exist, got no file at {path}"):
        checked(client, clock)


def test_a_members_certificate_is_no_authority(client: IssuedCertificate, clock: Any) -> None:
    with pytest.raises(CertificateError, match="must be an authority's, got a member's"):
        checked(client, clock, ca=client.cert)


def test_a_certificate_that_says_nothing_of_the_matter_is_no_authority(
    new_certificate: Callable[..., x509.Certificate], pem_of: Callable[[x509.Certificate], bytes]
) -> None:
    with pytest.raises(CertificateError, match="must be an authority's"):
        TrustBundle.load(pem_of(new_certificate(None)))


def test_one_that_is_no_authority_spoils_the_bundle(client: IssuedCertificate) -> None:
    with pytest.raises(CertificateError, match="must be an authority's"):
        TrustBundle.load(client.ca.read_bytes() + client.cert.read_bytes())


@pytest.mark.parametrize("content", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAA==\n"])
def test_something_else_is_no_bundle(content: bytes) -> None:
    with pytest.raises(CertificateError, match="ca certificate must be PEM"):
        TrustBundle.load(content)


def test_the_issuer_is_the_authority_that_signed(
    client: IssuedCertificate, stranger: IssuedCertificate
) -> None:
    certificate = x509.load_pem_x509_certificate(client.cert.read_bytes())
    bundle = TrustBundle.load(stranger.ca.read_bytes() + client.ca.read_bytes())

    assert bundle.issuer_of(certificate) == bundle.authorities[1]
