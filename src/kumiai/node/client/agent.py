"""The client process: keeps a session with the coordinator, whatever happens in between.

A lost connection, a restarted coordinator, an hour without network are the normal path: the
agent comes back with growing, jittered pauses, and running work goes on meanwhile. Only a
refusal that trying again can not mend ends it, with the coordinator's own words.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import structlog

from kumiai import __version__
from kumiai.core import failpoints
from kumiai.core.clock import Clock
from kumiai.core.errors import (
    CertificateError,
    ConfigError,
    ConflictError,
    KumiaiError,
    TransportError,
)
from kumiai.core.ids import new_id
from kumiai.crypto.signatures import Ed25519Signer
from kumiai.identity import (
    Refusal,
    RenewableFiles,
    WatchedFiles,
    client_context,
    files,
    identity_of,
)
from kumiai.identity.check import PeerCertificate
from kumiai.node.client.backoff import Backoff
from kumiai.node.client.budget import SiteLedger
from kumiai.node.client.checkpoints import CheckpointGuard
from kumiai.node.client.coordinator_check import CoordinatorCheck, Question
from kumiai.node.client.renewal import CertificateRenewal
from kumiai.node.client.revocations import KnownRevocations
from kumiai.node.client.secure.known_peers import PEERS_FILE, KnownPeers
from kumiai.node.client.secure.opening import RoundTerms, SecurePolicy
from kumiai.node.client.secure.site import SecureSite
from kumiai.node.client.tasks import TaskRunner
from kumiai.node.client.transfer import BlobTransfer
from kumiai.node.client.trust import TrustFollower
from kumiai.node.signing_key import load_signer, voucher_of
from kumiai.node.study import App, Site
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import ATTACH, PROTOCOL_VERSION, TlsFiles, open_channel
from kumiai.node.wire.peers import REFUSAL_KEY

__all__ = ["AgentTimes", "ClientAgent"]

_QUEUE_LIMIT = 1_000
_CLOCK_SKEW_WARNING_SECONDS = 30.0
_DISTRUSTED = "this client refuses the coordinator"
_LAST_WORD = (1 << 64) - 1
"""The number of the heartbeat whose echo says that all before it was heard."""


@dataclass(frozen=True, slots=True)
class AgentTimes:
    """How patient the client is."""

    welcome_seconds: float = 15.0
    first_retry_seconds: float = 0.2
    longest_retry_seconds: float = 5.0
    first_suspended_seconds: float = 10.0
    longest_suspended_seconds: float = 300.0
    """A suspended site asks ever more rarely whether it was resumed."""
    twin_attempts: int = 4
    """How often to try when another process holds this client's session."""
    renewal_look_seconds: float = 1.0
    """How often to look for a renewed certificate."""


@dataclass(frozen=True, slots=True)
class _Link:
    """A session's stream, its channel and what waits to be sent."""

    channel: grpc.aio.Channel
    call: "grpc.aio.StreamStreamCall[bytes, bytes]"
    outgoing: "asyncio.Queue[pb.ClientMessage]"
    heartbeat_seconds: float


class ClientAgent:
    """One site's client."""

    def __init__(
        self,
        *,
        address: str,
        tls: TlsFiles,
        apps: Mapping[str, App],
        site: Site,
        state_dir: Path,
        clock: Clock,
        explain: Callable[[], Awaitable[KumiaiError | None]],
        times: AgentTimes = AgentTimes(),
        policy: SecurePolicy | None = None,
        ledger: SiteLedger | None = None,
        crl: Path | None = None,
    ) -> None:
        """Prepare; `run` connects.

        Args:
            address: ``host:port`` of the coordinator.
            tls: this client's certificate.
            apps: the studies installed here, by name.
            site: name (the certificate's) and data options.
            state_dir: a folder of this client's own.
            clock: for the skew check.
            explain: says why the coordinator can not be reached; a `CertificateError` means
                that trying again is useless.
            times: how patient to be.
            policy: what this site asks of secure rounds; ``None``: what any site should.
            ledger: where private runs are paid for; ``None``: in ``state_dir``, without limits.
            crl: a revocation list that is brought to this site by hand.

        Raises:
            KumiaiError: that list cannot be used.
        """
        self._address = address
        self._tls = tls
        self._apps = apps
        self._site = site
        self._state_dir = state_dir
        self._clock = clock
        self._explain = explain
        self._times = times
        self._policy = policy or SecurePolicy()
        self._ledger = ledger or SiteLedger(state_dir, site.name, clock)
        self._signer: Ed25519Signer | None = None
        self._secure: SecureSite | None = None
        self._instance_id = new_id("instance")
        self._outgoing: asyncio.Queue[pb.ClientMessage] | None = None
        self._on_attached: Callable[[], None] = lambda: None
        self._on_renewed: Callable[[], None] = lambda: None
        self._was_attached = False
        self._twin_refusals = 0
        self._is_suspended = False
        self._heard_at = 0.0
        self._attached_at = 0.0
        self._files: WatchedFiles[object] | None = None
        self._files_version = 0
        self._is_handing_over = False
        self._last_word_heard = asyncio.Event()
        self._guard: CheckpointGuard | None = None
        self._renewal: CertificateRenewal | None = None
        self._trust = TrustFollower(
            ca=tls.ca, certificate=tls.certificate, clock=clock, send=self._send
        )
        self._revocations = KnownRevocations(state_dir, tls.ca, clock, brought=crl)
        self._check = CoordinatorCheck(self._revocations, tls, clock)
        self._coordinator: PeerCertificate | None = None
        self._log = structlog.get_logger("kumiai.client").bind(client=site.name)
        self.attached = asyncio.Event()

    async def run(self) -> None:
        """Serve the coordinator until cancelled.

        Raises:
            CertificateError: the coordinator refuses this certificate, or this client its.
            ConflictError: another process holds this client's identity.
            ConfigError: the coordinator speaks another protocol version.
            IntegrityError: the coordinator's audit log was rewritten since this client saw it.
        """
        self._guard = await asyncio.to_thread(self._new_guard)
        executor = ThreadPoolExecutor(2, thread_name_prefix="kumiai-transfer")
        transfer = BlobTransfer(
            lambda: open_channel(self._address, self._tls), executor, check=self._check
        )
        self._secure = await asyncio.to_thread(self._new_secure_site, transfer)
        runner = TaskRunner(
            apps=self._apps,
            site=self._site,
            transfer=transfer,
            state_dir=self._state_dir,
            send=self._send,
            counters_dir=self._policy.counters_dir,
            secure=self._secure,
            requires_secure=self._policy.requires_secure,
            ledger=self._ledger,
        )
        self._on_attached = _both(transfer.end_pauses, self._secure.note_attached)
        self._on_renewed = transfer.renew_channel_when_idle
        self._files = await asyncio.to_thread(self._watch_files)
        self._renewal = self._new_renewal()
        tasks = [
            asyncio.create_task(self._stay_connected(runner)),
            asyncio.create_task(runner.serve()),
            asyncio.create_task(self._renewal.run()),
            asyncio.create_task(self._secure.serve()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await transfer.close()
            executor.shutdown(wait=False, cancel_futures=True)

    async def _stay_connected(self, runner: TaskRunner) -> None:
        backoff = Backoff(
            first_seconds=self._times.first_retry_seconds,
            longest_seconds=self._times.longest_retry_seconds,
        )
        patience = Backoff(
            first_seconds=self._times.first_suspended_seconds,
            longest_seconds=self._times.longest_suspended_seconds,
        )
        while True:
            was_suspended, self._is_suspended = self._is_suspended, False
            try:
                async with open_channel(self._address, self._tls) as channel:
                    reason = await self._session(channel, runner)
            except grpc.aio.AioRpcError as error:
                reason = await self._judge(error)
            except TimeoutError:
                reason = f"no answer within {self._times.welcome_seconds:.0f} s"
            finally:
                lasted = self._clock.monotonic() - self._attached_at
                held = self.attached.is_set() and lasted >= self._times.longest_retry_seconds
                self._outgoing = None
                self.attached.clear()
            if held:  # a coordinator that lets everybody in and falls over needs the pauses
                backoff.reset()
            if not self._is_suspended:
                patience.reset()
                pause = backoff.next_seconds()
                self._log.warning("not connected", reason=reason, retry_seconds=round(pause, 2))
            else:
                pause = patience.next_seconds()
                if not was_suspended:
                    self._log.warning("suspended; waits until it is resumed", reason=reason)
            await asyncio.sleep(pause)

    async def _session(self, channel: grpc.aio.Channel, runner: TaskRunner) -> str:
        """Hold a session, and its successors with renewed certificates; return why it ended."""
        self._outgoing = asyncio.Queue(_QUEUE_LIMIT)
        self._files_version = self._files.version if self._files else 0
        held = await self._attach(channel, self._outgoing)
        try:
            while isinstance(held, _Link):
                before, held = held, await self._serve(held, runner)
                if before.channel is not channel:
                    await before.channel.close()
        except BaseException:
            if isinstance(held, _Link) and held.channel is not channel:
                await held.channel.close()
            raise
        return held

    async def _attach(
        self, channel: grpc.aio.Channel, outgoing: "asyncio.Queue[pb.ClientMessage]"
    ) -> _Link | str:
        """Return the session that the coordinator welcomes, or why it does not."""
        question = Question()
        call = channel.stream_stream(ATTACH)(metadata=question.metadata)
        voucher = await asyncio.to_thread(self._voucher)
        if not await _written(call, self._hello(voucher)):
            return await self._ended(call)
        failpoints.reach("client.hello.sent")
        async with asyncio.timeout(self._times.welcome_seconds):
            first = await call.read()
        if first is grpc.aio.EOF:
            return await self._ended(call)
        welcome = pb.ServerMessage.FromString(first).welcome
        try:
            self._coordinator = await self._check.verify(call, question)
            if welcome.HasField("trust"):
                # First: what comes with it may be signed under the new root.
                await self._take_trust(welcome.trust)
        except CertificateError as error:
            call.cancel()
            return f"{_DISTRUSTED}: {error}"
        self._verify_version(welcome, call)
        await self._take_checkpoint(welcome.audit if welcome.HasField("audit") else None)
        self._note_welcome(welcome)
        return _Link(channel, call, outgoing, welcome.heartbeat_seconds)

    def _verify_version(
        self, welcome: pb.Welcome, call: "grpc.aio.StreamStreamCall[bytes, bytes]"
    ) -> None:
        # The coordinator refuses others, too; one that does not may mean something else by a task.
        if welcome.protocol_version == PROTOCOL_VERSION:
            return
        call.cancel()
        raise ConfigError(
            f"protocol version of the coordinator must be {PROTOCOL_VERSION}, got "
            f"{welcome.protocol_version}: install a client of the coordinator's version "
            f"({welcome.software_version[:64]}), this one is {__version__}"
        )

    async def _take_trust(self, offer: pb.TrustOffer) -> None:
        """Take up what the coordinator tells of roots and of revoked certificates.

        Raises:
            CertificateError: its own is one of these.
        """
        if offer.roots:
            await self._trust.take(offer)
        if not offer.revocations:
            return
        try:
            is_news = await asyncio.to_thread(self._revocations.take, offer.revocations.encode())
        except KumiaiError as error:
            self._log.warning("revocation list not taken up", error=str(error))
            return
        if is_news:
            self._log.info("other certificates are revoked now")
            await self._check.verify_again(self._coordinator)

    async def _serve(self, link: _Link, runner: TaskRunner) -> _Link | str:
        """Serve a session; return its successor, or why it ended."""
        succeeding = asyncio.create_task(self._succeed(link))
        workers = {
            asyncio.create_task(self._read(link.call, runner)),
            asyncio.create_task(self._write(link.call, link.outgoing)),
            asyncio.create_task(self._beat(link.heartbeat_seconds)),
        }
        try:
            done, _ = await asyncio.wait(
                {*workers, succeeding}, return_when=asyncio.FIRST_COMPLETED
            )
            if self._is_handing_over:
                # The coordinator ends a session when its successor comes.
                await asyncio.wait({succeeding}, timeout=self._times.welcome_seconds)
            if succeeding.done():
                return succeeding.result()
        finally:
            for worker in (*workers, succeeding):
                worker.cancel()
            await asyncio.gather(*workers, succeeding, return_exceptions=True)
        for worker in workers:
            if worker in done and (reason := worker.result()):
                link.call.cancel()
                return reason
        return await self._ended(link.call)

    async def _succeed(self, link: _Link) -> _Link:
        """Wait for renewed files, and return the session that takes this one's place."""
        while True:
            await self._renewed()
            try:
                return await self._hand_over(link)
            except (grpc.aio.AioRpcError, TimeoutError, OSError, KumiaiError) as error:
                # The session at hand is still good; the next change is tried again.
                self._log.warning("renewed certificate not taken up", reason=str(error))

    async def _renewed(self) -> None:
        """Return once there are other files than those in use, and they are fit for use."""
        while self._files is None or self._files.version == self._files_version:
            await asyncio.sleep(self._times.renewal_look_seconds)
            if self._files is not None:
                await asyncio.to_thread(self._files.current)
        self._files_version = self._files.version

    async def _hand_over(self, link: _Link) -> _Link:
        """Attach over a fresh channel, while the present session still listens.

        What is said meanwhile waits for the new session. The old one's last word is echoed
        before, so that nothing which was said there is lost when the coordinator ends it.
        """
        channel = open_channel(self._address, self._tls)
        waiting: asyncio.Queue[pb.ClientMessage] = asyncio.Queue(_QUEUE_LIMIT)
        self._outgoing, self._is_handing_over = waiting, True
        try:
            self._last_word_heard.clear()
            last_word = pb.ClientMessage(heartbeat=pb.Heartbeat(sequence=_LAST_WORD))
            async with asyncio.timeout(self._times.welcome_seconds):
                await link.outgoing.put(last_word)
                await self._last_word_heard.wait()
            successor = await self._attach_or_raise(channel, waiting)
        except BaseException:
            self._outgoing = link.outgoing
            while not waiting.empty():
                self._send(waiting.get_nowait())
            await channel.close()
            raise
        finally:
            self._is_handing_over = False
        self._log.info("renewed certificate taken up")
        self._on_renewed()
        return successor

    async def _attach_or_raise(
        self, channel: grpc.aio.Channel, outgoing: "asyncio.Queue[pb.ClientMessage]"
    ) -> _Link:
        link = await self._attach(channel, outgoing)
        if isinstance(link, str):
            raise TransportError(link)
        return link

    def _watch_files(self) -> WatchedFiles[object]:
        files = (self._tls.certificate, self._tls.key, self._tls.ca)
        return WatchedFiles(files, lambda: client_context(*files), self._clock)

    async def _ended(self, call: "grpc.aio.StreamStreamCall[bytes, bytes]") -> str:
        """Turn a stream's end into its reason; a refusal for good is raised."""
        async with asyncio.timeout(self._times.welcome_seconds):
            code, details = await call.code(), await call.details()
            refusal = _refusal_in(await call.trailing_metadata())
        return await self._judge_code(code, details or code.name, refusal)

    async def _judge(self, error: grpc.aio.AioRpcError) -> str:
        refusal = _refusal_in(error.trailing_metadata())
        return await self._judge_code(error.code(), error.details() or error.code().name, refusal)

    async def _judge_code(self, code: grpc.StatusCode, details: str, refusal: str) -> str:
        match code:
            case grpc.StatusCode.PERMISSION_DENIED if refusal == Refusal.SUSPENDED:
                self._is_suspended = True
                return details
            case grpc.StatusCode.PERMISSION_DENIED | grpc.StatusCode.UNAUTHENTICATED:
                raise CertificateError(details)
            case grpc.StatusCode.FAILED_PRECONDITION | grpc.StatusCode.INVALID_ARGUMENT:
                raise ConfigError(f"the coordinator refuses this client: {details}")
            case grpc.StatusCode.ALREADY_EXISTS:
                self._twin_refusals += 1
                if self._twin_refusals >= self._times.twin_attempts:
                    raise ConflictError(details)
                return details
            case grpc.StatusCode.UNAVAILABLE if not self.attached.is_set():
                return await self._why_unavailable(details)
            case _:
                return details

    async def _why_unavailable(self, details: str) -> str:
        cause = await self._explain()
        if isinstance(cause, CertificateError) and not self._was_attached:
            raise cause
        return str(cause) if cause is not None else details

    def _note_welcome(self, welcome: pb.Welcome) -> None:
        self._was_attached, self._twin_refusals = True, 0
        self._heard_at = self._attached_at = self._clock.monotonic()
        self.attached.set()
        self._on_attached()
        skew = self._clock.now() - welcome.wall_time
        self._log.info("attached", coordinator=welcome.coordinator_id)
        if abs(skew) > _CLOCK_SKEW_WARNING_SECONDS:
            self._log.warning("this machine's clock differs", skew_seconds=round(skew))

    def _hello(self, voucher: bytes) -> pb.ClientMessage:
        return pb.ClientMessage(
            hello=pb.Hello(
                protocol_version=PROTOCOL_VERSION,
                instance_id=self._instance_id,
                software_version=__version__,
                apps=sorted(self._apps),
                wall_time=self._clock.now(),
                audit_size=self._guard.known_size if self._guard else 0,
                voucher=voucher,
            )
        )

    def _new_secure_site(self, transfer: BlobTransfer) -> SecureSite:
        folder = self._state_dir / "secure"
        files.new_private_directory(folder)
        self._signer = load_signer(folder)
        own = identity_of(files.read_file(self._tls.certificate, "certificate"))
        terms = RoundTerms(
            name=own.name,
            federation=own.federation,
            verification_key=self._signer.public,
            ca=self._tls.ca,
            clock=self._clock,
            peers=KnownPeers(folder / PEERS_FILE, is_closed=self._policy.knows_all_peers),
            policy=self._policy,
        )
        return SecureSite(
            folder,
            self._policy.counters_dir or folder / "counters",
            terms=terms,
            signer=self._signer,
            send=self._send,
            sums=transfer,
        )

    def _voucher(self) -> bytes:
        signer = self._signer
        return b"" if signer is None else voucher_of(signer, self._tls, self._clock.now())

    def _new_renewal(self) -> CertificateRenewal:
        files = RenewableFiles(self._tls.certificate, self._tls.key, self._tls.ca)
        return CertificateRenewal(files, self._clock, send=self._send, attached=self.attached)

    def _new_guard(self) -> CheckpointGuard:
        return CheckpointGuard(self._state_dir, ca=self._tls.ca, certificate=self._tls.certificate)

    async def _take_checkpoint(self, offered: pb.AuditCheckpoint | None) -> None:
        if self._guard is not None:
            await self._guard.take(offered)

    def _send(self, message: pb.ClientMessage) -> None:
        """Queue a message for the session; without a session the coordinator asks again later."""
        if self._outgoing is not None:
            with contextlib.suppress(asyncio.QueueFull):
                self._outgoing.put_nowait(message)

    async def _read(
        self, call: "grpc.aio.StreamStreamCall[bytes, bytes]", runner: TaskRunner
    ) -> str:
        while (raw := await call.read()) is not grpc.aio.EOF:
            self._heard_at = self._clock.monotonic()
            message = pb.ServerMessage.FromString(raw)
            match message.WhichOneof("body"):
                case "task":
                    failpoints.reach("client.task.received")
                    runner.take(message.task)
                case "cancel":
                    runner.cancel(message.cancel)
                case "renewed" if self._renewal is not None:
                    self._renewal.take(message.renewed)
                case "audit":
                    await self._take_checkpoint(message.audit)
                case "secure" if self._secure is not None:
                    self._secure.take(message.secure)
                case "trust":
                    try:
                        await self._take_trust(message.trust)
                    except CertificateError as error:
                        return f"{_DISTRUSTED}: {error}"
                case "receipt" if message.receipt.reason:
                    self._log.warning("report refused", reason=message.receipt.reason)
                case "heartbeat" if message.heartbeat.sequence == 0:
                    # Asked whether we are alive: another process claims to be this client.
                    self._send(pb.ClientMessage(heartbeat=pb.Heartbeat(sequence=1)))
                case "heartbeat" if message.heartbeat.sequence == _LAST_WORD:
                    self._last_word_heard.set()
        return ""

    async def _write(
        self,
        call: "grpc.aio.StreamStreamCall[bytes, bytes]",
        outgoing: "asyncio.Queue[pb.ClientMessage]",
    ) -> str:
        while await _written(call, await outgoing.get()):
            pass
        return ""

    async def _beat(self, interval_seconds: float) -> str:
        sequence = 1
        while True:
            await asyncio.sleep(interval_seconds)
            silence = self._clock.monotonic() - self._heard_at
            if silence > 4 * interval_seconds:
                return f"no word from the coordinator for {silence:.0f} s"
            sequence += 1
            self._send(pb.ClientMessage(heartbeat=pb.Heartbeat(sequence=sequence)))


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        first()
        second()

    return call


def _refusal_in(metadata: "grpc.aio.Metadata | None") -> str:
    """Return what kind of refusal ended a call; empty if none did."""
    return next((str(value) for key, value in metadata or () if key == REFUSAL_KEY), "")


async def _written(
    call: "grpc.aio.StreamStreamCall[bytes, bytes]", message: pb.ClientMessage
) -> bool:
    """Write a message; return whether the stream was still open. Its status says why not."""
    try:
        await call.write(message.SerializeToString())
    except asyncio.InvalidStateError:
        # So gRPC refuses a message for a stream that ended since the one before. What goes wrong
        # while it writes is an error of the stream's own.
        return False
    return True
