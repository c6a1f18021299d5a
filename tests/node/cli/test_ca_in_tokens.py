"""``kumiai ca`` with keys in a token: a made-up one, and SoftHSM's."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pkcs11
import pytest

from kumiai.core.clock import SystemClock
from kumiai.identity import Role, identity_of, verify_own_certificate
from kumiai.testing.fake_tokens import FakeKey, FakeToken, FakeTokenLibrary
from tests.identity.tokens import softhsm_or_skip
from tests.node.cli.program import Outcome, invoke

ROOT = "pkcs11:token=authority;object=root"
ISSUER = "pkcs11:token=authority;object=issuer"
MODULE = "/opt/vendor/pkcs11.so"
# What a shell does for a program: standard input becomes the terminal that it is asked at.
AT_A_TERMINAL = """
import fcntl, termios, runpy
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
runpy.run_module("kumiai.node.cli", run_name="__main__")
"""


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> FakeToken:
    """A token that the program's library reaches."""
    names = ("root", "issuer", "root-2", "issuer-2", "issuer-3", "sites")
    made = FakeToken([FakeKey(name, id=name.encode()) for name in names])
    monkeypatch.setattr(pkcs11, "lib", FakeTokenLibrary([made]))
    monkeypatch.setenv("KUMIAI_PKCS11_MODULE", MODULE)
    monkeypatch.setenv("KUMIAI_PKCS11_PIN", made.pin)
    return made


def init(*options: str) -> Outcome:
    return invoke("ca", "init", "hospitals", "--pkcs11", ROOT, *options)


def test_the_life_of_an_authority_in_a_token(token: FakeToken, folder: Path) -> None:
    lines = (
        ("init", "hospitals", "--pkcs11", ROOT, "--issuer-pkcs11", ISSUER),
        ("issue", "client", "site-1", "--out", "site"),
        ("renew", "site/site-1.crt"),
        ("renew-intermediate", "--issuer-pkcs11", f"{ISSUER}-2"),
        ("delegate", "--issuer-pkcs11", "pkcs11:token=authority;object=sites", "--out", "sites"),
        ("rotate", "--pkcs11", f"{ROOT}-2", "--issuer-pkcs11", f"{ISSUER}-3"),
        ("revoke", "site-1"),
        ("crl",),
        ("retire", "--force"),
        ("issuers",),
    )

    outcomes = [invoke("ca", *line) for line in lines]

    assert [each.code for each in outcomes] == [0] * len(lines), [each.err for each in outcomes]
    assert "take its root's token away" in outcomes[0].out
    assert Path("sites/issuer.key").read_text() == "pkcs11:token=authority;object=sites\n"
    assert not [
        path
        for path in folder.rglob("*.key")
        if "PRIVATE" in path.read_text() and path.name != "site-1.key"
    ]
    assert token.wrong_pins == 0
    assert token.pin not in "".join(each.out + each.err for each in outcomes)


def test_a_dry_run_tries_the_keys_and_writes_nothing(token: FakeToken, folder: Path) -> None:
    assert init("--dry-run").code == 0
    token.keys[0].has_private = False
    refused = init("--dry-run")

    assert refused.code == 3
    assert "private key must be in token 'authority'" in refused.err
    assert list(folder.iterdir()) == []


def test_a_pin_comes_from_a_file(
    token: FakeToken, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "pin").write_text(f"{token.pin}\n")
    (folder / "pin").chmod(0o600)
    monkeypatch.setenv("KUMIAI_PKCS11_PIN", "planted-wrong-pin")
    monkeypatch.setenv("KUMIAI_PKCS11_PIN_FILE", "pin")

    assert init().code == 0
    assert token.wrong_pins == 0


def test_a_wrong_pin_is_shown_once_and_told_to_nobody(
    token: FakeToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUMIAI_PKCS11_PIN", "planted-wrong-pin")

    refused = init("--issuer-pkcs11", ISSUER)

    assert refused.code == 2
    assert "PIN of token 'authority' must be right, got one that it refuses" in refused.err
    assert "planted" not in refused.out + refused.err
    assert token.wrong_pins == 1


def test_without_a_pin_and_a_terminal_it_says_where_to_put_one(
    token: FakeToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUMIAI_PKCS11_PIN")

    refused = init()

    assert refused.code == 2
    assert "KUMIAI_PKCS11_PIN_FILE" in refused.err


def test_without_a_library_it_says_where_to_put_one(
    token: FakeToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUMIAI_PKCS11_MODULE")

    refused = init()

    assert refused.code == 2
    assert "KUMIAI_PKCS11_MODULE" in refused.err


def test_a_pin_in_the_uri_is_refused_before_the_token_is_asked(token: FakeToken) -> None:
    refused = invoke("ca", "init", "hospitals", "--pkcs11", f"{ROOT}?pin-value=planted")

    assert refused.code == 2
    assert "planted" not in refused.err
    assert token.signature_count == 0


# ---------------------------------------------------------------- as a process, on SoftHSM


def test_an_authority_in_softhsm_whose_pin_is_typed(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hsm = softhsm_or_skip(lambda: tmp_path_factory.mktemp("softhsm"))
    root, issuer = hsm.new_key("root"), hsm.new_key("issuer")
    environ = {**os.environ, **hsm.environ, "KUMIAI_PKCS11_MODULE": str(hsm.module)}
    keys = ("--pkcs11", str(root), "--issuer-pkcs11", str(issuer))
    terminal, own = pty.openpty()

    with subprocess.Popen(
        [sys.executable, "-c", AT_A_TERMINAL, "ca", "init", "hospitals", *keys],
        stdin=own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
        start_new_session=True,
    ) as made:
        os.close(own)
        os.read(terminal, 100)  # the prompt: what is typed before it is thrown away
        os.write(terminal, f"{hsm.pin}\n".encode())
        out, err = made.communicate(timeout=60)
    os.close(terminal)
    issued = subprocess.run(
        [sys.executable, "-m", "kumiai.node.cli", "ca", "issue", "client", "a", "--out", "a"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
        env={**environ, "KUMIAI_PKCS11_PIN": hsm.pin},
        timeout=60,
    )

    assert (made.returncode, issued.returncode) == (0, 0), err + issued.stderr
    assert "PIN of token 'authority'" in err
    assert hsm.pin not in out + err + issued.stdout + issued.stderr
    assert identity_of(Path("a/a.crt").read_bytes()).role is Role.CLIENT
    verify_own_certificate(
        Path("a/a.crt"), Path("a/a.key"), Path("ca/ca.crt"), SystemClock(), role=Role.CLIENT
    )
