"""A member's word for its signing key: what it proves, and every way in which it fails."""

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import CertificateError
from kumiai.identity import (
    CertificateManager,
    IssuedCertificate,
    NoDenials,
    PeerRefusedError,
    PeerRules,
    Refusal,
    Role,
    TrustBundle,
)
from kumiai.identity.keys import is_signed_by, verify_strong
from kumiai.identity.vouchers import VOUCHER_SIZE_BYTES_MAX, new_voucher, verify_voucher
from tests.identity.conftest import DAY_SECONDS, FEDERATION, AdjustableClock
from tests.identity.forge import forge, forge_authority, rsa_key

KEY = bytes(range(32))
NOW = 1e9
ROOT = forge_authority()
RULES = PeerRules(FEDERATION, None, NoDenials())


@pytest.fixture
def trust(authority: CertificateManager) -> TrustBundle:
    return TrustBundle.load(authority.certificate_path)


@pytest.fixture
def voucher(client: IssuedCertificate, clock: AdjustableClock) -> bytes:
    return voucher_of(client, clock.now())


def voucher_of(member: IssuedCertificate, now: float) -> bytes:
    return new_voucher(KEY, member.cert.read_bytes(), member.key.read_bytes(), now)


def changed(voucher: bytes, **fields: Any) -> bytes:
    return json.dumps({**json.loads(voucher), **fields}).encode()


def test_a_voucher_names_the_member_and_its_key(
    voucher: bytes, trust: TrustBundle, clock: AdjustableClock
) -> None:
    vouched = verify_voucher(voucher, trust, RULES, clock.now())

    assert vouched.identity.name == "site-1"
    assert (vouched.public_key, vouched.made_at) == (KEY, clock.now())


def test_a_voucher_with_an_rsa_key_holds() -> None:
    member = forge(by=ROOT, key=rsa_key(3072))
    voucher = new_voucher(KEY, member.pem, member.key_pem, NOW)

    vouched = verify_voucher(voucher, TrustBundle.load(ROOT.pem), RULES, NOW)

    assert vouched.public_key == KEY
    with pytest.raises(CertificateError, match="got another signature"):
        verify_voucher(changed(voucher, made_at=1.0), TrustBundle.load(ROOT.pem), RULES, NOW)


@pytest.mark.parametrize(
    "fields",
    [{"public_key": bytes(32).hex()}, {"made_at": 1.0}],
)
def test_what_is_changed_afterwards_is_not_signed(
    voucher: bytes, trust: TrustBundle, clock: AdjustableClock, fields: Any
) -> None:
    with pytest.raises(CertificateError, match="must be signed by its certificate's key"):
        verify_voucher(changed(voucher, **fields), trust, RULES, clock.now())


def test_another_members_signature_does_not_count(
    voucher: bytes,
    authority: CertificateManager,
    trust: TrustBundle,
    clock: AdjustableClock,
    tmp_path: Path,
) -> None:
    other = authority.issue(Role.CLIENT, "site-2", out_dir=tmp_path / "other")
    others = json.loads(voucher_of(other, clock.now()))

    with pytest.raises(CertificateError, match="got another signature"):
        verify_voucher(changed(voucher, chain=others["chain"]), trust, RULES, clock.now())


def test_a_stranger_can_not_vouch(
    stranger: IssuedCertificate, trust: TrustBundle, clock: AdjustableClock
) -> None:
    with pytest.raises(PeerRefusedError) as caught:
        verify_voucher(voucher_of(stranger, clock.now()), trust, RULES, clock.now())

    assert caught.value.refusal is Refusal.WRONG_AUTHORITY


def test_a_voucher_ends_with_its_certificate(
    voucher: bytes, trust: TrustBundle, clock: AdjustableClock
) -> None:
    with pytest.raises(PeerRefusedError) as caught:
        verify_voucher(voucher, trust, RULES, clock.now() + 4000 * DAY_SECONDS)

    assert caught.value.refusal is Refusal.EXPIRED


def test_a_voucher_of_the_future_is_refused(
    client: IssuedCertificate, trust: TrustBundle, clock: AdjustableClock
) -> None:
    skew = RULES.clock_skew_seconds

    verify_voucher(voucher_of(client, clock.now() + skew), trust, RULES, clock.now())
    with pytest.raises(CertificateError, match="must not be of the future"):
        verify_voucher(voucher_of(client, clock.now() + skew + 1), trust, RULES, clock.now())


@pytest.mark.parametrize(
    "fields",
    [
        {"version": 2},
        {"more": 1},
        {"public_key": "00"},
        {"public_key": "zz" * 32},
        {"public_key": 7},
        {"made_at": "soon"},
        {"made_at": float("nan")},
        {"made_at": float("inf")},
        {"chain": ["AAAA"]},
        {"chain": 1},
        {"chain": ["%"]},
        {"chain": [base64.b64encode(ROOT.pem).decode()]},
        {"signature": "%"},
    ],
)
def test_a_damaged_voucher_is_told_as_such(
    voucher: bytes, trust: TrustBundle, clock: AdjustableClock, fields: Any
) -> None:
    with pytest.raises(CertificateError, match="do not parse"):
        verify_voucher(changed(voucher, **fields), trust, RULES, clock.now())


def test_a_chain_with_strange_letters_in_it_is_none(
    voucher: bytes, trust: TrustBundle, clock: AdjustableClock
) -> None:
    chain = ["%" + each for each in json.loads(voucher)["chain"]]

    with pytest.raises(CertificateError, match="do not parse"):
        verify_voucher(changed(voucher, chain=chain), trust, RULES, clock.now())


def test_no_chain_is_no_voucher(voucher: bytes, trust: TrustBundle, clock: AdjustableClock) -> None:
    with pytest.raises(PeerRefusedError) as caught:
        verify_voucher(changed(voucher, chain=[]), trust, RULES, clock.now())

    assert caught.value.refusal is Refusal.NO_CERTIFICATE


def test_a_voucher_is_read_up_to_a_limit(
    voucher: bytes, trust: TrustBundle, clock: AdjustableClock
) -> None:
    largest = voucher + b" " * (24 * 1024 - len(voucher))

    assert len(largest) == VOUCHER_SIZE_BYTES_MAX
    assert verify_voucher(largest, trust, RULES, clock.now()).public_key == KEY
    with pytest.raises(CertificateError, match="must be at most 24576 bytes, got 24577"):
        verify_voucher(largest + b" ", trust, RULES, clock.now())


def test_a_voucher_is_written_in_one_way_and_signs_known_bytes(
    voucher: bytes, client: IssuedCertificate, clock: AdjustableClock
) -> None:
    fields = json.loads(voucher)

    assert voucher == json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    uri = client.identity.uri.encode()
    signed = b"kumiai/identity/signing-key-voucher/v1\x00"
    signed += struct.pack(">Hd", len(uri), clock.now()) + uri + KEY
    member = x509.load_pem_x509_certificate(client.cert.read_bytes()).public_key()
    assert is_signed_by(verify_strong(member), base64.b64decode(fields["signature"]), signed)


@given(st.binary(max_size=300))
def test_bytes_of_any_kind_are_refused_with_our_error(noise: bytes) -> None:
    with pytest.raises(CertificateError):
        verify_voucher(noise, TrustBundle.load(ROOT.pem), RULES, NOW)


def test_deep_nesting_is_refused_with_our_error() -> None:
    with pytest.raises(CertificateError, match="do not parse"):
        verify_voucher(b"[" * 20_000, TrustBundle.load(ROOT.pem), RULES, NOW)


def test_a_key_of_another_length_is_the_callers_mistake(client: IssuedCertificate) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        new_voucher(b"short", client.cert.read_bytes(), client.key.read_bytes(), 0.0)


def test_a_key_file_that_does_not_parse_is_told(client: IssuedCertificate) -> None:
    with pytest.raises(CertificateError, match="does not parse"):
        new_voucher(KEY, client.cert.read_bytes(), b"junk", 0.0)


def test_an_edwards_key_is_no_members_key(client: IssuedCertificate) -> None:
    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )

    with pytest.raises(CertificateError, match="elliptic curve or RSA"):
        new_voucher(KEY, client.cert.read_bytes(), pem, 0.0)


def test_the_signature_is_bound_to_what_it_is_for(
    client: IssuedCertificate, trust: TrustBundle, clock: AdjustableClock
) -> None:
    """A signature over the same fields without our label, as another protocol might make it."""
    certificate = x509.load_pem_x509_certificate(client.cert.read_bytes())
    key = serialization.load_pem_private_key(client.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert certificate.public_key() == key.public_key()
    foreign = key.sign(KEY, ec.ECDSA(hashes.SHA256()))
    voucher = changed(voucher_of(client, clock.now()), signature=base64.b64encode(foreign).decode())

    with pytest.raises(CertificateError, match="got another signature"):
        verify_voucher(voucher, trust, RULES, clock.now())
