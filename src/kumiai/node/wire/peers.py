"""The gate in front of every remote call, and its watch over calls that last.

gRPC has checked the chain during the handshake. Everything else is decided by the same gate as
for HTTP, before a handler sees the call; handlers ask `caller_of`. A call that is open while its
caller's certificate expires, is revoked or its owner suspended, is ended within seconds.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import grpc
import grpc.aio

from kumiai.core.clock import Clock
from kumiai.core.errors import CertificateError
from kumiai.identity import CallGate, PeerRefusedError, Permission, Principal, Refusal
from kumiai.node.wire.channel import ATTACH, GET, PUT, STAT
from kumiai.node.wire.connection_pace import ConnectionPace
from kumiai.node.wire.proving import CHALLENGE_KEY, PROOF_KEY, CoordinatorProver
from kumiai.node.wire.unused_connections import PERIOD_SECONDS, UnusedConnections

__all__ = ["REFUSAL_KEY", "REMOTE_CALLS", "AuthenticationInterceptor", "caller_of", "refusal_of"]

REMOTE_CALLS: Final[Mapping[str, Permission]] = {
    ATTACH: Permission.ROUNDS_JOIN,
    PUT: Permission.UPDATES_SUBMIT,
    STAT: Permission.UPDATES_SUBMIT,
    GET: Permission.TASKS_FETCH,
}
"""What each remote call needs; one that is not here is denied to everybody."""

REFUSAL_KEY: Final = "kumiai-refusal"
"""The metadata at a call's end under this name tell programs why it was refused."""
WATCH_SECONDS: Final = 1.0
HOLD_SECONDS: Final = 1.0
"""For so long those are left waiting who call too often, or were refused too often."""

_UNUSED: Final = f"connections to the clients' port in {PERIOD_SECONDS:.0f} s"
_WAITING_HELPS: Final = frozenset({Refusal.RATE_LIMITED})
_HELD: Final = frozenset({Refusal.RATE_LIMITED, Refusal.LOCKED_OUT})


@dataclass(eq=False, slots=True)
class _OpenCall:
    principal: Principal
    act: str
    task: "asyncio.Task[Any]"
    refusal: PeerRefusedError | None = None


_CALL: ContextVar[_OpenCall] = ContextVar("kumiai_call")


def caller_of() -> Principal:
    """Return who makes the call that is being handled.

    Raises:
        LookupError: no gate stood in front of it.
    """
    return _CALL.get().principal


def refusal_of() -> PeerRefusedError | None:
    """Return why the gate ends the call that is being handled, ``None`` if it does not."""
    return _CALL.get().refusal


class AuthenticationInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc] # untyped
    """Lets in who may make a remote call, and ends calls of those who may no longer."""

    def __init__(
        self,
        gate: CallGate,
        clock: Clock,
        *,
        watch_seconds: float = WATCH_SECONDS,
        hold_seconds: float = HOLD_SECONDS,
        wasted_per_second: float = 100.0,
        prover: CoordinatorProver | None = None,
    ) -> None:
        """Let this gate decide.

        Args:
            gate: decides.
            clock: paces the telling of connections that came to no call.
            watch_seconds: how often `watch` looks at open calls, > 0.
            hold_seconds: how long who calls too often waits for the answer, >= 0.
            wasted_per_second: so many connections may come to no admitted call, on average, > 0.
            prover: answers clients that ask whom they talk to; ``None``: nobody does.
        """
        self._gate = gate
        self._prover = prover
        self._hold_seconds = hold_seconds
        self.connections = UnusedConnections(clock)
        self.pace = ConnectionPace(
            lambda: self.connections.accepted_count, clock, wasted_per_second=wasted_per_second
        )
        self._watch_seconds = watch_seconds
        self._open: set[_OpenCall] = set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the call's handler behind the gate."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        return self._guarded(handler, handler_call_details.method)

    async def watch(self) -> None:
        """End open calls of callers who may no longer make them; runs until cancelled.

        Tells now and then of connections that came to no call, too.
        """
        while True:
            await asyncio.sleep(self._watch_seconds)
            if unused := self.connections.take():
                self._gate.note_unused_connections(unused, _UNUSED)
            for call in [each for each in self._open if each.refusal is None]:
                try:
                    await self._gate.admit_again(call.principal, act=call.act)
                except PeerRefusedError as error:
                    if call in self._open:
                        call.refusal = error
                        call.task.cancel()

    def _guarded(self, handler: Any, method: str) -> Any:
        if handler.response_streaming:
            inner = handler.stream_stream or handler.unary_stream

            async def respond(request: Any, context: Any) -> None:
                async with self._admitted(method, context):
                    answer = inner(request, context)
                    if not hasattr(answer, "__aiter__"):
                        await answer
                        return
                    # Written here and not yielded: gRPC would wait for the client outside of
                    # this block, where the call can not be ended with a reason.
                    async for message in answer:
                        await context.write(message)
        else:
            inner = handler.stream_unary or handler.unary_unary

            async def respond(request: Any, context: Any) -> Any:  # type: ignore[misc]
                async with self._admitted(method, context):
                    return await inner(request, context)

        kinds = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        new_handler = kinds[handler.request_streaming, handler.response_streaming]
        return new_handler(respond, handler.request_deserializer, handler.response_serializer)

    @contextlib.asynccontextmanager
    async def _admitted(self, method: str, context: Any) -> AsyncIterator[None]:
        """Run the block for a caller who may; else end the call with the reason."""
        principal = await self._principal_of(method, context)
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a call must be handled by a task")
        call = _OpenCall(principal, method, task)
        self._open.add(call)
        _CALL.set(call)
        try:
            await self._prove(context, principal)
            yield
        except asyncio.CancelledError:
            if call.refusal is None:
                raise
            task.uncancel()
            # Cancelling alone would leave the client waiting; abort tells it.
            await _end(context, call.refusal)
        finally:
            self._open.discard(call)

    async def _prove(self, context: Any, principal: Principal) -> None:
        """Tell a caller that asks which certificate it talks to."""
        challenge = dict(context.invocation_metadata() or ()).get(CHALLENGE_KEY)
        if challenge is None or self._prover is None or principal.identity is None:
            return
        try:
            proof = await asyncio.to_thread(self._prover.prove, challenge, principal.identity.uri)
        except CertificateError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        await context.send_initial_metadata(((PROOF_KEY, proof),))

    async def _principal_of(self, method: str, context: Any) -> Principal:
        is_first = self.connections.note_call(context.peer())
        permission = REMOTE_CALLS.get(method)
        if permission is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"no remote call {method}")
            raise LookupError(f"REMOTE_CALLS must name every remote call, got {method}")
        address = _host_of(context.peer())
        try:
            principal = await self._gate.admit(
                permission, act=method, chain=_chain_of(context), address=address
            )
        except PeerRefusedError as error:
            if error.refusal in _HELD:
                # A connection has so many calls at once; whoever does not wait for answers, waits.
                await asyncio.sleep(self._hold_seconds)
            await _end(context, error)
            raise
        if is_first:
            self.pace.note_good(address)
        return principal


async def _end(context: Any, error: PeerRefusedError) -> None:
    waiting_helps = error.refusal in _WAITING_HELPS
    code = (
        grpc.StatusCode.RESOURCE_EXHAUSTED if waiting_helps else grpc.StatusCode.PERMISSION_DENIED
    )
    await context.abort(code, str(error), ((REFUSAL_KEY, error.refusal.value),))


def _chain_of(context: Any) -> tuple[bytes, ...]:
    """Return the caller's certificates, its own first; gRPC keeps the others apart."""
    shown = context.auth_context()
    own = next(iter(shown.get("x509_pem_cert", ())), None)
    if own is None:
        return ()
    others = next(iter(shown.get("x509_pem_cert_chain", ())), b"")
    begin = b"-----BEGIN CERTIFICATE-----"
    chain = [begin + each for each in others.split(begin)[1:]]
    return (own, *(each for each in chain if each.strip() != own.strip()))


def _host_of(peer: str) -> str:
    """Return the host of gRPC's ``ipv4:127.0.0.1:5000`` or ``ipv6:%5B::1%5D:5000``."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return peer
    return rest.rpartition(":")[0].strip("[]")
