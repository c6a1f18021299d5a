import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import IntegrityError
from kumiai.identity import IssuedRecord, RevocationReason, Role
from kumiai.identity.index import AuthorityKind, AuthorityRecord, IssuedIndex

TIMES = st.floats(0, 4e9)
RECORDS = st.builds(
    IssuedRecord,
    serial=st.integers(1, 2**128),
    role=st.sampled_from(Role),
    name=st.text(min_size=1, max_size=10),
    hosts=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    not_before=TIMES,
    not_after=TIMES,
    issuer=st.integers(1, 2**128),
)
AUTHORITIES = st.builds(
    AuthorityRecord,
    serial=st.integers(1, 2**128),
    kind=st.sampled_from(AuthorityKind),
    root=st.integers(1, 2**128),
    certificate=st.text(max_size=5),
    not_after=TIMES,
    list_pem=st.text(max_size=5),
)
RECORD = IssuedRecord(255, Role.CLIENT, "a", (), 1.0, 2.0)


@given(
    st.builds(
        IssuedIndex,
        federation=st.text(max_size=10),
        list_number=st.integers(0, 2**40),
        list_updated_at=st.integers(0, 2**40),
        authorities=st.lists(AUTHORITIES, max_size=4).map(tuple),
        records=st.lists(RECORDS, max_size=4).map(tuple),
    ),
    st.sampled_from(RevocationReason),
)
def test_what_is_written_is_read(index: IssuedIndex, reason: str) -> None:
    signed = (*index.records[:2], *index.authorities[:2])
    index = index.with_revoked(frozenset(each.serial for each in signed), reason, 3.5)

    assert IssuedIndex.from_bytes(index.to_bytes()) == index


def test_issuing_appends() -> None:
    index = IssuedIndex("f").with_issued(RECORD, now=1.5)

    assert index.records == (RECORD,)
    assert not RECORD.is_revoked


def test_what_expired_more_than_a_month_ago_is_forgotten() -> None:
    other = IssuedRecord(2, Role.CLIENT, "b", (), 1.0, 30 * 86_400 + 2.5)
    index = IssuedIndex("f", records=(RECORD,))

    assert index.with_issued(other, now=30 * 86_400 + 2.0).records == (RECORD, other)
    assert index.with_issued(other, now=30 * 86_400 + 2.1).records == (other,)


def test_each_signer_has_its_own_revocations() -> None:
    root = AuthorityRecord(1, AuthorityKind.ROOT, 1, "root", 9.0)
    issuer = AuthorityRecord(2, AuthorityKind.MEMBERS, 1, "issuer", 9.0)
    sites = AuthorityRecord(3, AuthorityKind.SITES, 1, "sites", 9.0)
    member = IssuedRecord(4, Role.CLIENT, "a", (), 1.0, 2.0, issuer=2)
    index = IssuedIndex("f", authorities=(sites, issuer, root), records=(member,))

    after = index.with_revoked(frozenset({3, 4}), RevocationReason.KEY_COMPROMISE, 5.0)

    assert [each.serial for each in after.revoked_of(1)] == [3]
    assert [each.serial for each in after.revoked_of(2)] == [4]
    assert after.revoked_of(3) == ()


def test_only_the_newest_root_and_what_it_signed_is_kept() -> None:
    authorities = (
        AuthorityRecord(12, AuthorityKind.MEMBERS, 11, "new issuer", 9.0),
        AuthorityRecord(11, AuthorityKind.ROOT, 11, "new root", 9.0),
        AuthorityRecord(2, AuthorityKind.MEMBERS, 1, "issuer", 9.0),
        AuthorityRecord(1, AuthorityKind.ROOT, 1, "root", 9.0),
    )
    records = tuple(
        IssuedRecord(serial, Role.CLIENT, "a", (), 1.0, 2.0, issuer=issuer)
        for serial, issuer in ((21, 2), (22, 12))
    )

    after = IssuedIndex("f", authorities=authorities, records=records).with_newest_root_only()

    assert [each.serial for each in after.authorities] == [12, 11]
    assert [each.serial for each in after.records] == [22]
    assert after.trust_bundle == b"new root"


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
        {"kumiai_issued": 1},
        {"kumiai_issued": "2"},
        {"authorities": {}},
        {"authorities": [{}]},
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
