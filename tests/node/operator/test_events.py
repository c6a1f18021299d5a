import pytest

from kumiai.core.errors import TransportError
from kumiai.node.operator.events import ServerSentEvent, parse_events


def parsed(text: str) -> list[ServerSentEvent]:
    return list(parse_events(text.split("\n")))


def test_an_event_has_number_kind_and_data() -> None:
    assert parsed('id: 7\nevent: progress\ndata: {"a": 1}\n\n') == [
        ServerSentEvent(7, "progress", {"a": 1})
    ]


def test_an_event_without_name_is_a_message() -> None:
    assert parsed('data:{"a":\ndata: 1}\n\n') == [ServerSentEvent(None, "message", {"a": 1})]


def test_comments_unknown_fields_and_ids_that_are_no_numbers_are_left_out() -> None:
    text = ": keepalive\n\nretry: 1000\n\nid: x\nother: y\nevent: end\ndata: {}\n\n"

    assert parsed(text) == [ServerSentEvent(None, "end", {})]


def test_an_event_that_was_cut_is_left_out() -> None:
    assert parsed('data: {}\n\nid: 3\ndata: {"half"') == [ServerSentEvent(None, "message", {})]


@pytest.mark.parametrize("data", ["[1]", "{", "text"])
def test_data_must_be_a_json_object(data: str) -> None:
    with pytest.raises(TransportError, match="JSON object"):
        parsed(f"data: {data}\n\n")
