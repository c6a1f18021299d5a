"""Tells of callers who are refused, without letting a flood of them fill the log."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from kumiai.core.clock import Clock
from kumiai.identity import Refusal, RefusedCall

__all__ = ["RefusalLog"]

QUIET_SECONDS: Final = 60.0
"""A refusal of the same kind from the same address is told once in so long."""
REMEMBERED_MAX: Final = 1_024


@dataclass(slots=True)
class _Told:
    at: float
    unsaid_count: int = 0


class RefusalLog:
    """Logs refusals; of those that repeat themselves it counts all and tells the first.

    What is kept to do so has a fixed size, whatever the number of addresses.
    """

    def __init__(
        self, clock: Clock, *, also: Callable[[RefusedCall], None] = lambda _: None
    ) -> None:
        """Begin with nothing told.

        Args:
            clock: paces what is told.
            also: hears of every refusal, and bounds by itself what it writes.
        """
        self._clock = clock
        self._also = also
        self._told: OrderedDict[tuple[str, Refusal], _Told] = OrderedDict()
        self._log = structlog.get_logger("kumiai.peers")

    def note(self, call: RefusedCall) -> None:
        """Tell of a refusal, or count it."""
        self._also(call)
        key, now = (call.address, call.error.refusal), self._clock.monotonic()
        told = self._told.get(key)
        if told is not None and now - told.at < QUIET_SECONDS:
            told.unsaid_count += 1
            return
        self._log.warning(
            "caller refused",
            address=call.address,
            act=call.act,
            refusal=call.error.refusal.value,
            claimed=call.claimed.uri if call.claimed else None,
            reason=str(call.error),
            unsaid_count=told.unsaid_count if told else 0,
        )
        self._told[key] = _Told(now)
        self._told.move_to_end(key)
        if len(self._told) > REMEMBERED_MAX:
            self._told.popitem(last=False)
