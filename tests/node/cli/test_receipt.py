"""Receipts on the command line: what a site can prove without asking anybody."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from kumiai.crypto.pedersen import PedersenRows
from kumiai.crypto.signatures import Ed25519Signer, Ed25519Verifier
from kumiai.secagg import (
    Adversary,
    Member,
    PedersenProofs,
    Proofs,
    RoundDescriptor,
    SecureAggregationProtocol,
)
from tests.node.cli.program import invoke

NAMES = ("site-1", "site-2", "site-3")
SETTINGS = ("--set", "client.state_dir=state")


@pytest.fixture(scope="module")
def signers() -> Mapping[str, Ed25519Signer]:
    return {name: Ed25519Signer.generate() for name in (*NAMES, "coordinator")}


@pytest.fixture(scope="module")
def receipts(signers: Mapping[str, Ed25519Signer]) -> Mapping[str, bytes]:
    return receipts_of(signers, Proofs.OFF)


def receipts_of(signers: Mapping[str, Ed25519Signer], proofs: Proofs) -> Mapping[str, bytes]:
    descriptor = RoundDescriptor(
        run_id="run-a",
        round_number=3,
        round_id=bytes(16),
        coordinators=(Member("coordinator", signers["coordinator"].public),),
        roster=tuple(Member(name, signers[name].public) for name in NAMES),
        threshold=2,
        minimum_survivors=3,
        adversary=Adversary.MALICIOUS,
        colluders=0,
        degree=0,
        dimension=4,
        ring_bits=32,
        clip=1.0,
        value_bits=16,
        weight_bound=100,
        norm_bound=1.0,
        proofs=proofs,
    )
    updates = {
        name: (np.full(4, 0.5, np.float32), 10 * number) for number, name in enumerate(NAMES, 1)
    }
    checks = None if proofs is Proofs.OFF else PedersenProofs(PedersenRows(16))
    protocol = SecureAggregationProtocol(Ed25519Verifier(), proofs=checks)
    return protocol.run(descriptor, signers, updates).receipts


@pytest.fixture
def site(folder: Path, signers: Mapping[str, Ed25519Signer], receipts: Mapping[str, bytes]) -> Path:
    """What site-2 has on its disk."""
    kept = folder / "state" / "secure" / "receipts"
    kept.mkdir(parents=True)
    (kept / "run-a.3.receipt").write_bytes(receipts["site-2"])
    keys = {
        f"kumiai://hospitals/{'client' if name in NAMES else name}/{name}": signer.public.hex()
        for name, signer in signers.items()
    }
    (kept.parent / "known-peers.json").write_text(json.dumps(keys))
    return kept / "run-a.3.receipt"


def test_a_receipt_tells_what_it_proves(site: Path) -> None:
    shown = invoke(*SETTINGS, "receipt", "verify", site)
    told = invoke(*SETTINGS, "receipt", "verify", site, "-o", "json").data

    assert shown.code == 0, shown.err
    assert "right: the update of site-2 was counted once, with the weight 20" in shown.out
    assert (told["run"], told["round"], told["client"], told["weight"]) == (
        "run-a",
        3,
        "site-2",
        20,
    )
    assert told["survivors"] == list(NAMES)
    assert len(told["signers"]) >= 2


def test_a_receipt_tells_whether_the_sum_was_checked(
    site: Path, signers: Mapping[str, Ed25519Signer]
) -> None:
    unchecked = invoke(*SETTINGS, "receipt", "verify", site)
    told = invoke(*SETTINGS, "receipt", "verify", site, "-o", "json").data
    site.write_bytes(receipts_of(signers, Proofs.SUM)["site-2"])
    checked = invoke(*SETTINGS, "receipt", "verify", site)

    assert told["verification"] == "off"
    assert "the sum was signed by: site-1, " in unchecked.out
    assert "nobody could check it" in unchecked.out
    assert "the sum was checked and signed by: site-1, " in checked.out
    assert "nobody" not in checked.out


def test_all_receipts_of_a_site_are_listed(site: Path) -> None:
    shown = invoke(*SETTINGS, "receipt", "list")

    assert shown.code == 0, shown.err
    assert "run-a" in shown.out
    assert "site-1, site-2, site-3" in shown.out


def test_a_site_without_receipts_hears_so(folder: Path) -> None:
    shown = invoke(*SETTINGS, "receipt", "list")

    assert shown.code == 0, shown.err
    assert "no receipts yet" in shown.out


def test_a_changed_receipt_proves_nothing(site: Path) -> None:
    content = bytearray(site.read_bytes())
    content[len(content) // 2] ^= 1
    site.write_bytes(content)

    shown = invoke(*SETTINGS, "receipt", "verify", site)

    assert shown.code == 7
    assert "proves nothing" in shown.err


def test_a_key_that_the_site_does_not_know_proves_nothing(site: Path) -> None:
    peers = site.parents[1] / "known-peers.json"
    keys = json.loads(peers.read_text())
    keys["kumiai://hospitals/client/site-3"] = "00" * 32
    peers.write_text(json.dumps(keys))

    shown = invoke(*SETTINGS, "receipt", "verify", site)

    assert shown.code == 7
    assert "site-3" in shown.err


def test_missing_files_are_named(site: Path, folder: Path) -> None:
    nothing = invoke(*SETTINGS, "receipt", "verify", folder / "none")
    nobody = invoke(*SETTINGS, "receipt", "verify", site, "--peers", folder / "none")

    assert (nothing.code, nobody.code) == (3, 3)
    assert "--peers" in nobody.err
