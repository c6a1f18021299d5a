"""Entries of a budget ledger: one text each, chained, and refused when they were touched."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import ConfigError, IntegrityError
from kumiai.privacy.events import Adjacency
from kumiai.privacy.ledger import (
    BudgetScope,
    Charge,
    ChargeKey,
    EntryKind,
    Guarantee,
    LedgerEntry,
    LedgerHead,
    ScopeKind,
    Spend,
)
from kumiai.privacy.results import PrivacyUnit

A, B = BudgetScope.parse("client/a"), BudgetScope.parse("dataset/a/heart")
CLIENT = Guarantee(PrivacyUnit.CLIENT, Adjacency.ZERO_OUT)
CHARGE = Charge(CLIENT, (Spend((A,), {"e": 2}), Spend((B,), {"e": 1, "f": 3})))
KNOWN_CHAIN = "f99cd56fa0f083f79053637a5c876e8263351158a848bce33f0a0ac9fdf6a6d1"


@pytest.mark.parametrize("text", ["client/a", "dataset/a/heart", "model/heart-net"])
def test_a_scope_is_what_its_text_says(text: str) -> None:
    assert str(BudgetScope.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "client", "client/", "clients/a", "model/a b", "dataset/a/b/c/d", "model//a"]
)
def test_a_text_that_names_no_scope_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="scope"):
        BudgetScope.parse(text)


@pytest.mark.parametrize("unit", [PrivacyUnit.RECORD, PrivacyUnit.CLIENT])
@pytest.mark.parametrize("adjacency", Adjacency)
def test_a_guarantee_is_what_its_text_says(unit: PrivacyUnit, adjacency: Adjacency) -> None:
    guarantee = Guarantee(unit, adjacency)

    assert Guarantee.parse(str(guarantee)) == guarantee


@pytest.mark.parametrize(
    "text", ["", "client", "client/none", "record/", "site/zero-out", "unstated/zero-out"]
)
def test_a_text_that_names_no_guarantee_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="guarantee must be UNIT/ADJACENCY"):
        Guarantee.parse(text)


def test_a_guarantee_of_nobody_knows_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="unit must be one of record, client, got unstated"):
        Guarantee(PrivacyUnit.UNSTATED, Adjacency.ZERO_OUT)


def test_hiding_a_client_hides_its_records_and_not_the_other_way_round() -> None:
    record = Guarantee(PrivacyUnit.RECORD, Adjacency.ZERO_OUT)

    assert CLIENT.covers(record)
    assert CLIENT.covers(CLIENT)
    assert record.covers(record)
    assert not record.covers(CLIENT)
    assert not CLIENT.covers(Guarantee(PrivacyUnit.CLIENT, Adjacency.REPLACE_ONE))


def test_a_key_is_what_its_text_says_and_keys_follow_their_numbers() -> None:
    key = ChargeKey("run-a", 10, 2)

    assert str(key) == "run-a/10/2"
    assert ChargeKey.parse(str(key)) == key
    assert ChargeKey("run-a", 9, 11) < key < ChargeKey("run-a", 10, 10)


@pytest.mark.parametrize("text", ["", "run-a/1", "run-a/1/x", "run-a/1/1x", "run a/1/1", "a/b/1/1"])
def test_a_text_that_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="key must be run/round/attempt"):
        ChargeKey.parse(text)


@pytest.mark.parametrize(
    ("run_id", "round_", "attempt"),
    [
        ("run-a", 0, 1),
        ("run-a", 1, 0),
        ("run-a", -1, 1),
        ("run-a", 10**9, 1),
        ("run-a", 1, 10**9),
        ("a/1/1", 1, 1),
        ("", 1, 1),
        ("r" * 129, 1, 1),
    ],
)
def test_a_key_out_of_range_is_refused(run_id: str, round_: int, attempt: int) -> None:
    with pytest.raises(ValueError, match="must be a run's id and two numbers from 1"):
        ChargeKey(run_id, round_, attempt)


def test_a_key_at_the_end_of_its_range_is_one() -> None:
    keys = ChargeKey("r", 1, 1), ChargeKey("r" * 128, 10**9 - 1, 10**9 - 1)

    assert tuple(map(ChargeKey.parse, map(str, keys))) == keys


@pytest.mark.parametrize(
    ("scopes", "events"),
    [
        ((), {"e": 1}),
        ((A,), {}),
        ((B, A), {"e": 1}),
        ((A, A), {"e": 1}),
        ((A,), {"e": 0}),
        ((A,), {"e": -1}),
        ((A,), {"e": 2**53 + 1}),
        ((A,), {"e": 1.0}),
        ((A,), {"e": True}),
        ((A,), {"e" * 2001: 1}),
        ((A,), {str(number): 1 for number in range(65)}),
    ],
)
def test_a_spend_that_can_not_be_is_refused(
    scopes: tuple[BudgetScope, ...], events: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match="must"):
        Spend(scopes, events)


@pytest.mark.parametrize("spends", [(), (Spend((A,), {"e": 1}), Spend((A, B), {"e": 1}))])
def test_a_scope_pays_once_in_a_charge(spends: tuple[Spend, ...]) -> None:
    with pytest.raises(ValueError, match="one spend of a charge"):
        Charge(CLIENT, spends)


def test_a_number_of_a_key_is_written_in_one_way() -> None:
    with pytest.raises(ValueError, match="must be written as run-a/1/1"):
        ChargeKey.parse("run-a/01/1")


def test_scopes_that_pay_alike_are_sorted() -> None:
    scopes = [BudgetScope.parse(f"client/{letter}") for letter in "abcdefghij"]
    charge = Charge.alike(CLIENT, [*reversed(scopes), A], {"e": 1})

    assert charge.scopes == scopes
    assert charge.guarantee == CLIENT
    assert charge.events_of() == {scope: {"e": 1} for scope in scopes}


def test_a_charge_comes_back_from_its_content() -> None:
    content = json.loads(json.dumps(CHARGE.to_content()))

    assert Charge.from_content(content) == CHARGE


@pytest.mark.parametrize(
    "changes",
    [
        {"guarantee": "client"},
        {"guarantee": 3},
        {"spends": []},
        {"spends": [{"scopes": ["client/a"]}]},
        {"spends": [{"scopes": ["nobody/a"], "events": {"e": 1}}]},
        {"spends": [{"scopes": ["client/a"], "events": 7}]},
        {"spends": 7},
        {"more": 1},
    ],
)
def test_a_content_that_is_no_charge_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(IntegrityError, match="charge must be as it was written"):
        Charge.from_content({**CHARGE.to_content(), **changes})


def chain_of(count: int) -> list[tuple[str, bytes]]:
    head, rows = LedgerHead(), []
    for number in range(count):
        head, _, body = head.appended(
            number, EntryKind.CHARGED, f"run-a/1/{number + 1}", CHARGE.to_content()
        )
        rows.append((body, head.chain))
    return rows


def test_a_ledger_is_read_to_where_it_was_written() -> None:
    rows, head = chain_of(3), LedgerHead()

    entries = []
    for body, chain in rows:
        head, entry = head.verified(body, chain)
        entries.append(entry)

    assert head == LedgerHead(3, rows[-1][1])
    assert [(entry.sequence, entry.key) for entry in entries] == [
        (0, "run-a/1/1"),
        (1, "run-a/1/2"),
        (2, "run-a/1/3"),
    ]
    assert entries[2].at == 2e-6
    assert [entry.to_body() for entry in entries] == [body for body, _ in rows]


@given(st.integers(0, 3), st.data())
def test_no_character_of_a_ledger_can_be_changed(number: int, data: st.DataObject) -> None:
    rows = chain_of(4)
    body, chain = rows[number]
    place = data.draw(st.integers(0, len(body) - 1))
    letter = data.draw(st.characters(codec="ascii").filter(lambda each: each != body[place]))
    rows[number] = (body[:place] + letter + body[place + 1 :], chain)

    with pytest.raises(IntegrityError, match="budget ledger"):
        read(rows)


def read(rows: list[tuple[str, bytes]]) -> LedgerHead:
    head = LedgerHead()
    for body, chain in rows:
        head, _ = head.verified(body, chain)
    return head


def test_no_entry_can_go_or_come_or_move() -> None:
    rows = chain_of(4)

    for wrong in (rows[1:], [*rows[:1], *rows[2:]], [rows[1], rows[0]], [rows[0], rows[0]]):
        with pytest.raises(IntegrityError, match="must follow, got entry"):
            read(wrong)


def test_an_entry_can_not_be_written_anew_with_its_own_hash_alone() -> None:
    rows, (_, others) = chain_of(3), (None, chain_of(1)[0][1])
    rows[1] = (rows[1][0], others)

    with pytest.raises(IntegrityError, match="must have the hash"):
        read(rows)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "7",
        "[" * 100_000,
        '{"at":true,"content":{},"key":"","kind":"frozen","seq":0,"v":1}',
        '{"at":1,"content":{},"key":"","kind":"frozen","seq":false,"v":1}',
        '{"at":1,"content":{},"key":"","kind":"unheard","seq":0,"v":1}',
        '{"at":1,"content":{},"key":"","kind":"frozen","seq":0,"v":2}',
        '{"at": 1,"content":{},"key":"","kind":"frozen","seq":0,"v":1}',
        " " * (2**22 + 1),
    ],
)
def test_a_text_that_is_no_entry_is_refused(body: str) -> None:
    with pytest.raises(IntegrityError, match="must be as it was written"):
        LedgerEntry.from_body(body)


def test_an_entry_has_a_length_at_most() -> None:
    _, _, short = LedgerHead().appended(0, EntryKind.FROZEN, "", {"reason": ""})
    longest = "x" * (2**22 - len(short))

    _, entry, body = LedgerHead().appended(0, EntryKind.FROZEN, "", {"reason": longest})
    with pytest.raises(ValueError, match="at most"):
        LedgerHead().appended(0, EntryKind.FROZEN, "", {"reason": longest + "x"})

    assert LedgerEntry.from_body(body) == entry


def test_an_entry_holds_finite_numbers() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        LedgerHead().appended(0, EntryKind.LIMITED, "", {"epsilon": float("nan")})


def test_an_entry_is_written_as_it_ever_was() -> None:
    first = LedgerHead()

    head, _, body = first.appended(5, EntryKind.CHARGED, "run-a/1/1", CHARGE.to_content())

    assert body == (
        '{"at":5,"content":{"guarantee":"client/zero-out","spends":[{"events":{"e":2},'
        '"scopes":["client/a"]},{"events":{"e":1,"f":3},"scopes":["dataset/a/heart"]}]},'
        '"key":"run-a/1/1","kind":"charged","seq":0,"v":1}'
    )
    assert head.chain.hex() == KNOWN_CHAIN


def test_a_scope_has_a_kind() -> None:
    assert replace(A, kind=ScopeKind.MODEL) == BudgetScope.parse("model/a")
