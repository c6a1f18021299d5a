"""How a coordinator is put together."""

import os
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from kumiai.core.arrays import NamedArrays
from kumiai.core.clock import Clock, SystemClock
from kumiai.core.errors import ConfigError
from kumiai.crypto.signatures import Ed25519Verifier
from kumiai.identity import (
    Admission,
    AsyncMTLSAuthenticator,
    CallGate,
    CallLimits,
    Denials,
    Identity,
    LimitRules,
    RefusedCall,
    RevocationWatcher,
    Role,
    TrustBundle,
    WatchedFiles,
    files,
    rotating_server_context,
    verify_own_certificate,
)
from kumiai.node.assembly.auditing import CoordinatorAudit
from kumiai.node.assembly.blobs import new_blob_store
from kumiai.node.assembly.cache import CoordinatorCache
from kumiai.node.assembly.database import new_database
from kumiai.node.assembly.sites import new_site_issuer, new_site_office
from kumiai.node.assembly.studies import load_apps
from kumiai.node.coordinator.aggregation import Aggregator, CentralEvaluator
from kumiai.node.coordinator.blob_service import BlobService, TransferMeter
from kumiai.node.coordinator.budgets import BudgetDesk
from kumiai.node.coordinator.engine import RoundEngine
from kumiai.node.coordinator.evaluations import EvaluationIntake
from kumiai.node.coordinator.intake import UpdateIntake
from kumiai.node.coordinator.leadership import RunSupervisor
from kumiai.node.coordinator.refusals import RefusalLog
from kumiai.node.coordinator.run_facts import RunFactsCache
from kumiai.node.coordinator.secure.desk import SecureDesk
from kumiai.node.coordinator.secure.mailbox import SecureMailbox
from kumiai.node.coordinator.secure.receipts import ReceiptDesk
from kumiai.node.coordinator.secure.summing import SumParts
from kumiai.node.coordinator.secure.sums import OwnKey, SecureSums, VouchedMember
from kumiai.node.coordinator.server import CoordinatorServer, DataDirectory, HttpServer
from kumiai.node.coordinator.session_service import SessionService, SessionTimes
from kumiai.node.coordinator.sessions import SessionHub
from kumiai.node.coordinator.signals import RunSignals
from kumiai.node.coordinator.sites import SiteOffice, SQLDenials
from kumiai.node.coordinator.sweeping import BackgroundSweep
from kumiai.node.coordinator.tasks import TaskWriter
from kumiai.node.coordinator.tokens import TokenDesk
from kumiai.node.coordinator.trust_offers import TrustOffers
from kumiai.node.secure_proofs import proofs_of
from kumiai.node.settings import IdentitySettings, LimitsSettings, Settings
from kumiai.node.signing_key import load_signer, voucher_of
from kumiai.node.study import Site, run_evaluate
from kumiai.node.wire.channel import TlsFiles
from kumiai.node.wire.peers import AuthenticationInterceptor
from kumiai.node.wire.proving import CoordinatorProver
from kumiai.storage import (
    APITokenRepository,
    BlobSweeper,
    BudgetRepository,
    ClientRegistryRepository,
    DatabaseManager,
    LocalBlobStore,
    ModelRepository,
    NearReads,
    RunRepository,
    S3BlobStore,
    SecureRoundRepository,
    SiteDenials,
    TrainingHistoryRepository,
    UpdateInbox,
)

__all__ = ["new_coordinator", "serve_coordinator"]

_WASTED_FACTOR: Final = 5.0
"""From all addresses together so many times as many as over HTTP from one of strangers."""


async def serve_coordinator(
    settings: Settings, *, on_ready: Callable[[CoordinatorServer], None] = lambda _: None
) -> None:
    """Run a coordinator until cancelled.

    Args:
        settings: with absolute paths.
        on_ready: called once both ports are open.

    Raises:
        KumiaiError: it can not start, or can not go on.
    """
    directory = DataDirectory(settings.coordinator.data_dir)
    coordinator_id = directory.lock()
    try:
        server = new_coordinator(settings, coordinator_id)
        await server.start()
        try:
            on_ready(server)
            await server.serve()
        finally:
            await server.stop()
    finally:
        directory.release()


def new_coordinator(settings: Settings, coordinator_id: str) -> CoordinatorServer:
    """Return a coordinator that is ready to start.

    Args:
        settings: with absolute paths.
        coordinator_id: this replica's lasting name; the caller holds its data directory.

    Raises:
        KumiaiError: certificates, revocation list, studies or settings can not be used.
    """
    shared = _shared(settings, coordinator_id)
    supervisor = _supervisor(shared)
    tls = TlsFiles(
        certificate=settings.identity.certificate,
        key=settings.identity.key,
        ca=settings.identity.ca,
    )
    return CoordinatorServer(
        listen=settings.coordinator.listen,
        tls=tls,
        sessions=_session_service(shared),
        blobs=_blob_service(shared),
        hub=shared.hub,
        supervisor=supervisor,
        gate=AuthenticationInterceptor(
            shared.gate,
            shared.clock,
            wasted_per_second=_WASTED_FACTOR * settings.limits.connections_per_second,
            prover=CoordinatorProver(tls, shared.clock),
        ),
        clock=shared.clock,
        http=_http_server(shared, supervisor),
        open_stores=shared.stores.open,
        stores_ended=shared.stores.inbox.ended,
        close_stores=shared.close,
    )


# ------------------------------------------------------------------------- what the parts share


@dataclass(frozen=True, slots=True)
class _Stores:
    """Where a coordinator keeps things, and who may speak of them."""

    database: DatabaseManager
    blobs: LocalBlobStore | S3BlobStore
    inbox: UpdateInbox
    runs: RunRepository
    clients: ClientRegistryRepository
    tokens: APITokenRepository
    cache: CoordinatorCache
    sweep: BackgroundSweep
    audit: CoordinatorAudit
    denials: SiteDenials
    trust: TrustOffers
    budgets: BudgetDesk

    async def open(self) -> None:
        await self.database.connect()
        await self.audit.open(await self.database.migrate())
        await self.budgets.open()
        await self.blobs.check()
        await self.cache.open()
        await self.inbox.start()
        await self.denials.start()
        self.sweep.start()
        self.trust.start()

    def unwell(self) -> list[str]:
        """Return what has ended by an error and does not go on again for sure."""
        return [*self.audit.unwell(), *self.trust.unwell()]


@dataclass(frozen=True, slots=True)
class _Executors:
    """Threads by what they do, so that long work of one kind does not hold up another."""

    checking: ThreadPoolExecutor
    aggregating: ThreadPoolExecutor
    folding: ThreadPoolExecutor

    def shutdown(self) -> None:
        for executor in (self.folding, self.aggregating, self.checking):
            executor.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Shared:
    """What more than one part of a coordinator works with."""

    settings: Settings
    coordinator_id: str
    clock: Clock
    gate: CallGate
    sites: SiteOffice
    stores: _Stores
    executors: _Executors
    hub: SessionHub
    signals: RunSignals
    mailbox: SecureMailbox
    meter: TransferMeter
    tasks: TaskWriter
    facts: RunFactsCache
    aggregator: Aggregator

    async def close(self) -> None:
        # From the last to the first; one that can not be closed does not keep the others open.
        async with AsyncExitStack() as parts:
            parts.callback(self.executors.shutdown)
            parts.push_async_callback(self.stores.blobs.close)
            parts.push_async_callback(self.stores.database.close)
            parts.push_async_callback(self.stores.audit.close)
            parts.push_async_callback(self.stores.cache.close)
            parts.push_async_callback(self.stores.inbox.close)
            parts.push_async_callback(self.stores.sweep.stop)
            parts.push_async_callback(self.stores.denials.stop)
            parts.push_async_callback(self.stores.trust.stop)


def _shared(settings: Settings, coordinator_id: str) -> _Shared:
    clock = SystemClock()
    # Certificates and studies first: what can be wrong about them costs no thread and no file.
    own = _own_identity(settings.identity, clock)
    issuer = new_site_issuer(settings, clock, federation=own.federation)
    evaluator = _central_evaluator(settings)
    hub, signals = SessionHub(clock), RunSignals()
    stores = _stores(settings, clock, coordinator_id, hub)
    executors = _executors(settings)
    refusals = RefusalLog(clock, also=stores.audit.note_refusal)
    gate = _gate(
        settings.identity,
        clock,
        stores.tokens,
        _limit_rules(settings.limits),
        own=own,
        denials=SQLDenials(stores.denials),
        on_refused=refusals.note,
        before_answer=stores.audit.settle_refusal,
    )
    return _Shared(
        settings=settings,
        coordinator_id=coordinator_id,
        clock=clock,
        gate=gate,
        sites=new_site_office(
            settings,
            database=stores.database,
            denials=stores.denials,
            issuer=issuer,
            own=own,
            trail=stores.audit.log,
        ),
        stores=stores,
        executors=executors,
        hub=hub,
        signals=signals,
        mailbox=SecureMailbox(signals.wake),
        meter=TransferMeter(),
        tasks=TaskWriter(stores.runs, stores.budgets.ledger),
        facts=RunFactsCache(runs=stores.runs, blobs=stores.blobs),
        aggregator=Aggregator(
            blobs=stores.blobs,
            worker=executors.aggregating,
            fold_executor=executors.folding,
            fold_threads=settings.coordinator.fold_threads,
            evaluator=evaluator,
        ),
    )


def _limit_rules(limits: LimitsSettings) -> LimitRules:
    return LimitRules(
        identity_calls_per_second=limits.calls_per_second,
        identity_calls_max=limits.calls_burst,
        address_calls_per_second=limits.unknown_calls_per_second,
        address_calls_max=limits.unknown_calls_burst,
        handshakes_per_second=limits.connections_per_second,
        handshakes_max=limits.connections_burst,
        failures_max=limits.refusals_max,
        lockout_seconds=limits.lockout_seconds,
        lockout_seconds_max=limits.lockout_seconds_max,
    )


def _own_identity(settings: IdentitySettings, clock: Clock) -> Identity:
    return verify_own_certificate(
        settings.certificate, settings.key, settings.ca, clock, role=Role.COORDINATOR
    )


def _gate(
    settings: IdentitySettings,
    clock: Clock,
    tokens: APITokenRepository,
    rules: LimitRules,
    *,
    own: Identity,
    denials: Denials,
    on_refused: Callable[[RefusedCall], None],
    before_answer: Callable[[RefusedCall], Awaitable[None]],
) -> CallGate:
    limits = CallLimits(clock, rules)
    revocations = None
    if settings.crl is not None:
        revocations = RevocationWatcher(settings.crl, settings.ca, clock)
    admission = Admission(
        federation=own.federation,
        trust=WatchedFiles((settings.ca,), lambda: TrustBundle.load(settings.ca), clock),
        clock=clock,
        revocations=revocations,
        denials=denials,
        limits=limits,
        clock_skew_seconds=settings.clock_skew_seconds,
    )
    return CallGate(
        AsyncMTLSAuthenticator(admission),
        tokens=TokenDesk(tokens, limits, clock),
        on_refused=on_refused,
        before_answer=before_answer,
    )


def _stores(settings: Settings, clock: Clock, coordinator_id: str, hub: SessionHub) -> _Stores:
    database, blobs = new_database(settings), new_blob_store(settings)
    cache = CoordinatorCache(settings, database)
    audit = CoordinatorAudit(settings, database, clock, coordinator_id, hub)
    return _Stores(
        database=database,
        blobs=blobs,
        inbox=UpdateInbox(database),
        runs=RunRepository(database, trail=audit.log),
        clients=ClientRegistryRepository(database, notes=cache.notes),
        tokens=APITokenRepository(database, trail=audit.log),
        cache=cache,
        audit=audit,
        sweep=BackgroundSweep(
            BlobSweeper(database, blobs), grace_seconds=3600 * settings.storage.grace_hours
        ),
        denials=SiteDenials(database),
        trust=TrustOffers(
            settings.identity.ca,
            hub=hub,
            clock=clock,
            audit=audit.recorder,
            coordinator_id=coordinator_id,
            crl=settings.identity.crl,
        ),
        budgets=BudgetDesk(
            BudgetRepository(database, trail=audit.log),
            settings.coordinator.data_dir,
            coordinator_id,
            audit.recorder,
        ),
    )


def _executors(settings: Settings) -> _Executors:
    def pool(thread_count: int, name: str) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(thread_count, thread_name_prefix=f"kumiai-{name}")

    return _Executors(
        checking=pool(min(4, os.cpu_count() or 1), "check"),
        aggregating=pool(2, "aggregate"),
        folding=pool(settings.coordinator.fold_threads, "fold"),
    )


# ------------------------------------------------------------------------------------- the parts


def _supervisor(shared: _Shared) -> RunSupervisor:
    engine = RoundEngine(
        secure=_secure_sums(shared),
        runs=shared.stores.runs,
        blobs=shared.stores.blobs,
        directory=shared.hub,
        tasks=shared.tasks,
        aggregator=shared.aggregator,
        signals=shared.signals,
        clock=shared.clock,
        budgets=shared.stores.budgets,
    )
    return RunSupervisor(
        engine,
        leader=shared.coordinator_id,
        lease_seconds=shared.settings.coordinator.lease_seconds,
    )


def _secure_sums(shared: _Shared) -> SecureSums:
    identity = shared.settings.identity
    folder = shared.settings.coordinator.data_dir / "secure"
    files.new_private_directory(folder)
    tls = TlsFiles(certificate=identity.certificate, key=identity.key, ca=identity.ca)
    signer = load_signer(folder)
    own = _own_identity(identity, shared.clock)

    def own_key() -> OwnKey:
        voucher = voucher_of(signer, tls, shared.clock.now())
        return OwnKey(VouchedMember(own.name, signer.public, voucher), signer)

    return SecureSums(
        SumParts(
            repository=SecureRoundRepository(shared.stores.database, trail=shared.stores.audit.log),
            blobs=shared.stores.blobs,
            carrier=shared.hub,
            worker=shared.executors.aggregating,
        ),
        members=shared.hub,
        mailbox=shared.mailbox,
        own_key=own_key,
        verifier=Ed25519Verifier(),
        proofs=proofs_of,
        facts=shared.facts,
    )


def _session_service(shared: _Shared) -> SessionService:
    stores, signals = shared.stores, shared.signals
    return SessionService(
        coordinator_id=shared.coordinator_id,
        hub=shared.hub,
        runs=stores.runs,
        clients=stores.clients,
        evaluations=EvaluationIntake(inbox=stores.inbox, signals=signals, facts=shared.facts),
        tasks=shared.tasks,
        signals=signals,
        clock=shared.clock,
        times=SessionTimes(heartbeat_seconds=shared.settings.coordinator.heartbeat_seconds),
        checkpoints=stores.audit.offers,
        audit=stores.audit.recorder,
        sites=shared.sites,
        trust=stores.trust,
        secure=SecureDesk(
            shared.mailbox,
            ReceiptDesk(stores.runs, SecureRoundRepository(stores.database)),
            ca=shared.settings.identity.ca,
            clock=shared.clock,
        ),
    )


def _blob_service(shared: _Shared) -> BlobService:
    stores = shared.stores
    intake = UpdateIntake(
        runs=stores.runs,
        inbox=stores.inbox,
        blobs=stores.blobs,
        signals=shared.signals,
        facts=shared.facts,
        executor=shared.executors.checking,
    )
    return BlobService(
        runs=stores.runs,
        blobs=stores.blobs,
        intake=intake,
        meter=shared.meter,
    )


def _http_server(shared: _Shared, supervisor: RunSupervisor) -> HttpServer:
    from kumiai.node.http import (  # noqa: PLC0415 - FastAPI costs a third of a second
        ApiDependencies,
        create_app,
        new_http_server,
    )

    stores, log = shared.stores, shared.stores.audit.log
    app = create_app(
        ApiDependencies(
            database=stores.database,
            runs=stores.runs,
            near=NearReads(runs=stores.runs, clients=stores.clients, cache=stores.cache.pattern),
            history=TrainingHistoryRepository(stores.database, notes=stores.cache.notes, trail=log),
            models=ModelRepository(stores.database, notes=stores.cache.notes, trail=log),
            secure=SecureRoundRepository(stores.database),
            audit=log,
            blobs=stores.blobs,
            hub=shared.hub,
            supervisor=supervisor,
            signals=shared.signals,
            gate=shared.gate,
            sites=shared.sites,
            meter=shared.meter,
            clock=shared.clock,
            coordinator_id=shared.coordinator_id,
            can_evaluate=shared.aggregator.can_evaluate,
            tokens=stores.tokens,
            budgets=stores.budgets,
            token_days_max=shared.settings.coordinator.token_days_max,
            unwell=stores.unwell,
        )
    )
    identity = shared.settings.identity
    tls = rotating_server_context(
        identity.certificate,
        identity.key,
        identity.ca,
        shared.clock,
        client_certificate="optional",
    )
    return new_http_server(app, shared.settings.coordinator.http_listen, tls, shared.gate)


def _central_evaluator(settings: Settings) -> CentralEvaluator | None:
    apps = load_apps(settings.coordinator.apps, "coordinator.apps")
    if not apps:
        return None
    site = Site("coordinator", settings.coordinator.data)

    def evaluate(name: str, weights: NamedArrays, config: Mapping[str, Any]) -> Mapping[str, float]:
        if name not in apps:
            raise ConfigError(f"app {name!r} is not installed at the coordinator")
        app = apps[name]
        return run_evaluate(app, weights, app.context(site, config=config)).metrics

    return evaluate
