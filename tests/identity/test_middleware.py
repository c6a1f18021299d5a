"""The gate in front of any ASGI application, and what it tells of whom it refuses."""

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kumiai.identity import (
    Admission,
    AsyncMTLSAuthenticator,
    CallGate,
    CallLimits,
    LimitRules,
    MTLSAuthenticationMiddleware,
    PeerRefusedError,
    Permission,
    Principal,
    Refusal,
    RefusedCall,
    Requirement,
    Role,
    TrustBundle,
    WatchedFiles,
    identity_of,
)
from tests.identity.forge import FEDERATION, forge, forge_authority

ROOT = forge_authority()
OPERATOR = forge(by=ROOT, uris=[f"kumiai://{FEDERATION}/operator/olivia"])
CLIENT = forge(by=ROOT)
TRUST = TrustBundle((ROOT.certificate,))
LISTED = {"/open": Requirement(None), "/runs": Requirement(Permission.RUNS_READ)}


class Tokens:
    """Knows one token, until it is revoked."""

    def __init__(self) -> None:
        self.is_revoked = False

    async def principal_of_token(self, token: str, address: str) -> Principal:
        if token != "good":
            raise PeerRefusedError(Refusal.BAD_TOKEN, "no such token")
        if self.is_revoked:
            raise PeerRefusedError(Refusal.BAD_TOKEN, "revoked", token_id="t1")
        granted = frozenset({Permission.RUNS_READ})
        return Principal("olivia", Role.OPERATOR, granted, address, token_id="t1")

    async def verify_token(self, token_id: str) -> None:
        if self.is_revoked or token_id != "t1":
            raise PeerRefusedError(Refusal.BAD_TOKEN, "revoked")


class Site:
    """An application behind the gate; it notes what reaches it and what is answered instead."""

    def __init__(self, gate: CallGate) -> None:
        self.answers: list[str] = []
        self.app = MTLSAuthenticationMiddleware(
            self.inner,
            gate=gate,
            required=lambda _method, path: LISTED.get(path),
            refuse=lambda error: self.answer(f"refused: {error.refusal}"),
            unlisted=lambda method, path: self.answer(f"unlisted: {method} {path}"),
        )

    async def inner(self, scope: Any, _receive: Any, _send: Any) -> None:
        caller = scope["state"].get("caller")
        self.answers.append(f"reached by {caller.name if caller else 'somebody'}")

    def answer(self, text: str) -> Any:
        async def answered(_scope: Any, _receive: Any, _send: Any) -> None:
            self.answers.append(text)

        return answered

    async def get(
        self, path: str, *chain: bytes, token: str | None = None, method: str = "GET"
    ) -> str:
        headers = [(b"host", b"x")]
        if token is not None:
            headers.append((b"authorization", f"Bearer {token}".encode()))
        scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": headers,
            "client": ("10.0.0.1", 5000),
            "extensions": {"tls": {"client_cert_chain": [each.decode() for each in chain]}},
        }
        await self.app(scope, None, None)  # type: ignore[arg-type]
        return self.answers[-1]


@pytest.fixture
def refused() -> list[RefusedCall]:
    return []


@pytest.fixture
def tokens() -> Tokens:
    return Tokens()


@pytest.fixture
def authenticator(clock: Any) -> AsyncMTLSAuthenticator:
    trust = WatchedFiles[TrustBundle]((Path("none"),), lambda: TRUST, clock)
    return AsyncMTLSAuthenticator(Admission(federation=FEDERATION, trust=trust, clock=clock))


@pytest.fixture
def gate(
    authenticator: AsyncMTLSAuthenticator, tokens: Tokens, refused: list[RefusedCall]
) -> CallGate:
    return CallGate(authenticator, tokens=tokens, on_refused=refused.append)


@pytest.fixture
def site(gate: CallGate) -> Site:
    return Site(gate)


async def test_a_listed_caller_reaches_the_application_and_is_named(site: Site) -> None:
    assert await site.get("/runs", OPERATOR.pem) == "reached by olivia"


async def test_an_open_route_asks_nobody(site: Site, refused: list[RefusedCall]) -> None:
    assert await site.get("/open") == "reached by somebody"
    assert await site.get("/open", b"junk") == "reached by somebody"
    assert refused == []


@pytest.mark.parametrize(
    ("chain", "kind"),
    [
        ((), Refusal.NO_CERTIFICATE),
        ((b"junk",), Refusal.UNREADABLE),
        ((forge().pem,), Refusal.SELF_SIGNED),
        ((CLIENT.pem,), Refusal.MISSING_PERMISSION),
    ],
)
async def test_nobody_else_reaches_it_and_each_refusal_is_told(
    site: Site, refused: list[RefusedCall], chain: Sequence[bytes], kind: Refusal
) -> None:
    assert await site.get("/runs", *chain) == f"refused: {kind}"

    (call,) = refused
    assert (call.act, call.address, call.error.refusal) == ("GET /runs", "10.0.0.1", kind)


async def test_the_name_that_a_refused_certificate_claims_is_told(
    site: Site, refused: list[RefusedCall]
) -> None:
    await site.get("/runs", forge().pem)
    await site.get("/runs", b"junk")
    await site.get("/runs")

    claimed = [call.claimed.name if call.claimed else None for call in refused]
    assert claimed == ["site-1", None, None]


async def test_an_answer_waits_for_what_is_told_of_those_who_are_known(
    authenticator: AsyncMTLSAuthenticator, tokens: Tokens, clock: Any
) -> None:
    waited: list[RefusedCall] = []

    async def settle(call: RefusedCall) -> None:
        waited.append(call)

    site = Site(CallGate(authenticator, tokens=tokens, before_answer=settle))
    for chain in ((), (b"junk",), (forge().pem,)):
        await site.get("/runs", *chain)
    await site.get("/runs", token="bad")
    assert waited == []

    await site.get("/runs", CLIENT.pem)
    tokens.is_revoked = True
    await site.get("/runs", token="good")
    clock.wall = 5e9
    await site.get("/runs", OPERATOR.pem)

    assert [call.error.refusal for call in waited] == [
        Refusal.MISSING_PERMISSION,
        Refusal.BAD_TOKEN,
        Refusal.EXPIRED,
    ]
    assert [call.caller.name if call.caller else None for call in waited] == ["site-1", None, None]


async def test_what_everybody_may_change_is_limited_by_address(
    clock: Any, refused: list[RefusedCall]
) -> None:
    trust = WatchedFiles[TrustBundle]((Path("none"),), lambda: TRUST, clock)
    limits = CallLimits(clock, LimitRules(address_calls_max=2))
    admission = Admission(federation=FEDERATION, trust=trust, clock=clock, limits=limits)
    gate = CallGate(AsyncMTLSAuthenticator(admission), on_refused=refused.append)
    site = Site(gate)

    posted = [await site.get("/open", method="POST") for _ in range(3)]
    probed = [await site.get("/open") for _ in range(9)]

    assert posted == ["reached by somebody", "reached by somebody", "refused: rate-limited"]
    assert set(probed) == {"reached by somebody"}
    assert [await site.get("/open", method="HEAD")] == ["reached by somebody"]
    assert [(call.act, call.claimed) for call in refused] == [("POST /open", None)]
    assert refused[0].address == "10.0.0.1"
    assert refused[0].error.refusal is Refusal.RATE_LIMITED


@pytest.mark.parametrize(
    ("kind", "is_known"),
    [
        (Refusal.NOT_YET_VALID, True),
        (Refusal.EXPIRED, True),
        (Refusal.REVOKED, True),
        (Refusal.SUSPENDED, True),
        (Refusal.REMOVED, True),
        (Refusal.WRONG_AUTHORITY, False),
        (Refusal.WRONG_USAGE, False),
    ],
)
def test_only_what_a_certificate_of_ours_is_refused_for_is_of_somebody_known(
    kind: Refusal, is_known: bool
) -> None:
    error = PeerRefusedError(kind, "no")
    somebody = identity_of(CLIENT.pem)

    assert RefusedCall(error, "10.0.0.1", "read", somebody).is_of_known is is_known
    assert not RefusedCall(error, "10.0.0.1", "read", None).is_of_known


async def test_handshakes_wait_by_address_and_those_turned_away_are_told(
    clock: Any, refused: list[RefusedCall]
) -> None:
    trust = WatchedFiles[TrustBundle]((Path("none"),), lambda: TRUST, clock)
    limits = CallLimits(clock, LimitRules(handshakes_per_second=1.0, handshakes_max=1))
    admission = Admission(federation=FEDERATION, trust=trust, clock=clock, limits=limits)
    gate = CallGate(AsyncMTLSAuthenticator(admission), on_refused=refused.append)

    waits = [gate.admit_handshake("10.0.0.1") for _ in range(3)]
    with pytest.raises(PeerRefusedError, match="1 connections a second"):
        gate.admit_handshake("10.0.0.1")

    assert waits == [0.0, 1.0, 2.0]
    (call,) = refused
    assert (call.act, call.address, call.claimed) == ("TLS handshake", "10.0.0.1", None)
    assert call.error.refusal is Refusal.RATE_LIMITED


async def test_a_good_call_lets_its_address_open_more_connections(
    clock: Any, refused: list[RefusedCall]
) -> None:
    trust = WatchedFiles[TrustBundle]((Path("none"),), lambda: TRUST, clock)
    limits = CallLimits(clock, LimitRules(handshakes_per_second=1.0, handshakes_max=1))
    admission = Admission(federation=FEDERATION, trust=trust, clock=clock, limits=limits)
    gate = CallGate(AsyncMTLSAuthenticator(admission), on_refused=refused.append)

    await Site(gate).get("/runs", OPERATOR.pem)

    assert [gate.admit_handshake("10.0.0.1") for _ in range(3)] == [0.0, 0.2, 0.4]


async def test_a_handshake_that_failed_is_told_and_one_that_was_given_up_is_not(
    gate: CallGate, refused: list[RefusedCall]
) -> None:
    too_old = ssl.SSLError(1, "failed")
    too_old.reason = "UNSUPPORTED_PROTOCOL"

    gate.note_failed_handshake(ssl.SSLEOFError(8, "gone"), "10.0.0.1")
    gate.note_failed_handshake(too_old, "10.0.0.1")

    (call,) = refused
    assert (call.act, call.address, call.claimed) == ("TLS handshake", "10.0.0.1", None)
    assert call.error.refusal is Refusal.OLD_TLS


async def test_connections_that_nothing_is_known_of_are_told_by_their_number(
    gate: CallGate, refused: list[RefusedCall]
) -> None:
    gate.note_unused_connections(7, "connections to a port")

    (call,) = refused
    assert (call.act, call.address, call.claimed) == ("7 connections to a port", "", None)
    assert call.error.refusal is Refusal.NO_CALL
    assert str(call.error).startswith("connections must make a call, got 7 that made none")


async def test_what_nobody_has_listed_is_denied_to_everybody(site: Site) -> None:
    assert await site.get("/secrets", OPERATOR.pem) == "unlisted: GET /secrets"


async def test_what_has_neither_method_nor_path_is_not_let_in(site: Site) -> None:
    await site.app({"type": "lifespan"}, None, None)  # type: ignore[arg-type]

    assert site.answers == ["unlisted:  "]


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [("GET", "/open", "app"), ("GET", "/runs", "refuse"), ("GET", "/other", "unlisted")],
)
async def test_whoever_answers_gets_all_that_the_server_gave(
    gate: CallGate, method: str, path: str, expected: str
) -> None:
    reached: list[tuple[Any, ...]] = []

    def answering(name: str) -> Any:
        async def answer(*given: Any) -> None:
            reached.append((name, *given))

        return answer

    async def receive() -> Any:
        return {}

    async def send(_message: Any) -> None:
        return None

    app = MTLSAuthenticationMiddleware(
        answering("app"),
        gate=gate,
        required=lambda asked, where: LISTED.get(where) if asked == method else None,
        refuse=lambda _: answering("refuse"),
        unlisted=lambda _method, _path: answering("unlisted"),
    )
    scope: dict[str, Any] = {"type": "http", "method": method, "path": path}

    await app(scope, receive, send)

    assert reached == [(expected, scope, receive, send)]
    assert scope.get("state", {}).get("requirement") == LISTED.get(path)


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
async def test_what_is_no_request_is_not_let_in(site: Site, kind: str) -> None:
    scope: Any = {"type": kind, "path": "/open"}

    await site.app(scope, None, None)  # type: ignore[arg-type]

    assert site.answers == ["unlisted:  /open"]


async def test_a_server_that_tells_no_certificates_lets_nobody_in(site: Site) -> None:
    scope: Any = {"type": "http", "method": "GET", "path": "/runs"}

    await site.app(scope, None, None)  # type: ignore[arg-type]

    assert site.answers == ["refused: no-certificate"]


async def test_a_token_stands_for_its_maker_and_counts_alone(site: Site) -> None:
    assert await site.get("/runs", token="good") == "reached by olivia"
    assert await site.get("/runs", OPERATOR.pem, token="bad") == "refused: bad-token"


async def test_where_no_tokens_are_kept_none_is_good(authenticator: AsyncMTLSAuthenticator) -> None:
    site = Site(CallGate(authenticator))

    assert await site.get("/runs", token="good") == "refused: no-certificate"


async def test_another_kind_of_authorization_is_no_token(site: Site) -> None:
    scope: Any = {
        "type": "http",
        "method": "GET",
        "path": "/runs",
        "headers": [(b"authorization", b"Basic Z29vZDo=")],
    }

    await site.app(scope, None, None)  # type: ignore[arg-type]

    assert site.answers == ["refused: no-certificate"]


async def admitted(gate: CallGate, *chain: bytes, token: str | None = None) -> Principal:
    return await gate.admit(
        Permission.RUNS_READ, act="read", chain=chain, address="10.0.0.1", token=token
    )


async def test_who_was_let_in_may_go_on(gate: CallGate, refused: list[RefusedCall]) -> None:
    await gate.admit_again(await admitted(gate, OPERATOR.pem), act="stream")
    await gate.admit_again(await admitted(gate, token="good"), act="stream")

    assert refused == []


async def test_who_was_let_in_is_sent_away_when_the_certificate_has_expired(
    gate: CallGate, refused: list[RefusedCall], clock: Any
) -> None:
    principal = await admitted(gate, OPERATOR.pem)
    clock.wall = 5e9

    with pytest.raises(PeerRefusedError, match="expired"):
        await gate.admit_again(principal, act="stream")

    (call,) = refused
    assert (call.act, call.address, call.caller) == ("stream", "10.0.0.1", principal)
    assert (call.error.refusal, call.claimed) == (Refusal.EXPIRED, principal.identity)


async def test_who_was_let_in_is_sent_away_when_the_token_is_revoked(
    gate: CallGate, authenticator: AsyncMTLSAuthenticator, tokens: Tokens
) -> None:
    principal = await admitted(gate, token="good")
    tokens.is_revoked = True

    with pytest.raises(PeerRefusedError, match="revoked"):
        await gate.admit_again(principal, act="stream")
    with pytest.raises(PeerRefusedError, match="must show a certificate"):
        await CallGate(authenticator).admit_again(principal, act="stream")


async def test_it_is_known_where_a_caller_came_from(gate: CallGate) -> None:
    assert (await admitted(gate, OPERATOR.pem)).address == "10.0.0.1"
    assert (await admitted(gate, token="good")).address == "10.0.0.1"


async def test_a_caller_without_an_address_is_told_as_such(
    site: Site, refused: list[RefusedCall]
) -> None:
    scope: Any = {"type": "http", "method": "GET", "path": "/runs"}

    await site.app(scope, None, None)  # type: ignore[arg-type]

    assert [call.address for call in refused] == ["unknown"]


@pytest.mark.parametrize(
    ("name", "value", "answer"),
    [
        (b"authorization", b"bEARER  good ", "reached by olivia"),
        (b"x-authorization", b"Bearer good", "refused: no-certificate"),
    ],
)
async def test_a_token_stands_in_one_header_and_in_any_letters(
    site: Site, name: bytes, value: bytes, answer: str
) -> None:
    scope: Any = {"type": "http", "method": "GET", "path": "/runs", "headers": [(name, value)]}

    await site.app(scope, None, None)  # type: ignore[arg-type]

    assert site.answers == [answer]
