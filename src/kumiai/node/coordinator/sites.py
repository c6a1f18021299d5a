"""How sites come and go: invited, enrolled, renewed, suspended, removed.

A coordinator with an issuer of its own signs here; one without can only refuse sites, and says how
certificates are signed by hand. What a certificate is for never comes from whoever asks for it:
an invitation names the site, a renewal has the name of the session it came over.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from kumiai.core.errors import ConfigError, ConflictError
from kumiai.core.ids import verify_name
from kumiai.identity.audit import Act, Actor, NewEntry
from kumiai.identity.denials import Denial
from kumiai.identity.issuer import SiteIssuer
from kumiai.identity.keys import digest_of
from kumiai.identity.names import Identity, Role, identity_uri
from kumiai.identity.requests import CertificateRequest, verify_request
from kumiai.identity.watching import WatchedFiles
from kumiai.node.auditing.actors import subject_of
from kumiai.storage import (
    EnrolmentRepository,
    NewInvitation,
    SiteCertificate,
    SiteDenials,
    SiteRecord,
)

__all__ = ["Enrolment", "Invitation", "SQLDenials", "SiteOffice", "TrustAnchor"]

LIFETIME_HOURS_MAX: Final = 30 * 24.0

_SECRET_BYTES: Final = 32
_SECRET_CHARACTERS_MAX: Final = 100
_TOKEN_DOMAIN: Final = b"kumiai/node/enrolment-token/v1/"


@dataclass(frozen=True, slots=True)
class TrustAnchor:
    """Whom members of this federation trust.

    Attributes:
        bundle: the certificates of the roots, PEM.
        fingerprint: SHA-256 of the root that vouches for this coordinator, hexadecimal.
    """

    bundle: bytes
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a site needs in order to join, beside the coordinator's address.

    Attributes:
        name: the site's.
        secret: good once.
        fingerprint: SHA-256 of the root, by which the site knows the coordinator, hexadecimal.
        expires_at: when it ends, seconds since 1970-01-01 UTC.
    """

    name: str
    secret: str
    fingerprint: str
    expires_at: float

    def __repr__(self) -> str:
        """Return it without its secret."""
        return f"Invitation(name={self.name!r}, expires_at={self.expires_at})"


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What became of a request.

    Attributes:
        name: the site's.
        chain: its certificate and its issuer's, PEM; empty while an operator has to approve it.
        trust_bundle: the roots, PEM; empty with it.
    """

    name: str
    chain: bytes
    trust_bundle: bytes


class SiteOffice:
    """The sites of one federation, at one coordinator."""

    def __init__(
        self,
        *,
        sites: EnrolmentRepository,
        denials: SiteDenials,
        issuer: WatchedFiles[SiteIssuer] | None,
        federation: str,
        read_anchor: Callable[[], TrustAnchor],
        needs_approval: bool,
        certificate_hours: float,
    ) -> None:
        """Work with these.

        Args:
            sites: what is kept of them.
            denials: read anew after each change here.
            issuer: signs, the newest whose files are fit for use; ``None``: nothing is signed here.
            federation: ours.
            read_anchor: reads whom members trust; blocking.
            needs_approval: whether an operator looks at each request before it is signed.
            certificate_hours: how long a certificate is good.
        """
        self._sites = sites
        self._denials = denials
        self._issuer = issuer
        self._issuer_version = 1
        self._federation = federation
        self._read_anchor = read_anchor
        self._needs_approval = needs_approval
        self._lifetime_seconds = certificate_hours * 3600.0
        self._log = structlog.get_logger("kumiai.sites")

    async def trust_bundle(self) -> bytes:
        """Return the certificates of the roots, PEM: public."""
        return (await asyncio.to_thread(self._read_anchor)).bundle

    async def invite(self, name: str, *, role: str, lifetime_hours: float, by: Actor) -> Invitation:
        """Invite a site.

        Args:
            name: the site's.
            role: what its certificate will be for: ``client``.
            lifetime_hours: how long the invitation is good, up to 30 days.
            by: the operator.

        Raises:
            ConfigError: an argument breaks its rule.
            ConflictError: nothing is signed here, or the site is suspended.
        """
        verify_name("name", name)
        if role != Role.CLIENT:
            raise ConfigError(
                f"role must be client, got {role[:40]!r}: this coordinator's issuer is for sites "
                "alone; certificates of other roles are made with `kumiai ca issue` or `ca sign`"
            )
        if not 0 < lifetime_hours <= LIFETIME_HOURS_MAX:
            raise ConfigError(
                f"lifetime of an invitation must be up to {LIFETIME_HOURS_MAX:g} hours, "
                f"got {lifetime_hours:g}"
            )
        (await self._own_issuer()).verify_in_force()
        anchor = await asyncio.to_thread(self._read_anchor)
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        expires_at = await self._sites.invite(
            NewInvitation(_hash_of(secret), name, role, by.name, lifetime_hours * 3600.0),
            NewEntry(Act.SITE_INVITED, by, subject_of("site", name)),
        )
        await self._denials.refresh()
        self._log.info("site invited", site=name, by=by.name)
        return Invitation(name, secret, anchor.fingerprint, expires_at)

    async def enrol(self, secret: str, csr_pem: bytes, *, address: str = "") -> Enrolment:
        """Sign the request of whoever holds an invitation.

        The same key again gets the same answer for as long as the invitation is good.

        Args:
            secret: the invitation's.
            csr_pem: the site's request.
            address: where it comes from, for the audit log.

        Raises:
            ConflictError: nothing is signed here, or the key is another site's.
            CertificateError: the request is not acceptable, or the issuer's time is over.
            UnavailableError: the token with the issuer's key does not answer.
            DeniedError: the invitation is not good, or was used with another key.
        """
        issuer = await self._own_issuer()
        request = verify_request(csr_pem)
        claim = await self._sites.claim(
            _hash_of(secret[:_SECRET_CHARACTERS_MAX]),
            key_digest=digest_of(request.public_key),
            request_pem=csr_pem.decode("ascii"),
            needs_approval=self._needs_approval,
        )
        request.verify_for(claim.name, self._uri(claim.name))
        if claim.state == "waiting":
            self._log.info("site waits for approval", site=claim.name)
            return Enrolment(claim.name, b"", b"")
        actor = Actor(Role.CLIENT.value, claim.name, address=address[:64])
        return await self._signed(issuer, claim.name, request, act=Act.SITE_JOINED, actor=actor)

    async def renew(self, name: str, csr_pem: bytes, *, address: str = "") -> Enrolment:
        """Sign the next certificate of a site that has one in force; with a new key.

        Args:
            name: whose session it is, by its certificate, which is good.
            csr_pem: its request.
            address: where it comes from, for the audit log.

        Raises:
            ConflictError: nothing is signed here, the key is another site's or was revoked, or
                the site has too many certificates.
            CertificateError: the request is not acceptable, or the issuer's time is over.
            UnavailableError: the token with the issuer's key does not answer.
        """
        issuer = await self._own_issuer()
        request = verify_request(csr_pem)
        request.verify_for(name, self._uri(name))
        actor = Actor(Role.CLIENT.value, name, address=address[:64])
        return await self._signed(issuer, name, request, act=Act.CERTIFICATE_ISSUED, actor=actor)

    async def approve(self, name: str, *, by: Actor) -> None:
        """Let a site that waits have its certificate.

        Raises:
            NotFoundError: none of this name waits.
        """
        await self._sites.approve(name, NewEntry(Act.SITE_APPROVED, by, subject_of("site", name)))
        self._log.info("site approved", site=name, by=by.name)

    async def suspend(self, name: str, *, by: Actor, reason: str) -> None:
        """Refuse a site until it is resumed; open sessions end within seconds.

        Raises:
            NotFoundError, ConflictError: as for `EnrolmentRepository.suspend`.
        """
        await self._sites.suspend(
            name,
            by=by.name,
            reason=reason,
            entry=NewEntry(Act.SITE_SUSPENDED, by, subject_of("site", name)),
        )
        await self._denials.refresh()
        self._log.info("site suspended", site=name, by=by.name)

    async def resume(self, name: str, *, by: Actor) -> None:
        """Let a suspended site in again.

        Raises:
            NotFoundError, ConflictError: as for `EnrolmentRepository.resume`.
        """
        await self._sites.resume(
            name, by=by.name, entry=NewEntry(Act.SITE_RESUMED, by, subject_of("site", name))
        )
        await self._denials.refresh()
        self._log.info("site resumed", site=name, by=by.name)

    async def remove(self, name: str, *, by: Actor, reason: str) -> list[str]:
        """Refuse a site for good, and revoke its certificates.

        Returns:
            The serial numbers, hexadecimal, of those that a coordinator signed.

        Raises:
            NotFoundError: there is no such site.
        """
        serials = await self._sites.remove(
            name,
            by=by.name,
            reason=reason,
            entry=NewEntry(Act.SITE_REMOVED, by, subject_of("site", name)),
        )
        await self._denials.refresh()
        self._log.info("site removed", site=name, by=by.name, certificates=len(serials))
        return serials

    async def list_sites(self) -> list[SiteRecord]:
        """Return the sites, by name."""
        return await self._sites.list_sites()

    async def _signed(
        self,
        issuer: SiteIssuer,
        name: str,
        request: CertificateRequest,
        *,
        act: Act,
        actor: Actor,
    ) -> Enrolment:
        # In a thread: the key may lie in a token that takes its time.
        signed = await asyncio.to_thread(
            issuer.sign, request.public_key, name, lifetime_seconds=self._lifetime_seconds
        )
        # Kept before it is handed out, so that none exists that cannot be revoked. Who got one for
        # this key before gets that one, and this one nobody.
        kept = await self._sites.keep_certificate(
            SiteCertificate(
                serial=f"{signed.identity.serial:x}",
                name=name,
                role=Role.CLIENT,
                issuer=f"{issuer.serial:x}",
                key_digest=digest_of(request.public_key),
                chain=signed.chain.decode("ascii"),
                not_before=signed.not_before,
                not_after=signed.identity.not_after,
            ),
            NewEntry(
                act,
                actor,
                subject_of("site", name),
                detail={"serial": f"{signed.identity.serial:x}"},
            ),
        )
        await self._denials.refresh()
        self._log.info("certificate signed", site=name, serial=kept.serial)
        return Enrolment(name, kept.chain.encode("ascii"), await self.trust_bundle())

    async def _own_issuer(self) -> SiteIssuer:
        if self._issuer is None:
            raise ConflictError(
                "coordinator must have an issuer to sign for sites, got none: set [sites] "
                "issuer_certificate and issuer_key to files of `kumiai ca delegate`; or let the "
                "site make a request with `kumiai site request`, and sign it with `kumiai ca sign`"
            )
        issuer = await asyncio.to_thread(self._issuer.current)
        if self._issuer.error is not None:
            self._log.warning("new issuer not taken up", error=str(self._issuer.error))
        elif self._issuer.version != self._issuer_version:
            self._issuer_version = self._issuer.version
            self._log.info("issuer taken up", serial=f"{issuer.serial:x}")
        return issuer

    def _uri(self, name: str) -> str:
        return identity_uri(self._federation, Role.CLIENT, name)


class SQLDenials:
    """Tells who is denied, from a snapshot of the tables of sites."""

    def __init__(self, denials: SiteDenials) -> None:
        """Ask this snapshot."""
        self._denials = denials

    def is_denied(self, identity: Identity) -> Denial | None:
        """Return why the identity is refused, ``None`` if it is not."""
        now = self._denials.snapshot
        if identity.serial in now.serials:
            return Denial.REVOKED
        if identity.role is not Role.CLIENT:
            return None
        if identity.name in now.suspended:
            return Denial.SUSPENDED
        if identity.name in now.removed:
            return Denial.REMOVED
        if identity.name in now.only_enrolled and identity.issuer_serial not in now.issuers:
            return Denial.REMOVED
        return None


def _hash_of(secret: str) -> str:
    # Of 256 random bits: nothing is gained by a slow hash.
    return hashlib.sha256(_TOKEN_DOMAIN + secret.encode("utf-8", "surrogatepass")).hexdigest()
