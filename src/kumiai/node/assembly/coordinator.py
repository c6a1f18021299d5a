"""How a coordinator is put together."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

from kumiai.core.arrays import NamedArrays
from kumiai.core.clock import SystemClock
from kumiai.core.errors import ConfigError
from kumiai.identity import (
    RevocationWatcher,
    Role,
    server_context,
    verify_own_certificate,
)
from kumiai.node.assembly.studies import load_apps
from kumiai.node.coordinator.aggregation import Aggregator, CentralEvaluator
from kumiai.node.coordinator.blob_service import BlobService, TransferMeter
from kumiai.node.coordinator.evaluations import EvaluationIntake
from kumiai.node.coordinator.intake import UpdateIntake
from kumiai.node.coordinator.leadership import RunSupervisor
from kumiai.node.coordinator.rounds import RoundEngine
from kumiai.node.coordinator.run_facts import RunFactsCache
from kumiai.node.coordinator.server import CoordinatorServer, DataDirectory
from kumiai.node.coordinator.session_service import SessionService, SessionTimes
from kumiai.node.coordinator.sessions import SessionHub
from kumiai.node.coordinator.signals import RunSignals
from kumiai.node.coordinator.tasks import TaskWriter
from kumiai.node.settings import Settings
from kumiai.node.study import Site, run_evaluate
from kumiai.node.wire.channel import TlsFiles
from kumiai.node.wire.peers import PeerAuthenticator
from kumiai.storage import (
    ClientRegistryRepository,
    DatabaseManager,
    LocalBlobStore,
    RunRepository,
    UpdateInbox,
)

__all__ = ["new_coordinator", "serve_coordinator"]


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
    from kumiai.node.http import (  # noqa: PLC0415 - FastAPI costs a third of a second
        ApiDependencies,
        create_app,
        new_http_server,
    )

    clock = SystemClock()
    own = verify_own_certificate(
        settings.identity.certificate,
        settings.identity.key,
        settings.identity.ca,
        clock,
        role=Role.COORDINATOR,
    )
    revocations = None
    if settings.identity.crl is not None:
        revocations = RevocationWatcher(settings.identity.crl, settings.identity.ca, clock)
    authenticator = PeerAuthenticator(
        federation=own.federation, clock=clock, revocations=revocations
    )
    database = DatabaseManager(_database_url(settings), pool_size=settings.storage.pool_size)
    blobs = LocalBlobStore(settings.coordinator.data_dir / "blobs")
    runs, clients = RunRepository(database), ClientRegistryRepository(database)
    inbox, signals, meter = UpdateInbox(database), RunSignals(), TransferMeter()
    facts = RunFactsCache(runs=runs, blobs=blobs)
    checkers = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="kumiai-check")
    workers = ThreadPoolExecutor(2, thread_name_prefix="kumiai-aggregate")
    folders = ThreadPoolExecutor(
        settings.coordinator.fold_threads, thread_name_prefix="kumiai-fold"
    )
    evaluator = _central_evaluator(settings)
    aggregator = Aggregator(
        blobs=blobs,
        worker=workers,
        fold_executor=folders,
        fold_threads=settings.coordinator.fold_threads,
        evaluator=evaluator,
    )
    hub, tasks = SessionHub(clock), TaskWriter(runs)
    engine = RoundEngine(
        runs=runs,
        blobs=blobs,
        directory=hub,
        tasks=tasks,
        aggregator=aggregator,
        signals=signals,
        clock=clock,
    )
    supervisor = RunSupervisor(
        engine, leader=coordinator_id, lease_seconds=settings.coordinator.lease_seconds
    )
    intake = UpdateIntake(
        runs=runs, inbox=inbox, blobs=blobs, signals=signals, facts=facts, executor=checkers
    )
    sessions = SessionService(
        coordinator_id=coordinator_id,
        authenticator=authenticator,
        hub=hub,
        runs=runs,
        clients=clients,
        evaluations=EvaluationIntake(inbox=inbox, signals=signals, facts=facts),
        tasks=tasks,
        signals=signals,
        clock=clock,
        times=SessionTimes(heartbeat_seconds=settings.coordinator.heartbeat_seconds),
    )
    blob_service = BlobService(
        authenticator=authenticator, runs=runs, blobs=blobs, intake=intake, meter=meter
    )
    app = create_app(
        ApiDependencies(
            database=database,
            runs=runs,
            clients=clients,
            blobs=blobs,
            hub=hub,
            supervisor=supervisor,
            signals=signals,
            authenticator=authenticator,
            meter=meter,
            clock=clock,
            coordinator_id=coordinator_id,
            can_evaluate=aggregator.can_evaluate,
        )
    )

    async def open_stores() -> None:
        await database.connect()
        await database.migrate()
        await inbox.start()

    async def close_stores() -> None:
        # From the last to the first; one that can not be closed does not keep the others open.
        async with AsyncExitStack() as parts:
            for executor in (checkers, workers, folders):
                parts.callback(executor.shutdown, wait=False, cancel_futures=True)
            parts.push_async_callback(blobs.close)
            parts.push_async_callback(database.close)
            parts.push_async_callback(inbox.close)

    identity = settings.identity
    return CoordinatorServer(
        listen=settings.coordinator.listen,
        tls=TlsFiles(certificate=identity.certificate, key=identity.key, ca=identity.ca),
        sessions=sessions,
        blobs=blob_service,
        hub=hub,
        supervisor=supervisor,
        http=new_http_server(
            app,
            settings.coordinator.http_listen,
            server_context(
                identity.certificate,
                identity.key,
                identity.ca,
                client_certificate="optional",
            ),
        ),
        open_stores=open_stores,
        stores_ended=inbox.ended,
        close_stores=close_stores,
    )


def _database_url(settings: Settings) -> str:
    if settings.storage.database is not None:
        return settings.storage.database.get_secret_value()
    return f"sqlite:///{settings.coordinator.data_dir.resolve() / 'kumiai.db'}"


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
