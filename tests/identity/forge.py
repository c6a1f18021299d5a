"""Certificates as nobody sane issues them: every field can be wrong on its own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

FEDERATION = "hospitals"
CLIENT = f"kumiai://{FEDERATION}/client/site-1"
EPOCH, FOREVER = 0.0, 4e9


@dataclass(frozen=True)
class Forged:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def key_pem(self) -> bytes:
        return bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )


def forge(
    *,
    by: Forged | None = None,
    name: str = "site-1",
    uris: Sequence[str] = (CLIENT,),
    hosts: Sequence[str] = (),
    serial: int = 7,
    begins: float = EPOCH,
    ends: float = FOREVER,
    key: Any = None,
    is_authority: bool = False,
    path_length: int | None = None,
    may_sign: bool | None = None,
    may_authenticate: bool | None = None,
    usages: Sequence[x509.ObjectIdentifier] | None = (ExtendedKeyUsageOID.CLIENT_AUTH,),
    with_constraints: bool = True,
    with_usage: bool = True,
) -> Forged:
    """Return a certificate; without ``by`` it signs itself."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, FEDERATION),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    builder = (
        x509.CertificateBuilder(
            issuer_name=by.certificate.subject if by else subject, subject_name=subject
        )
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(datetime.fromtimestamp(begins, tz=UTC))
        .not_valid_after(datetime.fromtimestamp(ends, tz=UTC))
    )
    if with_constraints:
        constraints = x509.BasicConstraints(is_authority, path_length if is_authority else None)
        builder = builder.add_extension(constraints, critical=True)
    if with_usage:
        builder = builder.add_extension(
            _usage(
                signs=is_authority if may_sign is None else may_sign,
                authenticates=not is_authority if may_authenticate is None else may_authenticate,
            ),
            critical=True,
        )
    if not is_authority and usages is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names += [x509.DNSName(host) for host in hosts]
    if names and not is_authority:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
    )
    if by is not None:
        above = x509.AuthorityKeyIdentifier.from_issuer_public_key(by.key.public_key())
        builder = builder.add_extension(above, critical=False)
    signer = by.key if by else key
    digest = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return Forged(builder.sign(signer, digest), key)


def forge_authority(*, by: Forged | None = None, **changes: Any) -> Forged:
    """Return a root, or an intermediate authority below ``by``."""
    values = {"name": "authority", "serial": 1, "path_length": 1, **changes}
    return forge(by=by, is_authority=True, uris=(), **values)


def rsa_key(bits: int) -> Any:
    """Return a key; too short ones are slow to make and weak."""
    return rsa.generate_private_key(65537, bits)


def _usage(*, signs: bool, authenticates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=authenticates,
        content_commitment=False,
        key_encipherment=not authenticates and not signs,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
