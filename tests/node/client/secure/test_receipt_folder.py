"""Receipts on a site's disk: awaited until they come, believed only when they prove themselves."""

import json
import os
from pathlib import Path

import pytest

from kumiai.core.errors import ConfigError, SecureAggregationError
from kumiai.crypto.signatures import Ed25519Signer, Ed25519Verifier
from kumiai.node.client.secure.known_peers import KnownPeers
from kumiai.node.client.secure.receipt_folder import ReceiptFolder
from kumiai.secagg import SecureAggregationProtocol
from tests.secagg.rounds import describe, signers_of, updates_of

KEY = ("run-a", 7, 1)


@pytest.fixture(scope="module")
def signers() -> dict[str, Ed25519Signer]:
    return signers_of(4)


@pytest.fixture(scope="module")
def receipts(signers: dict[str, Ed25519Signer]) -> dict[str, bytes]:
    descriptor = describe(signers)
    protocol = SecureAggregationProtocol(Ed25519Verifier())
    return protocol.run(descriptor, signers, updates_of(descriptor)).receipts


@pytest.fixture
def folder(tmp_path: Path, signers: dict[str, Ed25519Signer]) -> ReceiptFolder:
    peers = tmp_path / "known-peers.json"
    keys = {f"kumiai://test/client/{name}": each.public.hex() for name, each in signers.items()}
    peers.write_text(json.dumps(keys))
    return ReceiptFolder(tmp_path / "receipts", "site-0001", KnownPeers(peers))


def test_an_awaited_receipt_is_kept_and_awaited_no_more(
    folder: ReceiptFolder, tmp_path: Path, receipts: dict[str, bytes]
) -> None:
    folder.await_one(KEY)
    assert folder.awaited() == [KEY]

    path = folder.take(KEY, receipts["site-0001"])

    assert path == tmp_path / "receipts" / "run-a.7.receipt"
    assert path.read_bytes() == receipts["site-0001"]
    assert folder.awaited() == []


def test_a_receipt_that_nobody_awaits_is_not_kept(
    folder: ReceiptFolder, tmp_path: Path, receipts: dict[str, bytes]
) -> None:
    assert folder.take(KEY, receipts["site-0001"]) is None
    assert list((tmp_path / "receipts").iterdir()) == []


def test_a_round_without_a_receipt_is_awaited_no_more(folder: ReceiptFolder) -> None:
    folder.await_one(KEY)

    assert folder.take(KEY, b"") is None
    assert folder.awaited() == []


@pytest.mark.parametrize(
    ("key", "client"),
    [(KEY, "site-0002"), (("run-b", 7, 1), "site-0001"), (("run-a", 8, 1), "site-0001")],
)
def test_a_receipt_of_something_else_is_refused_and_the_own_still_awaited(
    folder: ReceiptFolder, receipts: dict[str, bytes], key: tuple[str, int, int], client: str
) -> None:
    folder.await_one(key)

    with pytest.raises(SecureAggregationError, match="receipt must be of 'site-0001' in round"):
        folder.take(key, receipts[client])

    assert folder.awaited() == [key]


def test_a_receipt_signed_by_unknown_keys_is_refused(
    folder: ReceiptFolder, tmp_path: Path, receipts: dict[str, bytes]
) -> None:
    (tmp_path / "known-peers.json").write_text("{}")
    folder.await_one(KEY)

    with pytest.raises(SecureAggregationError, match="must name the keys of the roster"):
        folder.take(KEY, receipts["site-0001"])


def test_a_run_that_is_no_name_is_refused(folder: ReceiptFolder) -> None:
    with pytest.raises(ConfigError, match="run must be"):
        folder.take(("../run-a", 7, 1), b"")


def test_the_newest_sixty_four_are_awaited(folder: ReceiptFolder, tmp_path: Path) -> None:
    for number in range(70):
        folder.await_one(("run-a", number, 2))
        stamp = (number, number)
        os.utime(tmp_path / "receipts" / f"run-a.{number}.awaited", stamp)

    assert sorted(folder.awaited()) == [("run-a", number, 1) for number in range(6, 70)]


def test_what_is_no_note_of_a_round_is_passed_over(folder: ReceiptFolder, tmp_path: Path) -> None:
    (tmp_path / "receipts" / "run-a.last.awaited").touch()

    assert folder.awaited() == []
