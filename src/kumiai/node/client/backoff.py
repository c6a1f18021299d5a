"""How long to wait before trying again: exponential, half of it jitter.

Jitter keeps a hundred sites from coming back in the same instant after an outage: handshakes are
what a coordinator has least of.
"""

import secrets

__all__ = ["Backoff"]

_STEPS = 1 << 20


class Backoff:
    """Waiting times that grow until `reset`."""

    def __init__(self, *, first_seconds: float, longest_seconds: float) -> None:
        """Draw from 0 to ``first_seconds``, then from twice that, up to ``longest_seconds``."""
        self._first = first_seconds
        self._longest = longest_seconds
        self._limit = first_seconds

    def next_seconds(self) -> float:
        """Return how long to wait now."""
        limit, self._limit = self._limit, min(self._limit * 2, self._longest)
        return limit * (0.5 + 0.5 * secrets.randbelow(_STEPS) / _STEPS)

    def reset(self) -> None:
        """Begin again with the shortest wait: the last attempt succeeded."""
        self._limit = self._first
