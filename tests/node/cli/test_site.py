"""Sites, from the operator's line to the site's certificate."""

from pathlib import Path

import pytest

from kumiai.core.clock import SystemClock
from kumiai.identity import Role, verify_own_certificate
from kumiai.node.client.joining import JoinToken
from tests.node.cli.program import Federation, invoke

pytestmark = pytest.mark.integration


def test_a_site_joins_with_the_line_that_the_operator_gave(
    federation: Federation, folder: Path
) -> None:
    told = federation.invoke("site", "invite", "cleveland", "--expires", "2h", "-o", "json").data

    joined = invoke("site", "join", "-", "--out", "identity", stdin=told["token"] + "\n")
    again = invoke("site", "join", told["token"], "--out", "other")

    assert joined.code == 0, joined.err
    assert joined.out.startswith("joined as cleveland")
    assert 'key = "identity/cleveland.key"' in joined.out
    own = verify_own_certificate(
        folder / "identity" / "cleveland.crt",
        folder / "identity" / "cleveland.key",
        folder / "identity" / "ca.crt",
        SystemClock(),
        role=Role.CLIENT,
    )
    assert own.name == "cleveland"
    assert again.code == 4
    assert "must be used once" in again.err
    assert told["token"].rpartition("/")[2] not in again.err


def test_the_line_stands_alone_and_names_the_address_that_was_given(
    federation: Federation,
) -> None:
    outcome = federation.invoke("site", "invite", "a", "--address", "coordinator.example.org:443")

    line, _, rest = outcome.out.partition("\n")
    assert JoinToken.from_text(line).address == "coordinator.example.org:443"
    assert "give this line to a" in rest


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--expires", "soon"), "--expires must be hours or days"),
        (("--expires", "31d"), "must be up to 720 hours"),
        (("--role", "operator"), "role must be client"),
        (("--address", "nowhere"), "must be the one line"),
    ],
)
def test_an_invitation_that_makes_no_sense_is_a_usage_error(
    federation: Federation, options: tuple[str, ...], words: str
) -> None:
    outcome = federation.invoke("site", "invite", "b", *options)

    assert outcome.code == 2
    assert words in outcome.err


def test_a_site_is_suspended_resumed_and_removed(federation: Federation) -> None:
    federation.invoke("site", "invite", "budapest")

    suspended = federation.invoke("site", "suspend", "budapest", "--reason", "an audit")
    shown = federation.invoke("site", "list")
    resumed = federation.invoke("site", "resume", "budapest", "-o", "json")
    removed = federation.invoke("site", "remove", "budapest")
    listed = {site["name"]: site for site in federation.invoke("site", "list", "-o", "json").data}

    assert suspended.out.startswith("suspended budapest")
    assert "an audit" in shown.out
    assert resumed.data == {"name": "budapest", "act": "resumed", "revoked": []}
    assert removed.out.startswith("removed budapest")
    assert listed["budapest"]["state"] == "removed"


def test_a_site_that_nobody_waits_for_is_not_approved(federation: Federation) -> None:
    outcome = federation.invoke("site", "approve", "nobody")

    assert outcome.code == 3
    assert "must wait for approval" in outcome.err


def test_a_request_is_made_and_signed_by_hand(folder: Path) -> None:
    invoke("ca", "init", "hospitals")

    made = invoke("site", "request", "site-7", "--out", "identity")
    signed = invoke("ca", "sign", "client", "site-7", "identity/site-7.csr", "--out", "signed")

    assert made.out.startswith("made identity/site-7.csr")
    assert signed.code == 0, signed.err
    assert (folder / "identity" / "site-7.key").stat().st_mode & 0o777 == 0o600


def test_something_else_is_no_line(folder: Path) -> None:
    outcome = invoke("site", "join", "junk", "--out", "identity")

    assert outcome.code == 2
    assert "must be the one line" in outcome.err
    assert not (folder / "identity").exists()
