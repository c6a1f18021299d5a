"""What clients said in secure rounds and nobody has looked at yet; and who has just arrived.

Nothing here is durable and nothing needs to be: a client says it again when it comes back, and a
coordinator that lost it asks again. So there may be a limit, and what is over it is dropped.
"""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from kumiai.node.wire.secure_parts import RoundKey

__all__ = ["Letter", "SecureMailbox"]

_LETTERS_PER_CLIENT_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class Letter:
    """A client's message.

    Attributes:
        key: which round it is for.
        client_id: as the connection says.
        envelope: signed; nothing in it is checked yet.
        attachment: what it names.
    """

    key: RoundKey
    client_id: str
    envelope: bytes = field(repr=False)
    attachment: bytes = field(repr=False)


@dataclass(slots=True)
class _Box:
    members: frozenset[str]
    letters: list[Letter] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    arrived: set[str] = field(default_factory=set)


class SecureMailbox:
    """The letters of the runs that are led here."""

    def __init__(self, wake: Callable[[str], None]) -> None:
        """Begin without runs.

        Args:
            wake: tells a run's driver to look.
        """
        self._wake = wake
        self._boxes: dict[str, _Box] = {}

    def open(self, run_id: str, members: Collection[str]) -> None:
        """Take letters for a run from now on, of these clients alone."""
        self._boxes[run_id] = _Box(frozenset(members))

    def close(self, run_id: str) -> None:
        """Take no more, and forget what nobody looked at."""
        self._boxes.pop(run_id, None)

    def put(self, letter: Letter) -> bool:
        """Take a letter, if it can be for somebody here and its sender has not filled the box."""
        box = self._boxes.get(letter.key[0])
        if box is None or letter.client_id not in box.members:
            return False
        if box.counts[letter.client_id] >= _LETTERS_PER_CLIENT_MAX:
            return False
        box.counts[letter.client_id] += 1
        box.letters.append(letter)
        self._wake(letter.key[0])
        return True

    def arrive(self, client_id: str) -> None:
        """Let every run know that a client has come, or has come back."""
        for run_id, box in self._boxes.items():
            box.arrived.add(client_id)
            self._wake(run_id)

    def drain(self, run_id: str) -> tuple[list[Letter], set[str]]:
        """Return a run's letters in their order, and who has arrived, and keep none."""
        box = self._boxes.get(run_id)
        if box is None:
            return [], set()
        self._boxes[run_id] = _Box(box.members)
        return box.letters, box.arrived
