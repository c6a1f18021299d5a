import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from kumiai.identity import Role, identity_of
from kumiai.identity.requests import new_request
from tests.node.cli.program import invoke


@pytest.fixture
def authority(folder: Path) -> Path:
    assert invoke("ca", "init", "hospitals").code == 0
    return folder / "ca"


def test_an_authority_is_created_once(authority: Path) -> None:
    again = invoke("ca", "init", "hospitals")

    assert (authority / "ca.crt").exists()
    assert again.code == 1
    assert "must not hold an authority yet" in again.err


@pytest.mark.parametrize(
    "line",
    [
        ("init", "hospitals"),
        ("init", "hospitals", "--dir", "other"),
    ],
)
def test_a_dry_run_creates_nothing(folder: Path, line: tuple[str, ...]) -> None:
    outcome = invoke("ca", *line, "--dry-run")

    assert outcome.code == 0
    assert outcome.out.startswith("would create")
    assert list(folder.iterdir()) == []


def test_a_dry_run_tells_what_would_fail(authority: Path) -> None:
    assert invoke("ca", "init", "hospitals", "--dry-run").code == 1
    assert invoke("ca", "init", "no name").code == 2
    assert invoke("ca", "issue", "client", "a", "--out", "a", "--dir", "x", "--dry-run").code == 3


def test_a_certificate_is_issued_with_the_lines_of_its_settings(authority: Path) -> None:
    outcome = invoke("ca", "issue", "client", "site-1", "--out", "site")
    told = invoke("ca", "issue", "client", "site-2", "--out", "site", "-o", "json").data

    identity = identity_of(Path("site/site-1.crt").read_bytes())
    assert (identity.role, identity.name) == (Role.CLIENT, "site-1")
    assert 'key = "site/site-1.key"' in outcome.out
    assert told["certificate"] == "site/site-2.crt"


def test_a_dry_run_issues_nothing(authority: Path) -> None:
    outcome = invoke("ca", "issue", "client", "site-1", "--out", "site", "--dry-run")

    assert outcome.out.startswith("would issue client site-1")
    assert not Path("site").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("boss", "x", "--out", "y"), "coordinator, client, operator"),
        (("client", "a b", "--out", "y"), "name must be"),
        (("coordinator", "c", "--out", "y"), "hosts must name"),
    ],
)
def test_a_wrong_request_is_a_usage_error(
    authority: Path, line: tuple[str, ...], words: str
) -> None:
    outcome = invoke("ca", "issue", *line)

    assert outcome.code == 2
    assert words in outcome.err


def test_a_coordinator_gets_its_hosts(authority: Path) -> None:
    invoke(
        *("ca", "issue", "coordinator", "c", "--out", "c"),
        *("--host", "localhost", "--host", "127.0.0.1", "--days", "10"),
    )

    listed = invoke("ca", "list")
    assert "localhost, 127.0.0.1" in listed.out


def test_an_owner_is_revoked_by_name_or_serial(authority: Path) -> None:
    invoke("ca", "issue", "client", "a", "--out", "a")
    invoke("ca", "issue", "client", "b", "--out", "b")
    by_name = {each["name"]: each for each in invoke("ca", "list", "-o", "json").data}

    dry = invoke("ca", "revoke", "a", "--dry-run")
    first = invoke("ca", "revoke", "a", "--reason", "key-compromise", "-o", "json").data
    second = invoke("ca", "revoke", by_name["b"]["serial"].upper())

    assert dry.out.startswith("would revoke 1 of a")
    assert [each["reason"] for each in first] == ["key-compromise"]
    assert second.out.startswith("revoked 1 of ")
    assert "revoked: unspecified" in invoke("ca", "list").out
    assert (authority / "ca.crl").exists()


def test_the_role_tells_two_owners_of_a_name_apart(authority: Path) -> None:
    invoke("ca", "issue", "client", "a", "--out", "client")
    invoke("ca", "issue", "operator", "a", "--out", "operator")

    unclear = invoke("ca", "revoke", "a")
    clear = invoke("ca", "revoke", "a", "--role", "operator", "-o", "json").data

    assert unclear.code == 1
    assert [each["role"] for each in clear] == ["operator"]


def test_nobody_is_not_found(authority: Path) -> None:
    assert invoke("ca", "revoke", "nobody").code == 3
    assert invoke("ca", "list", "--dir", "nowhere").code == 3
    assert invoke("ca", "list").out == ("no certificates yet; issue one with `kumiai ca issue`\n")


def test_a_fresh_revocation_list_is_written(authority: Path) -> None:
    before = (authority / "ca.crl").read_bytes()

    dry = invoke("ca", "crl", "--dry-run")
    kept = (authority / "ca.crl").read_bytes()
    outcome = invoke("ca", "crl", "-o", "json")

    assert dry.out.startswith("would write ca/ca.crl: 0")
    assert kept == before
    assert outcome.data == {"crl": "ca/ca.crl", "revoked": 0, "dry_run": False}
    assert (authority / "ca.crl").read_bytes() != before


def test_the_authoritys_key_can_be_sealed_by_a_passphrase(folder: Path) -> None:
    Path("secret").write_text("correct horse battery\n")
    issue = ("ca", "issue", "client", "a", "--out", "a")

    made = invoke("ca", "init", "hospitals", "--passphrase-file", "secret")
    by_file = invoke(*issue, "--passphrase-file", "secret")
    by_environment = invoke("ca", "crl", environ={"KUMIAI_CA_PASSPHRASE": "correct horse battery"})
    by_terminal = invoke("ca", "crl", stdin="correct horse battery\n")
    wrong = invoke("ca", "crl", stdin="incorrect horse battery\n")
    listed = invoke("ca", "list", "-o", "json")

    assert [made.code, by_file.code, by_environment.code, by_terminal.code] == [0, 0, 0, 0]
    assert wrong.code == 2
    assert [each["name"] for each in listed.data] == ["a"]
    assert not list((folder / "ca").glob("*.key"))


def test_a_passphrase_file_that_is_not_there_is_told(folder: Path) -> None:
    outcome = invoke("ca", "init", "hospitals", "--passphrase-file", "none")

    assert outcome.code == 2
    assert "--passphrase-file must be readable" in outcome.err


def test_results_are_json_for_programs(authority: Path) -> None:
    invoke("ca", "issue", "client", "a", "--out", "a")

    (record,) = json.loads(invoke("ca", "list", "-o", "json").out)

    assert record["role"] == "client"
    assert record["revoked_at"] is None


@pytest.fixture
def request_file(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    path = folder / "request.csr"
    path.write_bytes(new_request(key, "site-1"))
    return path


def test_a_request_is_signed_and_no_key_is_made(authority: Path, request_file: Path) -> None:
    outcome = invoke("ca", "sign", "client", "site-1", str(request_file), "--out", "signed")
    again = invoke("ca", "sign", "client", "site-1", str(request_file), "--out", "signed")

    assert outcome.out.startswith("signed client site-1; give signed/site-1.crt")
    assert sorted(path.name for path in Path("signed").iterdir()) == ["ca.crt", "site-1.crt"]
    assert again.code == 1
    assert "must not exist yet" in again.err


def test_a_request_for_somebody_else_is_refused(authority: Path, request_file: Path) -> None:
    outcome = invoke("ca", "sign", "client", "site-2", str(request_file), "--out", "signed")

    assert outcome.code == 4
    assert "request must be for 'site-2'" in outcome.err
    assert invoke("ca", "list", "-o", "json").data == []


def test_a_certificate_is_renewed_in_place(authority: Path) -> None:
    invoke("ca", "issue", "client", "a", "--out", "a")
    before = identity_of(Path("a/a.crt").read_bytes())

    outcome = invoke("ca", "renew", "a/a.crt", "--days", "9")

    after = identity_of(Path("a/a.crt").read_bytes())
    assert outcome.out.startswith("renewed client a until ")
    assert (after.uri, after.serial == before.serial) == (before.uri, False)


def test_a_root_is_changed_step_by_step(authority: Path) -> None:
    invoke("ca", "issue", "client", "a", "--out", "a")

    rotated = invoke("ca", "rotate")
    early = invoke("ca", "retire")
    invoke("ca", "revoke", "a")
    late = invoke("ca", "retire")
    listed = invoke("ca", "issuers", "-o", "json").data

    assert "bring ca/ca.crt and ca/succession.crt to every coordinator" in rotated.out
    assert early.code == 1
    assert "client a" in early.err
    assert late.code == 0
    assert [each["kind"] for each in listed] == ["members", "root"]


def test_a_root_without_the_word_of_the_old_one_must_be_brought_to_everybody(
    authority: Path,
) -> None:
    (key,) = Path("ca").glob("root-*.key")
    key.unlink()

    rotated = invoke("ca", "rotate")

    assert "bring ca/ca.crt to every coordinator, then to every member" in rotated.out


def test_an_issuer_is_renewed_and_the_old_one_revoked(authority: Path) -> None:
    old = invoke("ca", "issuers", "-o", "json").data[0]["serial"]

    new = invoke("ca", "renew-intermediate", "-o", "json").data["serial"]
    revoked = invoke("ca", "revoke", old, "--reason", "key-compromise", "-o", "json").data

    assert new != old
    assert [(each["serial"], each["reason"]) for each in revoked] == [(old, "key-compromise")]
    assert "revoked: key-compromise" in invoke("ca", "issuers").out


def test_an_issuer_for_a_coordinator_is_made_with_the_lines_of_its_settings(
    authority: Path,
) -> None:
    Path("secret").write_text("another correct horse\n")

    outcome = invoke("ca", "delegate", "--out", "sites", "--issuer-passphrase-file", "secret")
    missing = invoke("ca", "delegate", "--out", "other", "--issuer-passphrase-file", "none")

    assert '[sites]\nissuer_certificate = "sites/issuer.crt"' in outcome.out
    assert b"PRIVATE" not in Path("sites/issuer.key").read_bytes()
    assert missing.code == 2
    assert "--issuer-passphrase-file must be readable" in missing.err
