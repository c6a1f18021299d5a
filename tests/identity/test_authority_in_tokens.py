"""An authority whose keys stay in a token, in a made-up one and in SoftHSM's."""

import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from kumiai.core.errors import (
    CertificateError,
    ConfigError,
    ConflictError,
    IntegrityError,
    UnavailableError,
)
from kumiai.identity import (
    CertificateManager,
    IssuedCertificate,
    RevocationList,
    Role,
    SiteIssuer,
    TrustBundle,
    client_context,
    server_context,
    verify_own_certificate,
)
from kumiai.identity.authority import IssuerFiles
from kumiai.identity.keys import digest_of, new_key
from kumiai.identity.pkcs11_uri import KeyURI
from kumiai.identity.trust import chain_of
from tests.identity.tokens import FakePlace, Place, SoftHSMPlace, softhsm_or_skip

FEDERATION = "hospitals"
DAY_SECONDS = 86_400
PASSPHRASE = b"correct horse battery"


@pytest.fixture
def fake() -> FakePlace:
    return FakePlace()


@pytest.fixture(params=["fake", "softhsm"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    if request.param == "fake":
        return FakePlace()
    return SoftHSMPlace(softhsm_or_skip(lambda: tmp_path_factory.mktemp("softhsm")))


def authority_in(place: Place, directory: Path, clock: Any) -> CertificateManager:
    manager = CertificateManager(directory, clock=clock, tokens=place.tokens)
    manager.create(
        FEDERATION,
        root_key=place.tokens.key(place.new_key("root")),
        issuer_key=place.tokens.key(place.new_key("issuer")),
    )
    return manager


@pytest.fixture
def hsm_authority(place: Place, tmp_path: Path, clock: Any) -> CertificateManager:
    return authority_in(place, tmp_path / "hsm-ca", clock)


def verified(issued: IssuedCertificate, role: Role, ca: Path, clock: Any) -> str:
    return verify_own_certificate(issued.cert, issued.key, ca, clock, role=role).name


def test_members_are_issued_and_revoked_by_keys_that_are_in_no_file(
    hsm_authority: CertificateManager, tmp_path: Path, clock: Any
) -> None:
    issued = hsm_authority.issue(Role.CLIENT, "site-1", out_dir=tmp_path / "site-1")
    hsm_authority.revoke("site-1", "key-compromise")

    directory = hsm_authority.certificate_path.parent
    keys = sorted(directory.glob("*.key"))
    assert verified(issued, Role.CLIENT, hsm_authority.certificate_path, clock) == "site-1"
    assert [path.name.split("-")[0] for path in keys] == ["issuer", "root"]
    assert all(path.read_text().startswith("pkcs11:token=authority;object=") for path in keys)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in keys)
    revoked = RevocationList.load(
        hsm_authority.revocation_list_path, hsm_authority.certificate_path, now=clock.now()
    )
    assert revoked.is_revoked(issued.identity.serial)


def test_its_certificates_make_a_handshake(
    hsm_authority: CertificateManager, tmp_path: Path, serving: Any
) -> None:
    coordinator = hsm_authority.issue(
        Role.COORDINATOR, "main", hosts=["localhost"], out_dir=tmp_path / "coordinator"
    )
    client = hsm_authority.issue(Role.CLIENT, "site-1", out_dir=tmp_path / "client")
    server = server_context(
        coordinator.cert, coordinator.key, coordinator.ca, client_certificate="required"
    )
    seen: list[Any] = []

    def answer(connection: ssl.SSLSocket) -> None:
        seen.append(connection.getpeercert())
        connection.sendall(b"!")

    with serving(server, answer) as running:
        context = client_context(client.cert, client.key, client.ca)
        with (
            socket.create_connection((running.host, running.port), 10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            version, answered = secure.version(), secure.recv(1)

    assert (version, answered) == ("TLSv1.3", b"!")
    assert seen[0]["subjectAltName"] == (("URI", "kumiai://hospitals/client/site-1"),)


def test_the_root_alone_may_lie_in_a_token(place: Place, tmp_path: Path, clock: Any) -> None:
    manager = CertificateManager(
        tmp_path / "ca", clock=clock, passphrase=PASSPHRASE, tokens=place.tokens
    )

    manager.create(FEDERATION, root_key=place.tokens.key(place.new_key("root")))
    manager.renew_intermediate()
    issued = manager.issue(Role.CLIENT, "site-1", out_dir=tmp_path / "site-1")

    assert verified(issued, Role.CLIENT, manager.certificate_path, clock) == "site-1"
    names = [path.name.split("-")[0] for path in (tmp_path / "ca").glob("*.key")]
    assert names == ["root"]
    assert len(list((tmp_path / "ca").glob("issuer-*.key.sealed"))) == 2


def test_the_issuer_alone_may_lie_in_a_token(place: Place, tmp_path: Path, clock: Any) -> None:
    manager = CertificateManager(tmp_path / "ca", clock=clock, tokens=place.tokens)

    manager.create(FEDERATION, issuer_key=place.tokens.key(place.new_key("issuer")))
    (root_key,) = (tmp_path / "ca").glob("root-*.key")
    root_key.rename(tmp_path / root_key.name)
    issued = manager.issue(Role.CLIENT, "site-1", out_dir=tmp_path / "site-1")

    assert verified(issued, Role.CLIENT, manager.certificate_path, clock) == "site-1"


def test_issuer_and_root_change_to_new_keys_in_the_token(
    hsm_authority: CertificateManager, place: Place, tmp_path: Path, clock: Any
) -> None:
    old = hsm_authority.issue(Role.CLIENT, "old", out_dir=tmp_path / "old")

    second = place.tokens.key(place.new_key("second"))
    hsm_authority.renew_intermediate(issuer_key=second)
    renewed = hsm_authority.issue(Role.CLIENT, "renewed", out_dir=tmp_path / "renewed")
    keys = [place.tokens.key(place.new_key(name)) for name in ("root", "issuer")]
    hsm_authority.rotate(root_key=keys[0], issuer_key=keys[1])
    new = hsm_authority.issue(Role.CLIENT, "new", out_dir=tmp_path / "new")

    ca = hsm_authority.certificate_path
    assert [verified(each, Role.CLIENT, ca, clock) for each in (old, renewed, new)] == [
        "old",
        "renewed",
        "new",
    ]
    in_use = {digest_of(key) for key in public_keys_of(hsm_authority)}
    assert len(in_use) == 5
    assert in_use >= {digest_of(key.public_key()) for key in (second, *keys)}


def test_an_authority_in_files_moves_into_a_token_by_a_rotation(
    authority: CertificateManager, place: Place, tmp_path: Path, clock: Any
) -> None:
    manager = CertificateManager(
        authority.certificate_path.parent, clock=clock, tokens=place.tokens
    )

    manager.rotate(
        root_key=place.tokens.key(place.new_key("root")),
        issuer_key=place.tokens.key(place.new_key("issuer")),
    )
    manager.retire()

    issued = manager.issue(Role.CLIENT, "site-1", out_dir=tmp_path / "site-1")
    assert verified(issued, Role.CLIENT, manager.certificate_path, clock) == "site-1"


def test_a_key_serves_one_root_or_issuer_alone(
    hsm_authority: CertificateManager, place: Place, tmp_path: Path, clock: Any
) -> None:
    fresh = place.tokens.key(place.new_key("fresh"))
    used = place.tokens.key(KeyURI.parse(key_files(hsm_authority)["root"].read_text().strip()))
    other = CertificateManager(tmp_path / "other", clock=clock, tokens=place.tokens)
    before = sorted(hsm_authority.certificate_path.parent.iterdir())

    with pytest.raises(ConflictError, match="must be its own, got pkcs11:token=authority"):
        other.create("banks", root_key=fresh, issuer_key=fresh)
    with pytest.raises(ConflictError, match="must be its own"):
        hsm_authority.rotate(root_key=fresh, issuer_key=used)
    with pytest.raises(ConflictError, match="must be its own"):
        hsm_authority.renew_intermediate(issuer_key=used)
    with pytest.raises(ConflictError, match="must be its own"):
        hsm_authority.delegate(out_dir=tmp_path / "sites", issuer_key=used)
    assert sorted(hsm_authority.certificate_path.parent.iterdir()) == before
    assert other.create("banks", root_key=fresh)


# ---------------------------------------------------------------- a coordinator's issuer


@pytest.fixture
def made(hsm_authority: CertificateManager, place: Place, tmp_path: Path) -> IssuerFiles:
    key = place.tokens.key(place.new_key("sites"))
    return hsm_authority.delegate(out_dir=tmp_path / "sites", issuer_key=key)


def test_a_coordinator_signs_for_sites_by_a_key_in_its_token(
    made: IssuerFiles, hsm_authority: CertificateManager, place: Place, clock: Any
) -> None:
    ca = hsm_authority.certificate_path

    issuer = SiteIssuer.load(made.cert, made.key, ca, clock, None, place.tokens)
    signed = issuer.sign(new_key().public_key(), "site-1", lifetime_seconds=DAY_SECONDS)

    assert made.key.read_text().startswith("pkcs11:token=authority;object=sites")
    assert TrustBundle.load(ca).root_of(chain_of(signed.chain))
    assert signed.identity.uri == "kumiai://hospitals/client/site-1"


def test_a_coordinator_without_the_tokens_library_says_so(
    made: IssuerFiles, hsm_authority: CertificateManager, clock: Any
) -> None:
    with pytest.raises(ConfigError, match=r"must be named.*sites\.pkcs11_module"):
        SiteIssuer.load(made.cert, made.key, hsm_authority.certificate_path, clock, None)


def test_another_key_of_the_token_is_not_the_issuers(
    made: IssuerFiles, hsm_authority: CertificateManager, place: Place, clock: Any
) -> None:
    made.key.write_text(f"{place.new_key('other')}\n")

    with pytest.raises(CertificateError, match="must belong to its certificate"):
        SiteIssuer.load(
            made.cert, made.key, hsm_authority.certificate_path, clock, None, place.tokens
        )


# ---------------------------------------------------------------- what goes wrong


def test_another_key_of_the_token_is_not_the_authoritys(
    hsm_authority: CertificateManager, place: Place, tmp_path: Path
) -> None:
    key_files(hsm_authority)["issuer"].write_text(f"{place.new_key('other')}\n")

    with pytest.raises(IntegrityError, match="issuer's key must belong to its certificate"):
        hsm_authority.issue(Role.CLIENT, "site-1", out_dir=tmp_path / "site-1")


def test_without_a_library_the_authority_says_so(
    hsm_authority: CertificateManager, tmp_path: Path, clock: Any
) -> None:
    manager = CertificateManager(hsm_authority.certificate_path.parent, clock=clock)

    with pytest.raises(ConfigError, match=r"must be named.*KUMIAI_PKCS11_MODULE"):
        manager.issue(Role.CLIENT, "site-1", out_dir=tmp_path / "site-1")
    assert not (tmp_path / "site-1").exists()


def test_while_the_token_is_away_nothing_is_issued_and_nothing_is_written(
    fake: FakePlace, tmp_path: Path, clock: Any
) -> None:
    manager = authority_in(fake, tmp_path / "ca", clock)
    fake.token.is_present = False
    before = manager.revocation_list_path.read_bytes()

    with pytest.raises(UnavailableError, match="must be there"):
        manager.issue(Role.CLIENT, "site-1", out_dir=tmp_path / "site-1")
    with pytest.raises(UnavailableError, match="must be there"):
        manager.revocation_list()
    fake.token.is_present = True

    assert not (tmp_path / "site-1").exists()
    assert manager.list_issued() == ()
    assert manager.revocation_list_path.read_bytes() == before
    assert manager.issue(Role.CLIENT, "site-1", out_dir=tmp_path / "site-1")


def test_a_key_that_is_not_whole_begins_no_authority(
    fake: FakePlace, tmp_path: Path, clock: Any
) -> None:
    uri = fake.new_key("root")
    fake.token.keys[0].public = new_key().public_key()
    manager = CertificateManager(tmp_path / "ca", clock=clock, tokens=fake.tokens)

    with pytest.raises(IntegrityError, match="must sign by the private half"):
        manager.create(FEDERATION, root_key=fake.tokens.key(uri))
    fake.token.keys[0].public = None

    assert [path.name for path in (tmp_path / "ca").iterdir()] == [".lock"]
    assert manager.create(FEDERATION, root_key=fake.tokens.key(uri))


def test_an_issuer_whose_key_is_not_whole_is_refused_when_it_is_loaded(
    fake: FakePlace, tmp_path: Path, clock: Any
) -> None:
    manager = authority_in(fake, tmp_path / "ca", clock)
    made = manager.delegate(
        out_dir=tmp_path / "sites", issuer_key=fake.tokens.key(fake.new_key("sites"))
    )
    fake.token.keys[-1].public = fake.token.keys[-1].private.public_key()
    fake.token.keys[-1].private = new_key()

    with pytest.raises(IntegrityError, match="must sign by the private half"):
        SiteIssuer.load(made.cert, made.key, manager.certificate_path, clock, None, fake.tokens)


def test_an_issuer_whose_token_goes_away_signs_when_it_is_back(
    fake: FakePlace, tmp_path: Path, clock: Any
) -> None:
    manager = authority_in(fake, tmp_path / "ca", clock)
    made = manager.delegate(
        out_dir=tmp_path / "sites", issuer_key=fake.tokens.key(fake.new_key("sites"))
    )
    issuer = SiteIssuer.load(
        made.cert, made.key, manager.certificate_path, clock, None, fake.tokens
    )
    public_key = new_key().public_key()
    fake.token.is_present = False

    with pytest.raises(UnavailableError, match="must be there"):
        issuer.sign(public_key, "site-1", lifetime_seconds=DAY_SECONDS)
    fake.token.is_present = True
    assert issuer.sign(public_key, "site-1", lifetime_seconds=DAY_SECONDS)


def key_files(authority: CertificateManager) -> dict[str, Path]:
    directory = authority.certificate_path.parent
    return {path.name.split("-")[0]: path for path in directory.glob("*.key")}


def public_keys_of(authority: CertificateManager) -> list[Any]:
    return [
        x509.load_pem_x509_certificate(each.certificate.encode()).public_key()
        for each in authority.list_authorities()
    ]
