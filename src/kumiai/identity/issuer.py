"""A coordinator's own issuer: signs short-lived certificates of sites' clients, and no others.

Its certificate is for sites alone (``kumiai ca delegate``): what a thief of its key could sign
would be refused by every TLS library as a server's and by `identity_of` as any other role's. Its
key stays in this object, or in a PKCS#11 token. Reads files when it is loaded, and none afterwards.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from kumiai.core.clock import Clock
from kumiai.core.errors import CertificateError
from kumiai.identity import files, sealing, signing
from kumiai.identity.index import AuthorityKind, IssuedRecord
from kumiai.identity.keys import MemberKey, private_key_of
from kumiai.identity.names import (
    CERTIFICATE_SIZE_BYTES_MAX,
    Identity,
    Role,
    certificate_of,
    identity_of,
    is_of_sites,
)
from kumiai.identity.pkcs11 import KeyTokens, TokenKey
from kumiai.identity.pkcs11_uri import is_key_uri
from kumiai.identity.trust import TrustBundle
from kumiai.identity.vault import CLOCK_SKEW_SECONDS, new_serial, pem_of

__all__ = ["SignedSite", "SiteIssuer"]

_LABEL: Final = f"{AuthorityKind.SITES} key"


@dataclass(frozen=True, slots=True)
class SignedSite:
    """A new certificate of a site's client.

    Attributes:
        identity: whom it speaks for.
        chain: it and its issuer's, PEM.
        not_before: when its life begins, seconds since 1970-01-01 UTC.
    """

    identity: Identity
    chain: bytes
    not_before: float


class SiteIssuer:
    """Signs certificates of sites' clients."""

    def __init__(
        self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, clock: Clock
    ) -> None:
        """Sign with this key; `load` checks that it may.

        Args:
            certificate: the issuer's.
            key: its private key.
            clock: dates certificates.
        """
        self._certificate = certificate
        self._key = key
        self._clock = clock
        self.federation = signing.federation_of(certificate)
        self.serial = certificate.serial_number

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: the key stays in this process.

        Raises:
            TypeError: always.
        """
        raise TypeError("a SiteIssuer cannot be pickled or copied: it holds a secret")

    @classmethod
    def load(  # noqa: PLR0917 - in the order of the settings
        cls,
        cert_path: Path,
        key_path: Path,
        ca_path: Path,
        clock: Clock,
        passphrase: bytes | None,
        tokens: KeyTokens | None = None,
    ) -> Self:
        """Return the issuer in two files.

        Args:
            cert_path: its certificate, PEM.
            key_path: its private key, PEM or sealed, or its name in a token.
            ca_path: the roots, PEM.
            clock: dates certificates.
            passphrase: what its key is sealed by; ``None``: it is not.
            tokens: where the key may lie instead; ``None``: nowhere.

        Raises:
            NotFoundError, StorageError: a file cannot be read, or a token's key is not there.
            ConfigError: the passphrase or the PIN is missing or wrong.
            IntegrityError: the key is damaged.
            CertificateError: the certificate is no issuer's for sites, is foreign or out of
                force, its key is another's, or others may read the key.
        """
        certificate = certificate_of(
            files.read_file(cert_path, "issuer", size_bytes_max=CERTIFICATE_SIZE_BYTES_MAX)
        )
        TrustBundle.load(ca_path).root_of((certificate,))
        if not is_of_sites(certificate.subject):
            raise CertificateError(
                f"issuer must be one for sites alone, got another in {cert_path}; make one with "
                "`kumiai ca delegate`: that of the authority must not be at a coordinator"
            )
        files.verify_private(key_path, "issuer's key")
        pem = files.read_file(key_path, "issuer's key", size_bytes_max=CERTIFICATE_SIZE_BYTES_MAX)
        key = _key_of(pem, passphrase, tokens or KeyTokens())
        if key.public_key() != certificate.public_key():
            raise CertificateError(
                f"issuer's key must belong to its certificate, got another in {key_path}; use the "
                "two files that `kumiai ca delegate` made together"
            )
        if isinstance(key, TokenKey):
            # Now rather than at the first renewal, which may be in the middle of the night.
            key.verify_whole()
        issuer = cls(certificate, key, clock)
        issuer.verify_in_force()
        return issuer

    def verify_in_force(self) -> None:
        """Check that the issuer may sign now.

        Raises:
            CertificateError: its certificate is not valid now.
        """
        begin, end = self._certificate.not_valid_before_utc, self._certificate.not_valid_after_utc
        if not begin.timestamp() <= self._clock.now() <= end.timestamp():
            raise CertificateError(
                f"issuer's certificate must be valid now, got {begin:%Y-%m-%d %H:%M} to "
                f"{end:%Y-%m-%d %H:%M} UTC; make a new one with `kumiai ca delegate`"
            )

    def sign(self, public_key: MemberKey, name: str, *, lifetime_seconds: float) -> SignedSite:
        """Return a certificate of a site's client, which enters a table before it is handed out.

        Args:
            public_key: the site's; it has proved that it holds the private one.
            name: the site's.
            lifetime_seconds: how long it is good, > 0; cut to the issuer's end.

        Raises:
            ConfigError: the name breaks its rule.
            CertificateError: the issuer's certificate is not valid now.
            UnavailableError: the key's token does not answer.
        """
        self.verify_in_force()
        now = self._clock.now()
        end = self._certificate.not_valid_after_utc.timestamp()
        record = IssuedRecord(
            serial=new_serial(),
            role=Role.CLIENT,
            name=name,
            hosts=(),
            not_before=float(int(now - CLOCK_SKEW_SECONDS)),
            not_after=float(int(min(now + lifetime_seconds, end))),
        )
        certificate = signing.new_member_certificate(
            record, (), public_key, issuer=self._certificate, issuer_key=self._key
        )
        chain = pem_of(certificate) + pem_of(self._certificate)
        return SignedSite(identity_of(certificate), chain, record.not_before)


def _key_of(
    content: bytes, passphrase: bytes | None, tokens: KeyTokens
) -> ec.EllipticCurvePrivateKey:
    if is_key_uri(content):
        return tokens.key_in(content)
    if passphrase is not None:
        content = sealing.unseal(content, passphrase, label=_LABEL)
    return private_key_of(content, "issuer's key")
