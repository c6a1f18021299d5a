"""How many connections to the clients' port may come to nothing: so many a second, all together.

A handshake costs as much whether it is meant or not, and it is gRPC that makes it. What counts
here are connections that no admitted call came from: of good clients there are as good as none, and
if so many come back at once that their calls lag behind, it is over when these have come. When
there are more than the port can do beside its work, requests for new connections are dropped by
chance, in the kernel and before any handshake, so that about as many get through as may. Addresses
that good clients came from lately have five times the chance of others. Connections that are open
notice nothing.

Strategy: how many are asked for is not known while some are dropped. It is estimated from those
that got through and the share that was let through, and the share follows from the estimate.
"""

import asyncio
import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import structlog

from kumiai.core.clock import Clock
from kumiai.node.wire.port_filter import ADDRESSES_MAX

__all__ = ["ConnectionPace", "Gateway"]

LOOK_SECONDS: Final = 0.05
_BURST_SECONDS: Final = 1.0
_MEMORY_SECONDS: Final = 1.0
_SHARE_MIN: Final = 0.002
_KNOWN_FACTOR: Final = 5.0
_CHANGE_MIN: Final = 0.1


class Gateway(Protocol):
    """Where requests for new connections are dropped; see `PortFilter`."""

    def let_through(self, strangers: float, known: float, addresses: Iterable[str]) -> None:
        """Drop the others."""
        ...

    def let_all_through(self) -> None:
        """Drop none."""
        ...


class ConnectionPace:
    """Says which share of new connections is let through."""

    def __init__(
        self, accepted_count: Callable[[], int], clock: Clock, *, wasted_per_second: float
    ) -> None:
        """Begin with all.

        Args:
            accepted_count: returns how many connections were accepted so far.
            clock: paces.
            wasted_per_second: how many may come to nothing, on average, > 0.
        """
        self._accepted_count = accepted_count
        self._clock = clock
        self._per_second = wasted_per_second
        self._burst = wasted_per_second * _BURST_SECONDS
        self._room = self._burst
        self._asked_per_second = 0.0
        self._is_flood = self._is_set = False
        self._share = 1.0
        self._good_count = 0
        self._wasted_before = 0
        self._looked_at = clock.monotonic()
        self._known: OrderedDict[str, None] = OrderedDict()
        self._log = structlog.get_logger("kumiai.coordinator")

    @property
    def share(self) -> float:
        """Which share of strangers' connections is let through, > 0 to 1."""
        return self._share

    def note_good(self, address: str) -> None:
        """Count a connection, once, that an admitted call came from."""
        self._good_count += 1
        try:
            ipaddress.ip_address(address)
        except ValueError:
            return
        self._known[address] = None
        self._known.move_to_end(address)
        if len(self._known) > ADDRESSES_MAX:
            self._known.popitem(last=False)

    async def serve(self, gateway: Gateway) -> None:
        """Look at what comes, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look(gateway)

    def look(self, gateway: Gateway) -> None:
        """Take up what has come since the last look."""
        now = self._clock.monotonic()
        passed, self._looked_at = now - self._looked_at, now
        if passed <= 0:
            return
        total = self._accepted_count() - self._good_count
        wasted, self._wasted_before = total - self._wasted_before, total
        # Below zero: calls came on connections that were accepted before the last look.
        asked_per_second = max(0, wasted) / passed / self._share
        if self._is_flood:
            # Refilled by calls alone: when so many come, they were good clients that came at once.
            self._room -= wasted
            weight = min(1.0, passed / _MEMORY_SECONDS)
            self._asked_per_second += weight * (asked_per_second - self._asked_per_second)
            if self._room >= 0 or self._asked_per_second < self._per_second / 2:
                self._end_flood(gateway)
                return
        else:
            self._room = min(self._burst, self._room + self._per_second * passed - wasted)
            if self._room >= 0:
                return
            self._begin_flood(asked_per_second)
        share = min(1.0, max(_SHARE_MIN, self._per_second / self._asked_per_second))
        if not self._is_set or abs(share - self._share) >= _CHANGE_MIN * self._share:
            self._share, self._is_set = share, True
            gateway.let_through(share, min(1.0, _KNOWN_FACTOR * share), self._known)

    def _begin_flood(self, asked_per_second: float) -> None:
        self._is_flood = True
        self._asked_per_second = asked_per_second
        self._log.warning(
            "more connections to the clients' port come to no call than it takes; new ones are "
            "let through by chance until there are fewer",
            per_second=round(asked_per_second),
            per_second_max=self._per_second,
        )

    def _end_flood(self, gateway: Gateway) -> None:
        self._is_flood = self._is_set = False
        self._share, self._room = 1.0, self._burst
        gateway.let_all_through()
        self._log.info("all new connections to the clients' port are let through again")
