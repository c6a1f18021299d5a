import copy
import itertools
import json
import re
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kumiai.core import failpoints
from kumiai.core.errors import (
    CertificateError,
    ConfigError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    StorageError,
)
from kumiai.identity import (
    CertificateManager,
    IssuedCertificate,
    RevocationList,
    RevocationReason,
    Role,
    identity_of,
    verify_own_certificate,
)
from kumiai.identity.members import member_files
from kumiai.identity.pkcs11 import KeyTokens
from kumiai.identity.requests import new_request
from kumiai.identity.vault import Vault
from tests.identity.killing import Killed

DAY_SECONDS = 86_400
PASSPHRASE = b"correct horse battery"


def parsed(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def extension(certificate: Any, kind: type[Any]) -> Any:
    return certificate.extensions.get_extension_for_class(kind)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def loaded_list(authority: CertificateManager, clock: Any) -> RevocationList:
    return RevocationList.load(
        authority.revocation_list_path, authority.certificate_path, now=clock.now()
    )


# ---------------------------------------------------------------- creating


def test_a_root_is_a_p256_certificate_that_may_sign_issuers_only(
    authority: CertificateManager, clock: Any
) -> None:
    certificate = parsed(authority.certificate_path)
    constraints = extension(certificate, x509.BasicConstraints)
    usage = extension(certificate, x509.KeyUsage)

    assert isinstance(certificate.public_key().curve, ec.SECP256R1)
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 1)
    assert usage.critical
    assert (usage.value.key_cert_sign, usage.value.crl_sign) == (True, True)
    assert not usage.value.digital_signature
    assert (
        extension(certificate, x509.AuthorityKeyIdentifier).value.key_identifier
        == extension(certificate, x509.SubjectKeyIdentifier).value.digest
    )
    assert certificate.not_valid_before_utc.timestamp() == int(clock.now() - 300)
    assert certificate.not_valid_after_utc.timestamp() == int(clock.now() + 3650 * DAY_SECONDS)
    certificate.verify_directly_issued_by(certificate)


def test_an_issuer_is_signed_by_the_root_and_may_sign_members_only(
    authority_cert: x509.Certificate, issuer_cert: x509.Certificate
) -> None:
    constraints = extension(issuer_cert, x509.BasicConstraints)
    usage = extension(issuer_cert, x509.KeyUsage)

    assert isinstance(issuer_cert.public_key(), ec.EllipticCurvePublicKey)
    assert (constraints.critical, constraints.value.ca) == (True, True)
    assert constraints.value.path_length == 0
    assert (usage.critical, usage.value.key_cert_sign) == (True, True)
    assert issuer_cert.not_valid_after_utc == authority_cert.not_valid_after_utc
    assert issuer_cert.subject != authority_cert.subject
    issuer_cert.verify_directly_issued_by(authority_cert)


@pytest.mark.parametrize("kind", ["root", "members", "sites"])
def test_a_key_that_signs_is_named_by_its_serial_number(
    authority: CertificateManager, tmp_path: Path, kind: str
) -> None:
    authority.delegate(out_dir=tmp_path / "sites")

    (record,) = (each for each in authority.list_authorities() if each.kind == kind)

    certificate = x509.load_pem_x509_certificate(record.certificate.encode())
    name = extension(certificate, x509.SubjectKeyIdentifier).value.digest
    assert int.from_bytes(name, "big") == certificate.serial_number == record.serial


def test_an_authoritys_files_are_private_where_they_must_be(authority: CertificateManager) -> None:
    directory = authority.certificate_path.parent

    modes = {
        re.sub(r"-[0-9a-f]{12}\.", ".", path.name): mode_of(path) for path in directory.iterdir()
    }

    assert mode_of(directory) == 0o700
    assert modes == {
        ".lock": 0o600,
        "ca.crt": 0o644,
        "root.key": 0o600,
        "issuer.key": 0o600,
        "ca.crl": 0o644,
        "issued.json": 0o600,
    }


def test_an_authority_begins_with_an_empty_revocation_list(
    authority: CertificateManager, clock: Any
) -> None:
    revocations = loaded_list(authority, clock)

    assert (revocations.serials, revocations.number) == (frozenset(), 1)
    assert authority.list_issued() == ()


def test_the_path_of_the_new_authority_is_returned(tmp_path: Path, clock: Any) -> None:
    manager = CertificateManager(tmp_path / "deep" / "ca", clock=clock)

    assert manager.create("f", ca_days=1) == manager.certificate_path == tmp_path / "deep/ca/ca.crt"


def test_an_authority_is_not_overwritten(authority: CertificateManager) -> None:
    before = authority.certificate_path.read_bytes()

    with pytest.raises(ConflictError, match=r"got ca\.crt, issued\.json, issuer-\w+\.key, root-"):
        authority.create("hospitals")

    assert authority.certificate_path.read_bytes() == before


@pytest.mark.parametrize("part", ["ca.crt", "root-1.key", "issuer-1.key.sealed", "issued.json"])
def test_a_part_of_an_authority_is_not_overwritten(tmp_path: Path, clock: Any, part: str) -> None:
    (tmp_path / part).touch()

    with pytest.raises(ConflictError, match=f"got {part} in"):
        CertificateManager(tmp_path, clock=clock).create("f")

    assert (tmp_path / part).read_bytes() == b""


@pytest.mark.parametrize("days", [0, -1, 36_501])
def test_absurd_days_of_an_authority_are_refused(tmp_path: Path, clock: Any, days: int) -> None:
    manager = CertificateManager(tmp_path / "ca", clock=clock)

    with pytest.raises(ConfigError, match=f"^ca_days must be 1 to 36500, got {days}"):
        manager.create("f", ca_days=days)

    assert not (tmp_path / "ca").exists()


def test_an_authority_may_live_for_a_hundred_years(tmp_path: Path, clock: Any) -> None:
    CertificateManager(tmp_path / "ca", clock=clock).create("f", ca_days=36_500)


def test_an_invalid_federation_is_refused(tmp_path: Path, clock: Any) -> None:
    with pytest.raises(ConfigError, match=r"^federation must be"):
        CertificateManager(tmp_path / "ca", clock=clock).create("a/b")

    assert not (tmp_path / "ca").exists()


def test_an_authority_exists_only_once_all_its_files_do(
    tmp_path: Path, clock: Any, killed_at: Callable[[str], None]
) -> None:
    manager = CertificateManager(tmp_path / "ca", clock=clock)
    killed_at("identity.list.after")

    with pytest.raises(Killed):
        manager.create("f")

    with pytest.raises(NotFoundError, match="kumiai ca init"):
        manager.list_issued()
    with pytest.raises(ConflictError, match=r"got issued\.json, issuer-"):
        manager.create("f")


# ---------------------------------------------------------------- issuing


def test_a_clients_certificate_says_who_it_is_and_what_it_may(
    client: IssuedCertificate, issuer_cert: x509.Certificate, clock: Any
) -> None:
    certificate, issuer = x509.load_pem_x509_certificates(client.cert.read_bytes())
    constraints = extension(certificate, x509.BasicConstraints)
    usage = extension(certificate, x509.KeyUsage)
    names = extension(certificate, x509.SubjectAlternativeName).value

    assert identity_of(certificate) == client.identity
    assert list(names) == [x509.UniformResourceIdentifier("kumiai://hospitals/client/site-1")]
    assert (constraints.critical, constraints.value.ca) == (True, False)
    assert (usage.critical, usage.value.digital_signature) == (True, True)
    assert (usage.value.key_cert_sign, usage.value.crl_sign) == (False, False)
    assert list(extension(certificate, x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    assert extension(certificate, x509.AuthorityKeyIdentifier).value.key_identifier == (
        extension(issuer_cert, x509.SubjectKeyIdentifier).value.digest
    )
    assert extension(certificate, x509.SubjectKeyIdentifier).value == (
        x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())
    )
    assert isinstance(certificate.public_key().curve, ec.SECP256R1)
    assert certificate.not_valid_before_utc.timestamp() == int(clock.now() - 300)
    assert certificate.not_valid_after_utc.timestamp() == int(clock.now() + 365 * DAY_SECONDS)
    assert issuer == issuer_cert
    certificate.verify_directly_issued_by(issuer)


def test_a_coordinators_certificate_carries_its_hosts_and_serves(
    coordinator: IssuedCertificate,
) -> None:
    certificate = parsed(coordinator.cert)
    names = extension(certificate, x509.SubjectAlternativeName).value

    assert [str(name.value) for name in names] == [
        "kumiai://hospitals/coordinator/coordinator",
        "localhost",
        "127.0.0.1",
    ]
    assert list(extension(certificate, x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    ]


@pytest.mark.parametrize("role", [Role.CLIENT, Role.OPERATOR])
def test_what_is_issued_passes_the_owners_own_check(
    authority: CertificateManager, tmp_path: Path, clock: Any, role: Role
) -> None:
    issued = authority.issue(role, "a", out_dir=tmp_path / "a")

    identity = verify_own_certificate(issued.cert, issued.key, issued.ca, clock, role=role)

    assert identity == issued.identity
    assert identity.role is role


def test_a_members_files_are_named_after_it_and_its_key_is_private(
    client: IssuedCertificate, tmp_path: Path
) -> None:
    directory = tmp_path / "client"

    assert {path.name: mode_of(path) for path in directory.iterdir()} == {
        "site-1.crt": 0o644,
        "site-1.key": 0o600,
        "ca.crt": 0o644,
    }
    assert mode_of(directory) == 0o700
    assert (client.cert, client.key, client.ca) == (
        directory / "site-1.crt",
        directory / "site-1.key",
        directory / "ca.crt",
    )


def test_the_key_belongs_to_the_certificate_and_is_new_each_time(
    authority: CertificateManager, tmp_path: Path
) -> None:
    first, second = (
        authority.issue(Role.CLIENT, "a", out_dir=tmp_path / directory) for directory in ("1", "2")
    )

    keys = [
        serialization.load_pem_private_key(issued.key.read_bytes(), None).public_key()
        for issued in (first, second)
    ]

    assert keys == [parsed(first.cert).public_key(), parsed(second.cert).public_key()]
    assert keys[0] != keys[1]
    assert first.identity.serial != second.identity.serial


def test_serial_numbers_have_128_random_bits(authority: CertificateManager, tmp_path: Path) -> None:
    serials = [
        authority.issue(Role.CLIENT, f"a{i}", out_dir=tmp_path / "out").identity.serial
        for i in range(8)
    ]

    assert all(0 < serial <= 2**128 for serial in serials)
    assert max(serials) > 2**120


def test_what_was_issued_is_listed(
    authority: CertificateManager, coordinator: IssuedCertificate, client: IssuedCertificate
) -> None:
    records = authority.list_issued()

    assert [(r.serial, r.role, r.name, r.hosts) for r in records] == [
        (
            coordinator.identity.serial,
            Role.COORDINATOR,
            "coordinator",
            ("localhost", "127.0.0.1"),
        ),
        (client.identity.serial, Role.CLIENT, "site-1", ()),
    ]
    assert records[1].not_after == client.identity.not_after
    assert records[1].not_before == parsed(client.cert).not_valid_before_utc.timestamp()
    assert not records[1].is_revoked


def test_a_certificate_does_not_outlive_its_authority(tmp_path: Path, clock: Any) -> None:
    manager = CertificateManager(tmp_path / "ca", clock=clock)
    manager.create("f", ca_days=10)

    issued = manager.issue(Role.CLIENT, "a", days=11, out_dir=tmp_path / "a")

    assert issued.identity.not_after == int(clock.now() + 10 * DAY_SECONDS)


@given(days=st.integers(1, 3650))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10, deadline=None
)
def test_a_certificate_lives_as_many_days_as_asked(
    authority: CertificateManager, tmp_path: Path, clock: Any, days: int
) -> None:
    directory = tmp_path / f"{days}-{len(list(tmp_path.iterdir()))}"

    issued = authority.issue(Role.CLIENT, "a", days=days, out_dir=directory)

    assert issued.identity.not_after == int(clock.now() + days * DAY_SECONDS)


@pytest.mark.parametrize("days", [0, -1, 3651])
def test_absurd_days_are_refused(authority: CertificateManager, tmp_path: Path, days: int) -> None:
    with pytest.raises(ConfigError, match=f"^days must be 1 to 3650, got {days}"):
        authority.issue(Role.CLIENT, "a", days=days, out_dir=tmp_path / "a")

    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["", "a/b", "..", "a" * 64])
def test_an_invalid_name_is_refused(
    authority: CertificateManager, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ConfigError, match="name must be"):
        authority.issue(Role.CLIENT, name, out_dir=tmp_path / "a")


@pytest.mark.parametrize("name", ["ca", "CA"])
def test_a_member_cannot_take_the_authoritys_file_name(
    authority: CertificateManager, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ConfigError, match="must not be 'ca'"):
        authority.issue(Role.CLIENT, name, out_dir=tmp_path / "a")


def test_a_coordinator_without_hosts_is_refused(
    authority: CertificateManager, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="hosts must name what clients connect to"):
        authority.issue(Role.COORDINATOR, "a", out_dir=tmp_path / "a")


def test_hosts_of_a_client_are_refused(authority: CertificateManager, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hosts must be empty for a client, got 1"):
        authority.issue(Role.CLIENT, "a", hosts=["localhost"], out_dir=tmp_path / "a")


def test_one_text_is_not_taken_for_a_sequence_of_hosts(
    authority: CertificateManager, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match="hosts must be a sequence"):
        authority.issue(Role.COORDINATOR, "a", hosts="localhost", out_dir=tmp_path / "a")


def test_an_invalid_host_is_refused_before_anything_is_written(
    authority: CertificateManager, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="host must be"):
        authority.issue(Role.COORDINATOR, "a", hosts=["a:1"], out_dir=tmp_path / "a")

    assert not (tmp_path / "a").exists()
    assert authority.list_issued() == ()


@pytest.mark.parametrize("suffix", ["crt", "key"])
def test_a_members_file_is_not_overwritten(
    authority: CertificateManager, tmp_path: Path, suffix: str
) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(b"precious")

    with pytest.raises(ConflictError, match=rf"a\.{suffix} must not exist yet"):
        authority.issue(Role.CLIENT, "a", out_dir=tmp_path)

    assert (tmp_path / f"a.{suffix}").read_bytes() == b"precious"
    assert authority.list_issued() == ()


def test_two_members_may_share_a_directory(authority: CertificateManager, tmp_path: Path) -> None:
    authority.issue(Role.CLIENT, "a", out_dir=tmp_path / "out")
    authority.issue(Role.CLIENT, "b", out_dir=tmp_path / "out")

    assert len(list((tmp_path / "out").iterdir())) == 5


def test_another_authoritys_certificate_is_not_overwritten(
    authority: CertificateManager, stranger: IssuedCertificate
) -> None:
    with pytest.raises(ConflictError, match="must be this authority's certificate"):
        authority.issue(Role.CLIENT, "b", out_dir=stranger.ca.parent)


def test_a_certificate_is_in_the_index_before_it_is_handed_out(
    authority: CertificateManager, tmp_path: Path, killed_at: Callable[[str], None]
) -> None:
    killed_at("identity.index.after")

    with pytest.raises(Killed):
        authority.issue(Role.CLIENT, "a", out_dir=tmp_path / "a")

    assert [record.name for record in authority.list_issued()] == ["a"]
    assert list((tmp_path / "a").iterdir()) == []


def test_a_crash_before_the_index_leaves_no_trace(
    authority: CertificateManager, tmp_path: Path, killed_at: Callable[[str], None]
) -> None:
    killed_at("identity.index.before")

    with pytest.raises(Killed):
        authority.issue(Role.CLIENT, "a", out_dir=tmp_path / "a")

    assert authority.list_issued() == ()
    assert list((tmp_path / "a").iterdir()) == []


def test_issuing_at_the_same_time_loses_nothing(
    authority: CertificateManager, tmp_path: Path, clock: Any
) -> None:
    def issue(name: str) -> None:
        manager = CertificateManager(authority.certificate_path.parent, clock=clock)
        manager.issue(Role.CLIENT, name, out_dir=tmp_path / "out")

    names = [f"site-{index}" for index in range(8)]
    threads = [threading.Thread(target=issue, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(record.name for record in authority.list_issued()) == names


@pytest.mark.parametrize(
    "act", ["issue", "revoke", "revocation_list", "list_issued", "list_authorities"]
)
def test_without_an_authority_nothing_works_and_nothing_is_created(
    tmp_path: Path, clock: Any, act: str
) -> None:
    manager = CertificateManager(tmp_path / "ca", clock=clock)
    acts = {
        "issue": lambda: manager.issue(Role.CLIENT, "a", out_dir=tmp_path / "a"),
        "revoke": lambda: manager.revoke("a"),
        "revocation_list": manager.revocation_list,
        "list_issued": manager.list_issued,
        "list_authorities": manager.list_authorities,
    }

    with pytest.raises(NotFoundError, match=r"got none in .*; create it with `kumiai ca init`"):
        acts[act]()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("days", [-1, 3651])
def test_an_authority_out_of_force_issues_nothing(
    authority: CertificateManager, tmp_path: Path, clock: Any, days: int
) -> None:
    clock.advance(days * DAY_SECONDS)

    with pytest.raises(CertificateError, match=r"must be valid now.*clock"):
        authority.issue(Role.CLIENT, "a", out_dir=tmp_path / "a")


def test_an_authority_issues_until_its_last_second(
    authority: CertificateManager, tmp_path: Path, clock: Any
) -> None:
    clock.wall = parsed(authority.certificate_path).not_valid_after_utc.timestamp()

    issued = authority.issue(Role.CLIENT, "a", out_dir=tmp_path / "a")

    assert issued.identity.not_after == clock.now()


# ---------------------------------------------------------------- requests


def test_a_signed_request_is_good_for_a_year_and_can_be_revoked(
    authority: CertificateManager, clock: Any
) -> None:
    signed = authority.sign_request(
        new_request(ec.generate_private_key(ec.SECP256R1())), Role.CLIENT, "a"
    )

    authority.revoke("a")

    assert signed.identity.not_after == int(clock.now() + 365 * DAY_SECONDS)
    assert loaded_list(authority, clock).serials == {signed.identity.serial}


@pytest.mark.parametrize(
    ("role", "name", "problem"),
    [
        (Role.CLIENT, "a/b", "^name must be"),
        (Role.COORDINATOR, "a", "^hosts must name what clients connect to"),
    ],
)
def test_an_order_is_judged_before_the_request_that_it_is_for(
    authority: CertificateManager, role: Role, name: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        authority.sign_request(b"", role, name)


# ---------------------------------------------------------------- damaged files


def test_another_authoritys_key_is_refused(
    authority: CertificateManager, stranger: IssuedCertificate, tmp_path: Path
) -> None:
    (own,) = (tmp_path / "ca").glob("issuer-*.key")
    (other,) = (tmp_path / "other-ca").glob("issuer-*.key")
    own.write_bytes(other.read_bytes())

    with pytest.raises(IntegrityError, match="key must belong to its certificate"):
        authority.issue(Role.CLIENT, "a", out_dir=tmp_path / "a")


def test_another_federations_index_is_refused(
    authority: CertificateManager, tmp_path: Path
) -> None:
    path = tmp_path / "ca" / "issued.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "federation": "banks"}))

    with pytest.raises(IntegrityError, match=r"must be of federation 'hospitals', got .*'banks'"):
        authority.revocation_list()


def test_a_lost_index_is_named(authority: CertificateManager, tmp_path: Path) -> None:
    (tmp_path / "ca" / "issued.json").unlink()

    with pytest.raises(NotFoundError, match="index of issued certificates must exist"):
        authority.list_issued()


def test_a_key_that_others_can_read_is_not_used(
    authority: CertificateManager, tmp_path: Path
) -> None:
    (key,) = (tmp_path / "ca").glob("issuer-*.key")
    key.chmod(0o640)

    with pytest.raises(CertificateError, match="chmod 600"):
        authority.revocation_list()


def test_a_damaged_key_is_refused_without_being_shown(
    authority: CertificateManager, tmp_path: Path
) -> None:
    (key,) = (tmp_path / "ca").glob("issuer-*.key")
    key.write_bytes(key.read_bytes().replace(b"PRIVATE KEY-----\nM", b"PRIVATE KEY-----\nX"))

    with pytest.raises(IntegrityError, match="key must be an unencrypted private key") as caught:
        authority.revocation_list()

    assert key.read_text().splitlines()[1] not in str(caught.value)


def test_a_key_of_another_kind_is_refused(authority: CertificateManager, tmp_path: Path) -> None:
    (key,) = (tmp_path / "ca").glob("issuer-*.key")
    key.write_bytes(
        ed25519.Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )

    with pytest.raises(IntegrityError, match="elliptic curve"):
        authority.revocation_list()


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path, clock: Any) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StorageError, match="cannot create directory"):
        CertificateManager(tmp_path / "file" / "ca", clock=clock).create("f")


# ---------------------------------------------------------------- passphrase


def test_a_sealed_authority_works_with_its_passphrase_alone(tmp_path: Path, clock: Any) -> None:
    sealed = CertificateManager(tmp_path / "ca", clock=clock, passphrase=PASSPHRASE)
    sealed.create("f")

    again = CertificateManager(tmp_path / "ca", clock=clock, passphrase=PASSPHRASE)
    issued = again.issue(Role.CLIENT, "a", out_dir=tmp_path / "a")

    assert issued.identity.name == "a"
    keys = sorted((tmp_path / "ca").glob("*.key*"))
    assert [path.name.partition("-")[0] for path in keys] == ["issuer", "root"]
    assert all(path.name.endswith(".key.sealed") for path in keys)
    assert not any(b"PRIVATE" in path.read_bytes() for path in keys)
    assert [mode_of(path) for path in keys] == [0o600, 0o600]
    with pytest.raises(ConfigError, match="passphrase must be given, got none"):
        CertificateManager(tmp_path / "ca", clock=clock).revocation_list()
    wrong = CertificateManager(tmp_path / "ca", clock=clock, passphrase=b"another passphrase")
    with pytest.raises(ConfigError, match="passphrase must be the one that sealed"):
        wrong.revocation_list()


def test_a_passphrase_for_an_open_authority_is_refused(
    authority: CertificateManager, clock: Any
) -> None:
    manager = CertificateManager(
        authority.certificate_path.parent, clock=clock, passphrase=PASSPHRASE
    )

    with pytest.raises(ConfigError, match="passphrase must be left out"):
        manager.revocation_list()


def test_a_weak_passphrase_is_refused_at_once(tmp_path: Path, clock: Any) -> None:
    with pytest.raises(ConfigError, match="must be 12 to 1024 bytes, got 5"):
        CertificateManager(tmp_path, clock=clock, passphrase=b"weak!")


def test_a_manager_shows_no_passphrase_and_cannot_be_copied(tmp_path: Path, clock: Any) -> None:
    manager = CertificateManager(tmp_path, clock=clock, passphrase=PASSPHRASE)

    assert PASSPHRASE.decode() not in repr(manager)
    with pytest.raises(TypeError, match="cannot be pickled"):
        copy.copy(manager)


def test_the_vault_of_a_manager_cannot_be_copied(tmp_path: Path, clock: Any) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        copy.copy(Vault(tmp_path, clock=clock, passphrase=PASSPHRASE, tokens=KeyTokens()))


def test_files_without_a_key_are_for_one_that_lies_elsewhere(
    authority: CertificateManager, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    signed = authority.sign_request(new_request(key), Role.CLIENT, "a")

    member_files(tmp_path, "a").save(chain=signed.chain, key=None, trust_bundle=signed.trust_bundle)

    assert sorted(path.name for path in tmp_path.glob("*.*")) == ["a.crt", "ca.crt"]


# ---------------------------------------------------------------- revoking


def test_revoking_a_name_publishes_its_serial_numbers(
    authority: CertificateManager, client: IssuedCertificate, tmp_path: Path, clock: Any
) -> None:
    second = authority.issue(Role.CLIENT, "site-1", out_dir=tmp_path / "second")
    other = authority.issue(Role.CLIENT, "site-2", out_dir=tmp_path / "other")

    authority.revoke("site-1", RevocationReason.KEY_COMPROMISE)

    revocations = loaded_list(authority, clock)
    assert revocations.serials == {client.identity.serial, second.identity.serial}
    assert not revocations.is_revoked(other.identity.serial)
    assert [r.reason for r in authority.list_issued()] == ["key-compromise"] * 2 + [None]
    assert authority.list_issued()[0].revoked_at == clock.now()


def test_revoking_a_serial_number_spares_the_owners_other_certificates(
    authority: CertificateManager, client: IssuedCertificate, tmp_path: Path, clock: Any
) -> None:
    second = authority.issue(Role.CLIENT, "site-1", out_dir=tmp_path / "second")

    authority.revoke(client.identity.serial, "superseded")

    assert loaded_list(authority, clock).serials == {client.identity.serial}
    assert not authority.list_issued()[1].is_revoked
    assert authority.list_issued()[1].serial == second.identity.serial


@pytest.mark.parametrize("target", ["site-9", 12345])
def test_revoking_what_was_not_issued_is_refused(
    authority: CertificateManager, client: IssuedCertificate, target: str | int
) -> None:
    with pytest.raises(NotFoundError, match=f"got {target!r}; list them"):
        authority.revoke(target)


def test_a_name_of_several_roles_is_revoked_by_role(
    authority: CertificateManager, client: IssuedCertificate, tmp_path: Path, clock: Any
) -> None:
    operator = authority.issue(Role.OPERATOR, "site-1", out_dir=tmp_path / "operator")

    with pytest.raises(ConflictError, match="got client and operator named 'site-1'"):
        authority.revoke("site-1")
    authority.revoke("site-1", role=Role.OPERATOR)

    assert loaded_list(authority, clock).serials == {operator.identity.serial}


def test_a_name_without_a_certificate_of_that_role_is_refused(
    authority: CertificateManager, client: IssuedCertificate
) -> None:
    with pytest.raises(NotFoundError):
        authority.revoke("site-1", role=Role.OPERATOR)


@pytest.mark.parametrize("reason", ["boredom", "", "x" * 1000])
def test_an_unknown_reason_is_refused(
    authority: CertificateManager, client: IssuedCertificate, reason: str
) -> None:
    with pytest.raises(ConfigError, match="reason must be one of unspecified, key-comp") as caught:
        authority.revoke("site-1", reason)

    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("reason", "flag"),
    [
        (RevocationReason.UNSPECIFIED, None),
        (RevocationReason.KEY_COMPROMISE, x509.ReasonFlags.key_compromise),
        (RevocationReason.AFFILIATION_CHANGED, x509.ReasonFlags.affiliation_changed),
        (RevocationReason.SUPERSEDED, x509.ReasonFlags.superseded),
        (RevocationReason.CESSATION_OF_OPERATION, x509.ReasonFlags.cessation_of_operation),
        (RevocationReason.PRIVILEGE_WITHDRAWN, x509.ReasonFlags.privilege_withdrawn),
    ],
)
def test_the_list_says_when_and_why(
    authority: CertificateManager,
    client: IssuedCertificate,
    clock: Any,
    reason: str,
    flag: x509.ReasonFlags | None,
) -> None:
    authority.revoke("site-1", reason)

    crl = x509.load_pem_x509_crl(authority.revocation_list_path.read_bytes())
    (entry,) = crl
    reasons = [e.value.reason for e in entry.extensions]
    assert reasons == ([] if flag is None else [flag])
    assert entry.revocation_date_utc.timestamp() == int(clock.now())


def test_revoking_again_keeps_date_and_reason(
    authority: CertificateManager, client: IssuedCertificate, clock: Any
) -> None:
    authority.revoke("site-1", RevocationReason.SUPERSEDED)
    before = authority.list_issued()
    clock.advance(100)

    authority.revoke("site-1", RevocationReason.KEY_COMPROMISE)

    assert authority.list_issued() == before
    assert loaded_list(authority, clock).number == 3


def test_every_list_has_a_higher_number_and_a_later_date(
    authority: CertificateManager, clock: Any
) -> None:
    lists = [loaded_list(authority, clock)]
    for seconds in (0, 0, 6000, -5000, 0.5):
        clock.advance(seconds)
        content = authority.revocation_list()
        lists.append(
            RevocationList.load(content, authority.certificate_path, now=clock.now() + 1e4)
        )

    numbers = [item.number for item in lists]
    dates = [item.this_update for item in lists]
    assert numbers == [1, 2, 3, 4, 5, 6]
    assert all(earlier < later for earlier, later in itertools.pairwise(dates))


def test_a_list_is_dated_back_for_clocks_that_are_behind_and_lasts_a_year(
    authority: CertificateManager, clock: Any
) -> None:
    clock.advance(DAY_SECONDS)
    authority.revocation_list()

    revocations = loaded_list(authority, clock)

    assert revocations.this_update == int(clock.now() - 300)
    assert revocations.next_update == int(clock.now() + 365 * DAY_SECONDS)


def test_a_list_does_not_outlive_its_authority(tmp_path: Path, clock: Any) -> None:
    manager = CertificateManager(tmp_path / "ca", clock=clock)
    manager.create("f", ca_days=10)

    assert loaded_list(manager, clock).next_update == int(clock.now() + 10 * DAY_SECONDS)


def test_the_list_that_is_returned_is_the_list_that_is_written(
    authority: CertificateManager,
) -> None:
    content = authority.revocation_list()

    assert authority.revocation_list_path.read_bytes() == content
    assert content.startswith(b"-----BEGIN CERTIFICATE-----")
    assert content.count(b"-----BEGIN X509 CRL-----") == 1


def test_the_list_is_signed_by_the_issuer_and_names_its_key(
    authority: CertificateManager, issuer_cert: x509.Certificate
) -> None:
    crl = x509.load_pem_x509_crl(authority.revocation_list())

    assert crl.is_signature_valid(issuer_cert.public_key())
    assert crl.issuer == issuer_cert.subject
    assert (
        extension(crl, x509.AuthorityKeyIdentifier).value.key_identifier
        == extension(issuer_cert, x509.SubjectKeyIdentifier).value.digest
    )


def test_a_crash_between_index_and_list_is_mended_by_revoking_again(
    authority: CertificateManager,
    client: IssuedCertificate,
    clock: Any,
    killed_at: Callable[[str], None],
) -> None:
    killed_at("identity.index.after")
    with pytest.raises(Killed):
        authority.revoke("site-1")
    failpoints.install(None)
    assert not loaded_list(authority, clock).serials

    authority.revoke("site-1")

    assert loaded_list(authority, clock).serials == {client.identity.serial}
    assert loaded_list(authority, clock).number == 3
