"""No secret in any log, error, metric, answer or row: planted ones are searched for in all of it.

A federation on PostgreSQL, Redis and S3 works through a day with secrets that this test knows.
Then everything that its processes have written is read, and each secret looked for in the forms in
which it could have slipped out. Where a secret belongs is named, one by one.
"""

import asyncio
import base64
import json
import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from kumiai.core.clock import SystemClock
from kumiai.identity import CertificateManager, client_context
from kumiai.node.http.access import ROUTES
from tests.node.cli.program import STUDY
from tests.system.platform import ENDED, Outcome, Platform
from tests.zygote import Zygote

JOB = """
[run]
app = "counting"
rounds = 2
name = "nightly"

[cohort]
size = 3
min_reports = 3
grace_seconds = 60.0
"""
DATABASE = "planted+database/71f3=password"
REDIS = "planted-redis-71f3-password"
ISSUER = "planted issuer 71f3 passphrase"
AUDIT = "planted audit 71f3 passphrase"
AUTHORITY = "planted authority 71f3 passphrase"
WRONG = "planted wrong 71f3 passphrase"
STRANGE_TOKEN = "kumiai_planted71f3strange"
_RAW_BYTES = 32
_LEAST_BYTES = 12


@dataclass(frozen=True)
class Planted:
    """A secret that must not be found.

    Attributes:
        name: for the failing test.
        content: its bytes.
        belongs: names of the only places where it may stand.
    """

    name: str
    content: bytes
    belongs: frozenset[str] = frozenset()

    def forms(self) -> set[bytes]:
        """Return what is looked for: as it is, quoted, in hexadecimal and in base64."""
        plain = self.content
        found = {plain, plain.hex().encode(), plain.hex().upper().encode()}
        text = plain.decode("latin-1")
        found |= {quote(text, safe="").encode(), json.dumps(text)[1:-1].encode()}
        for shift in range(3):  # it may begin at any place of three in a longer text
            # Four characters of base64 stand for three bytes; those that neighbours share, go.
            coded = base64.b64encode(b"\0" * shift + plain)[4 if shift else 0 :]
            piece = coded[: 4 * ((len(plain) - 3) // 3)][: 4 * _LEAST_BYTES]
            found |= {piece, piece.replace(b"+", b"-").replace(b"/", b"_")}
        return found


@dataclass
class Day:
    """What the processes of a day have written, by where."""

    platform: Platform
    job: Path
    said: dict[str, bytes] = field(default_factory=dict)
    planted: list[Planted] = field(default_factory=list)

    def plant(self, name: str, text: str, *belongs: str) -> None:
        self.planted.append(Planted(name, text.encode(), frozenset(belongs)))

    def run(self, label: str, *arguments: Any, path: str = "operator", **environ: str) -> Outcome:
        """Run a command, and keep what it says."""
        outcome = self.platform.as_member(path, *arguments, environ=environ)
        assert label not in self.said
        self.said[label] = f"{outcome.out}\n{outcome.err}".encode()
        return outcome

    def leaks(self) -> list[str]:
        """Return which secret stands where it must not."""
        return [
            f"{secret.name} in {place}"
            for secret in self.planted
            for place, content in self.said.items()
            if place not in secret.belongs and any(form in content for form in secret.forms())
        ]


def test_a_secret_is_found_in_whatever_form_it_slipped_out() -> None:
    secret = Planted("it", b"planted-redis-71f3-password")
    slipped = [b"x" + secret.content, secret.content.hex().encode()]
    slipped += [base64.b64encode(b"." * before + secret.content + b"..") for before in range(7)]
    slipped += [base64.urlsafe_b64encode(b"?" + secret.content)]

    assert all(any(form in text for form in secret.forms()) for text in slipped)
    assert not any(form in b"planted-redis-71f3" for form in secret.forms())


@pytest.fixture
def day(tmp_path: Path, zygote: Zygote) -> Iterator[Day]:
    platform = Platform(
        tmp_path,
        zygote,
        config={
            "sites": sealed_issuer(tmp_path),
            "coordinator": {
                "heartbeat_seconds": 0.5,
                "lease_seconds": 1.0,
                "audit_passphrase": AUDIT,
            },
        },
        redis_password=REDIS,
        database_password=quote(DATABASE, safe=""),
        log_level="debug",
    )
    job = tmp_path / "job.toml"
    job.write_text(JOB)
    try:
        platform.start()
        yield Day(platform, job)
    finally:
        platform.close()


def sealed_issuer(folder: Path) -> dict[str, str]:
    """Make the federation's authority, and an issuer whose key is sealed; return its table."""
    authority = CertificateManager(folder / "federation" / "ca", clock=SystemClock())
    authority.create("local")
    made = authority.delegate(out_dir=folder / "sealed", passphrase=ISSUER.encode())
    passphrase = folder / "issuer-passphrase"
    passphrase.write_text(ISSUER)
    return {
        "issuer_certificate": str(made.cert),
        "issuer_key": str(made.key),
        "issuer_passphrase_file": str(passphrase),
    }


@pytest.mark.timeout(600)  # half a minute on a machine that does nothing else
def test_no_planted_secret_stands_in_anything_that_a_days_work_writes(day: Day) -> None:
    for name, text in {
        "database's password": DATABASE,
        "Redis' password": REDIS,
        "key of S3": day.platform.s3.secret_key,
        "issuer's passphrase": ISSUER,
        "authority's passphrase": AUTHORITY,
        "audit key's passphrase": AUDIT,
        "wrong passphrase": WRONG,
        "strange token": STRANGE_TOKEN,
    }.items():
        day.plant(name, text)

    run_id = work(day)
    manage_tokens(day)
    join_a_site(day)
    keep_an_authority(day)
    fail_in_many_ways(day)
    lose_servers(day)
    ask_every_route(day, run_id)
    collect(day)

    assert len(day.planted) > 20, [each.name for each in day.planted]
    assert day.leaks() == []
    # What is told of is really there to be searched.
    for place in ("rows of audit_entries", "logs/coordinator.log", "metrics", "what Redis keeps"):
        assert len(day.said[place]) > 500, place


def work(day: Day) -> str:
    """Let a run finish."""
    submitted = day.run("submit", "run", "submit", day.job, "--app", STUDY, "-o", "json")
    run_id: str = submitted.data["run_id"]
    run = day.platform.wait_for(run_id, lambda run: run["state"] in ENDED)
    assert run["state"] == "finished"
    return run_id


def manage_tokens(day: Day) -> None:
    """Make a token, use it, misuse it, and end it."""
    may = ("--permission", "runs.read", "--permission", "metrics.read", "-o", "json")
    made = day.run("token create", "token", "create", "nightly", *may).data
    token: str = made["token"]
    day.plant("API token", token, "token create")
    day.plant("API token's secret", token.split("_", 2)[2], "token create")
    assert day.run("with token", "run", "list", KUMIAI_TOKEN=token).code == 0
    assert day.run("token may not", "site", "list", KUMIAI_TOKEN=token).code == 4
    day.run("token shown", "config", "show", KUMIAI_TOKEN=token)
    day.run("tokens listed", "token", "list", "-o", "json")
    day.run("token revoked", "token", "revoke", made["made"]["token_id"])
    words = {"KUMIAI_TOKEN": token}
    while day.platform.kumiai("run", "list", environ=words).code == 0:
        pass  # a token that was revoked is refused within seconds
    assert day.run("token ended", "run", "list", **words).code == 4
    assert day.run("strange token", "run", "list", KUMIAI_TOKEN=STRANGE_TOKEN).code == 4


def join_a_site(day: Day) -> None:
    """Let a site join, and try its invitation again with another key."""
    token: str = day.run("invite", "site", "invite", "cleveland", "-o", "json").data["token"]
    secret = token.rpartition("/")[2]
    day.plant("enrolment token", token, "invite")
    day.plant("enrolment secret", secret, "invite")
    day.planted.append(Planted("enrolment bytes", base64.urlsafe_b64decode(secret + "="),
                               frozenset({"invite"})))  # fmt: skip
    folder = day.platform.folder
    assert day.run("join", "site", "join", token, "--out", folder / "joined").code == 0
    replayed = day.run("join again", "site", "join", token, "--out", folder / "thief")
    assert replayed.code == 4, replayed.err
    day.run("join garbled", "site", "join", token[:-1], "--out", folder / "garbled")
    day.run("sites", "site", "list", "-o", "json")
    day.run("suspend", "site", "suspend", "cleveland", "--reason", "audit")
    day.run("remove", "site", "remove", "cleveland")


def keep_an_authority(day: Day) -> None:
    """Use a sealed authority, and fail to."""
    folder = day.platform.folder / "other"
    there, words = ("--dir", folder / "ca"), {"KUMIAI_CA_PASSPHRASE": AUTHORITY}
    issue = ("ca", "issue", "client", "ann", *there)
    assert day.run("ca init", "ca", "init", "other", *there, **words).code == 0
    assert day.run("ca issue", *issue, "--out", folder / "ann", **words).code == 0
    assert day.run("ca rotate", "ca", "rotate", *there, **words).code == 0
    wrong = {"KUMIAI_CA_PASSPHRASE": WRONG}
    assert day.run("ca wrong", *issue, "--out", folder / "x", **wrong).code != 0
    assert day.run("ca wrong, in full", "--debug", *issue, "--out", folder / "y", **wrong).code


def fail_in_many_ways(day: Day) -> None:
    """Give wrong settings that hold secrets to commands that can not use them."""
    secret = quote(DATABASE, safe="")
    databases = (
        f"postgresql://kumiai:{secret}@127.0.0.1:9/federation",
        f"postgresql://kumiai:{secret}@127.0.0.1:port/federation",
        f"oracle://kumiai:{secret}@127.0.0.1/federation",
        f"postgresql://kumiai:{secret}@",
    )
    for number, url in enumerate(databases):
        for command in (("db", "status"), ("config", "check"), ("coordinator", "start")):
            label = f"database {number} {command[0]}"
            settings = ("--debug", "--set", f"storage.database={url}")
            outcome = day.run(label, *settings, *command, path="coordinator")
            assert command[0] == "config" or outcome.code != 0, label
    for number, url in enumerate((f"redis://:{REDIS}@127.0.0.1:9/0", f"memcached://:{REDIS}@h/0")):
        settings = ("--debug", "--set", f"storage.redis={url}")
        for command in ("doctor", "config check", "config show"):
            day.run(f"Redis {number} {command}", *settings, *command.split(), path="coordinator")
    wrong = day.platform.folder / "wrong-passphrase"
    wrong.write_text(WRONG)
    issuer = ("--debug", "--set", f"sites.issuer_passphrase_file={wrong}")
    assert day.run("issuer", *issuer, "coordinator", "start", path="coordinator").code != 0
    garbled = ("--set", f"operator.token={STRANGE_TOKEN}\n")
    assert day.run("garbled token", "--debug", *garbled, "run", "list").code != 0
    bucket = ("--set", f"storage.s3_endpoint=http://kumiai:{REDIS}@127.0.0.1:9")
    assert day.run("bucket", "--debug", *bucket, "storage", "usage", path="coordinator").code != 0
    short = ("--set", "storage.s3_timeout_seconds=1")
    nowhere = (*short, "--set", "storage.s3_endpoint=http://127.0.0.1:9")
    assert day.run("no bucket", "--debug", *nowhere, "storage", "usage", path="coordinator").code


def lose_servers(day: Day) -> None:
    """Let the coordinator tell of errors, with tracebacks, of each server."""
    platform = day.platform
    platform.redis.kill()
    platform.postgres.kill()
    assert day.run("list without a database", "run", "list").code != 0
    day.run("doctor without", "doctor", path="coordinator")
    platform.redis.start()
    platform.postgres.start()
    platform.do(platform.processes.wait_until_ready())
    # One that is stopped signs the audit log.
    platform.do(platform.processes.kill_coordinator(signal.SIGTERM))
    platform.do(platform.processes.start_coordinator())
    for act in (("show",), ("export", "--out", platform.folder / "audit.jsonl"), ("verify",)):
        path = "coordinator" if act == ("verify",) else "operator"
        assert day.run(f"audit {act[0]}", "audit", *act, path=path).code == 0


BUDGET = {
    "scope": "model/demo",
    "guarantee": "record/zero-out",
    "epsilon": 1.0,
    "delta": 1e-5,
}


def ask_every_route(day: Day, run_id: str) -> None:
    """Keep what each route that reads answers, and what refused callers are told."""
    folder = day.platform.processes.folder.path / "operator"
    context = client_context(folder / "operator.crt", folder / "operator.key", folder / "ca.crt")
    values = {"run_id": run_id, "ref": run_id, "version": "1", "name": "x", "sequence": "0"}
    with httpx.Client(base_url=day.platform.processes.url, verify=context, timeout=30) as http:
        assert http.put("/api/v1/budgets", json=BUDGET).status_code == 200
        for method, path in ROUTES:
            if method != "GET" or path.endswith("/stream"):
                continue
            filled = path.format_map(values)
            asked = {"scope": BUDGET["scope"]} if path.endswith("/budgets/history") else {}
            answer = http.get(filled, params=asked)
            day.said["metrics" if path == "/metrics" else f"GET {path}"] = answer.content
            assert answer.status_code == 200, (filled, answer.text)
        bad = http.post("/api/v1/join", json={"secret": WRONG, "request": "no request"})
        day.said["join refused"] = bad.content
        odd = {"secret": {"a": WRONG}, "request": [REDIS]}
        day.said["join unreadable"] = http.post("/api/v1/join", json=odd).content


def collect(day: Day) -> None:
    """Stop everything, and read what it has left behind."""
    platform = day.platform
    day.said |= asyncio.run(rows_of(platform.database_url))
    platform.do(platform.processes.stop())
    home = platform.processes.folder.path
    for path in sorted(platform.folder.rglob("*")):
        if path.is_file() and not is_meant_for_a_secret(path):
            place = path.relative_to(home if path.is_relative_to(home) else platform.folder)
            if not re.match(r"command-\d+\.", path.name):  # kept by its label
                day.said[str(place)] = path.read_bytes()
    for name, folder in {"Redis": platform.redis.folder, "S3": platform.s3.folder / "data"}.items():
        day.said[f"what {name} keeps"] = b"\n".join(
            path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
        )
    plant_keys(day)


def is_meant_for_a_secret(path: Path) -> bool:
    """Whether the file is there to hold secrets: a key, a setting or a passphrase, mode 0600."""
    kept = {"kumiai.toml", "s3-keys", "issuer-passphrase", "wrong-passphrase"}
    return path.suffix == ".key" or path.name in kept or path.name.endswith(".key.sealed")


def plant_keys(day: Day) -> None:
    """Plant each private key that lies in the clear, by its number."""
    for path in sorted(day.platform.folder.rglob("*.key")):
        raw = path.read_bytes()
        if b"kumiai_sealed" in raw:
            continue
        if b"BEGIN PRIVATE KEY" in raw:
            key = load_pem_private_key(raw, None)
            if isinstance(key, ec.EllipticCurvePrivateKey):
                raw = key.private_numbers().private_value.to_bytes(_RAW_BYTES, "big")
            else:
                assert isinstance(key, ed25519.Ed25519PrivateKey), path
                raw = key.private_bytes_raw()
        assert len(raw) == _RAW_BYTES, path
        day.planted.append(Planted(f"key {path.relative_to(day.platform.folder)}", raw))
    assert list(day.platform.folder.rglob("audit.key.sealed"))


async def rows_of(url: str) -> Mapping[str, bytes]:
    """Return all rows of all tables as text; keys to persons belong into their column alone."""
    connection = await asyncpg.connect(url)
    try:
        tables = await connection.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename"
        )
        return {
            f"rows of {name}": "\n".join(
                str(row[0]) for row in await connection.fetch(f'SELECT t::text FROM "{name}" t')
            ).encode()
            for (name,) in tables
        }
    finally:
        await connection.close()
