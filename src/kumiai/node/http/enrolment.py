"""Sites over HTTP: operators invite, approve, suspend and remove; a site joins with its token.

Two routes are open to everybody: the roots' certificates, which are public, and joining, which
takes the secret of an invitation in place of a certificate.
"""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from kumiai.identity.requests import REQUEST_SIZE_BYTES_MAX
from kumiai.node.auditing.actors import actor_of
from kumiai.node.http.access import Caller, GuardedRouter
from kumiai.node.http.dependencies import Parts
from kumiai.storage import EnrolmentState, SiteRecord, SiteState

__all__ = ["new_router"]

_WAITING = 202


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InviteBody(_Body):
    """How long an invitation is good, and what for."""

    role: str = "client"
    lifetime_hours: float = 24.0


class ReasonBody(_Body):
    """Why."""

    reason: Annotated[str, Field(max_length=2_000)] = ""


class JoinBody(_Body):
    """The secret of an invitation, and the request to be signed, PEM."""

    secret: Annotated[str, Field(max_length=100)]
    request: Annotated[str, Field(max_length=REQUEST_SIZE_BYTES_MAX, pattern=r"^[\x00-\x7f]*$")]


class InvitationView(BaseModel):
    """What a site needs in order to join; the secret is shown this once."""

    name: str
    secret: str
    fingerprint: str
    expires_at: float


class JoinedView(BaseModel):
    """A site's certificate with its issuer's, and the roots, PEM; empty while it must wait."""

    name: str
    certificate: str
    ca: str


class TrustView(BaseModel):
    """The roots' certificates, PEM."""

    ca: str


class SiteView(BaseModel):
    """A site."""

    name: str
    state: SiteState
    enrolment: EnrolmentState | None
    invited_until: float | None
    certificate_count: int
    not_after: float | None
    reason: str
    changed_at: float
    changed_by: str


class SitesView(BaseModel):
    """All sites, by name."""

    sites: list[SiteView]


class SiteActView(BaseModel):
    """What became of a site, and the serial numbers that were revoked, hexadecimal."""

    name: str
    act: str
    revoked: list[str] = []


def new_router() -> APIRouter:
    """Return the routes."""
    router = GuardedRouter("sites")
    router.get("/api/v1/trust")(trust)
    router.post("/api/v1/join", responses={_WAITING: {"model": JoinedView}})(join)
    router.get("/api/v1/sites")(list_sites)
    router.post("/api/v1/sites/{name}/invite", status_code=201)(invite)
    router.post("/api/v1/sites/{name}/approve")(approve)
    router.post("/api/v1/sites/{name}/suspend")(suspend)
    router.post("/api/v1/sites/{name}/resume")(resume)
    router.post("/api/v1/sites/{name}/remove")(remove)
    return router


async def trust(parts: Parts) -> TrustView:
    """Return whom members of this federation trust; to be believed by a fingerprint alone."""
    return TrustView(ca=(await parts.sites.trust_bundle()).decode("ascii"))


async def join(body: JoinBody, parts: Parts, request: Request, response: Response) -> JoinedView:
    """Sign the request of whoever holds an invitation; 202 while an operator must approve it."""
    address = request.client.host if request.client else ""
    done = await parts.sites.enrol(body.secret, body.request.encode("ascii"), address=address)
    if not done.chain:
        response.status_code = _WAITING
    return JoinedView(
        name=done.name,
        certificate=done.chain.decode("ascii"),
        ca=done.trust_bundle.decode("ascii"),
    )


async def list_sites(parts: Parts) -> SitesView:
    """Return every site that was invited, got a certificate here, or is denied, by name."""
    return SitesView(sites=[_view_of(site) for site in await parts.sites.list_sites()])


async def invite(name: str, body: InviteBody, parts: Parts, caller: Caller) -> InvitationView:
    """Invite a site; an earlier invitation that nobody took is withdrawn."""
    made = await parts.sites.invite(
        name, role=body.role, lifetime_hours=body.lifetime_hours, by=actor_of(caller)
    )
    return InvitationView(
        name=made.name,
        secret=made.secret,
        fingerprint=made.fingerprint,
        expires_at=made.expires_at,
    )


async def approve(name: str, parts: Parts, caller: Caller) -> SiteActView:
    """Let a site that waits have its certificate."""
    await parts.sites.approve(name, by=actor_of(caller))
    return SiteActView(name=name, act="approved")


async def suspend(name: str, body: ReasonBody, parts: Parts, caller: Caller) -> SiteActView:
    """Refuse a site until it is resumed."""
    await parts.sites.suspend(name, by=actor_of(caller), reason=body.reason)
    return SiteActView(name=name, act="suspended")


async def resume(name: str, parts: Parts, caller: Caller) -> SiteActView:
    """Let a suspended site in again."""
    await parts.sites.resume(name, by=actor_of(caller))
    return SiteActView(name=name, act="resumed")


async def remove(name: str, body: ReasonBody, parts: Parts, caller: Caller) -> SiteActView:
    """Refuse a site for good, and revoke its certificates."""
    revoked = await parts.sites.remove(name, by=actor_of(caller), reason=body.reason)
    return SiteActView(name=name, act="removed", revoked=revoked)


def _view_of(site: SiteRecord) -> SiteView:
    return SiteView(
        name=site.name,
        state=site.state,
        enrolment=site.enrolment,
        invited_until=site.invited_until,
        certificate_count=site.certificate_count,
        not_after=site.not_after,
        reason=site.reason,
        changed_at=site.changed_at,
        changed_by=site.changed_by,
    )
