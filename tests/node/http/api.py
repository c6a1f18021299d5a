"""A coordinator's HTTP side on loopback, over real stores, with its callers' certificates."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI

from kumiai.core.clock import SystemClock
from kumiai.core.codec import encode
from kumiai.core.digest import digest_of
from kumiai.core.ids import new_id
from kumiai.identity import (
    Admission,
    AsyncMTLSAuthenticator,
    CallGate,
    CallLimits,
    CertificateManager,
    IssuedCertificate,
    RevocationWatcher,
    Role,
    TrustBundle,
    WatchedFiles,
    client_context,
    server_context,
)
from kumiai.identity.audit import AuditScribe
from kumiai.node.assembly.sites import new_site_issuer, new_site_office
from kumiai.node.coordinator.aggregation import Aggregator
from kumiai.node.coordinator.auditing import AuditRecorder
from kumiai.node.coordinator.blob_service import TransferMeter
from kumiai.node.coordinator.budgets import BudgetDesk
from kumiai.node.coordinator.engine import RoundEngine
from kumiai.node.coordinator.leadership import RunSupervisor
from kumiai.node.coordinator.sessions import ClientSession, SessionHub
from kumiai.node.coordinator.signals import RunSignals
from kumiai.node.coordinator.sites import SQLDenials
from kumiai.node.coordinator.tasks import TaskWriter
from kumiai.node.coordinator.tokens import TokenDesk
from kumiai.node.http import ApiDependencies, create_app, new_http_server
from kumiai.node.settings import IdentitySettings, Settings, SitesSettings
from kumiai.storage import (
    APITokenRepository,
    AuditLog,
    BudgetRepository,
    ClientRegistryRepository,
    DatabaseManager,
    Lease,
    LocalBlobStore,
    ModelRepository,
    NearReads,
    RunRepository,
    SecureRoundRepository,
    SiteDenials,
    TrainingHistoryRepository,
)

FEDERATION = "hospitals"
COORDINATOR = "coordinator-test"


class ShiftedClock:
    """The machine's clock, put forward by as much as a test likes."""

    def __init__(self) -> None:
        self._real = SystemClock()
        self.shift = 0.0

    def now(self) -> float:
        return self._real.now() + self.shift

    def monotonic(self) -> float:
        return self._real.monotonic() + self.shift


class Certificates:
    """A federation's authority, one certificate for each role, and a foreign authority."""

    def __init__(self, folder: Path) -> None:
        self.authority = CertificateManager(folder / "ca", clock=SystemClock())
        self.authority.create(FEDERATION)
        self.coordinator = self.authority.issue(
            Role.COORDINATOR,
            "coordinator",
            hosts=["localhost", "127.0.0.1"],
            out_dir=folder / "coordinator",
        )
        self.operator = self.authority.issue(Role.OPERATOR, "olivia", out_dir=folder / "operator")
        self.client = self.authority.issue(Role.CLIENT, "hospital-a", out_dir=folder / "client")
        self.scientist = self.issue(Role.DATA_SCIENTIST, "sonia", folder)
        self.auditor = self.issue(Role.AUDITOR, "aude", folder)
        self.recoverer = self.issue(Role.RECOVERY_OPERATOR, "remy", folder)
        self.issuer = self.authority.delegate(out_dir=folder / "sites")
        foreign = CertificateManager(folder / "foreign-ca", clock=SystemClock())
        foreign.create(FEDERATION)
        self.foreigner = foreign.issue(Role.OPERATOR, "olivia", out_dir=folder / "foreign")

    def settings(self, **sites: Any) -> Settings:
        """Return the settings of a coordinator that signs for sites."""
        own, issuer = self.coordinator, self.issuer
        issuing = {"issuer_certificate": issuer.cert, "issuer_key": issuer.key, **sites}
        return Settings(
            identity=IdentitySettings(certificate=own.cert, key=own.key, ca=own.ca),
            sites=SitesSettings(**issuing),
        )

    def issue(self, role: Role, name: str, folder: Path) -> IssuedCertificate:
        return self.authority.issue(role, name, out_dir=folder / role)

    def context(self, issued: IssuedCertificate | None) -> ssl.SSLContext:
        """Return the context of a caller, who trusts this authority whoever it is itself."""
        if issued is None:
            context = ssl.create_default_context(cafile=self.coordinator.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            return context
        return client_context(issued.cert, issued.key, self.coordinator.ca)


@dataclass
class RunningApi:
    """The server, what it works with, and how to call it."""

    parts: ApiDependencies
    app: FastAPI
    clock: ShiftedClock
    certificates: Certificates
    url: str
    revocations: RevocationWatcher
    blob_folder: Path
    stop: Callable[[], Awaitable[None]]
    clients: dict[str, httpx.AsyncClient] = field(default_factory=dict)

    def caller(self, issued: IssuedCertificate | None) -> httpx.AsyncClient:
        """Return a client with this certificate, or with none; closed with the server."""
        name = "" if issued is None else str(issued.cert)
        if name not in self.clients:
            self.clients[name] = httpx.AsyncClient(
                base_url=self.url,
                verify=self.certificates.context(issued),
                trust_env=False,
                timeout=60,  # a busy machine is no failure
            )
        return self.clients[name]

    @property
    def operator(self) -> httpx.AsyncClient:
        return self.caller(self.certificates.operator)

    @property
    def runs(self) -> RunRepository:
        return self.parts.runs

    def stored_files(self) -> list[str]:
        """Return the files of the blob store, unfinished ones too."""
        return [path.name for path in self.blob_folder.rglob("*") if path.is_file()]

    def attach(
        self, client_id: str, *, apps: tuple[str, ...] = ("digits",), phase: str = "idle"
    ) -> ClientSession:
        """Let a client have a session here, as the session service does."""
        session = ClientSession(
            client_id=client_id,
            instance_id=f"{client_id}-1",
            address="127.0.0.1:1",
            software_version="0.1.0",
            apps=apps,
            attached_at=self.clock.now(),
            last_heard=self.clock.monotonic(),
            phase=phase,
        )
        self.parts.hub.attach(session)
        return session

    @property
    def registry(self) -> ClientRegistryRepository:
        """The registry that sessions write into."""
        return ClientRegistryRepository(self.parts.database)

    async def register(self, client_id: str, *, apps: tuple[str, ...] = ("digits",)) -> None:
        """Note in the registry that a client attached."""
        await self.registry.attach(
            client_id=client_id,
            instance_id=f"{client_id}-1",
            software_version="0.1.0",
            apps=apps,
            address="127.0.0.1:1",
        )

    async def upload(self, run_id: str, body: bytes) -> httpx.Response:
        return await self.operator.put(
            f"/api/v1/runs/{run_id}/model",
            content=body,
            headers={"X-Kumiai-Digest": digest_of([body])},
        )

    async def submit(
        self, run_id: str | None = None, *, job: Mapping[str, Any] | None = None
    ) -> str:
        """Upload a model and create a run; return its id."""
        run_id, body = run_id or new_id("run"), model_bytes()
        (await self.upload(run_id, body)).raise_for_status()
        answer = await self.operator.put(
            f"/api/v1/runs/{run_id}",
            json={"job": job or job_with(), "model_digest": digest_of([body])},
        )
        answer.raise_for_status()
        return run_id

    async def lead(self, run_id: str, leader: str = COORDINATOR) -> Lease:
        """Take the lease and start the run, as a driver does."""
        lease = await self.runs.acquire_lease(run_id, leader, 60.0)
        if lease is None:
            raise RuntimeError("the lease must be free in a test")
        await self.runs.start(lease)
        return lease

    async def open_round(
        self, lease: Lease, number: int, clients: list[str], *, quorum: int = 1
    ) -> None:
        run = await self.runs.get(lease.run_id)
        await self.runs.open_round(
            lease,
            round=number,
            base_digest=run.model_digest,
            target_reports=len(clients),
            min_reports=quorum,
            deadline_seconds=60.0,
            clients=[(client, 1) for client in clients],
        )

    async def publish_round(self, lease: Lease, number: int, body: bytes | None = None) -> str:
        """Close and publish a round; return the new model's digest."""
        digest = await self.parts.blobs.put(
            f"models/{lease.run_id}", [body or model_bytes(float(number))]
        )
        updates = await self.runs.close_round(lease, number, "every report is in")
        await self.runs.publish_round(
            lease,
            round=number,
            model_digest=digest,
            model_size_bytes=len(body or model_bytes(float(number))),
            state_digest=None,
            reports=len(updates),
            examples=10,
            metrics={"loss": 0.5},
        )
        return digest


@contextlib.asynccontextmanager
async def raw_connection(
    api: RunningApi,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a connection on which a test writes what it likes."""
    context = api.certificates.context(api.certificates.operator)
    host, port = api.url.removeprefix("https://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


def model_bytes(value: float = 0.0, *, size: int = 3) -> bytes:
    """Return a small model as bytes."""
    arrays = {"weights": np.full(size, value, np.float32), "steps": np.zeros((), np.int64)}
    return b"".join(encode(arrays))


def job_with(**tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return a valid job with these tables' keys changed."""
    job: dict[str, Any] = {"run": {"app": "digits", "name": "study", "rounds": 3}}
    for table, values in tables.items():
        job[table] = {**job.get(table, {}), **values}
    return job


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    """Return status, kind and message of a refusal."""
    error = answer.json()["error"]
    return answer.status_code, error["kind"], error["message"]


@dataclass(frozen=True)
class Message:
    """One Server-Sent Event."""

    kind: str
    data: dict[str, Any]
    number: str | None


async def messages_of(lines: AsyncIterator[str]) -> AsyncIterator[Message]:
    """Yield the messages of a stream."""
    fields: dict[str, str] = {}
    async for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
            continue
        if "data" in fields:
            yield Message(fields["event"], json.loads(fields["data"]), fields.get("id"))
        fields = {}


@contextlib.asynccontextmanager
async def running_api(
    certificates: Certificates, database: DatabaseManager, folder: Path, **changes: Any
) -> AsyncIterator[RunningApi]:
    """Serve the API over these stores until the block ends."""
    clock, own = ShiftedClock(), certificates.coordinator
    denials = SiteDenials(database)
    revocations = RevocationWatcher(
        certificates.authority.revocation_list_path, certificates.coordinator.ca, clock
    )
    log = AuditLog(database, AuditScribe())
    blobs, hub = LocalBlobStore(folder / "blobs"), SessionHub(clock)
    runs = RunRepository(database, trail=log)
    tokens, limits = APITokenRepository(database, trail=log), CallLimits(clock)
    signals = RunSignals()
    with ThreadPoolExecutor(1) as worker:
        engine = RoundEngine(
            runs=runs,
            blobs=blobs,
            directory=hub,
            tasks=TaskWriter(runs),
            aggregator=Aggregator(blobs=blobs, worker=worker),
            signals=signals,
            clock=clock,
        )
        values: dict[str, Any] = {
            "database": database,
            "runs": runs,
            "history": TrainingHistoryRepository(database, trail=log),
            "secure": SecureRoundRepository(database),
            "models": ModelRepository(database, trail=log),
            "audit": log,
            "tokens": tokens,
            "budgets": BudgetDesk(
                BudgetRepository(database, trail=log),
                folder,
                COORDINATOR,
                AuditRecorder(log, clock, COORDINATOR),
            ),
            "near": NearReads(runs=runs, clients=ClientRegistryRepository(database)),
            "blobs": blobs,
            "hub": hub,
            "supervisor": RunSupervisor(engine, leader=COORDINATOR),
            "signals": signals,
            "sites": new_site_office(
                certificates.settings(),
                database=database,
                denials=denials,
                issuer=new_site_issuer(certificates.settings(), clock, federation=FEDERATION),
                own=own.identity,
            ),
            "gate": CallGate(
                AsyncMTLSAuthenticator(
                    Admission(
                        federation=FEDERATION,
                        trust=WatchedFiles((own.ca,), lambda: TrustBundle.load(own.ca), clock),
                        clock=clock,
                        revocations=revocations,
                        denials=SQLDenials(denials),
                        limits=limits,
                    )
                ),
                tokens=TokenDesk(tokens, limits, clock),
            ),
            "meter": TransferMeter(),
            "clock": clock,
            "coordinator_id": COORDINATOR,
            "can_evaluate": False,
            **changes,
        }
        parts = ApiDependencies(**values)
        app = create_app(parts)
        server = new_http_server(
            app,
            "127.0.0.1:0",
            server_context(own.cert, own.key, own.ca, client_certificate="optional"),
            parts.gate,
        )
        port = await server.start()
        api = RunningApi(
            parts=parts,
            app=app,
            clock=clock,
            certificates=certificates,
            url=f"https://127.0.0.1:{port}",
            revocations=revocations,
            blob_folder=folder / "blobs",
            stop=server.stop,
        )
        try:
            yield api
        finally:
            await asyncio.gather(*(client.aclose() for client in api.clients.values()))
            await server.stop()
            await blobs.close()
