import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import IntegrityError
from kumiai.privacy.events import (
    COUNT_MAX,
    Adjacency,
    Event,
    GaussianEvent,
    MatrixEvent,
    PoissonGaussianEvent,
)
from kumiai.privacy.history import EMPTY_HEAD, PrivacyHistory

EVENTS = [GaussianEvent(3), PoissonGaussianEvent(0.1, 1.5), MatrixEvent(4, (1, 0.5), 20, 4)]
RELEASES = st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(1, 1000)), max_size=12)


def history_of(releases: list[tuple[Event, int]]) -> PrivacyHistory:
    history = PrivacyHistory()
    for event, count in releases:
        history.append(event, count)
    return history


@given(RELEASES)
def test_a_history_comes_back_from_its_text(releases: list[tuple[Event, int]]) -> None:
    history = history_of(releases)

    again = PrivacyHistory.from_text(history.to_text(), head=history.head)

    assert list(again) == list(history)
    assert again.counts == history.counts
    assert [(entry.event, entry.count) for entry in again] == releases
    assert [entry.index for entry in again] == list(range(len(releases)))


@given(RELEASES, RELEASES)
def test_histories_with_other_releases_have_other_heads(
    releases: list[tuple[Event, int]], others: list[tuple[Event, int]]
) -> None:
    assert (history_of(releases).head == history_of(others).head) == (releases == others)


def test_a_history_goes_on_where_it_was_read() -> None:
    history = history_of([(EVENTS[0], 5), (EVENTS[1], 7)])
    again = PrivacyHistory.from_text(history.to_text())

    history.append(EVENTS[0], 2)
    again.append(EVENTS[0], 2)

    assert again.head == history.head
    assert again.counts == {EVENTS[0]: 7, EVENTS[1]: 7}


def test_the_head_of_a_history_is_that_of_all_versions() -> None:
    history = history_of([(EVENTS[0], 5), (EVENTS[1], 7)])

    assert PrivacyHistory().head == EMPTY_HEAD
    assert history.head == "00881f35854d06d54d42cbe91203d6e2782b2aca25be1002c5d13b12aea37173"
    assert repr(history) == f"PrivacyHistory(2 entries, head={history.head})"


LINES = history_of([(EVENTS[0], 5), (EVENTS[1], 7), (EVENTS[0], 9)]).to_text().splitlines(True)


@pytest.mark.parametrize(
    "text",
    [
        "".join(LINES).replace('"count":7', '"count":1'),
        "".join(LINES).replace('"noise_multiplier":1.5', '"noise_multiplier":15.0'),
        "".join([LINES[0], LINES[2]]),
        "".join(LINES[1:]),
        "".join([LINES[1], LINES[0], LINES[2]]),
        "".join([*LINES, LINES[2]]),
        "".join(LINES)[:-1],
        "".join(LINES) + "\n",
        "".join(LINES).replace("\n", "\r\n"),
        "".join(LINES).replace(":", ": "),
        "".join(LINES).replace('"count":5', '"count":5.0'),
        "".join(LINES).replace('"count":5', '"count":"5"'),
        "".join(LINES).replace('"count":5', '"count":0'),
        "".join(LINES).replace('"count":5,', ""),
        "".join(LINES).replace("zero-out", "add-or-remove", 1),
        "".join(LINES).replace("{", "", 1),
        "7\n",
        "null\n",
        "[" * 100_000,
    ],
    ids=range(19),
)
def test_whatever_was_changed_in_a_history_is_noticed(text: str) -> None:
    with pytest.raises(IntegrityError, match=r"entry|history"):
        PrivacyHistory.from_text(text)


def test_the_entry_that_is_wrong_is_named() -> None:
    text = "".join(LINES).replace('"count":7', '"count":0')

    with pytest.raises(IntegrityError, match="entry 1 must be one of a history: count must be"):
        PrivacyHistory.from_text(text)


def test_an_event_is_released_once_unless_said_otherwise() -> None:
    assert PrivacyHistory().append(EVENTS[0]).count == 1


def test_a_cut_end_is_noticed_by_whoever_kept_the_head() -> None:
    head = json.loads(LINES[2])["digest"]

    assert len(PrivacyHistory.from_text("".join(LINES), head=head)) == 3
    with pytest.raises(IntegrityError, match="history must end in"):
        PrivacyHistory.from_text("".join(LINES[:2]), head=head)


@pytest.mark.parametrize(
    "count", [0, -1, 1.5, True, "1", None, float("nan"), COUNT_MAX - 4, 10**400]
)
def test_a_count_that_makes_no_sense_is_refused_and_changes_nothing(count: Any) -> None:
    history = history_of([(EVENTS[0], 5)])
    head = history.head

    with pytest.raises((TypeError, ValueError), match=r"^count must be"):
        history.append(EVENTS[0], count)

    assert (history.head, len(history), history.counts) == (head, 1, {EVENTS[0]: 5})


def test_losses_between_other_neighbours_are_not_added() -> None:
    history = history_of([(EVENTS[0], 5)])

    with pytest.raises(ValueError, match="adjacency must be zero-out as in the history"):
        history.append(GaussianEvent(3, adjacency=Adjacency.REPLACE_ONE))

    assert len(history) == 1


@pytest.mark.parametrize("event", [None, "gaussian", 3, {"kind": "gaussian"}])
def test_only_events_are_recorded(event: Any) -> None:
    with pytest.raises(TypeError, match="event must be an Event"):
        PrivacyHistory().append(event)


def test_nobody_changes_the_counts_from_outside() -> None:
    counts: Any = history_of([(EVENTS[0], 5)]).counts

    with pytest.raises(TypeError):
        counts[EVENTS[0]] = 0
