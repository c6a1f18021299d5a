import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import IntegrityError
from kumiai.identity import IssuedRecord, RevocationReason, Role
from kumiai.identity.index import AuthorityKind, AuthorityRecord, IssuedIndex, Revocation

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


# As an authority of this version has it on its disk, where later versions must read it.
ROOT_FIELDS = {
    "serial": "1",
    "kind": "root",
    "root": "1",
    "certificate": "root",
    "not_after": 9.0,
    "revoked_at": None,
    "reason": None,
    "list_pem": "list",
    "succession": "succession",
}
ISSUER_FIELDS = {
    "serial": "2",
    "kind": "members",
    "root": "1",
    "certificate": "issuer",
    "not_after": 9.5,
    "revoked_at": 5.0,
    "reason": "key-compromise",
    "list_pem": "",
    "succession": "",
}
RECORD_FIELDS = {
    "serial": "ff",
    "role": "coordinator",
    "name": "a",
    "hosts": ["localhost", "127.0.0.1"],
    "not_before": 1.0,
    "not_after": 2.0,
    "revoked_at": 1.5,
    "reason": "superseded",
    "issuer": "2",
}
FIELDS = {
    "kumiai_issued": 2,
    "federation": "f",
    "list_number": 7,
    "list_updated_at": 1_700_000_000,
    "authorities": [ISSUER_FIELDS, ROOT_FIELDS],
    "certificates": [RECORD_FIELDS],
}
INDEX = IssuedIndex(
    "f",
    7,
    1_700_000_000,
    (
        AuthorityRecord(
            2,
            AuthorityKind.MEMBERS,
            1,
            "issuer",
            9.5,
            5.0,
            RevocationReason.KEY_COMPROMISE,
        ),
        AuthorityRecord(
            1,
            AuthorityKind.ROOT,
            1,
            "root",
            9.0,
            list_pem="list",
            succession="succession",
        ),
    ),
    (
        IssuedRecord(
            255,
            Role.COORDINATOR,
            "a",
            ("localhost", "127.0.0.1"),
            1.0,
            2.0,
            1.5,
            RevocationReason.SUPERSEDED,
            2,
        ),
    ),
)


def test_an_index_is_written_and_read_as_it_always_was() -> None:
    content = json.dumps(FIELDS, indent=1).encode() + b"\n"

    assert INDEX.to_bytes() == content
    assert IssuedIndex.from_bytes(content) == INDEX


def test_an_authority_that_was_written_before_there_were_successions_has_none() -> None:
    older = {key: value for key, value in ROOT_FIELDS.items() if key != "succession"}
    content = json.dumps({**FIELDS, "authorities": [ISSUER_FIELDS, older]}).encode()

    assert [each.succession for each in IssuedIndex.from_bytes(content).authorities] == ["", ""]


def test_an_index_begins_empty() -> None:
    assert IssuedIndex("f") == IssuedIndex("f", 0, 0, (), ())
    assert IssuedRecord(255, Role.CLIENT, "a", (), 1.0, 2.0, None, None, 0) == RECORD


def test_the_words_that_stand_on_disks_stay() -> None:
    assert [*RevocationReason] == [
        *("unspecified", "key-compromise", "affiliation-changed", "superseded"),
        *("cessation-of-operation", "privilege-withdrawn"),
    ]
    assert [*AuthorityKind] == ["root", "members", "sites"]


def test_the_newest_list_of_a_root_replaces_its_last_one_and_no_other() -> None:
    second = AuthorityRecord(3, AuthorityKind.ROOT, 3, "second", 9.0, list_pem="other")

    after = INDEX.with_authorities(second).with_root_list(1, "newest")

    assert [each.list_pem for each in after.authorities] == ["other", "", "newest"]
    assert [each.serial for each in after.roots] == [3, 1]
    assert [each.serial for each in after.issuers] == [2]
    assert after.trust_bundle == b"secondroot"
    assert after.successions == b"succession"


def test_what_is_revoked_is_told_with_date_and_reason() -> None:
    (issuer, root), (record,) = INDEX.authorities, INDEX.records

    assert issuer.revocation == Revocation(2, 5.0, RevocationReason.KEY_COMPROMISE)
    assert record.revocation == Revocation(255, 1.5, RevocationReason.SUPERSEDED)
    assert (root.revocation, RECORD.revocation) == (None, None)
    assert replace(record, reason=None).revocation is None
    assert replace(record, revoked_at=None).revocation is None


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
