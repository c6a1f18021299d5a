"""An authority's files: keys, certificates and lists, and the times at which each is good."""

import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from kumiai.core import failpoints
from kumiai.core.clock import SystemClock
from kumiai.core.errors import (
    CertificateError,
    ConfigError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    StorageError,
)
from kumiai.identity import CertificateManager, sealing, vault
from kumiai.identity.index import AuthorityKind, AuthorityRecord, RevocationReason
from kumiai.identity.keys import private_key_of
from kumiai.identity.names import certificate_of
from kumiai.identity.pkcs11 import KeyTokens
from kumiai.identity.vault import Vault
from tests.identity.conftest import DAY_SECONDS, AdjustableClock

PASSPHRASE = b"a passphrase of some length"


def vault_in(directory: Path, clock: AdjustableClock, *, passphrase: bytes | None = None) -> Vault:
    directory.mkdir(exist_ok=True)
    return Vault(directory, clock=clock, passphrase=passphrase, tokens=KeyTokens())


@pytest.fixture
def clock() -> AdjustableClock:
    # Certificates know whole seconds.
    return AdjustableClock(float(int(SystemClock().now())))


@pytest.fixture
def empty(tmp_path: Path, clock: AdjustableClock) -> Vault:
    """An authority's directory with nothing in it."""
    return vault_in(tmp_path / "empty", clock)


@pytest.fixture
def kept(authority: CertificateManager, clock: AdjustableClock) -> Vault:
    """The directory of an authority with a root and an issuer."""
    return vault_in(authority.certificate_path.parent, clock)


def certificate_in(record: AuthorityRecord) -> x509.Certificate:
    return certificate_of(record.certificate.encode())


def span_of(certificate: x509.Certificate) -> tuple[float, float]:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin.timestamp(), end.timestamp()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_files_have_the_names_by_which_they_are_known(
    kept: Vault, authority: CertificateManager
) -> None:
    authority.rotate()

    names = {path.name for path in kept.directory.iterdir()} - {
        path.name for path in kept.directory.glob("*.key")
    }
    assert {"ca.crt", "ca.crl", "succession.crt", "issued.json"} <= names
    assert {kept.certificate_path.name, kept.revocation_list_path.name} == {"ca.crt", "ca.crl"}
    assert kept.succession_path.name == "succession.crt"
    assert mode_of(kept.directory / "issued.json") == 0o600
    for name in ("ca.crt", "ca.crl", "succession.crt"):
        assert mode_of(kept.directory / name) == 0o644


def test_a_root_lives_from_a_little_before_now_for_its_days(
    empty: Vault, clock: AdjustableClock
) -> None:
    root = empty.new_root("hospitals", 10)

    begin, end = span_of(certificate_in(root))
    assert (begin, end) == (clock.now() - 300, clock.now() + 10 * DAY_SECONDS)
    assert (root.kind, root.root, root.not_after) == (AuthorityKind.ROOT, root.serial, end)
    path = empty.directory / f"root-{root.serial:x}"[:17]
    assert [each.name for each in empty.directory.iterdir()] == [f"{path.name}.key"]
    assert mode_of(path.with_name(f"{path.name}.key")) == 0o600
    assert empty.load_key(root).public_key() == certificate_in(root).public_key()


def test_a_key_from_elsewhere_is_the_one_that_is_certified(
    empty: Vault, clock: AdjustableClock
) -> None:
    root = empty.new_root("hospitals", 10)
    saved: list[tuple[AuthorityRecord, ec.EllipticCurvePrivateKey]] = []

    issuer = empty.new_issuer(
        root, AuthorityKind.SITES, days=1, save=lambda *args: saved.append(args)
    )

    ((record, key),) = saved
    assert record == issuer
    assert key.public_key() == certificate_in(issuer).public_key()
    assert len([*empty.directory.iterdir()]) == 1
    constraints = certificate_in(issuer).extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical


@pytest.mark.parametrize(("days", "lives"), [(3, 3), (10, 10), (11, 10), (400, 10)])
def test_an_issuer_does_not_outlive_its_root(
    empty: Vault, clock: AdjustableClock, days: float, lives: float
) -> None:
    root = empty.new_root("hospitals", 10)

    issuer = empty.new_issuer(root, AuthorityKind.MEMBERS, days=days)

    begin, end = span_of(certificate_in(issuer))
    assert (begin, end) == (clock.now() - 300, clock.now() + lives * DAY_SECONDS)
    assert (issuer.kind, issuer.root) == (AuthorityKind.MEMBERS, root.serial)
    with pytest.raises(x509.ExtensionNotFound):
        certificate_in(issuer).extensions.get_extension_for_class(x509.NameConstraints)
    assert {each.name.split("-")[0] for each in empty.directory.iterdir()} == {"root", "issuer"}


def test_a_root_names_the_next_until_its_last_second_and_while_its_key_is_here(
    empty: Vault, clock: AdjustableClock
) -> None:
    before, root = empty.new_root("hospitals", 10), empty.new_root("hospitals", 10_000)
    clock.advance(10 * DAY_SECONDS)

    named = empty.named_by(before, root)

    succession = certificate_of(named.succession.encode())
    succession.verify_directly_issued_by(certificate_in(before))
    assert span_of(succession)[0] == pytest.approx(clock.now() - 300, abs=1)
    assert replace(named, succession="") == root
    clock.advance(1)
    assert empty.named_by(before, root) == root
    clock.advance(-1)
    for path in empty.directory.glob(f"root-{before.serial:x}"[:17] + "*"):
        path.unlink()
    assert empty.named_by(before, root) == root


@pytest.mark.parametrize("kind", list(AuthorityKind))
def test_what_signs_is_in_force_from_its_first_second_to_its_last(
    empty: Vault, clock: AdjustableClock, kind: AuthorityKind
) -> None:
    root = empty.new_root("hospitals", 10)
    made = {AuthorityKind.ROOT: lambda: root}.get(
        kind, lambda: empty.new_issuer(root, kind, days=5)
    )()
    begin, end = span_of(certificate_in(made))
    now = clock.now()

    for moment in (begin, now, end):
        clock.advance(moment - clock.now())
        assert empty.certificate_in_force(made) == certificate_in(made)
    for moment in (begin - 1, end + 1):
        clock.advance(moment - clock.now())
        with pytest.raises(CertificateError, match="certificate must be valid now"):
            empty.certificate_in_force(made)
    clock.advance(now - clock.now())
    with pytest.raises(CertificateError, match="certificate must not be revoked"):
        empty.certificate_in_force(replace(made, revoked_at=0.0))


def test_a_sealed_key_opens_with_its_passphrase_and_for_what_it_was_sealed_for(
    tmp_path: Path, clock: AdjustableClock
) -> None:
    sealed = vault_in(tmp_path / "sealed", clock, passphrase=PASSPHRASE)

    root = sealed.new_root("hospitals", 10)

    (path,) = sealed.directory.iterdir()
    assert path.name.endswith(".key.sealed")
    assert mode_of(path) == 0o600
    assert b"PRIVATE KEY" not in path.read_bytes()
    assert sealed.load_key(root).public_key() == certificate_in(root).public_key()
    pem = sealing.unseal(path.read_bytes(), PASSPHRASE, label="root key")
    assert private_key_of(pem, "key").public_key() == certificate_in(root).public_key()
    with pytest.raises(ConfigError, match="passphrase must be given, got none"):
        vault_in(sealed.directory, clock).load_key(root)


def test_a_key_that_is_not_here_open_with_a_passphrase_or_anothers_is_refused(
    empty: Vault, clock: AdjustableClock
) -> None:
    root, other = empty.new_root("hospitals", 10), empty.new_root("hospitals", 10)
    paths = {
        record.serial: next(empty.directory.glob(f"root-{record.serial:x}"[:17] + ".key"))
        for record in (root, other)
    }

    with pytest.raises(ConfigError, match="passphrase must be left out"):
        vault_in(empty.directory, clock, passphrase=PASSPHRASE).load_key(root)
    paths[root.serial].write_bytes(paths[other.serial].read_bytes())
    with pytest.raises(IntegrityError, match="must belong to its certificate"):
        empty.load_key(root)
    paths[root.serial].chmod(0o644)
    with pytest.raises(CertificateError, match=r"^root's key must be readable by its owner alone"):
        empty.load_key(root)
    paths[root.serial].unlink()
    with pytest.raises(NotFoundError, match="root's key must be here"):
        empty.load_key(root)


@pytest.mark.parametrize("suffix", ["", ".sealed"])
def test_a_key_that_cannot_be_read_is_named(
    empty: Vault, clock: AdjustableClock, suffix: str
) -> None:
    root = empty.new_root("hospitals", 10)
    (path,) = empty.directory.iterdir()
    path.unlink()
    path.with_name(path.name + suffix).mkdir(mode=0o700)
    opened = vault_in(empty.directory, clock, passphrase=PASSPHRASE if suffix else None)

    with pytest.raises(StorageError, match=r"^cannot read root's key at"):
        opened.load_key(root)


def test_what_was_sealed_in_the_place_of_a_key_is_none(
    tmp_path: Path, clock: AdjustableClock
) -> None:
    sealed = vault_in(tmp_path / "sealed", clock, passphrase=PASSPHRASE)
    root = sealed.new_root("hospitals", 10)
    (path,) = sealed.directory.iterdir()
    path.write_bytes(sealing.seal(b"junk", PASSPHRASE, label="root key"))

    with pytest.raises(IntegrityError, match=r"^root's key must be an unencrypted private key"):
        sealed.load_key(root)


@pytest.mark.parametrize("name", ["ca.crt", "issued.json", "x.key", "y.key.sealed"])
def test_a_directory_with_a_part_of_an_authority_is_not_vacant(empty: Vault, name: str) -> None:
    empty.verify_vacant()

    (empty.directory / name).write_bytes(b"")

    with pytest.raises(ConflictError, match=f"got {name} in"):
        empty.verify_vacant()


def test_parts_of_an_authority_are_told_in_order(empty: Vault) -> None:
    for name in ("z.key", "a.key.sealed", "issued.json", "ca.crt"):
        (empty.directory / name).write_bytes(b"")

    with pytest.raises(
        ConflictError, match=r"got ca\.crt, issued\.json, a\.key\.sealed, z\.key in"
    ):
        empty.verify_vacant()


def test_an_authority_exists_with_its_certificate(empty: Vault, kept: Vault) -> None:
    kept.verify_exists()

    with pytest.raises(NotFoundError, match="create it with `kumiai ca init`"):
        empty.verify_exists()
    kept.certificate_path.unlink()
    with pytest.raises(NotFoundError, match=r"^authority must exist, got no file"):
        kept.open_index()


def test_an_index_without_a_root_or_an_issuer_or_of_another_federation_is_damaged(
    kept: Vault,
) -> None:
    index = kept.read_index()
    root, issuer = index.roots[0], index.issuers[0]

    for authorities in ((), (root,), (issuer,)):
        kept.save_index(replace(index, authorities=authorities))
        with pytest.raises(IntegrityError, match="must name a root and an issuer"):
            kept.read_index()
    kept.save_index(replace(index, federation="another"))
    with pytest.raises(IntegrityError, match="must be of federation 'hospitals'"):
        kept.read_index()


def test_what_a_crash_left_undone_of_the_trust_bundle_is_finished(kept: Vault) -> None:
    whole = kept.certificate_path.read_bytes()
    kept.certificate_path.write_bytes(b"older")

    index = kept.open_index()

    assert kept.certificate_path.read_bytes() == whole == index.trust_bundle
    # What is right already is not written again.
    before = kept.certificate_path.stat().st_ino
    kept.open_index()
    assert kept.certificate_path.stat().st_ino == before


def lists_in(content: bytes) -> list[x509.CertificateRevocationList]:
    begin = b"-----BEGIN X509 CRL-----"
    return [x509.load_pem_x509_crl(begin + each) for each in content.split(begin)[1:]]


def test_a_list_is_dated_back_numbered_and_good_for_a_year_or_its_issuers_life(
    kept: Vault, clock: AdjustableClock
) -> None:
    index = kept.read_index()
    clock.advance(1_000)

    (first,) = lists_in(kept.publish_lists(index))
    (second,) = lists_in(kept.publish_lists(kept.read_index()))

    assert first.last_update_utc.timestamp() == int(clock.now() - 300)
    assert second.last_update_utc.timestamp() == int(clock.now() - 300) + 1
    assert first.next_update_utc is not None
    assert first.next_update_utc.timestamp() == clock.now() + 365 * DAY_SECONDS
    numbers = [
        each.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        for each in (first, second)
    ]
    assert numbers == [index.list_number + 1, index.list_number + 2]
    assert kept.read_index().list_number == numbers[1]
    assert kept.revocation_list_path.read_bytes().endswith(b"-----END X509 CRL-----\n")


def test_an_issuer_signs_a_list_until_its_last_second_and_none_once_it_is_revoked(
    kept: Vault, clock: AdjustableClock
) -> None:
    index = kept.read_index()
    clock.advance(index.issuers[0].not_after - clock.now())
    (last,) = lists_in(kept.publish_lists(index))
    assert last.next_update_utc is not None
    assert last.next_update_utc.timestamp() == clock.now()

    clock.advance(1)

    assert lists_in(kept.publish_lists(kept.read_index())) == []
    clock.advance(-2)
    issuer = replace(index.issuers[0], revoked_at=clock.now(), reason=RevocationReason.UNSPECIFIED)
    revoked = replace(index, authorities=(index.roots[0], issuer))
    assert lists_in(kept.publish_lists(revoked)) == []
    root = index.roots[0]
    with_roots = kept.publish_lists(revoked, roots=frozenset({root.serial}))
    (of_root,) = lists_in(with_roots)
    assert of_root.issuer == certificate_in(root).subject
    assert [entry.serial_number for entry in of_root] == [issuer.serial]
    assert of_root.next_update_utc is not None
    assert of_root.next_update_utc.timestamp() == root.not_after
    # A root's list is kept, for later ones that it does not sign itself.
    assert lists_in(kept.publish_lists(kept.read_index())) == [of_root]


@pytest.fixture
def reached() -> Iterator[list[str]]:
    """Lend a list to which each failpoint adds its name."""
    names: list[str] = []
    failpoints.install(names.append)
    yield names
    failpoints.install(None)


def test_the_places_where_a_crash_is_tried_have_their_names(
    kept: Vault, reached: list[str]
) -> None:
    kept.publish_lists(kept.read_index())

    assert reached == ["identity.index.before", "identity.index.after", "identity.list.after"]


def test_serial_numbers_are_random_and_never_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def lowest(bits: int) -> int:
        asked.append(bits)
        return 0

    monkeypatch.setattr(vault.secrets, "randbits", lowest)

    assert vault.new_serial() == 1
    assert asked == [128]
    assert vault.short_serial(0x123456789ABCDEF) == "123456789abc"


def test_a_vault_is_no_thing_to_copy(empty: Vault) -> None:
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        empty.__reduce__()
    with pytest.raises(ConfigError, match="passphrase"):
        vault_in(empty.directory, AdjustableClock(0.0), passphrase=b"short")
