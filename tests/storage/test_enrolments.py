import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from typing import Any

import pytest
from sqlalchemy import insert, update

from kumiai.core.errors import ConflictError, DeniedError, NotFoundError, StorageError
from kumiai.storage import (
    Claim,
    ClientRegistryRepository,
    DatabaseManager,
    EnrolmentRepository,
    EnrolmentRow,
    NewClient,
    NewInvitation,
    SiteCertificate,
    SiteDenials,
)
from kumiai.storage.enrolment_tables import SiteCertificateRow

INVITATION = NewInvitation("hash-1", "site-1", "client", "ann", 3600.0)
CERTIFICATE = SiteCertificate(
    serial="a1",
    name="site-1",
    role="client",
    issuer="f0",
    key_digest="key-1",
    chain="PEM",
    not_before=0.0,
    not_after=4e9,
)


@pytest.fixture
def sites(database: DatabaseManager) -> EnrolmentRepository:
    return EnrolmentRepository(database)


@pytest.fixture
async def denials(database: DatabaseManager) -> AsyncIterator[SiteDenials]:
    denials = SiteDenials(database, every_seconds=0.02)
    await denials.start()
    yield denials
    await denials.stop()


async def claimed(
    sites: EnrolmentRepository,
    key: str = "key-1",
    *,
    token_hash: str = "hash-1",
    needs_approval: bool = False,
) -> Claim:
    return await sites.claim(
        token_hash, key_digest=key, request_pem=f"request of {key}", needs_approval=needs_approval
    )


async def let_time_pass(database: DatabaseManager) -> None:
    async with database.transaction() as connection:
        await connection.execute(update(EnrolmentRow.__table__).values(expires_at=1.0))


# ---------------------------------------------------------------- invitations


async def test_an_invitation_is_taken_once(sites: EnrolmentRepository) -> None:
    await sites.invite(INVITATION)

    claim = await claimed(sites)

    assert claim == Claim("hash-1", "site-1", "client", "approved", "key-1", "request of key-1")
    with pytest.raises(DeniedError, match="must be used once, got another key"):
        await claimed(sites, "key-2")


async def test_who_was_interrupted_takes_it_again_with_the_same_key(
    sites: EnrolmentRepository,
) -> None:
    await sites.invite(INVITATION)

    assert await claimed(sites) == await claimed(sites)


async def test_of_many_at_once_one_takes_it(
    sites: EnrolmentRepository, database: DatabaseManager, database_url: str
) -> None:
    second = DatabaseManager(database_url)
    await second.connect()
    await sites.invite(INVITATION)
    replicas = [sites, EnrolmentRepository(second)]

    outcomes = await asyncio.gather(
        *(claimed(replicas[index % 2], f"key-{index}") for index in range(8)),
        return_exceptions=True,
    )
    await second.close()

    assert sum(isinstance(outcome, Claim) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, DeniedError) for outcome in outcomes) == 7


async def test_an_invitation_that_is_over_or_unknown_is_refused(
    sites: EnrolmentRepository, database: DatabaseManager
) -> None:
    await sites.invite(INVITATION)
    await let_time_pass(database)

    with pytest.raises(DeniedError, match="not known, withdrawn or over"):
        await claimed(sites)
    with pytest.raises(DeniedError, match="not known, withdrawn or over"):
        await claimed(sites, token_hash="hash-2")


async def test_the_answer_is_not_given_again_when_the_time_is_over(
    sites: EnrolmentRepository, database: DatabaseManager
) -> None:
    await sites.invite(INVITATION)
    await claimed(sites)
    await let_time_pass(database)

    with pytest.raises(DeniedError, match="over"):
        await claimed(sites)


async def test_a_new_invitation_withdraws_the_open_one(sites: EnrolmentRepository) -> None:
    await sites.invite(INVITATION)
    await sites.invite(replace(INVITATION, token_hash="hash-2"))

    with pytest.raises(DeniedError, match="withdrawn"):
        await claimed(sites)
    assert await claimed(sites, token_hash="hash-2")


async def test_an_operator_lets_in_who_waits(sites: EnrolmentRepository) -> None:
    await sites.invite(INVITATION)
    waiting = await claimed(sites, needs_approval=True)

    approved = await sites.approve("site-1")

    assert waiting.state == "waiting"
    assert approved == replace(waiting, state="approved")
    assert await claimed(sites, needs_approval=True) == approved
    with pytest.raises(NotFoundError, match="must wait for approval, got none named 'site-1'"):
        await sites.approve("site-1")


# ---------------------------------------------------------------- certificates


async def test_a_key_has_the_certificate_that_was_kept_first(sites: EnrolmentRepository) -> None:
    kept = await sites.keep_certificate(CERTIFICATE)

    again = await sites.keep_certificate(replace(CERTIFICATE, serial="a2"))

    assert kept == again == CERTIFICATE


async def test_a_key_gets_one_certificate_whoever_signs_first(sites: EnrolmentRepository) -> None:
    kept = await asyncio.gather(
        *(sites.keep_certificate(replace(CERTIFICATE, serial=f"a{i}")) for i in range(4))
    )

    assert len(set(kept)) == 1


async def test_another_sites_key_is_refused(sites: EnrolmentRepository) -> None:
    await sites.keep_certificate(CERTIFICATE)

    with pytest.raises(ConflictError, match="key must be site-2's own"):
        await sites.keep_certificate(replace(CERTIFICATE, serial="a2", name="site-2"))


async def test_a_key_whose_certificate_was_revoked_is_refused(sites: EnrolmentRepository) -> None:
    await sites.keep_certificate(CERTIFICATE)
    await sites.remove("site-1", by="ann", reason="left")
    await sites.invite(INVITATION)

    with pytest.raises(ConflictError, match="must be a new one, got one whose certificate was"):
        await sites.keep_certificate(replace(CERTIFICATE, serial="a2"))


async def test_a_site_has_a_bounded_number_of_certificates(sites: EnrolmentRepository) -> None:
    for number in range(16):
        serial = f"{number + 1:x}"
        await sites.keep_certificate(replace(CERTIFICATE, serial=serial, key_digest=serial))

    with pytest.raises(ConflictError, match="at most 16 certificates in force"):
        await sites.keep_certificate(replace(CERTIFICATE, serial="99"))

    again = replace(CERTIFICATE, serial="99", key_digest="3")
    assert (await sites.keep_certificate(again)).serial == "3"
    assert await sites.keep_certificate(replace(CERTIFICATE, name="site-2", serial="77"))


async def test_what_expired_long_ago_is_forgotten(sites: EnrolmentRepository) -> None:
    old = replace(CERTIFICATE, not_after=1.0)
    await sites.keep_certificate(old)

    await sites.keep_certificate(replace(CERTIFICATE, serial="a2", key_digest="key-2"))

    assert await sites.keep_certificate(CERTIFICATE) == CERTIFICATE
    assert (await sites.list_sites())[0].certificate_count == 2


@pytest.mark.parametrize("act", ["suspend", "remove"])
async def test_a_site_that_is_denied_gets_no_certificate(
    sites: EnrolmentRepository, act: str
) -> None:
    await sites.invite(INVITATION)
    await getattr(sites, act)("site-1", by="ann", reason="")

    with pytest.raises(DeniedError, match="must be let in to get a certificate, got site-1"):
        await sites.keep_certificate(CERTIFICATE)


async def test_a_certificate_signed_while_its_site_was_removed_is_revoked_when_it_comes_again(
    sites: EnrolmentRepository, database: DatabaseManager, denials: SiteDenials
) -> None:
    await sites.invite(INVITATION)
    await sites.remove("site-1", by="ann", reason="")
    async with database.transaction() as connection:  # as another replica, a moment too late
        await connection.execute(
            insert(SiteCertificateRow).values(**asdict(CERTIFICATE), created_at=1.0)
        )

    await sites.invite(replace(INVITATION, token_hash="hash-2"))
    await denials.refresh()

    assert denials.snapshot.serials == {0xA1}


# ---------------------------------------------------------------- suspending and removing


async def test_a_suspended_site_is_denied_until_it_is_resumed(
    sites: EnrolmentRepository, denials: SiteDenials
) -> None:
    await sites.invite(INVITATION)

    await sites.suspend("site-1", by="ann", reason="an audit")
    await denials.refresh()
    suspended = denials.snapshot
    (listed,) = await sites.list_sites()
    await sites.resume("site-1", by="bob")
    await denials.refresh()

    assert suspended.suspended == {"site-1"}
    assert (listed.state, listed.reason, listed.changed_by) == ("suspended", "an audit", "ann")
    assert denials.snapshot.suspended == frozenset()


async def test_a_suspended_site_is_not_invited(sites: EnrolmentRepository) -> None:
    await sites.invite(INVITATION)
    await sites.suspend("site-1", by="ann", reason="")

    with pytest.raises(ConflictError, match="resume it with `kumiai site resume`"):
        await sites.invite(replace(INVITATION, token_hash="hash-2"))


async def test_removing_a_site_revokes_what_it_has(
    sites: EnrolmentRepository, denials: SiteDenials
) -> None:
    await sites.invite(INVITATION)
    await claimed(sites)
    await sites.keep_certificate(CERTIFICATE)

    serials = await sites.remove("site-1", by="ann", reason="left")
    await denials.refresh()

    assert serials == ["a1"]
    assert denials.snapshot.serials == {0xA1}
    assert denials.snapshot.removed == {"site-1"}
    with pytest.raises(DeniedError, match="withdrawn"):
        await claimed(sites)
    with pytest.raises(ConflictError, match="invite it anew"):
        await sites.resume("site-1", by="ann")


async def test_a_removed_site_that_is_invited_anew_counts_by_its_new_certificates_alone(
    sites: EnrolmentRepository, denials: SiteDenials
) -> None:
    await sites.invite(INVITATION)
    await sites.keep_certificate(CERTIFICATE)
    await sites.remove("site-1", by="ann", reason="left")

    await sites.invite(replace(INVITATION, token_hash="hash-2"))
    await denials.refresh()

    assert denials.snapshot.removed == frozenset()
    assert denials.snapshot.only_enrolled == {"site-1"}
    assert denials.snapshot.issuers == {0xF0}
    assert denials.snapshot.serials == {0xA1}
    await sites.suspend("site-1", by="ann", reason="")
    await sites.resume("site-1", by="ann")
    await denials.refresh()
    assert denials.snapshot.only_enrolled == {"site-1"}


@pytest.mark.parametrize("act", ["suspend", "resume", "remove"])
async def test_a_site_that_nobody_knows_is_not_found(sites: EnrolmentRepository, act: str) -> None:
    acts: dict[str, Any] = {
        "suspend": lambda: sites.suspend("nobody", by="ann", reason=""),
        "resume": lambda: sites.resume("nobody", by="ann"),
        "remove": lambda: sites.remove("nobody", by="ann", reason=""),
    }

    with pytest.raises(NotFoundError, match="must have been invited or have come once"):
        await acts[act]()


async def test_a_client_that_came_with_a_certificate_of_the_authority_can_be_suspended(
    sites: EnrolmentRepository, database: DatabaseManager
) -> None:
    await ClientRegistryRepository(database).register(NewClient("site-9"))

    await sites.suspend("site-9", by="ann", reason="")

    (listed,) = await sites.list_sites()
    assert (listed.name, listed.state, listed.enrolment) == ("site-9", "suspended", None)


async def test_the_list_tells_how_far_each_site_is(
    sites: EnrolmentRepository, database: DatabaseManager
) -> None:
    until = await sites.invite(INVITATION)
    await sites.keep_certificate(replace(CERTIFICATE, name="site-2"))

    listed = await sites.list_sites()

    assert [(each.name, each.enrolment, each.certificate_count) for each in listed] == [
        ("site-1", "open", 0),
        ("site-2", None, 1),
    ]
    assert (listed[0].invited_until, listed[1].not_after) == (until, 4e9)
    await let_time_pass(database)
    assert (await sites.list_sites())[0].invited_until is None


# ---------------------------------------------------------------- the snapshot


async def test_a_snapshot_follows_what_another_replica_does(
    sites: EnrolmentRepository, denials: SiteDenials
) -> None:
    await sites.invite(INVITATION)
    await sites.suspend("site-1", by="ann", reason="")

    async with asyncio.timeout(30):
        while denials.snapshot.suspended != {"site-1"}:
            await asyncio.sleep(0.01)


async def test_who_was_denied_stays_so_when_the_database_cannot_be_read(
    sites: EnrolmentRepository, database: DatabaseManager, database_url: str
) -> None:
    own = DatabaseManager(database_url)
    await own.connect()
    denials = SiteDenials(own, every_seconds=0.01)
    await sites.invite(INVITATION)
    await sites.suspend("site-1", by="ann", reason="")
    await denials.start()

    await own.close()
    with pytest.raises(StorageError):
        await denials.refresh()
    await denials.stop()
    await denials.stop()

    assert denials.snapshot.suspended == {"site-1"}
