from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import IntegrityError
from kumiai.identity import Identity, Role, permissions_of
from kumiai.identity.audit import (
    BODY_BYTES_MAX,
    Act,
    Actor,
    AuditEntry,
    NewEntry,
    Outcome,
    Sealed,
    decode_entry,
    encode_entry,
)

ENTRY = AuditEntry(
    7, 1_763_792_000_123_456, "run.created", "done", "operator",
    Sealed("ab" * 32, b"nonce and ciphertext"), "run/run-1", {"app": "digits", "rounds": 3},
)  # fmt: skip
BODY = encode_entry(ENTRY)
words = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)
values = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=20)
actors = st.none() | st.text(max_size=20) | st.builds(
    Sealed, st.binary(min_size=32, max_size=32).map(bytes.hex), st.binary(max_size=200)
)  # fmt: skip


@given(
    st.builds(
        AuditEntry,
        sequence=st.integers(0, 2**40),
        at_us=st.integers(0, 2**52),
        act=words,
        outcome=words,
        role=words,
        actor=actors,
        subject=st.text(max_size=40),
        detail=st.dictionaries(words, values, max_size=4),
    )
)
def test_an_entry_reads_as_it_was_written(entry: AuditEntry) -> None:
    assert decode_entry(encode_entry(entry)) == entry


def test_the_bytes_of_an_entry_are_known() -> None:
    assert BODY == (
        b'{"act":"run.created","actor":{"person":"' + b"ab" * 32 + b'","role":"operator",'
        b'"sealed":"bm9uY2UgYW5kIGNpcGhlcnRleHQ="},"at":1763792000123456,"detail":{"app":"digits",'
        b'"rounds":3},"outcome":"done","seq":7,"subject":"run/run-1","v":1}'
    )
    assert ENTRY.at == 1_763_792_000.123456
    assert ENTRY.person == "ab" * 32
    assert replace(ENTRY, actor="coordinator-1").person is None
    unsorted = replace(ENTRY, detail={"rounds": 3, "app": "digits"})
    assert encode_entry(unsorted) == BODY


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        BODY + b" ",
        BODY.replace(b'"seq":7', b'"seq": 7'),
        BODY.replace(b'"seq":7', b'"seq":7,"seq":7'),
        BODY.replace(b'"seq":7', b'"seq":-7'),
        BODY.replace(b'"seq":7', b'"seq":true'),
        BODY.replace(b'"seq":7', b'"seq":7.0'),
        BODY.replace(b'"v":1', b'"v":2'),
        BODY.replace(b'"v":1', b'"v":1,"w":1'),
        BODY.replace(b"run.created", b"run created"),
        BODY.replace(b'"done"', b'"Done!"'),
        BODY.replace(b'"done"', b'"done!"'),
        BODY.replace(b"ab" * 32, b"AB" * 32),
        BODY.replace(b"ab" * 32, b"ab" * 33),
        BODY.replace(b"bm9u", b"bm9!"),
        BODY.replace(b'"rounds":3', b'"rounds":3.5'),
        BODY.replace(b'"rounds":3', b'"Rounds":3'),
        BODY.replace(b'"rounds":3', b'"rounds!":3'),
        BODY.replace(b'"rounds":3', b'"rounds":[3]'),
        BODY.replace(b'"rounds":3', b'"rounds":9007199254740992'),
        BODY.replace(b"bm9uY2UgYW5kIGNpcGhlcnRleHQ=", b"AAAA" * 200),
        b" " * (BODY_BYTES_MAX + 1),
    ],
)
def test_bytes_that_are_no_entry_in_the_one_way_are_refused(body: bytes) -> None:
    assert body != BODY

    with pytest.raises(IntegrityError, match="entry must be"):
        decode_entry(body)


@given(st.integers(0, len(BODY) - 1), st.integers(1, 255))
def test_a_changed_byte_gives_another_entry_or_none(place: int, change: int) -> None:
    changed = bytearray(BODY)
    changed[place] ^= change
    try:
        found = decode_entry(bytes(changed))
    except IntegrityError:
        return

    assert found != ENTRY


def test_the_words_that_stand_in_logs_keep_their_meaning() -> None:
    acts = {
        *("audit.entries_lost", "audit.exported", "audit.redacted", "authentication.refused"),
        *("budget.charged", "budget.set", "budgets.frozen", "budgets.reconciled"),
        *("certificate.issued", "certificate.revoked", "client.attached", "client.detached"),
        *("client.excluded", "client.readmitted"),
        *("coordinator.started", "coordinator.stopped", "model.deleted", "model.described"),
        *("model.published", "permission.denied", "role.changed", "run.created", "run.deleted"),
        *("run.described", "run.failed", "run.finished", "run.stopped", "run.stop_requested"),
        *("schema.migrated", "site.approved", "site.invited", "site.joined", "site.removed"),
        *("site.resumed", "site.suspended", "sum.refused", "token.created", "token.revoked"),
        *("trust.changed", "trust.followed"),
    }

    assert acts <= set(Act)
    assert [*Outcome] == ["done", "refused", "failed"]


def test_what_is_as_large_as_may_be_is_written() -> None:
    detail = {"k": "x" * (360 - len('{"k":""}'))}
    actor = Actor("operator", "n" * 63, address="1" * 64)

    entry = NewEntry(Act.RUN_CREATED, actor, "x" * 80, detail=detail)
    for largest in (2**53 - 1, 1 - 2**53):
        assert NewEntry(Act.RUN_CREATED, actor, detail={"k": largest}).detail == {"k": largest}

    sealed = replace(ENTRY, actor=Sealed("ab" * 32, b"x" * 512), subject=entry.subject)
    assert decode_entry(encode_entry(replace(sealed, detail=detail))).detail == detail
    with pytest.raises(ValueError, match="at most 360 bytes, got 361"):
        NewEntry(Act.RUN_CREATED, actor, detail={"k": detail["k"] + "x"})
    with pytest.raises(IntegrityError, match="of no entry"):
        decode_entry(encode_entry(replace(sealed, actor=Sealed("ab" * 32, b"x" * 513))))


def test_a_larger_detail_of_an_earlier_version_stays_readable() -> None:
    earlier = replace(ENTRY, detail={"k": "x" * 380})

    assert decode_entry(encode_entry(earlier)) == earlier


def test_every_role_can_make_a_token_with_all_that_it_may_do() -> None:
    for role in Role:
        permissions = " ".join(sorted(permissions_of(role)))
        detail = {"name": "n" * 63, "permissions": permissions, "days": 3650}

        assert NewEntry(Act.TOKEN_CREATED, Actor(role.value, "ann"), detail=detail)


def test_an_entry_is_at_most_2048_bytes_when_it_is_written_and_when_it_is_read() -> None:
    left = 2048 - len(encode_entry(replace(ENTRY, subject="")))
    largest = replace(ENTRY, subject="x" * left)
    body = encode_entry(largest)

    assert decode_entry(body) == largest
    with pytest.raises(ValueError, match="at most 2048 bytes, got 2049"):
        encode_entry(replace(ENTRY, subject="x" * (left + 1)))
    with pytest.raises(IntegrityError, match="at most 2048 bytes, got 2049"):
        decode_entry(body.replace(b"xx", b"xxx", 1))


def test_who_is_not_known_has_neither_name_nor_serial_number_nor_address() -> None:
    identity = Identity("hospitals", Role.OPERATOR, "ann", 255, 0.0)

    assert Actor("nobody") == Actor("nobody", "", 0, "")
    assert Actor.of(identity).address == ""
    assert NewEntry(Act.AUDIT_EXPORTED, Actor("nobody")).subject == ""


@pytest.mark.parametrize("subject", ["a b", "x" * 81, "é", "run/\n", 'a"b', "a\\b"])
def test_a_subject_of_another_form_is_refused(subject: str) -> None:
    with pytest.raises(ValueError, match="subject must be"):
        NewEntry(Act.RUN_CREATED, Actor("operator", "ann"), subject)


@pytest.mark.parametrize(
    "detail", [{"Key": 1}, {"k": 2**53}, {"k": 1.5}, {"k": "x" * 400}, {"k": b"bytes"}]
)
def test_a_detail_that_is_large_or_odd_is_refused(detail: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="detail"):
        NewEntry(Act.RUN_CREATED, Actor("operator", "ann"), "run/r", Outcome.DONE, detail)


@pytest.mark.parametrize(
    "fields",
    [
        {"role": "A role"},
        {"role": "a role"},
        {"role": "x", "name": "n" * 64},
        {"role": "x", "name": '"' * 32},
        {"role": "x", "address": "1" * 65},
        {"role": "x", "name": "a\n"},
    ],
)
def test_an_actor_has_limits(fields: dict[str, str]) -> None:
    (wrong,) = list(fields)[-1:]

    with pytest.raises(ValueError, match=f"actor's {wrong} must be"):
        Actor(**fields)


def test_a_text_that_is_no_unicode_and_one_that_is_too_long_are_refused() -> None:
    with pytest.raises(ValueError, match="valid Unicode"):
        encode_entry(replace(ENTRY, subject="\ud800"))
    with pytest.raises(ValueError, match="at most 2048 bytes"):
        encode_entry(replace(ENTRY, subject="x" * 2048))


def test_who_acts_is_named_by_the_certificate() -> None:
    actor = Actor.of(Identity("hospitals", Role.OPERATOR, "ann", 255, 0.0), "10.0.0.1")

    assert actor == Actor("operator", "ann", 255, "10.0.0.1")


@pytest.mark.parametrize(
    ("actor", "person"),
    [
        (Actor("operator", "ann", 1, "10.0.0.1"), ("operator", "ann")),
        (Actor("nobody", address="10.0.0.1"), ("address", "10.0.0.1")),
        (Actor("nobody"), None),
        (Actor("coordinator", "coordinator-1"), None),
    ],
)
def test_persons_and_addresses_are_sealed_and_coordinators_are_not(
    actor: Actor, person: tuple[str, str] | None
) -> None:
    assert actor.person == person
