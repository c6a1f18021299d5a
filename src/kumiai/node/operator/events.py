"""The text format of Server-Sent Events, read line by line.

Source: the HTML standard, section 9.2.6. Only what our own server sends: no ``retry``.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kumiai.core.errors import TransportError

__all__ = ["ServerSentEvent", "parse_events"]


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event.

    Attributes:
        number: its id if that is a number; a reconnect gives the last one back.
        kind: its name.
        data: its content, a JSON object.
    """

    number: int | None
    kind: str
    data: dict[str, Any]


def parse_events(lines: Iterable[str]) -> Iterator[ServerSentEvent]:
    """Give the events in a stream's lines; comments and a cut last event are left out.

    Raises:
        TransportError: an event's data is no JSON object.
    """
    number, kind, data = None, "message", list[str]()
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "id" if value.isdecimal():
                number = int(value)
            case "event":
                kind = value
            case "data":
                data.append(value)
            case "" if not line:
                if data:
                    yield ServerSentEvent(number, kind, _object_in("\n".join(data)))
                number, kind, data = None, "message", []
            case _:
                pass


def _object_in(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise TransportError(f"event must be a JSON object, got {len(text)} characters")
    return value
