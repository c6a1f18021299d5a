import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import IntegrityError
from kumiai.identity import IssuedRecord, RevocationReason, Role
from kumiai.identity.index import IssuedIndex

TIMES = st.floats(0, 4e9)
RECORDS = st.builds(
    IssuedRecord,
    serial=st.integers(1, 2**128),
    role=st.sampled_from(Role),
    name=st.text(min_size=1, max_size=10),
    hosts=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    not_before=TIMES,
    not_after=TIMES,
)
RECORD = IssuedRecord(255, Role.CLIENT, "a", (), 1.0, 2.0)


@given(
    st.builds(
        IssuedIndex,
        federation=st.text(max_size=10),
        list_number=st.integers(0, 2**40),
        list_updated_at=st.integers(0, 2**40),
        records=st.lists(RECORDS, max_size=4).map(tuple),
    ),
    st.sampled_from(RevocationReason),
)
def test_what_is_written_is_read(index: IssuedIndex, reason: str) -> None:
    index = index.with_revoked(frozenset(r.serial for r in index.records[:2]), reason, 3.5)

    assert IssuedIndex.from_bytes(index.to_bytes()) == index


def test_issuing_appends() -> None:
    index = IssuedIndex("f").with_issued(RECORD)

    assert index.records == (RECORD,)
    assert not RECORD.is_revoked


def test_revoking_marks_only_the_named_and_keeps_the_first_date_and_reason() -> None:
    other = IssuedRecord(2, Role.CLIENT, "b", (), 1.0, 2.0)
    index = IssuedIndex("f", records=(RECORD, other))

    once = index.with_revoked(frozenset({255}), RevocationReason.SUPERSEDED, 5.0)
    twice = once.with_revoked(frozenset({255}), RevocationReason.KEY_COMPROMISE, 6.0)

    assert once == twice
    assert once.records[0].is_revoked
    assert (once.records[0].revoked_at, once.records[0].reason) == (5.0, "superseded")
    assert once.records[1] == other


def test_a_list_has_the_next_number() -> None:
    index = IssuedIndex("f").with_list(10).with_list(11)

    assert (index.list_number, index.list_updated_at) == (2, 11)


def test_serial_numbers_are_hexadecimal_text() -> None:
    fields = json.loads(IssuedIndex("f", records=(RECORD,)).to_bytes())

    assert fields["certificates"][0]["serial"] == "ff"


@pytest.mark.parametrize(
    "change",
    [
        {"kumiai_issued": 2},
        {"kumiai_issued": "1"},
        {"federation": 1},
        {"list_number": 1.5},
        {"list_number": True},
        {"certificates": {}},
        {"certificates": [1]},
        {"certificates": [{}]},
    ],
)
def test_a_damaged_index_is_refused(change: dict[str, object]) -> None:
    fields = {**json.loads(IssuedIndex("f").to_bytes()), **change}

    with pytest.raises(IntegrityError, match="restore it from a backup"):
        IssuedIndex.from_bytes(json.dumps(fields).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"serial": 255},
        {"serial": "xyz"},
        {"role": "king"},
        {"name": None},
        {"hosts": "a"},
        {"not_before": "1"},
        {"not_after": None},
        {"not_after": True},
        {"not_after": 10**400},
        {"revoked_at": 1.0},
        {"reason": "superseded"},
        {"revoked_at": 1.0, "reason": "boredom"},
    ],
)
def test_a_damaged_record_is_refused(change: dict[str, object]) -> None:
    fields = json.loads(IssuedIndex("f", records=(RECORD,)).to_bytes())
    fields["certificates"][0].update(change)

    with pytest.raises(IntegrityError):
        IssuedIndex.from_bytes(json.dumps(fields).encode())


@pytest.mark.parametrize("content", [b"", b"1", b"[]", b"\xff", b"[" * 100_000])
def test_something_else_is_no_index(content: bytes) -> None:
    with pytest.raises(IntegrityError, match=f"got {len(content)} bytes that are not"):
        IssuedIndex.from_bytes(content)


def test_whole_numbers_are_taken_for_times() -> None:
    fields = json.loads(IssuedIndex("f", records=(RECORD,)).to_bytes())
    fields["certificates"][0]["not_after"] = 2

    assert IssuedIndex.from_bytes(json.dumps(fields).encode()).records == (RECORD,)
