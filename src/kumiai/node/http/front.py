"""What stands in front of the HTTP server: accepts connections and paces their TLS handshakes.

Not the server: that gets each connection once its handshake is done.

Strategy: a handshake takes up to a millisecond of the event loop, which everything else shares.
The loop would do all that came at once in one go, and whoever calls meanwhile would wait for all
of them. So each connection waits for its turn before its handshake begins; the gate says how long,
by the address that it comes from. What waits or shakes hands is bounded in number: of too many
the oldest goes, because a handshake that is meant takes little time.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from kumiai.identity import CallGate, PeerRefusedError

__all__ = ["TLSFront"]

_BACKLOG: Final = 256
_ACCEPTED_AT_ONCE: Final = 16
_PENDING_MAX: Final = 512
_HANDSHAKE_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 1.0
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(slots=True)
class _Arrival:
    connection: socket.socket
    host: str
    is_ours: bool = True
    """Until a transport of the loop takes the connection, and will close it."""


class TLSFront:
    """Listens, and hands on connections that have passed their handshake."""

    def __init__(
        self,
        listener: socket.socket,
        tls: ssl.SSLContext,
        new_protocol: Callable[[], asyncio.Protocol],
        gate: CallGate,
        *,
        pending_max: int = _PENDING_MAX,
    ) -> None:
        """Prepare; nothing is accepted before `start`.

        Args:
            listener: bound and not blocking; closed with the front.
            tls: the server's.
            new_protocol: makes what a connection is handed to.
            gate: says when a handshake may begin, and is told of those that failed.
            pending_max: so many connections may wait or be amid their handshake, >= 1.
        """
        self._listener = listener
        self._tls = tls
        self._new_protocol = new_protocol
        self._gate = gate
        self._pending_max = pending_max
        self._loop = asyncio.get_running_loop()
        self._pending: dict[asyncio.Task[None], _Arrival] = {}
        self._pause: asyncio.TimerHandle | None = None
        self._log = structlog.get_logger("kumiai.http")

    def start(self) -> None:
        """Listen."""
        self._listener.listen(_BACKLOG)
        self._resume()

    def close(self) -> None:
        """Close the port and whatever has not passed its handshake."""
        if self._pause is not None:
            self._pause.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
        self._listener.close()
        for task in self._pending:
            task.cancel()

    async def wait_closed(self) -> None:
        """Return once everything that `close` has closed is gone."""
        if self._pending:
            await asyncio.wait(self._pending)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        # Not all that wait: the loop has other things to do.
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._log.critical("no connection can be accepted", error=str(error))
                self._loop.remove_reader(self._listener)
                self._pause = self._loop.call_later(_PAUSE_SECONDS, self._resume)
                return
            connection.settimeout(0)
            self._receive(_Arrival(connection, address[0]))

    def _receive(self, arrival: _Arrival) -> None:
        try:
            wait_seconds = self._gate.admit_handshake(arrival.host)
        except PeerRefusedError:
            arrival.connection.close()
            return
        if len(self._pending) >= self._pending_max:
            next(iter(self._pending)).cancel()
        task = asyncio.create_task(self._shake_hands(arrival, wait_seconds))
        self._pending[task] = arrival
        task.add_done_callback(self._forget)

    async def _shake_hands(self, arrival: _Arrival, wait_seconds: float) -> None:
        await asyncio.sleep(wait_seconds)
        arrival.is_ours = False
        try:
            await self._loop.connect_accepted_socket(
                self._new_protocol,
                arrival.connection,
                ssl=self._tls,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
            )
        except ssl.SSLError as error:
            self._gate.note_failed_handshake(error, arrival.host)
        except OSError:
            # It went away, or said nothing for too long: nobody was refused.
            return

    def _forget(self, task: "asyncio.Task[None]") -> None:
        arrival = self._pending.pop(task)
        if arrival.is_ours:
            arrival.connection.close()
        if not task.cancelled():
            task.result()
