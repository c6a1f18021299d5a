"""What a site remembers of the others' signing keys."""

from pathlib import Path

import pytest

from kumiai.core.errors import IntegrityError
from kumiai.node.client.secure.known_peers import KnownPeers

ONE, TWO = "kumiai://hospitals/client/site-1", "kumiai://hospitals/client/site-2"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "known-peers.json"


def test_a_key_is_remembered_from_the_first_sight_on(path: Path) -> None:
    KnownPeers(path).verify({ONE: bytes(32), TWO: b"\x01" * 32})
    KnownPeers(path).verify({TWO: b"\x01" * 32})

    assert KnownPeers(path).load() == {ONE: "00" * 32, TWO: "01" * 32}


def test_another_key_than_before_is_refused_and_nothing_learnt(path: Path) -> None:
    KnownPeers(path).verify({ONE: bytes(32)})
    before = path.read_bytes()

    with pytest.raises(IntegrityError, match=r"site-1 must be the one that this site knows"):
        KnownPeers(path).verify({ONE: b"\x01" * 32, TWO: bytes(32)})

    assert path.read_bytes() == before


def test_a_closed_file_takes_nobody_new(path: Path) -> None:
    KnownPeers(path).verify({ONE: bytes(32)})
    closed = KnownPeers(path, is_closed=True)

    closed.verify({ONE: bytes(32)})
    with pytest.raises(IntegrityError, match="site-2 must stand in"):
        closed.verify({TWO: bytes(32)})

    assert set(closed.load()) == {ONE}


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"a": "00"}', "[" * 10_000])
def test_a_damaged_file_is_told(path: Path, content: str) -> None:
    path.write_text(content)

    with pytest.raises(IntegrityError, match="known peers must be a JSON object"):
        KnownPeers(path).verify({ONE: bytes(32)})
