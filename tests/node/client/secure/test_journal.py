"""The records of a round on a site's disk: what a crash, a thief or an old backup can do."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import CertificateError, IntegrityError, StorageError
from kumiai.node.client.secure.journal import JournalFolder, RoundJournal

ROUND = bytes(range(16))


@pytest.fixture
def folder(tmp_path: Path) -> JournalFolder:
    return JournalFolder(tmp_path / "rounds", tmp_path / "counters")


@pytest.fixture
def journal(folder: JournalFolder) -> RoundJournal:
    return folder.journal(ROUND)


def file_of(tmp_path: Path) -> Path:
    return tmp_path / "rounds" / f"{ROUND.hex()}.journal"


def test_what_was_written_is_read_again_in_order(journal: RoundJournal, tmp_path: Path) -> None:
    assert journal.read() == []
    for number, record in enumerate([b"first", b"", b"third" * 100]):
        journal.append(record, number)

    again = JournalFolder(tmp_path / "rounds", tmp_path / "counters").journal(ROUND)

    assert again.read() == [b"first", b"", b"third" * 100]


def test_the_disk_holds_no_record_in_the_clear(journal: RoundJournal, tmp_path: Path) -> None:
    journal.append(b"a mask key of this site", 0)

    assert b"mask key" not in file_of(tmp_path).read_bytes()
    assert file_of(tmp_path).stat().st_mode & 0o077 == 0
    assert "key" not in repr(journal)


def test_a_record_that_a_crash_cut_short_is_cut_off(journal: RoundJournal, tmp_path: Path) -> None:
    journal.append(b"first", 0)
    whole = file_of(tmp_path).read_bytes()
    journal.append(b"second", 1)
    both = file_of(tmp_path).read_bytes()

    for size in range(len(whole), len(both)):
        file_of(tmp_path).write_bytes(both[:size])
        assert journal.read() == [b"first"]
        assert file_of(tmp_path).read_bytes() == whole


@given(st.data())
def test_a_changed_byte_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("changed")
    journal = JournalFolder(folder / "rounds", folder / "counters").journal(ROUND)
    journal.append(b"first", 0)
    content = bytearray(file_of(folder).read_bytes())
    content[data.draw(st.integers(4, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    file_of(folder).write_bytes(content)

    with pytest.raises(IntegrityError, match=r"record 0 .* must open with this site's key"):
        journal.read()


def test_records_neither_change_places_nor_rounds(
    journal: RoundJournal, folder: JournalFolder, tmp_path: Path
) -> None:
    journal.append(b"a", 0)
    first = file_of(tmp_path).read_bytes()
    journal.append(b"b", 1)
    second = file_of(tmp_path).read_bytes()[len(first) :]

    file_of(tmp_path).write_bytes(second + first)
    with pytest.raises(IntegrityError):
        journal.read()
    (tmp_path / "rounds" / f"{bytes(16).hex()}.journal").write_bytes(first)
    with pytest.raises(IntegrityError):
        folder.journal(bytes(16)).read()


def test_the_counter_goes_up_by_one_and_finds_an_old_copy(journal: RoundJournal) -> None:
    assert journal.counter == 0
    journal.advance(1)
    journal.advance(2)

    assert journal.counter == 2
    with pytest.raises(IntegrityError, match=r"must be 1, got 2 .* an old copy"):
        journal.advance(2)
    with pytest.raises(IntegrityError, match="must be 3, got 2"):
        journal.advance(4)


def test_a_damaged_counter_is_told(journal: RoundJournal, tmp_path: Path) -> None:
    (tmp_path / "counters" / f"{ROUND.hex()}.counter").write_text("many")

    with pytest.raises(IntegrityError, match="must be a number"):
        _ = journal.counter


def test_rounds_long_over_are_forgotten_but_not_their_counters(
    folder: JournalFolder, tmp_path: Path
) -> None:
    for number in range(70):
        journal = folder.journal(number.to_bytes(16, "big"))
        journal.append(b"x", 0)
        journal.advance(1)

    assert len(list((tmp_path / "rounds").glob("*.journal"))) == 64
    assert folder.journal((69).to_bytes(16, "big")).read() == [b"x"]
    assert folder.journal((0).to_bytes(16, "big")).counter == 1


def test_a_huge_record_is_refused(journal: RoundJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kumiai.node.client.secure.journal._RECORD_SIZE_BYTES_MAX", 10)

    with pytest.raises(StorageError, match="must be at most 10 bytes"):
        journal.append(b"x" * 11, 0)

    assert journal.read() == []


def test_a_key_that_others_can_read_is_refused(folder: JournalFolder, tmp_path: Path) -> None:
    (tmp_path / "rounds" / "journal.key").chmod(0o644)

    with pytest.raises(CertificateError, match="journal key"):
        JournalFolder(tmp_path / "rounds", tmp_path / "counters")


def test_a_key_of_another_length_is_damage(folder: JournalFolder, tmp_path: Path) -> None:
    (tmp_path / "rounds" / "journal.key").write_bytes(b"short")

    with pytest.raises(IntegrityError, match="must be 32 bytes"):
        JournalFolder(tmp_path / "rounds", tmp_path / "counters")


def test_a_folder_that_cannot_be_written_is_told(folder: JournalFolder, tmp_path: Path) -> None:
    journal = folder.journal(ROUND)
    file_of(tmp_path).mkdir()

    with pytest.raises(StorageError, match="cannot write"):
        journal.append(b"x", 0)
