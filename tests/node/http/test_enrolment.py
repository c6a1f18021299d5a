"""Sites over HTTP, and the site's own side of joining."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from kumiai.core import failpoints
from kumiai.core.clock import SystemClock
from kumiai.core.errors import (
    CertificateError,
    ConfigError,
    ConflictError,
    DeadlineError,
    DeniedError,
    IntegrityError,
    TransportError,
)
from kumiai.identity import Identity, Role, TrustBundle, identity_of, verify_own_certificate
from kumiai.identity.keys import new_key
from kumiai.identity.members import MemberFiles
from kumiai.identity.requests import new_request
from kumiai.node.assembly.sites import new_site_issuer, new_site_office
from kumiai.node.client import joining
from kumiai.node.client.joining import JoinToken, make_request
from kumiai.node.coordinator.sites import Enrolment, SiteOffice, SQLDenials
from kumiai.node.settings import Settings
from kumiai.storage import DatabaseManager, SiteDenials
from tests.node.http.api import FEDERATION, Certificates, RunningApi, error_of, running_api

pytestmark = pytest.mark.integration


class Killed(BaseException):
    """What a failpoint raises in place of SIGKILL."""


POINTS = {"client.join.answered", "identity.member.before", "client.join.saved"}


@pytest.fixture
def killed_at() -> Iterator[Callable[[str], None]]:
    def install(point: str) -> None:
        def hook(name: str) -> None:
            if name == point:
                raise Killed

        failpoints.install(hook)

    yield install
    failpoints.install(None)


async def invited(api: RunningApi, name: str = "site-1", **body: Any) -> JoinToken:
    answer = await api.operator.post(f"/api/v1/sites/{name}/invite", json=body)
    answer.raise_for_status()
    made = answer.json()
    return JoinToken(
        api.url.removeprefix("https://"), bytes.fromhex(made["fingerprint"]), made["secret"]
    )


async def join(token: JoinToken, directory: Path) -> MemberFiles:
    return await asyncio.to_thread(joining.join, token, directory)


def identity_in(files: MemberFiles) -> Identity:
    return verify_own_certificate(files.cert, files.key, files.ca, SystemClock(), role=Role.CLIENT)


def office_with(
    certificates: Certificates, database: DatabaseManager, settings: Settings
) -> SiteOffice:
    clock, own = SystemClock(), certificates.coordinator.identity
    return new_site_office(
        settings,
        database=database,
        denials=SiteDenials(database),
        issuer=new_site_issuer(settings, clock, federation=FEDERATION),
        own=own,
    )


Serve = Callable[..., Awaitable[RunningApi]]


# ---------------------------------------------------------------- joining


async def test_a_site_joins_with_one_line_and_its_key_stays_at_home(
    api: RunningApi, tmp_path: Path
) -> None:
    token = await invited(api)

    files = await join(token, tmp_path / "site")

    own = identity_in(files)
    assert (own.name, own.federation) == ("site-1", FEDERATION)
    assert own.issuer_serial == api.certificates.issuer.serial
    assert 23 * 3600 < own.not_after - SystemClock().now() <= 24 * 3600
    assert files.key.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in files.cert.parent.iterdir()) == [
        ".lock",
        "ca.crt",
        "site-1.crt",
        "site-1.key",
    ]


async def test_a_token_is_good_once(api: RunningApi, tmp_path: Path) -> None:
    token = await invited(api)
    await join(token, tmp_path / "site")

    with pytest.raises(DeniedError, match="must be used once, got another key"):
        await join(token, tmp_path / "thief")

    assert not (tmp_path / "thief" / "site-1.crt").exists()


@pytest.mark.parametrize("point", sorted(POINTS))
async def test_who_is_killed_while_joining_goes_on_with_the_same_certificate(
    api: RunningApi, tmp_path: Path, killed_at: Callable[[str], None], point: str
) -> None:
    token = await invited(api)
    killed_at(point)
    with pytest.raises(Killed):
        await join(token, tmp_path / "site")
    failpoints.install(None)

    files = await join(token, tmp_path / "site")

    sites = (await api.operator.get("/api/v1/sites")).json()["sites"]
    assert identity_in(files).name == "site-1"
    assert [site["certificate_count"] for site in sites] == [1]
    assert not (tmp_path / "site" / "joining.key").exists()


async def test_a_coordinator_that_is_not_the_invitations_gets_nothing(
    api: RunningApi, tmp_path: Path
) -> None:
    token = await invited(api)

    with pytest.raises(CertificateError, match="must be known by the invitation's root, got anot"):
        await join(replace(token, fingerprint=bytes(32)), tmp_path / "site")
    # Reaches the same server by a name that its certificate does not have.
    elsewhere = replace(token, address=token.address.replace("127.0.0.1", "127.1"))
    with pytest.raises(CertificateError, match="must show a certificate for this address"):
        await join(elsewhere, tmp_path / "site")

    files = await join(token, tmp_path / "site")
    assert identity_in(files).name == "site-1"


async def test_a_coordinator_that_is_not_there_is_told(tmp_path: Path) -> None:
    token = JoinToken("127.0.0.1:1", bytes(32), "s" * 43)

    with pytest.raises(TransportError, match=r"127\.0\.0\.1:1 cannot be reached .*same command"):
        await join(token, tmp_path / "site")


async def test_what_is_there_already_is_not_overwritten(api: RunningApi, tmp_path: Path) -> None:
    await join(await invited(api), tmp_path / "site")
    before = (tmp_path / "site" / "site-1.crt").read_bytes()

    with pytest.raises(ConflictError, match="must not exist yet"):
        await join(await invited(api), tmp_path / "site")
    (tmp_path / "site" / "site-1.crt").unlink()
    with pytest.raises(ConflictError, match=r"site-1\.key must not exist yet"):
        await join(await invited(api), tmp_path / "site")

    assert before
    assert not (tmp_path / "site" / "site-1.crt").exists()


class LyingOffice:
    """Answers with what it was told, whatever is asked."""

    def __init__(self, bundle: bytes, chain: bytes, answered_bundle: bytes) -> None:
        self._bundle = bundle
        self._answer = Enrolment("site-1", chain, answered_bundle)

    async def trust_bundle(self) -> bytes:
        return self._bundle

    async def enrol(self, secret: str, csr_pem: bytes, *, address: str) -> Enrolment:
        return self._answer


async def lied_to(
    certificates: Certificates, database: DatabaseManager, folder: Path, *answer: bytes
) -> None:
    office: Any = LyingOffice(certificates.coordinator.ca.read_bytes(), *answer)
    (root,) = TrustBundle.load(certificates.coordinator.ca).authorities
    async with running_api(certificates, database, folder, sites=office) as api:
        token = JoinToken(
            api.url.removeprefix("https://"), root.fingerprint(hashes.SHA256()), "s" * 43
        )
        await join(token, folder / "site")


async def test_a_certificate_for_another_key_is_not_kept(
    certificates: Certificates, database: DatabaseManager, tmp_path: Path
) -> None:
    own = certificates.client

    with pytest.raises(IntegrityError, match="must be for this site's key"):
        await lied_to(certificates, database, tmp_path, own.cert.read_bytes(), own.ca.read_bytes())

    assert not list((tmp_path / "site").glob("*.crt"))


async def test_other_roots_than_the_invitations_are_not_taken(
    certificates: Certificates, database: DatabaseManager, tmp_path: Path
) -> None:
    foreign = certificates.foreigner

    with pytest.raises(CertificateError, match="must trust the invitation's root, got other"):
        await lied_to(
            certificates, database, tmp_path, foreign.cert.read_bytes(), foreign.ca.read_bytes()
        )

    assert not (tmp_path / "site" / "ca.crt").exists()


# ---------------------------------------------------------------- who may not


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/sites/a/invite", {}),
        ("/api/v1/sites/a/approve", None),
        ("/api/v1/sites/a/suspend", {}),
        ("/api/v1/sites/a/resume", None),
        ("/api/v1/sites/a/remove", {}),
    ],
)
async def test_only_operators_decide_about_sites(
    api: RunningApi, path: str, body: dict[str, Any] | None
) -> None:
    for issued in (None, api.certificates.client, api.certificates.scientist):
        answer = await api.caller(issued).post(path, json=body)
        assert error_of(answer)[:2] == (403, "denied")


async def test_everybody_may_see_whom_the_federation_trusts(api: RunningApi) -> None:
    answer = await api.caller(None).get("/api/v1/trust")

    assert answer.json()["ca"].encode() == api.certificates.coordinator.ca.read_bytes()


async def test_a_made_up_secret_gets_nothing(api: RunningApi) -> None:
    body = {"secret": "s" * 43, "request": new_request(new_key()).decode()}

    answer = await api.caller(None).post("/api/v1/join", json=body)

    assert error_of(answer)[:2] == (403, "denied")
    assert "not known, withdrawn or over" in error_of(answer)[2]


@pytest.mark.parametrize(
    ("request_text", "status", "words"),
    [
        ("junk", 403, "must be one PKCS#10 request"),
        ("\u00fc", 422, "request"),
        ("x" * (17 * 1024), 422, "request"),
        (new_request(new_key(), "site-2").decode(), 403, "must be for 'site-1'"),
    ],
)
async def test_a_request_that_is_not_acceptable_is_refused(
    api: RunningApi, request_text: str, status: int, words: str
) -> None:
    token = await invited(api)

    answer = await api.caller(None).post(
        "/api/v1/join", json={"secret": token.secret, "request": request_text}
    )

    assert error_of(answer)[0] == status
    assert words in error_of(answer)[2]


async def test_another_sites_key_is_refused(api: RunningApi) -> None:
    request = new_request(new_key()).decode()
    first, second = await invited(api), await invited(api, "site-2")
    body = {"secret": first.secret, "request": request}
    assert (await api.caller(None).post("/api/v1/join", json=body)).status_code == 200

    answer = await api.caller(None).post("/api/v1/join", json=body | {"secret": second.secret})

    assert error_of(answer)[:2] == (409, "conflict")
    assert "got one that another site's certificate holds" in error_of(answer)[2]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"role": "operator"}, "role must be client"),
        ({"lifetime_hours": 0}, "must be up to 720 hours, got 0"),
        ({"lifetime_hours": 721}, "must be up to 720 hours, got 721"),
    ],
)
async def test_an_invitation_that_makes_no_sense_is_refused(
    api: RunningApi, body: dict[str, Any], words: str
) -> None:
    answer = await api.operator.post("/api/v1/sites/site-1/invite", json=body)

    assert error_of(answer)[0] == 422
    assert words in error_of(answer)[2]


async def test_a_coordinator_without_an_issuer_says_how_it_is_done_by_hand(
    certificates: Certificates, database: DatabaseManager, tmp_path: Path
) -> None:
    settings = certificates.settings(issuer_certificate=None, issuer_key=None)
    office = office_with(certificates, database, settings)

    async with running_api(certificates, database, tmp_path, sites=office) as api:
        answer = await api.operator.post("/api/v1/sites/site-1/invite", json={})

    assert error_of(answer)[0] == 409
    assert "`kumiai site request`" in error_of(answer)[2]
    assert "`kumiai ca sign`" in error_of(answer)[2]


# ---------------------------------------------------------------- approval


async def test_an_operator_may_have_to_approve(
    certificates: Certificates, database: DatabaseManager, tmp_path: Path
) -> None:
    office = office_with(certificates, database, certificates.settings(needs_approval=True))

    async with running_api(certificates, database, tmp_path, sites=office) as api:
        token = await invited(api)
        with pytest.raises(DeadlineError, match="`kumiai site approve site-1`; then run the same"):
            await join(token, tmp_path / "site")
        early = (await api.operator.get("/api/v1/sites")).json()["sites"]
        done = await api.operator.post("/api/v1/sites/site-1/approve")
        files = await join(token, tmp_path / "site")

    assert early[0]["enrolment"] == "waiting"
    assert done.json() == {"name": "site-1", "act": "approved", "revoked": []}
    assert identity_in(files).name == "site-1"


# ---------------------------------------------------------------- denying


async def test_suspended_and_removed_sites_are_denied_and_others_are_not(
    api: RunningApi, database: DatabaseManager, tmp_path: Path
) -> None:
    denials = SiteDenials(database)
    sql = SQLDenials(denials)
    first = identity_in(await join(await invited(api), tmp_path / "1"))
    by_hand = replace(first, serial=77, issuer_serial=78)
    operator = api.certificates.operator.identity
    seen: list[list[str | None]] = []

    async def look() -> None:
        await denials.refresh()
        seen.append([sql.is_denied(each) for each in (first, by_hand, operator)])

    await look()
    for act in ("suspend", "resume", "remove"):
        body = None if act == "resume" else {"reason": "an audit"}
        (await api.operator.post(f"/api/v1/sites/site-1/{act}", json=body)).raise_for_status()
        await look()
    again = identity_in(await join(await invited(api), tmp_path / "2"))
    await look()

    assert seen == [
        [None, None, None],
        ["suspended", "suspended", None],
        [None, None, None],
        ["revoked", "removed", None],
        ["revoked", "removed", None],
    ]
    assert sql.is_denied(again) is None
    assert sql.is_denied(replace(operator, name="site-1")) is None


async def test_removing_tells_what_was_revoked(api: RunningApi, tmp_path: Path) -> None:
    own = identity_in(await join(await invited(api), tmp_path / "site"))

    answer = await api.operator.post("/api/v1/sites/site-1/remove", json={"reason": "left"})
    again = await api.operator.post("/api/v1/sites/site-1/resume")

    assert answer.json()["revoked"] == [f"{own.serial:x}"]
    assert error_of(again)[0] == 409


# ---------------------------------------------------------------- renewing


async def test_a_renewal_is_for_whom_the_session_is_and_takes_a_new_key(
    certificates: Certificates, database: DatabaseManager
) -> None:
    office = office_with(certificates, database, certificates.settings())
    name, key = "site-1", new_key()

    first = await office.renew(name, new_request(key))
    again = await office.renew(name, new_request(key))
    second = await office.renew(name, new_request(new_key()))

    assert identity_of(first.chain).name == name
    assert again.chain == first.chain
    assert identity_of(second.chain).serial != identity_of(first.chain).serial
    with pytest.raises(ConflictError, match="got one that another site's certificate holds"):
        await office.renew("site-2", new_request(key))
    with pytest.raises(CertificateError, match="must be for 'site-2'"):
        await office.renew("site-2", new_request(new_key(), name))


# ---------------------------------------------------------------- settings, tokens, requests


def test_half_an_issuer_and_another_federations_are_refused(certificates: Certificates) -> None:
    clock = SystemClock()

    with pytest.raises(ConfigError, match="must be set together"):
        new_site_issuer(certificates.settings(issuer_key=None), clock, federation=FEDERATION)
    with pytest.raises(ConfigError, match="must be of federation 'banks', got 'hospitals'"):
        new_site_issuer(certificates.settings(), clock, federation="banks")


def test_a_sealed_issuer_is_opened_by_the_environment_or_a_file(
    certificates: Certificates, tmp_path: Path
) -> None:
    made = certificates.authority.delegate(
        out_dir=tmp_path / "sealed", passphrase=b"correct horse battery"
    )
    (tmp_path / "passphrase").write_text("correct horse battery\n")
    sealed = {"issuer_certificate": made.cert, "issuer_key": made.key}
    ways = (
        {"issuer_passphrase": "correct horse battery"},
        {"issuer_passphrase_file": tmp_path / "passphrase"},
    )

    issuers = [
        new_site_issuer(
            certificates.settings(**sealed, **way), SystemClock(), federation=FEDERATION
        )
        for way in ways
    ]

    assert [issuer.value.serial for issuer in issuers if issuer] == [made.serial] * 2
    with pytest.raises(IntegrityError, match="must be an unencrypted private key"):
        new_site_issuer(certificates.settings(**sealed), SystemClock(), federation=FEDERATION)


def test_a_token_is_one_line_and_shows_no_secret() -> None:
    token = JoinToken("coordinator.example.org:8420", bytes(range(32)), "s" * 43)

    text = token.to_text()

    assert re.fullmatch(r"kumiai-join:coordinator\.example\.org:8420/[\w-]{43}/s{43}", text)
    assert JoinToken.from_text(f" {text}\n") == token
    assert "sss" not in repr(token)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kumiai-join:",
        f"kumiai-join:host:1/{'a' * 43}",
        f"kumiai-join:host/{'a' * 43}/{'b' * 43}",
        f"kumiai-join:host:99999/{'a' * 43}/{'b' * 43}",
        f"kumiai-join:user@host:1/{'a' * 43}/{'b' * 43}",
        f"kumiai-join::443/{'a' * 43}/{'b' * 43}",
        f"kumiai-join:host:1/{'a' * 42}/{'b' * 43}",
    ],
)
def test_something_else_is_no_token_and_is_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError, match="must be the one line that") as caught:
        JoinToken.from_text(text)

    assert "bbb" not in str(caught.value)


def test_a_request_for_signing_by_hand_is_made_once(
    certificates: Certificates, tmp_path: Path
) -> None:
    key, csr = make_request("site-7", tmp_path / "site")

    signed = certificates.authority.sign_request(csr.read_bytes(), Role.CLIENT, "site-7")

    assert signed.identity.name == "site-7"
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConflictError, match="must not exist yet"):
        make_request("site-7", tmp_path / "site")


def test_a_key_of_another_kind_is_not_used_for_joining(tmp_path: Path) -> None:
    assert isinstance(joining._pending_key(tmp_path / "k"), ec.EllipticCurvePrivateKey)
    assert joining._pending_key(tmp_path / "k") is not None
    (tmp_path / "k").write_bytes(b"junk")

    with pytest.raises(IntegrityError, match="key of this site must be"):
        joining._pending_key(tmp_path / "k")
