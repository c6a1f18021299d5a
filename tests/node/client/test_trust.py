"""How a client follows from one root to the next, and whom it does not follow."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kumiai.core.clock import SystemClock
from kumiai.identity import CertificateManager, IssuedCertificate, Role, TrustBundle
from kumiai.node.client.trust import TrustFollower
from kumiai.node.wire import kumiai_pb2 as pb


@pytest.fixture
def authority(tmp_path: Path) -> CertificateManager:
    manager = CertificateManager(tmp_path / "ca", clock=SystemClock())
    manager.create("hospitals")
    return manager


@pytest.fixture
def own(authority: CertificateManager, tmp_path: Path) -> IssuedCertificate:
    return authority.issue(Role.CLIENT, "site-1", out_dir=tmp_path / "site")


@pytest.fixture
def answers() -> list[pb.TrustAnswer]:
    return []


@pytest.fixture
def follower(own: IssuedCertificate, answers: list[pb.TrustAnswer]) -> TrustFollower:
    return TrustFollower(
        ca=own.ca,
        certificate=own.cert,
        clock=SystemClock(),
        send=lambda message: answers.append(message.trust),
    )


def offer_of(authority: CertificateManager) -> pb.TrustOffer:
    return pb.TrustOffer(
        roots=authority.certificate_path.read_text(),
        successions=authority.succession_path.read_text(),
    )


async def test_a_new_root_stands_beside_the_old_one_and_is_told(
    authority: CertificateManager,
    own: IssuedCertificate,
    follower: TrustFollower,
    answers: list[pb.TrustAnswer],
) -> None:
    authority.rotate()

    await follower.take(offer_of(authority))
    await follower.take(offer_of(authority))

    assert own.ca.read_bytes() == authority.certificate_path.read_bytes()
    serials = TrustBundle.load(own.ca).serials
    assert [set(answer.roots) for answer in answers] == [{f"{each:x}" for each in serials}]


async def test_the_old_root_stays_for_as_long_as_ones_own_certificate_needs_it(
    authority: CertificateManager, own: IssuedCertificate, follower: TrustFollower
) -> None:
    authority.rotate()
    authority.retire(even_if_used=True)

    await follower.take(offer_of(authority))
    with_both = TrustBundle.load(own.ca).serials
    await follower.take(offer_of(authority))
    authority.issue(Role.CLIENT, "site-1", out_dir=own.cert.parent / "new")
    (own.cert.parent / "new" / "site-1.crt").replace(own.cert)
    await follower.take(offer_of(authority))

    assert len(with_both) == 2
    assert TrustBundle.load(own.ca).serials == authority_serials(authority)


def authority_serials(authority: CertificateManager) -> frozenset[int]:
    return TrustBundle.load(authority.certificate_path).serials


@pytest.mark.parametrize(
    ("roots", "problem"),
    [("junk", "must be PEM"), ("x" * 70_000, "at most 65536 bytes"), ("", "must be PEM")],
)
async def test_what_is_no_offer_is_told_of_once_and_changes_nothing(
    own: IssuedCertificate,
    follower: TrustFollower,
    answers: list[pb.TrustAnswer],
    roots: str,
    problem: str,
) -> None:
    before = own.ca.read_bytes()

    with capture_logs() as logged:
        for _ in range(3):
            await follower.take(pb.TrustOffer(roots=roots))

    assert own.ca.read_bytes() == before
    assert len(logged) == len(answers) == 1
    assert problem in answers[0].reason


async def test_a_file_that_can_not_be_replaced_is_told_of_with_its_name(
    authority: CertificateManager,
    own: IssuedCertificate,
    follower: TrustFollower,
    answers: list[pb.TrustAnswer],
) -> None:
    authority.rotate()
    content = own.ca.read_bytes()
    own.ca.unlink()
    follower._ca = own.ca.parent / "away" / "ca.crt"
    follower._ca.parent.mkdir()
    follower._ca.write_bytes(content)
    offer = offer_of(authority)
    follower._ca.unlink()

    await follower.take(offer)

    assert str(follower._ca) in answers[0].reason
