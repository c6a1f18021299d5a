"""The two authenticators decide alike, take up new authorities, and lock out nobody who is good."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kumiai.identity import (
    Admission,
    AsyncMTLSAuthenticator,
    CallLimits,
    Denial,
    Identity,
    LimitRules,
    MTLSAuthenticator,
    PeerRefusedError,
    Refusal,
    TrustBundle,
    WatchedFiles,
)
from kumiai.identity.authenticator import REMEMBERED_MAX
from tests.identity.forge import FEDERATION, forge, forge_authority

ROOT = forge_authority()
OTHER = forge_authority(serial=2)
MEMBER = forge(by=ROOT)
STRANGER = forge(by=OTHER)


@dataclass
class Revocations:
    """A revocation list that a test changes."""

    serials: set[int] = field(default_factory=set)
    looks: int = 0
    may_look: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.may_look.set()

    def current(self) -> Any:
        self.looks += 1
        self.may_look.wait(10)
        return Frozen(frozenset(self.serials))


@dataclass(frozen=True)
class Frozen:
    serials: frozenset[int]

    def is_revoked(self, serial: int) -> bool:
        return serial in self.serials


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    path = tmp_path / "ca.crt"
    path.write_bytes(ROOT.pem)
    return path


@pytest.fixture
def revocations() -> Revocations:
    return Revocations()


@pytest.fixture
def admission(ca: Path, clock: Any, revocations: Any) -> Admission:
    return Admission(
        federation=FEDERATION,
        trust=WatchedFiles((ca,), lambda: TrustBundle.load(ca), clock),
        clock=clock,
        revocations=revocations,
        limits=CallLimits(clock, LimitRules(failures_max=3, identity_calls_max=4)),
    )


Authenticate = Callable[..., Awaitable[Identity]]


@pytest.fixture(params=["sync", "async"])
def authenticators(request: pytest.FixtureRequest, admission: Admission) -> tuple[Any, Any]:
    """Lend both calls of one authenticator, each to be awaited."""
    if request.param == "async":
        asynchronous = AsyncMTLSAuthenticator(admission)
        return asynchronous.authenticate, asynchronous.authenticate_again
    authenticator = MTLSAuthenticator(admission)

    async def authenticate(chain: list[bytes], address: str) -> Identity:
        return authenticator.authenticate(chain, address)

    async def again(chain: list[bytes]) -> Identity:
        return authenticator.authenticate_again(chain)

    return authenticate, again


@pytest.fixture
def authenticate(authenticators: tuple[Any, Any]) -> Authenticate:
    call: Authenticate = authenticators[0]
    return call


@pytest.fixture
def again(authenticators: tuple[Any, Any]) -> Authenticate:
    call: Authenticate = authenticators[1]
    return call


async def refusal(awaitable: Awaitable[Identity]) -> Refusal:
    with pytest.raises(PeerRefusedError) as caught:
        await awaitable
    return caught.value.refusal


async def test_a_good_peer_is_recognised(authenticate: Authenticate, again: Authenticate) -> None:
    identity = await authenticate([MEMBER.pem], "10.0.0.1")

    assert identity.name == "site-1"
    assert await again([MEMBER.pem]) == identity


async def test_a_stranger_is_refused(authenticate: Authenticate) -> None:
    assert await refusal(authenticate([STRANGER.pem], "10.0.0.1")) is Refusal.WRONG_AUTHORITY


async def test_a_revocation_is_seen_within_a_second(
    authenticate: Authenticate, again: Authenticate, revocations: Revocations, clock: Any
) -> None:
    await authenticate([MEMBER.pem], "10.0.0.1")
    revocations.serials.add(7)

    clock.advance(1.0)

    assert await refusal(authenticate([MEMBER.pem], "10.0.0.1")) is Refusal.REVOKED
    clock.advance(1.0)
    assert await refusal(again([MEMBER.pem])) is Refusal.REVOKED


async def test_files_are_looked_at_once_a_second_whatever_the_number_of_calls(
    authenticate: Authenticate, revocations: Revocations, clock: Any
) -> None:
    before = revocations.looks
    clock.advance(1.0)

    await asyncio.gather(*(authenticate([MEMBER.pem], "10.0.0.1") for _ in range(3)))

    assert revocations.looks - before == 1


async def test_what_lasts_is_judged_again_without_another_look_at_the_files(
    again: Authenticate, revocations: Revocations, clock: Any
) -> None:
    before = revocations.looks
    clock.advance(1.0)

    for _ in range(3):
        await again([MEMBER.pem])

    assert revocations.looks - before == 1


def test_what_is_revoked_before_the_start_never_enters(ca: Path, clock: Any) -> None:
    admission = Admission(
        federation=FEDERATION,
        trust=WatchedFiles((ca,), lambda: TrustBundle.load(ca), clock),
        clock=clock,
        revocations=Revocations({7}),  # type: ignore[arg-type]
    )

    with pytest.raises(PeerRefusedError) as caught:
        admission.judge([MEMBER.pem])

    assert caught.value.refusal is Refusal.REVOKED


def test_who_is_denied_does_not_enter_and_a_minute_of_skew_is_allowed(ca: Path, clock: Any) -> None:
    class Suspended:
        def is_denied(self, identity: Identity) -> Denial | None:
            return Denial.SUSPENDED if identity.name == "site-1" else None

    trust = WatchedFiles((ca,), lambda: TrustBundle.load(ca), clock)
    admission = Admission(federation=FEDERATION, trust=trust, clock=clock, denials=Suspended())
    begins = float(int(clock.now()) + 100)
    early = forge(by=ROOT, begins=begins, uris=(f"kumiai://{FEDERATION}/client/site-2",))

    with pytest.raises(PeerRefusedError) as caught:
        admission.judge([MEMBER.pem])
    assert caught.value.refusal is Refusal.SUSPENDED
    clock.wall = begins - 60.0
    assert admission.judge([early.pem]).name == "site-2"
    clock.wall = begins - 60.5
    with pytest.raises(PeerRefusedError) as caught:
        admission.judge([early.pem])
    assert caught.value.refusal is Refusal.NOT_YET_VALID


def test_each_identity_has_calls_of_its_own(admission: Admission) -> None:
    other = forge(by=ROOT, uris=(f"kumiai://{FEDERATION}/client/site-2",))
    for _ in range(4):
        admission.admit([MEMBER.pem], "10.0.0.1")

    assert admission.admit([other.pem], "10.0.0.1").name == "site-2"


def test_unknown_callers_and_new_connections_are_counted_by_address(clock: Any, ca: Path) -> None:
    rules = LimitRules(address_calls_max=1, handshakes_max=1, handshakes_per_second=1.0)
    authenticator = AsyncMTLSAuthenticator(
        Admission(
            federation=FEDERATION,
            trust=WatchedFiles((ca,), lambda: TrustBundle.load(ca), clock),
            clock=clock,
            limits=CallLimits(clock, rules),
        )
    )

    authenticator.admit_unknown("10.0.0.1")
    authenticator.admit_unknown("10.0.0.2")
    with pytest.raises(PeerRefusedError):
        authenticator.admit_unknown("10.0.0.1")

    assert authenticator.admit_handshake("10.0.0.1") == 0.0
    assert authenticator.admit_handshake("10.0.0.2") == 0.0
    assert authenticator.admit_handshake("10.0.0.1") == 1.0


def test_certificates_are_read_once(admission: Admission) -> None:
    first = admission._known((MEMBER.pem,))

    assert admission._known((MEMBER.pem,)) is first


async def test_who_waits_for_a_look_at_the_files_does_not_look_again(
    admission: Admission, revocations: Revocations, clock: Any
) -> None:
    authenticator = AsyncMTLSAuthenticator(admission)
    clock.advance(1.0)
    before = revocations.looks
    revocations.may_look.clear()
    waiting = [
        asyncio.create_task(authenticator.authenticate([MEMBER.pem], "10.0.0.1")) for _ in range(3)
    ]
    for _ in range(3):
        await asyncio.sleep(0)  # each of them waits now

    revocations.may_look.set()
    await asyncio.gather(*waiting)

    assert revocations.looks - before == 1


async def test_where_no_list_is_kept_authorities_are_looked_at_all_the_same(
    ca: Path, clock: Any
) -> None:
    trust = WatchedFiles((ca,), lambda: TrustBundle.load(ca), clock)
    authenticator = MTLSAuthenticator(Admission(federation=FEDERATION, trust=trust, clock=clock))
    authenticator.authenticate([MEMBER.pem], "10.0.0.1")

    ca.write_bytes(OTHER.pem)
    clock.advance(1.0)

    with pytest.raises(PeerRefusedError, match="signed by"):
        authenticator.authenticate([MEMBER.pem], "10.0.0.1")


async def test_authorities_come_and_go_while_a_connection_lasts(
    authenticate: Authenticate, again: Authenticate, ca: Path, clock: Any
) -> None:
    await authenticate([MEMBER.pem], "10.0.0.1")
    ca.write_bytes(ROOT.pem + OTHER.pem)
    clock.advance(1.0)
    await authenticate([STRANGER.pem], "10.0.0.1")

    ca.write_bytes(OTHER.pem)
    clock.advance(1.0)

    assert await refusal(again([MEMBER.pem])) is Refusal.WRONG_AUTHORITY
    assert await again([STRANGER.pem])


async def test_a_bad_neighbour_is_locked_out_and_a_good_one_is_not(
    authenticate: Authenticate,
) -> None:
    kinds = [await refusal(authenticate([STRANGER.pem], "10.0.0.1")) for _ in range(4)]

    assert kinds == [Refusal.WRONG_AUTHORITY] * 3 + [Refusal.LOCKED_OUT]
    assert (await authenticate([MEMBER.pem], "10.0.0.1")).name == "site-1"


async def test_who_calls_too_often_is_refused_but_keeps_what_is_open(
    authenticate: Authenticate, again: Authenticate
) -> None:
    for _ in range(4):
        await authenticate([MEMBER.pem], "10.0.0.1")

    assert await refusal(authenticate([MEMBER.pem], "10.0.0.1")) is Refusal.RATE_LIMITED
    assert await again([MEMBER.pem])


def test_what_is_remembered_of_certificates_has_a_limit(admission: Admission) -> None:
    known = {admission.judge([MEMBER.pem + b"\n" * number]) for number in range(REMEMBERED_MAX + 9)}

    assert len(known) == 1
    assert len(admission._read) == REMEMBERED_MAX
