"""What every key of an authority promises, wherever it lies: subclass, and lend two keys.

class TestKeysInFiles(SigningKeyContract):
    @pytest.fixture
    def keys(self): ...
"""

# ruff: noqa: D102, S101 - the name of a test is its sentence, and a test asserts

import copy
import ipaddress

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from kumiai.identity import RevocationReason, Role, TrustBundle, identity_of
from kumiai.identity.index import IssuedRecord, Revocation
from kumiai.identity.keys import new_key
from kumiai.identity.signing import (
    new_issuer_certificate,
    new_member_certificate,
    new_revocation_list,
    new_root_certificate,
)
from kumiai.identity.vault import pem_of

__all__ = ["SigningKeyContract"]

_BEGIN, _END = 1_000_000_000.0, 3_000_000_000.0
_ECDSA = ec.ECDSA(hashes.SHA256())

Keys = tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePrivateKey]


def _root_of(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return new_root_certificate("hospitals", key, serial=1, not_before=_BEGIN, not_after=_END)


def _issuer_below(root: x509.Certificate, keys: Keys, *, only_sites: bool) -> x509.Certificate:
    root_key, issuer_key = keys
    return new_issuer_certificate(
        issuer_key.public_key(),
        only_sites=only_sites,
        serial=2,
        not_before=_BEGIN,
        not_after=_END,
        root=root,
        root_key=root_key,
    )


class SigningKeyContract:
    """The tests; a subclass has a fixture ``keys``: two different ones, of a root and an issuer."""

    def test_a_key_is_on_p256_and_each_has_its_own_public_half(self, keys: Keys) -> None:
        first, second = keys

        assert isinstance(first.curve, ec.SECP256R1)
        assert first.key_size == 256
        assert first.public_key() != second.public_key()
        assert copy.copy(first).public_key() == first.public_key()
        assert copy.deepcopy(first).public_key() == first.public_key()

    @pytest.mark.parametrize("size_bytes", [0, 1, 31, 32, 33, 100_000])
    def test_a_signature_verifies_for_its_data_alone(self, keys: Keys, size_bytes: int) -> None:
        data = bytes(size_bytes)

        signature = keys[0].sign(data, _ECDSA)

        keys[0].public_key().verify(signature, data, _ECDSA)
        with pytest.raises(InvalidSignature):
            keys[0].public_key().verify(signature, data + b"\0", _ECDSA)
        with pytest.raises(InvalidSignature):
            keys[1].public_key().verify(signature, data, _ECDSA)

    def test_many_signatures_have_the_form_that_x509_wants(self, keys: Keys) -> None:
        # r and s are short now and then, and padded where their first bit is set.
        for number in range(40):
            data = number.to_bytes(2, "big")
            keys[0].public_key().verify(keys[0].sign(data, _ECDSA), data, _ECDSA)

    def test_a_federation_hangs_together(self, keys: Keys) -> None:
        root = _root_of(keys[0])
        issuer = _issuer_below(root, keys, only_sites=False)
        record = IssuedRecord(3, Role.COORDINATOR, "main", ("localhost",), _BEGIN, _END, issuer=2)
        hosts = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))

        member = new_member_certificate(
            record, hosts, new_key().public_key(), issuer=issuer, issuer_key=keys[1]
        )

        assert TrustBundle.load(pem_of(root)).root_of((member, issuer)) == root
        assert identity_of(member).uri == "kumiai://hospitals/coordinator/main"
        root.verify_directly_issued_by(root)

    def test_a_revocation_list_is_signed(self, keys: Keys) -> None:
        revoked = Revocation(9, _BEGIN, RevocationReason.KEY_COMPROMISE)

        made = new_revocation_list(
            [revoked],
            number=1,
            updated_at=_BEGIN,
            not_after=_END,
            issuer=_root_of(keys[0]),
            issuer_key=keys[0],
        )

        assert made.is_signature_valid(keys[0].public_key())
        assert not made.is_signature_valid(keys[1].public_key())
        assert made.get_revoked_certificate_by_serial_number(9) is not None
