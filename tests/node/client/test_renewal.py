import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from kumiai.core.clock import SystemClock
from kumiai.core.errors import NotFoundError
from kumiai.identity import CertificateManager, RenewableFiles, SiteIssuer, identity_of
from kumiai.identity.keys import new_key, private_pem_of
from kumiai.identity.requests import verify_request
from kumiai.node.client.renewal import CertificateRenewal, RenewalTimes
from kumiai.node.wire import kumiai_pb2 as pb

TIMES = RenewalTimes(answer_seconds=0.2, retry_seconds=0.01)


class Coordinator:
    """Answers renewals as a test likes."""

    def __init__(self, folder: Path) -> None:
        authority = CertificateManager(folder / "ca", clock=SystemClock())
        authority.create("hospitals")
        made = authority.delegate(out_dir=folder / "sites")
        self.issuer = SiteIssuer.load(
            made.cert, made.key, authority.certificate_path, SystemClock(), None
        )
        key = new_key()
        self.files = RenewableFiles(folder / "a.crt", folder / "a.key", authority.certificate_path)
        self.files.cert.write_bytes(self.signed(key.public_key(), seconds=0.5))
        self.files.key.write_bytes(private_pem_of(key))
        self.asked: list[str] = []
        self.answer: Callable[[str], pb.CertificateAnswer | None] = self.signs
        self.renewal = CertificateRenewal(
            self.files, SystemClock(), send=self.take, attached=self.attached(), times=TIMES
        )

    @staticmethod
    def attached() -> asyncio.Event:
        event = asyncio.Event()
        event.set()
        return event

    def signed(self, key: ec.EllipticCurvePublicKey, *, seconds: float = 3600.0) -> bytes:
        return self.issuer.sign(key, "a", lifetime_seconds=seconds).chain

    def signs(self, request: str) -> pb.CertificateAnswer:
        key = verify_request(request.encode()).public_key
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return pb.CertificateAnswer(chain=self.signed(key).decode())

    def take(self, message: pb.ClientMessage) -> None:
        self.asked.append(message.renewal.request)
        answer = self.answer(message.renewal.request)
        if answer is not None:
            asyncio.get_running_loop().call_soon(self.renewal.take, answer)


@pytest.fixture
async def coordinator(tmp_path: Path) -> Coordinator:
    return Coordinator(tmp_path)


async def told(coordinator: Coordinator, word: str) -> list[str]:
    """Let it renew until this is logged; return all reasons that were."""
    with capture_logs() as logged:
        running = asyncio.create_task(coordinator.renewal.run())
        async with asyncio.timeout(30):
            while not any(word in str(each.get("reason", each["event"])) for each in logged):
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait({running})
    return [str(each.get("reason", each["event"])) for each in logged]


async def test_a_certificate_that_is_due_is_renewed_with_a_new_key(
    coordinator: Coordinator,
) -> None:
    before = coordinator.files.key.read_bytes()

    await told(coordinator, "certificate renewed")

    assert identity_of(coordinator.files.cert.read_bytes()).name == "a"
    assert coordinator.files.key.read_bytes() != before
    assert len(coordinator.asked) == 1
    due_at = coordinator.files.due_at()
    assert due_at is not None
    assert due_at > SystemClock().now() + 1000


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (pb.CertificateAnswer(reason="not now"), "not now"),
        (None, "must answer within 0.2 s"),
        (pb.CertificateAnswer(chain="junk"), "must be X.509"),
    ],
)
async def test_what_fails_is_tried_again_with_another_key_and_the_old_pair_stays(
    coordinator: Coordinator, answer: pb.CertificateAnswer | None, word: str
) -> None:
    before = coordinator.files.cert.read_bytes()
    coordinator.answer = lambda _: answer

    await told(coordinator, word)
    unchanged = coordinator.files.cert.read_bytes()
    coordinator.answer = coordinator.signs
    await told(coordinator, "certificate renewed")

    assert unchanged == before
    assert len(set(coordinator.asked)) == len(coordinator.asked) >= 2


async def test_files_that_can_not_be_read_are_told_and_tried_again(
    coordinator: Coordinator,
) -> None:
    content = coordinator.files.cert.read_bytes()
    coordinator.files.cert.unlink()
    with pytest.raises(NotFoundError):
        coordinator.files.due_at()

    reasons = await told(coordinator, "certificate must exist")
    coordinator.files.cert.write_bytes(content)
    await told(coordinator, "certificate renewed")

    assert "certificate renewed" not in reasons


async def test_an_answer_that_nobody_waits_for_is_left_alone(coordinator: Coordinator) -> None:
    coordinator.renewal.take(pb.CertificateAnswer(chain="junk"))

    assert coordinator.asked == []
