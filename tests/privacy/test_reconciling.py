"""After a restore the ledger is given what the sites know: the more of both, for each round."""

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
)
from kumiai.privacy.reconciling import (
    KeyedCharge,
    SiteCopy,
    assumed_charges,
    charges_in,
    missing_charges,
    unaccounted,
)
from kumiai.privacy.results import PrivacyUnit

A, B, MODEL = (BudgetScope.parse(text) for text in ("client/a", "client/b", "model/net"))
HEART = BudgetScope.parse("dataset/a/heart")
CLIENT = Guarantee(PrivacyUnit.CLIENT, Adjacency.ZERO_OUT)
RECORD = Guarantee(PrivacyUnit.RECORD, Adjacency.ZERO_OUT)

KEYED = st.builds(
    lambda round_, attempt, scopes, count, guarantee: KeyedCharge(
        ChargeKey("run-a", round_, attempt), Charge.alike(guarantee, scopes, {"e": count})
    ),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sets(st.sampled_from([A, B, MODEL]), min_size=1),
    st.integers(1, 3),
    st.sampled_from([CLIENT, RECORD]),
)
CHARGES = st.lists(KEYED, max_size=8, unique_by=lambda each: each.key)


def keyed(
    round_: int, attempt: int, *scopes: BudgetScope, event: str = "e", count: int = 1
) -> KeyedCharge:
    key = ChargeKey("run-a", round_, attempt)
    return KeyedCharge(key, Charge.alike(CLIENT, scopes, {event: count}))


def totals(charges: list[KeyedCharge]) -> dict[tuple[object, ...], int]:
    found: dict[tuple[object, ...], int] = {}
    for each in charges:
        for scope, events in each.charge.events_of().items():
            for event, count in events.items():
                place = (each.key.round, each.charge.guarantee, scope, event)
                found[place] = found.get(place, 0) + count
    return found


def test_what_both_know_is_charged_once() -> None:
    ours = [keyed(1, 1, A, MODEL), keyed(2, 1, A, MODEL)]

    assert missing_charges(ours, [SiteCopy("a", [keyed(1, 1, A), keyed(2, 1, A)])]) == []


def test_what_only_a_site_knows_is_charged_under_a_fresh_key() -> None:
    ours = [keyed(1, 1, A), keyed(1, 2, A)]
    theirs = [keyed(1, 1, A), keyed(1, 2, A), keyed(1, 3, A), keyed(2, 1, A)]

    missing = missing_charges(ours, [SiteCopy("a", theirs)])

    assert missing == [keyed(1, 3, A), keyed(2, 1, A)]
    assert missing_charges(ours, [SiteCopy("a", theirs[::-1])]) == missing


def test_what_a_run_has_lost_is_charged_to_its_own_budget_and_to_no_other_runs() -> None:
    run_a, run_b = (BudgetScope.parse(f"model/net/run-{each}") for each in "ab")
    of_b = KeyedCharge(ChargeKey("run-b", 1, 1), Charge.alike(CLIENT, [A, MODEL, run_b], {"e": 1}))
    ours = [keyed(1, 1, A, MODEL, run_a), of_b]
    unknown = KeyedCharge(ChargeKey("run-c", 1, 1), keyed(1, 1, A).charge)

    missing = missing_charges(ours, [SiteCopy("a", [keyed(2, 1, A), unknown])])

    assert [each.key.run_id for each in missing] == ["run-a", "run-c"]
    assert [set(each.charge.scopes) for each in missing] == [{A, MODEL, run_a}, {A, MODEL}]


def test_a_model_that_a_copy_names_is_charged_alone() -> None:
    other = BudgetScope.parse("model/other")
    ours = [keyed(1, 1, A, MODEL, other)]

    assert missing_charges(ours, [SiteCopy("a", [keyed(2, 1, MODEL)])]) == [keyed(2, 1, MODEL)]


def test_of_what_several_sites_say_of_a_scope_the_most_counts() -> None:
    copies = [
        SiteCopy("a", [keyed(1, 1, A, MODEL)]),
        SiteCopy("b", [keyed(1, 1, B, MODEL), keyed(1, 2, B, MODEL)]),
    ]

    assert totals(missing_charges([], copies)) == {
        (1, CLIENT, A, "e"): 1,
        (1, CLIENT, B, "e"): 2,
        (1, CLIENT, MODEL, "e"): 2,
    }


@given(CHARGES, st.lists(CHARGES, max_size=3))
def test_afterwards_no_copy_knows_more_than_we_do_and_nothing_is_charged_for_nothing(
    ours: list[KeyedCharge], copies: list[list[KeyedCharge]]
) -> None:
    told = [SiteCopy(str(number), charges) for number, charges in enumerate(copies)]

    missing = missing_charges(ours, told)

    keys = [each.key for each in [*ours, *missing]]
    assert len(set(keys)) == len(keys)
    after, before = totals([*ours, *missing]), totals(ours)
    wanted = [totals(charges) for charges in copies]
    needed = {place: max(counts.get(place, 0) for counts in (before, *wanted)) for place in after}
    assert all(
        count == needed[place] if place[2] != MODEL else count >= needed[place]
        for place, count in after.items()
    )
    assert missing_charges([*ours, *missing], told) == []
    turned = [SiteCopy(copy.site, copy.charges[::-1]) for copy in told[::-1]]
    assert missing_charges(ours[::-1], turned) == missing


def test_the_model_of_a_run_pays_for_what_its_sites_remember() -> None:
    other = BudgetScope.parse("model/other")
    elsewhere = KeyedCharge(ChargeKey("run-b", 1, 1), Charge.alike(CLIENT, [other], {"e": 1}))
    ours = [keyed(1, 1, A, B, MODEL), elsewhere]
    lost = KeyedCharge(ChargeKey("run-c", 1, 1), Charge.alike(CLIENT, [A], {"e": 1}))
    copies = [
        SiteCopy("a", [keyed(2, 1, A), keyed(2, 2, A), lost]),
        SiteCopy("b", [keyed(2, 1, B)]),
    ]

    missing = missing_charges(ours, copies)

    assert [
        (str(each.key), {str(scope): events["e"] for scope, events in paid.items()})
        for each in missing
        if (paid := each.charge.events_of())
    ] == [
        ("run-a/2/1", {"client/a": 2, "client/b": 1, "model/net": 2}),
        # Whose model that was nobody can tell.
        ("run-c/1/1", {"client/a": 1, "model/net": 1, "model/other": 1}),
    ]


def test_rounds_are_assumed_at_the_price_of_the_last() -> None:
    ours = [keyed(1, 1, A, event="old"), keyed(2, 1, A, B), keyed(3, 1, B, event="other")]

    assert assumed_charges(ours, {A: 2, B: 0}) == [keyed(3, 2, A), keyed(4, 1, A)]
    assert assumed_charges(ours, {B: 1, A: 1}) == [keyed(3, 2, A), keyed(4, 1, B, event="other")]
    assert assumed_charges(ours, {A: 0, B: 1}) == [keyed(4, 1, B, event="other")]
    assert assumed_charges(ours, {MODEL: 0}) == []
    with pytest.raises(ConfigError, match="must have paid before to assume rounds of it"):
        assumed_charges(ours, {MODEL: 1})


def test_the_scopes_of_every_site_have_to_be_accounted_for() -> None:
    ours = [keyed(1, 1, A, B, HEART, MODEL)]

    assert unaccounted(ours, [], []) == [A, B, HEART]
    assert unaccounted(ours, [SiteCopy("a", [])], []) == [B]
    assert unaccounted(ours, [SiteCopy("a", [])], [B]) == []


def test_charges_are_found_among_entries() -> None:
    charge = Charge.alike(CLIENT, [A], {"e": 1})
    entries = [
        LedgerEntry(0, 0, EntryKind.CHARGED, "run-a/1/1", charge.to_content()),
        LedgerEntry(1, 0, EntryKind.SEALED, "run-a/1/1", {"digest": "d"}),
        LedgerEntry(2, 0, EntryKind.ADOPTED, "run-a/2/1", charge.to_content()),
        LedgerEntry(3, 0, EntryKind.FROZEN, "", {"reason": "why"}),
    ]

    assert charges_in(entries) == [keyed(1, 1, A), keyed(2, 1, A)]
    with pytest.raises(IntegrityError):
        charges_in([LedgerEntry(0, 0, EntryKind.CHARGED, "run-a/1/1", {})])
