"""Sites: who is invited, what certificates they got from a coordinator, who is denied.

An invitation is taken by one UPDATE that asks whether it is still free, so that of two replicas
one wins; who comes again with the same key gets the same answer, another key is a replay. A
certificate enters its table before it is handed out, and its key's digest stands there once: that
makes signing twice and renewing with another site's key harmless.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, delete, func, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import ConflictError, DeniedError, NotFoundError
from kumiai.storage.audit_trail import AuditTrail, NoTrail
from kumiai.storage.bulk import now_of
from kumiai.storage.database import DatabaseManager
from kumiai.storage.enrolment_tables import EnrolmentRow, SiteCertificateRow, SiteRow
from kumiai.storage.rows import clean, table_of, upsert
from kumiai.storage.tables import ClientRegistration

__all__ = [
    "Claim",
    "EnrolmentRepository",
    "EnrolmentState",
    "NewInvitation",
    "SiteCertificate",
    "SiteRecord",
    "SiteState",
]

EnrolmentState = Literal["open", "waiting", "approved", "withdrawn"]
SiteState = Literal["active", "suspended", "removed"]

IN_FORCE_MAX: Final = 16
"""How many certificates of one site may be good at the same time: renewals need two."""

_KEPT_SECONDS: Final = 30 * 86_400.0
_REASON_CHARACTERS_MAX: Final = 2_000

_ENROLMENTS = table_of(EnrolmentRow)
_SITES = table_of(SiteRow)
_CERTIFICATES = table_of(SiteCertificateRow)


@dataclass(frozen=True, slots=True)
class NewInvitation:
    """An invitation that is to be made.

    Attributes:
        token_hash: of its secret, hexadecimal.
        name: the site's.
        role: what its certificate will be for.
        created_by: the operator.
        lifetime_seconds: how long it is good, > 0.
    """

    token_hash: str
    name: str
    role: str
    created_by: str
    lifetime_seconds: float


@dataclass(frozen=True, slots=True)
class Claim:
    """An invitation that somebody has taken.

    Attributes:
        token_hash: which.
        name: the site's.
        role: what its certificate is for.
        state: ``waiting`` for an operator, or ``approved``.
        key_digest: of the key that the certificate is for.
        request_pem: the request that was sent first.
    """

    token_hash: str
    name: str
    role: str
    state: EnrolmentState
    key_digest: str
    request_pem: str


@dataclass(frozen=True, slots=True)
class SiteCertificate:
    """A certificate that a coordinator signed.

    Attributes:
        serial: its serial number, hexadecimal.
        name: the site's.
        role: what it is for.
        issuer: the issuer's serial number, hexadecimal.
        key_digest: of its public key.
        chain: it and its issuer's, PEM.
        not_before: when its life begins, seconds since 1970-01-01 UTC.
        not_after: when its life ends, same.
    """

    serial: str
    name: str
    role: str
    issuer: str
    key_digest: str
    chain: str
    not_before: float
    not_after: float


@dataclass(frozen=True, slots=True)
class SiteRecord:
    """A site, as an operator sees it.

    Attributes:
        name: the site's.
        state: whether it is let in.
        enrolment: how far its newest invitation is; ``None``: it had none.
        invited_until: when its open invitation ends, seconds since 1970-01-01 UTC.
        certificate_count: certificates that a coordinator signed, in force and not revoked.
        not_after: when the last of them ends, seconds since 1970-01-01 UTC.
        reason: why it is suspended or removed.
        changed_at: when that was last changed, seconds since 1970-01-01 UTC.
        changed_by: by whom.
    """

    name: str
    state: SiteState
    enrolment: EnrolmentState | None
    invited_until: float | None
    certificate_count: int
    not_after: float | None
    reason: str
    changed_at: float
    changed_by: str


class EnrolmentRepository:
    """The sites of one federation.

    Args:
        database: connected, its schema at this version.
        trail: takes the entries of the audit log that calls are given, in their transactions.
    """

    def __init__(self, database: DatabaseManager, *, trail: AuditTrail | None = None) -> None:
        self._database = database
        self._trail = trail or NoTrail()

    # --------------------------------------------------------------------------- invitations

    async def invite(self, invitation: NewInvitation, entry: Any = None) -> float:
        """Keep an invitation; an earlier one of this site that nobody took is withdrawn.

        Args:
            invitation: what to keep.
            entry: of the audit log, written with it; ``None``: none is kept.

        Returns:
            When it ends, seconds since 1970-01-01 UTC.

        Raises:
            ConflictError: the site is suspended.
        """
        async with self._database.transaction("invite_site") as connection:
            now = await now_of(connection)
            await self._admit(connection, invitation, now)
            await connection.execute(
                update(_ENROLMENTS)
                .where(_ENROLMENTS.c.name == invitation.name, _ENROLMENTS.c.state == "open")
                .values(state="withdrawn")
            )
            expires_at = now + invitation.lifetime_seconds
            await connection.execute(
                _ENROLMENTS.insert().values(
                    token_hash=invitation.token_hash,
                    name=invitation.name,
                    role=invitation.role,
                    state="open",
                    created_at=now,
                    created_by=clean(invitation.created_by),
                    expires_at=expires_at,
                )
            )
            await self._note(connection, entry)
        return expires_at

    async def claim(
        self, token_hash: str, *, key_digest: str, request_pem: str, needs_approval: bool
    ) -> Claim:
        """Take an invitation for a key; taking it again for the same key changes nothing.

        Args:
            token_hash: of the secret.
            key_digest: of the key.
            request_pem: verified.
            needs_approval: whether an operator has to look at it first.

        Raises:
            DeniedError: there is none, its time is over, it was withdrawn, or it was taken for
                another key.
        """
        async with self._database.transaction("claim_enrolment") as connection:
            now = await now_of(connection)
            this = _ENROLMENTS.c.token_hash == token_hash
            taken = (
                await connection.execute(
                    update(_ENROLMENTS)
                    .where(
                        this,
                        _ENROLMENTS.c.used_at.is_(None),
                        _ENROLMENTS.c.state == "open",
                        _ENROLMENTS.c.expires_at > now,
                    )
                    .values(
                        used_at=now,
                        state="waiting" if needs_approval else "approved",
                        key_digest=key_digest,
                        request_pem=request_pem,
                    )
                    .returning(*_ENROLMENTS.c)
                )
            ).one_or_none()
            row = (
                taken
                or (await connection.execute(select(*_ENROLMENTS.c).where(this))).one_or_none()
            )
        if row is None or row.state == "withdrawn" or row.expires_at <= now:
            raise DeniedError(
                "invitation must be one that is open, got one that is not known, withdrawn or "
                "over; ask the operator for a new one, `kumiai site invite`"
            )
        if row.key_digest != key_digest:
            raise DeniedError(
                "invitation must be used once, got another key than the first time; if that was "
                "not you, tell the operator at once, else ask for a new one"
            )
        return _claim_of(row)

    async def approve(self, name: str, entry: Any = None) -> Claim:
        """Let the site that waits have its certificate.

        Args:
            name: the site's.
            entry: of the audit log, written with it; ``None``: none is kept.

        Raises:
            NotFoundError: none of this name waits.
        """
        async with self._database.transaction("approve_site") as connection:
            row = (
                await connection.execute(
                    update(_ENROLMENTS)
                    .where(
                        _ENROLMENTS.c.name == name,
                        _ENROLMENTS.c.state == "waiting",
                        _ENROLMENTS.c.expires_at > await now_of(connection),
                    )
                    .values(state="approved")
                    .returning(*_ENROLMENTS.c)
                )
            ).first()
            if row is not None:
                await self._note(connection, entry)
        if row is None:
            raise NotFoundError(
                f"site must wait for approval, got none named {name!r} that does; "
                "`kumiai site list` shows who waits"
            )
        return _claim_of(row)

    # -------------------------------------------------------------------------- certificates

    async def keep_certificate(
        self, certificate: SiteCertificate, entry: Any = None
    ) -> SiteCertificate:
        """Note a certificate before it is handed out.

        Args:
            certificate: what was signed.
            entry: of the audit log, written with it; ``None``: none is kept.

        Returns:
            It; or, where the site has got one for the same key before, that one.

        Raises:
            ConflictError: the key is another site's, or its certificate was revoked; or the site
                has as many certificates in force as one may have.
            DeniedError: the site is suspended or removed.
        """
        async with self._database.transaction("keep_certificate") as connection:
            now = await now_of(connection)
            await _verify_admitted(connection, certificate.name)
            await _make_room(connection, certificate, now)
            insert = upsert(connection, _CERTIFICATES)
            await connection.execute(
                insert.values(**asdict(certificate), created_at=now).on_conflict_do_nothing(
                    index_elements=["key_digest"]
                )
            )
            row = (
                await connection.execute(
                    select(*_CERTIFICATES.c).where(
                        _CERTIFICATES.c.key_digest == certificate.key_digest
                    )
                )
            ).one()
            if row.serial == certificate.serial:
                await self._note(connection, entry)
        if row.name != certificate.name or row.role != certificate.role:
            raise ConflictError(
                f"key must be {certificate.name}'s own, got one that another site's certificate "
                "holds; make a new key"
            )
        if row.revoked_at is not None:
            raise ConflictError(
                f"key must be a new one, got one whose certificate was revoked; make a new key for "
                f"{certificate.name}"
            )
        return _certificate_of(row)

    # --------------------------------------------------------------------------------- sites

    async def suspend(self, name: str, *, by: str, reason: str, entry: Any = None) -> None:
        """Refuse a site until it is resumed.

        Args:
            name: the site's.
            by: the operator.
            reason: why.
            entry: of the audit log, written with it; ``None``: none is kept.

        Raises:
            NotFoundError: there is no such site.
            ConflictError: it was removed.
        """
        await self._change(name, "suspended", by=by, reason=reason, entry=entry)

    async def resume(self, name: str, *, by: str, entry: Any = None) -> None:
        """Let a suspended site in again.

        Args:
            name: the site's.
            by: the operator.
            entry: of the audit log, written with it; ``None``: none is kept.

        Raises:
            NotFoundError: there is no such site.
            ConflictError: it was removed.
        """
        await self._change(name, "active", by=by, reason="", entry=entry)

    async def remove(self, name: str, *, by: str, reason: str, entry: Any = None) -> list[str]:
        """Refuse a site for good: its certificates are revoked, its invitations withdrawn.

        Args:
            name: the site's.
            by: the operator.
            reason: why.
            entry: of the audit log, written with it; ``None``: none is kept.

        Returns:
            The serial numbers, hexadecimal, of those that a coordinator signed.

        Raises:
            NotFoundError: there is no such site.
        """
        async with self._database.transaction("remove_site") as connection:
            now = await now_of(connection)
            await _verify_known(connection, name)
            await self._save(
                connection,
                name=name,
                state="removed",
                only_enrolled=True,
                reason=clean(reason)[:_REASON_CHARACTERS_MAX],
                changed_at=now,
                changed_by=clean(by),
            )
            await connection.execute(
                update(_ENROLMENTS)
                .where(_ENROLMENTS.c.name == name, _ENROLMENTS.c.state != "withdrawn")
                .values(state="withdrawn")
            )
            await self._note(connection, entry)
            return await _revoke_all(connection, name, now)

    async def list_sites(self) -> list[SiteRecord]:
        """Return every site that was invited, got a certificate here, or is denied, by name."""
        async with self._database.reading() as connection:
            now = await now_of(connection)
            sites = {row.name: row for row in await connection.execute(select(*_SITES.c))}
            invited = select(*_ENROLMENTS.c).order_by(_ENROLMENTS.c.created_at)
            newest = {row.name: row for row in await connection.execute(invited)}
            in_force = (
                select(
                    _CERTIFICATES.c.name,
                    func.count().label("count"),
                    func.max(_CERTIFICATES.c.not_after).label("not_after"),
                )
                .where(_CERTIFICATES.c.revoked_at.is_(None), _CERTIFICATES.c.not_after > now)
                .group_by(_CERTIFICATES.c.name)
            )
            certificates = {row.name: row for row in await connection.execute(in_force)}
        names = sorted({*sites, *newest, *certificates})
        return [
            _site_of(name, sites.get(name), newest.get(name), certificates.get(name), now)
            for name in names
        ]

    async def _admit(
        self, connection: AsyncConnection, invitation: NewInvitation, now: float
    ) -> None:
        this = _SITES.c.name == invitation.name
        present = (await connection.execute(select(*_SITES.c).where(this))).one_or_none()
        if present is not None and present.state == "suspended":
            raise ConflictError(
                f"site {invitation.name} must not be suspended, got a suspended one; resume it "
                "with `kumiai site resume`, or remove it"
            )
        if present is not None and present.state == "removed":
            # One may have been signed at another replica in the moment in which it was removed.
            await _revoke_all(connection, invitation.name, now)
        await self._save(
            connection,
            name=invitation.name,
            state="active",
            only_enrolled=present is not None and present.only_enrolled,
            reason="",
            changed_at=now,
            changed_by=clean(invitation.created_by),
        )

    async def _change(
        self, name: str, state: SiteState, *, by: str, reason: str, entry: Any
    ) -> None:
        async with self._database.transaction("change_site") as connection:
            await _verify_known(connection, name)
            this = _SITES.c.name == name
            present = (await connection.execute(select(*_SITES.c).where(this))).one_or_none()
            if present is not None and present.state == "removed":
                raise ConflictError(
                    f"site {name} must not be removed, got a removed one; invite it anew with "
                    "`kumiai site invite`"
                )
            await self._save(
                connection,
                name=name,
                state=state,
                only_enrolled=present is not None and present.only_enrolled,
                reason=clean(reason)[:_REASON_CHARACTERS_MAX],
                changed_at=await now_of(connection),
                changed_by=clean(by),
            )
            await self._note(connection, entry)

    async def _note(self, connection: AsyncConnection, entry: Any) -> None:
        if entry is not None:
            await self._trail.append(connection, entry)

    async def _save(self, connection: AsyncConnection, **values: Any) -> None:
        insert = upsert(connection, _SITES).values(**values)
        changed = {key: insert.excluded[key] for key in values if key != "name"}
        await connection.execute(
            insert.on_conflict_do_update(index_elements=["name"], set_=changed)
        )


async def _revoke_all(connection: AsyncConnection, name: str, now: float) -> list[str]:
    revoked = await connection.execute(
        update(_CERTIFICATES)
        .where(_CERTIFICATES.c.name == name, _CERTIFICATES.c.revoked_at.is_(None))
        .values(revoked_at=now, reason="cessation-of-operation")
        .returning(_CERTIFICATES.c.serial)
    )
    return sorted(revoked.scalars())


async def _verify_admitted(connection: AsyncConnection, name: str) -> None:
    found = select(_SITES.c.state).where(_SITES.c.name == name)
    state = (await connection.execute(found)).scalar_one_or_none()
    if state not in {None, "active"}:
        raise DeniedError(
            f"site must be let in to get a certificate, got {name}, which is {state}; ask the "
            "federation's operator"
        )


async def _make_room(connection: AsyncConnection, certificate: SiteCertificate, now: float) -> None:
    """Forget what expired long ago, and refuse what would grow without end."""
    of_site = _CERTIFICATES.c.name == certificate.name
    await connection.execute(
        delete(_CERTIFICATES).where(of_site, _CERTIFICATES.c.not_after < now - _KEPT_SECONDS)
    )
    in_force = select(func.count()).where(
        of_site,
        _CERTIFICATES.c.not_after > now,
        _CERTIFICATES.c.revoked_at.is_(None),
        _CERTIFICATES.c.key_digest != certificate.key_digest,
    )
    if (await connection.execute(in_force)).scalar_one() >= IN_FORCE_MAX:
        raise ConflictError(
            f"site must have at most {IN_FORCE_MAX} certificates in force, got as many of "
            f"{certificate.name}; wait until some have expired, or remove the site and invite it "
            "anew"
        )


async def _verify_known(connection: AsyncConnection, name: str) -> None:
    clients = table_of(ClientRegistration)
    places: Sequence[tuple[Any, ColumnElement[str]]] = (
        (_SITES, _SITES.c.name),
        (clients, clients.c.client_id),
        (_CERTIFICATES, _CERTIFICATES.c.name),
    )
    for table, column in places:
        found = select(true()).select_from(table).where(column == name).limit(1)
        if (await connection.execute(found)).first() is not None:
            return
    raise NotFoundError(
        f"site must have been invited or have come once, got {name[:80]!r}; "
        "`kumiai site list` and `kumiai run list` show names"
    )


def _claim_of(row: Any) -> Claim:
    return Claim(
        token_hash=row.token_hash,
        name=row.name,
        role=row.role,
        state=row.state,
        key_digest=row.key_digest,
        request_pem=row.request_pem,
    )


def _certificate_of(row: Any) -> SiteCertificate:
    return SiteCertificate(
        serial=row.serial,
        name=row.name,
        role=row.role,
        issuer=row.issuer,
        key_digest=row.key_digest,
        chain=row.chain,
        not_before=row.not_before,
        not_after=row.not_after,
    )


def _site_of(name: str, site: Any, enrolment: Any, certificates: Any, now: float) -> SiteRecord:
    is_open = enrolment is not None and enrolment.state == "open" and enrolment.expires_at > now
    return SiteRecord(
        name=name,
        state="active" if site is None else site.state,
        enrolment=None if enrolment is None else enrolment.state,
        invited_until=enrolment.expires_at if is_open else None,
        certificate_count=0 if certificates is None else certificates.count,
        not_after=None if certificates is None else certificates.not_after,
        reason="" if site is None else site.reason,
        changed_at=0.0 if site is None else site.changed_at,
        changed_by="" if site is None else site.changed_by,
    )
