"""What a coordinator offers of new roots, and what it hears of them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from kumiai.core.clock import SystemClock
from kumiai.core.errors import CertificateError
from kumiai.identity import CertificateManager
from kumiai.identity.audit import Act, Actor, Detail, Outcome
from kumiai.node.coordinator.sessions import ClientSession, SessionHub
from kumiai.node.coordinator.trust_offers import SUCCESSION_FILE, TrustOffers
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import REVOCATIONS_BYTES_MAX

SITE = Actor("client", "site-1")


class Noted:
    """An `AuditSink` that keeps what it hears."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, Any]] = []

    def record(
        self, act: Act, subject: str, outcome: Outcome, actor: Actor, detail: Detail
    ) -> None:
        self.entries.append((act.value, actor.name, outcome.value))

    def record_refusal(
        self, act: Act, subject: str, actor: Actor, detail: Detail, *, caller: str = ""
    ) -> None:
        self.entries.append((act.value, actor.name, detail["reason"]))

    async def written(self) -> None:
        return


def new_session(client_id: str = "site-1") -> ClientSession:
    return ClientSession(client_id, "i", "ipv4:10.0.0.1:5", "1", (), 0.0, 0.0)


@pytest.fixture
def authority(tmp_path: Path) -> CertificateManager:
    manager = CertificateManager(tmp_path / "ca", clock=SystemClock())
    manager.create("hospitals")
    return manager


@pytest.fixture
def hub() -> SessionHub:
    return SessionHub(SystemClock())


@pytest.fixture
def noted() -> Noted:
    return Noted()


@pytest.fixture
async def offers(
    authority: CertificateManager, hub: SessionHub, noted: Noted
) -> AsyncIterator[TrustOffers]:
    offers = TrustOffers(
        authority.certificate_path,
        hub=hub,
        clock=SystemClock(),
        audit=noted,
        coordinator_id="coordinator-1",
        look_seconds=0.01,
    )
    yield offers
    await offers.stop()


async def test_where_no_root_has_followed_another_nothing_is_offered(offers: TrustOffers) -> None:
    session = new_session()

    assert offers.offer_to(session) is None
    assert session.open_trust_offers == 0


async def test_a_revocation_list_is_handed_to_all_and_no_root_with_it(
    authority: CertificateManager, hub: SessionHub, noted: Noted
) -> None:
    authority.revocation_list()
    crl = authority.revocation_list_path
    offers = TrustOffers(
        authority.certificate_path,
        hub=hub,
        clock=SystemClock(),
        audit=noted,
        coordinator_id="coordinator-1",
        crl=crl,
        look_seconds=0.01,
    )
    session = new_session()
    first = offers.offer_to(session)
    hub.attach(session)
    offers.start()

    before = crl.read_text()
    authority.revocation_list()
    async with asyncio.timeout(30):
        message = await session.outgoing.get()
    await offers.stop()

    assert first == pb.TrustOffer(revocations=before)
    assert message.trust == pb.TrustOffer(revocations=crl.read_text())
    assert (session.open_trust_offers, noted.entries) == (0, [])


@pytest.mark.parametrize("content", [b"junk", b"\n" * (REVOCATIONS_BYTES_MAX + 1)])
async def test_a_list_that_is_damaged_or_too_long_is_told_of_and_not_handed_over(
    authority: CertificateManager, hub: SessionHub, noted: Noted, content: bytes
) -> None:
    authority.revocation_list()
    crl = authority.revocation_list_path
    crl.write_bytes(content if content == b"junk" else crl.read_bytes() + content)

    with capture_logs() as logged:
        offers = TrustOffers(
            authority.certificate_path,
            hub=hub,
            clock=SystemClock(),
            audit=noted,
            coordinator_id="coordinator-1",
            crl=crl,
        )

    assert offers.offer_to(new_session()) is None
    assert [each["event"] for each in logged] == ["revocation list not handed to clients"]


async def test_a_change_is_told_to_the_log_and_to_all_who_are_attached(
    authority: CertificateManager, hub: SessionHub, noted: Noted, offers: TrustOffers
) -> None:
    session = new_session()
    hub.attach(session)
    offers.start()

    authority.rotate()
    async with asyncio.timeout(30):
        message = await session.outgoing.get()

    assert message.trust.roots.encode() == authority.certificate_path.read_bytes()
    assert message.trust.successions.encode() == authority.succession_path.read_bytes()
    assert noted.entries == [("trust.changed", "coordinator-1", "done")]
    assert offers.unwell() == []


async def test_a_change_without_a_succession_is_offered_to_nobody(
    authority: CertificateManager, hub: SessionHub, noted: Noted, offers: TrustOffers
) -> None:
    session = new_session()
    hub.attach(session)
    offers.start()

    authority.certificate_path.write_bytes(authority.certificate_path.read_bytes() + b"\n")
    async with asyncio.timeout(30):
        while not noted.entries:
            await asyncio.sleep(0.01)

    assert session.outgoing.empty()


async def test_what_a_client_did_is_written_down_once_for_each_offer(
    authority: CertificateManager, noted: Noted, hub: SessionHub
) -> None:
    authority.rotate()
    offers = TrustOffers(
        authority.certificate_path,
        hub=hub,
        clock=SystemClock(),
        audit=noted,
        coordinator_id="coordinator-1",
    )
    session = new_session()
    followed, refused = pb.TrustAnswer(roots=["5d0c"]), pb.TrustAnswer(reason="no\tword")

    offers.take(session, followed, by=SITE)
    for answer in (followed, refused):
        offers.offer_to(session)
        offers.take(session, answer, by=SITE)
        offers.take(session, answer, by=SITE)

    assert noted.entries == [
        ("trust.followed", "site-1", "done"),
        ("trust.followed", "site-1", "no?word"),
    ]


def test_a_succession_that_can_not_be_read_is_an_error_at_the_start(
    authority: CertificateManager, hub: SessionHub, noted: Noted
) -> None:
    authority.certificate_path.with_name(SUCCESSION_FILE).write_text("junk")

    with pytest.raises(CertificateError, match=r"succession\.crt"):
        TrustOffers(
            authority.certificate_path,
            hub=hub,
            clock=SystemClock(),
            audit=noted,
            coordinator_id="coordinator-1",
        )
