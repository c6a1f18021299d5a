"""A site's signing key."""

from pathlib import Path

import pytest

from kumiai.core.clock import SystemClock
from kumiai.core.errors import CertificateError, IntegrityError
from kumiai.identity import (
    CertificateManager,
    NoDenials,
    PeerRules,
    Role,
    TrustBundle,
    verify_voucher,
)
from kumiai.node.signing_key import KEY_FILE, load_signer, voucher_of
from kumiai.node.wire.channel import TlsFiles


def test_the_key_stays_the_same(tmp_path: Path) -> None:
    assert load_signer(tmp_path).public == load_signer(tmp_path).public
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o077 == 0


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    load_signer(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o640)

    with pytest.raises(CertificateError, match="signing key"):
        load_signer(tmp_path)


def test_a_damaged_key_is_told_and_not_replaced(tmp_path: Path) -> None:
    load_signer(tmp_path)
    (tmp_path / KEY_FILE).write_bytes(b"short")

    with pytest.raises(IntegrityError, match="must be 32 bytes, got 5"):
        load_signer(tmp_path)

    assert (tmp_path / KEY_FILE).read_bytes() == b"short"


def test_the_certificate_vouches_for_it(tmp_path: Path) -> None:
    clock = SystemClock()
    manager = CertificateManager(tmp_path / "ca", clock=clock)
    manager.create("hospitals")
    own = manager.issue(Role.CLIENT, "site-1", out_dir=tmp_path / "site-1")
    signer = load_signer(tmp_path)

    voucher = voucher_of(
        signer, TlsFiles(certificate=own.cert, key=own.key, ca=own.ca), clock.now()
    )

    trust, rules = TrustBundle.load(own.ca), PeerRules("hospitals", None, NoDenials())
    vouched = verify_voucher(voucher, trust, rules, clock.now())
    assert (vouched.identity.name, vouched.public_key) == ("site-1", signer.public)
