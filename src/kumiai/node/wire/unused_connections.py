"""How many connections to the clients' port came to no call.

gRPC tells nobody of a handshake that failed. What it does is ask for the certificate in force when
it accepts a connection; and a good client calls as soon as it is connected. So what was accepted
and never called was refused in its handshake, most likely, or only looked whether the port is open.
How many there were is all that can be known, not who and not why; at least so many, because a
client that comes back after thousands of others is taken for a new one.
"""

import threading
from collections import OrderedDict
from typing import Final

from kumiai.core.clock import Clock

__all__ = ["UnusedConnections"]

PERIOD_SECONDS: Final = 600.0
_REMEMBERED_MAX: Final = 4_096


class UnusedConnections:
    """Counts; threads of gRPC's may tell it of connections."""

    def __init__(self, clock: Clock) -> None:
        """Begin with none."""
        self._clock = clock
        self._lock = threading.Lock()
        self._accepted = 0
        self._accepted_before = 0
        self._accounted = 0
        self._peers: OrderedDict[str, None] = OrderedDict()
        self._due_at = clock.monotonic() + PERIOD_SECONDS

    def note_accepted(self) -> None:
        """Count a connection whose handshake is about to begin; from any thread."""
        with self._lock:
            self._accepted += 1

    @property
    def accepted_count(self) -> int:
        """How many connections were accepted so far."""
        return self._accepted

    def note_call(self, peer: str) -> bool:
        """Count the connection of a call, once; return whether this is its first.

        Args:
            peer: the other end with its port, as gRPC names it.
        """
        if peer in self._peers:
            self._peers.move_to_end(peer)
            return False
        self._peers[peer] = None
        self._accounted += 1
        if len(self._peers) > _REMEMBERED_MAX:
            self._peers.popitem(last=False)
        return True

    def take(self) -> int:
        """Return, once in ten minutes, how many there were that no call came from; else 0.

        One that was accepted in these ten minutes may still be used, and waits for the next time.
        """
        if self._clock.monotonic() < self._due_at:
            return 0
        self._due_at = self._clock.monotonic() + PERIOD_SECONDS
        unused = max(0, self._accepted_before - self._accounted)
        self._accounted += unused
        with self._lock:
            self._accepted_before = self._accepted
        return unused
