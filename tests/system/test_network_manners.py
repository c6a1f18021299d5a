"""Kumiai speaks to nobody but the addresses it was given: no telemetry, no index, no hub."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json, sys

seen = []

def watch(event, arguments):
    if event == "socket.connect":
        seen.append(repr(arguments[1]))
    if event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        seen.append(repr(arguments[0]))

sys.addaudithook(watch)
import kumiai.node.assembly.coordinator
import kumiai.node.cli
import kumiai.node.http
import kumiai as km
from kumiai.node.studies.digits import app

result = km.run(app, sites=3, rounds=2)
json.dump({"seen": seen, "accuracy": result.evaluation["accuracy"]}, sys.stdout)
"""


def test_a_run_opens_no_connection_and_asks_for_no_name(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )

    told = json.loads(done.stdout)
    assert told["seen"] == []
    assert told["accuracy"] > 0.3
