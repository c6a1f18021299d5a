"""The picture of a run follows from its events alone."""

from typing import Any

from kumiai.node.demo.picture import RoundLine, RunPicture
from kumiai.node.operator.events import ServerSentEvent


def event(kind: str, round_number: int, **data: Any) -> ServerSentEvent:
    return ServerSentEvent(1, "event", {"kind": kind, "round": round_number, "data": data or None})


def progress(round_number: int, reported: int) -> ServerSentEvent:
    counts = {"reported": reported, "assigned": 1}
    data = {"round": round_number, "counts": counts, "phases": {"site-1": "training"}}
    return ServerSentEvent(None, "progress", data)


def picture_of(*events: ServerSentEvent) -> RunPicture:
    picture = RunPicture(rounds_total=2)
    for each in events:
        picture.apply(each)
    return picture


def test_a_round_grows_from_event_to_event() -> None:
    metrics = {"loss": 0.5, "accuracy": 0.75, "auc": 0.8}

    picture = picture_of(
        event("round_opened", 1, target=3, clients=3, quorum=2),
        progress(1, 2),
        event("round_published", 1, reports=3, examples=9, metrics={}),
        event("model_evaluated", 1, reports=3, metrics=metrics),
    )

    assert picture.lines == {1: RoundLine(1, 3, 3, is_published=True, loss=0.5, accuracy=0.75)}
    assert picture.last_published == 1
    assert picture.phases == {"site-1": "training"}


def test_reports_count_while_the_round_is_open() -> None:
    picture = picture_of(event("round_opened", 1, target=3), progress(1, 2))

    assert picture.line(1).reports == 2
    assert picture.last_published == 0


def test_what_is_published_is_not_counted_again() -> None:
    picture = picture_of(event("round_published", 1, reports=3), progress(1, 2))

    assert picture.line(1).reports == 3


def test_an_event_of_no_interest_changes_nothing() -> None:
    assert picture_of(event("leader_changed", 0), ServerSentEvent(None, "other", {})).lines == {}


def test_the_end_says_how_it_ended() -> None:
    picture = picture_of(
        ServerSentEvent(None, "end", {"state": "failed", "reason": "too few clients"})
    )

    assert picture.has_ended
    assert (picture.state, picture.reason) == ("failed", "too few clients")


def test_a_round_that_nothing_is_known_of_is_empty() -> None:
    picture = picture_of()

    assert picture.line(4) == RoundLine(4)
    assert not picture.has_ended
