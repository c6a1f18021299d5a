from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kumiai.core.errors import CertificateError, NotFoundError, StorageError
from kumiai.identity import (
    CertificateManager,
    Identity,
    IssuedCertificate,
    Role,
    TrustBundle,
    identity_of,
    verify_own_certificate,
)
from kumiai.identity.trust import chain_of
from tests.identity.forge import forge, forge_authority

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


@pytest.mark.parametrize(
    ("name", "what"), [("cert", "certificate"), ("key", "private key"), ("ca", "ca certificate")]
)
def test_a_missing_file_is_named(
    client: IssuedCertificate, clock: Any, name: str, what: str
) -> None:
    path = getattr(client, name)
    path.unlink()

    with pytest.raises(NotFoundError, match=f"^{what} must exist, got no file at {path}"):
        checked(client, clock)


@pytest.mark.parametrize(("name", "what"), [("cert", "certificate"), ("key", "private key")])
def test_a_file_that_is_too_large_is_named(
    client: IssuedCertificate, clock: Any, name: str, what: str
) -> None:
    path = getattr(client, name)
    path.write_bytes(path.read_bytes().ljust(64 * 1024 + 1, b"\n"))

    with pytest.raises(StorageError, match=f"^{what} must be at most 65536 bytes, got more"):
        checked(client, clock)


def test_a_chain_is_read_up_to_its_limits(client: IssuedCertificate) -> None:
    pem = client.cert.read_bytes()

    assert len(chain_of(pem * 2)) == 4
    with pytest.raises(CertificateError, match="at most 4 certificates, got 5"):
        chain_of(pem * 2 + client.ca.read_bytes())
    with pytest.raises(CertificateError, match="must be at most 65536 bytes, got 65537"):
        chain_of(pem.ljust(64 * 1024 + 1, b"\n"))


@pytest.mark.parametrize(
    "changes",
    [
        {"is_authority": False, "may_sign": True},
        {"may_sign": False},
        {"with_constraints": False},
        {"with_usage": False},
    ],
    ids=["no authority", "no signatures", "no constraints", "no usage"],
)
def test_who_may_not_sign_vouches_for_nobody(changes: dict[str, Any]) -> None:
    values = {"is_authority": True, "path_length": 1, "name": "root", "uris": (), **changes}
    root = forge(**values)

    with pytest.raises(CertificateError, match="must be signed by the authority in the ca file"):
        TrustBundle((root.certificate,)).root_of((forge(by=root).certificate,))


def test_a_root_that_may_have_no_issuers_has_none() -> None:
    root = forge_authority(path_length=0)
    issuer = forge_authority(by=root, serial=2, path_length=0, name="issuer")
    bundle = TrustBundle((root.certificate,))

    assert bundle.root_of((forge(by=root).certificate,)) == root.certificate
    with pytest.raises(CertificateError, match="must be signed by the authority in the ca file"):
        bundle.root_of((forge(by=issuer).certificate, issuer.certificate))
    assert bundle.serials == {1}


def test_a_certificate_that_outlives_its_issuer_ends_with_it(tmp_path: Path, clock: Any) -> None:
    root = forge_authority()
    issuer = forge_authority(by=root, serial=2, path_length=0, ends=clock.now() - DAY_SECONDS)
    leaf = forge(by=issuer)
    issued = IssuedCertificate(
        identity_of(leaf.certificate), tmp_path / "a.crt", tmp_path / "a.key", tmp_path / "ca.crt"
    )
    issued.cert.write_bytes(leaf.pem + issuer.pem)
    issued.key.write_bytes(leaf.key_pem)
    issued.key.chmod(0o600)
    issued.ca.write_bytes(root.pem)

    with pytest.raises(CertificateError, match=f"^issuer's certificate in {issued.cert} must be"):
        checked(issued, clock)


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


def test_the_root_is_found_over_the_issuer(
    client: IssuedCertificate, stranger: IssuedCertificate
) -> None:
    chain = chain_of(client.cert.read_bytes())
    bundle = TrustBundle.load(stranger.ca.read_bytes() + client.ca.read_bytes())

    assert bundle.root_of(chain) == bundle.authorities[1]
    assert bundle.root_of((*chain, bundle.authorities[1])) == bundle.authorities[1]


def test_a_certificate_without_its_issuers_is_told_what_is_missing(
    client: IssuedCertificate, clock: Any
) -> None:
    leaf = x509.load_pem_x509_certificate(client.cert.read_bytes())
    client.cert.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))

    with pytest.raises(CertificateError, match="or by an issuer of it in the same file"):
        checked(client, clock)


def test_a_certificate_with_another_issuers_is_refused(
    client: IssuedCertificate, stranger: IssuedCertificate, clock: Any
) -> None:
    leaf, _ = chain_of(client.cert.read_bytes())
    _, other = chain_of(stranger.cert.read_bytes())
    client.cert.write_bytes(
        b"".join(each.public_bytes(serialization.Encoding.PEM) for each in (leaf, other))
    )

    with pytest.raises(CertificateError, match=r"must be followed by its issuer's, got another's"):
        checked(client, clock)


def test_a_member_cannot_sign_members(
    authority: CertificateManager, client: IssuedCertificate, new_certificate: Any
) -> None:
    key = serialization.load_pem_private_key(client.key.read_bytes(), None)
    names = [x509.UniformResourceIdentifier("kumiai://hospitals/operator/eve")]
    chain = chain_of(client.cert.read_bytes())
    forged = new_certificate(names, signer=key, issuer=chain[0].subject)

    with pytest.raises(CertificateError, match="must be followed by its issuer's"):
        TrustBundle.load(client.ca).root_of((forged, *chain))


def test_an_issuer_cannot_make_issuers(
    authority: CertificateManager,
    issuer_cert: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    new_certificate: Any,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.UniformResourceIdentifier("kumiai://hospitals/operator/eve")]
    below = new_certificate(
        None,
        key=key,
        signer=issuer_key,
        issuer=issuer_cert.subject,
        organisations=["below"],
        is_authority=True,
    )
    forged = new_certificate(names, signer=key, issuer=below.subject)

    with pytest.raises(CertificateError, match="must be followed by its issuer's"):
        TrustBundle.load(authority.certificate_path).root_of((forged, below, issuer_cert))


def test_a_certificate_with_an_issuer_out_of_force_is_refused(tmp_path: Path, clock: Any) -> None:
    manager = CertificateManager(tmp_path / "ca", clock=clock)
    manager.create("hospitals")
    manager.renew_intermediate(days=10)
    issued = manager.issue(Role.CLIENT, "a", days=365, out_dir=tmp_path / "a")
    clock.advance(11 * DAY_SECONDS)

    with pytest.raises(CertificateError, match="must be valid now, got one that expired"):
        checked(issued, clock)


def test_a_file_of_too_many_certificates_is_refused(client: IssuedCertificate) -> None:
    with pytest.raises(CertificateError, match="at most 4 certificates, got 6"):
        chain_of(client.cert.read_bytes() * 3)


def test_a_file_whose_second_certificate_is_damaged_is_refused(client: IssuedCertificate) -> None:
    damaged = b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"

    with pytest.raises(CertificateError, match="must hold PEM certificates alone"):
        chain_of(client.cert.read_bytes() + damaged)
