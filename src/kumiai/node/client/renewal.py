"""The client's next certificate: asked for over its session, with a new key, in good time.

When half of a certificate's life is over a new key is made and a request sent; what comes back is
stored, and whoever watches the files takes it up. A refusal or silence is no reason to end: the
present certificate is good for as long again, and it is asked again. Certificates that were not
signed by a coordinator are left alone.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from kumiai.core.clock import Clock
from kumiai.core.errors import DeadlineError, DeniedError, KumiaiError
from kumiai.identity import RenewableFiles
from kumiai.identity.keys import new_key
from kumiai.identity.requests import new_request
from kumiai.node.wire import kumiai_pb2 as pb

__all__ = ["CertificateRenewal", "RenewalTimes"]

_LONGEST_SLEEP_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class RenewalTimes:
    """How patient a renewal is."""

    answer_seconds: float = 30.0
    retry_seconds: float = 60.0


class CertificateRenewal:
    """Renews one client's certificate."""

    def __init__(
        self,
        files: RenewableFiles,
        clock: Clock,
        *,
        send: Callable[[pb.ClientMessage], None],
        attached: asyncio.Event,
        times: RenewalTimes = RenewalTimes(),
    ) -> None:
        """Prepare; `run` renews.

        Args:
            files: the certificate's.
            clock: says when half of its life is over.
            send: queues a message for the session.
            attached: set while there is one.
            times: how patient to be.
        """
        self._files = files
        self._clock = clock
        self._send = send
        self._attached = attached
        self._times = times
        self._answer: asyncio.Future[pb.CertificateAnswer] | None = None
        self._log = structlog.get_logger("kumiai.client")

    async def run(self) -> None:
        """Renew, each time when it is due, until cancelled."""
        while True:
            try:
                due_at = await asyncio.to_thread(self._files.due_at)
                wait_seconds = _LONGEST_SLEEP_SECONDS
                if due_at is not None:
                    wait_seconds = min(due_at - self._clock.now(), wait_seconds)
                if wait_seconds <= 0:
                    await self._renew()
                    continue
            except KumiaiError as error:
                self._log.warning("certificate not renewed", reason=str(error))
                wait_seconds = self._times.retry_seconds
            await asyncio.sleep(wait_seconds)

    def take(self, answer: pb.CertificateAnswer) -> None:
        """Take what the coordinator answers."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    async def _renew(self) -> None:
        await self._attached.wait()
        key = new_key()
        self._answer = asyncio.get_running_loop().create_future()
        request = pb.CertificateRequest(request=new_request(key).decode())
        self._send(pb.ClientMessage(renewal=request))
        try:
            async with asyncio.timeout(self._times.answer_seconds):
                answer = await self._answer
        except TimeoutError:
            raise DeadlineError(
                f"coordinator must answer within {self._times.answer_seconds:g} s, got nothing"
            ) from None
        finally:
            self._answer = None
        if not answer.chain:
            raise DeniedError(answer.reason)
        await asyncio.to_thread(self._files.install, answer.chain.encode(), key)
        self._log.info("certificate renewed")
