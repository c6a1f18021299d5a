"""How a coordinator's dealings with sites are put together."""

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from kumiai.core.clock import Clock
from kumiai.core.errors import ConfigError
from kumiai.identity import Identity, TrustBundle, WatchedFiles
from kumiai.identity.files import read_file
from kumiai.identity.issuer import SiteIssuer
from kumiai.identity.pkcs11 import KeyTokens, pin_in
from kumiai.identity.trust import chain_of
from kumiai.node.assembly.passphrases import passphrase_of
from kumiai.node.coordinator.sites import SiteOffice, TrustAnchor
from kumiai.node.settings import IdentitySettings, Settings, SitesSettings
from kumiai.storage import AuditTrail, DatabaseManager, EnrolmentRepository, SiteDenials

__all__ = ["new_site_issuer", "new_site_office"]


def new_site_office(
    settings: Settings,
    *,
    database: DatabaseManager,
    denials: SiteDenials,
    issuer: WatchedFiles[SiteIssuer] | None,
    own: Identity,
    trail: AuditTrail | None = None,
) -> SiteOffice:
    """Return what deals with sites.

    Args:
        settings: with absolute paths.
        database: where sites are kept.
        denials: the snapshot of who is denied.
        issuer: signs; ``None``: nothing is signed here.
        own: this coordinator's identity.
        trail: takes the entries of the audit log.
    """
    return SiteOffice(
        sites=EnrolmentRepository(database, trail=trail),
        denials=denials,
        issuer=issuer,
        federation=own.federation,
        read_anchor=lambda: _anchor(settings.identity),
        needs_approval=settings.sites.needs_approval,
        certificate_hours=settings.sites.certificate_hours,
    )


def new_site_issuer(
    settings: Settings, clock: Clock, *, federation: str
) -> WatchedFiles[SiteIssuer] | None:
    """Return the issuer of the settings, ``None`` if they name none; replaced files are taken up.

    Raises:
        ConfigError: half of it is set, or it is another federation's.
        KumiaiError: it can not be used.
    """
    sites = settings.sites
    if sites.issuer_certificate is None and sites.issuer_key is None:
        return None
    if sites.issuer_certificate is None or sites.issuer_key is None:
        raise ConfigError(
            "sites.issuer_certificate and sites.issuer_key must be set together, got one of them"
        )
    certificate, key = sites.issuer_certificate, sites.issuer_key
    # One for all tries: it knows which PIN a token has refused, and tokens lock.
    tokens = KeyTokens(sites.pkcs11_module, lambda _token: _pin(sites))
    watched = [certificate, key, settings.identity.ca]
    if sites.issuer_passphrase_file is not None:
        watched.append(sites.issuer_passphrase_file)
    return WatchedFiles(
        watched, lambda: _issuer_in(certificate, key, settings, clock, federation, tokens), clock
    )


def _issuer_in(  # noqa: PLR0917 - private, and what `new_site_issuer` has at hand
    certificate: Path,
    key: Path,
    settings: Settings,
    clock: Clock,
    federation: str,
    tokens: KeyTokens,
) -> SiteIssuer:
    sites = settings.sites
    passphrase = passphrase_of(sites.issuer_passphrase, sites.issuer_passphrase_file)
    issuer = SiteIssuer.load(certificate, key, settings.identity.ca, clock, passphrase, tokens)
    if issuer.federation != federation:
        raise ConfigError(
            f"sites.issuer_certificate must be of federation {federation!r}, "
            f"got {issuer.federation!r}"
        )
    return issuer


def _pin(sites: SitesSettings) -> str | None:
    if sites.pkcs11_pin is not None:
        return sites.pkcs11_pin.get_secret_value()
    return None if sites.pkcs11_pin_file is None else pin_in(sites.pkcs11_pin_file)


def _anchor(identity: IdentitySettings) -> TrustAnchor:
    bundle = read_file(identity.ca, "ca certificate")
    chain = chain_of(read_file(identity.certificate, "certificate"))
    root = TrustBundle.load(bundle).root_of(chain)
    der = root.public_bytes(serialization.Encoding.DER)
    return TrustAnchor(bundle, hashlib.sha256(der).hexdigest())
