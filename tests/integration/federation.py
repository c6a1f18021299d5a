"""A federation for tests: one coordinator and its clients over real mutual TLS on loopback.

Everything runs in the test's event loop, so that a test sees both ends; whole processes that are
killed are the business of the system tests.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from kumiai.core.clock import SystemClock
from kumiai.core.codec import decode, encode
from kumiai.core.digest import digest_of
from kumiai.core.ids import new_id
from kumiai.identity import CertificateManager, IssuedCertificate, Role, client_context
from kumiai.node.assembly.client import new_client
from kumiai.node.assembly.coordinator import new_coordinator
from kumiai.node.client.agent import ClientAgent
from kumiai.node.coordinator.server import CoordinatorServer
from kumiai.node.settings import Settings
from kumiai.node.study import App, Update, initial_model
from tests.integration.eventually import eventually

STUDY = "tests.integration.study:app"


@dataclass
class Federation:
    """One coordinator, its certificates, and the clients that were started."""

    folder: Path
    database_url: str
    settings: dict[str, Any] = field(default_factory=dict)
    storage: dict[str, Any] = field(default_factory=dict)
    sites: dict[str, Any] = field(default_factory=dict)
    client_settings: dict[str, Any] = field(default_factory=dict)
    server: CoordinatorServer | None = None
    clients: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)
    agents: dict[str, ClientAgent] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.authority = CertificateManager(self.folder / "ca", clock=SystemClock())
        self.authority.create("test")
        self.certificates = {
            "coordinator": self.issue(Role.COORDINATOR, "coordinator"),
            "operator": self.issue(Role.OPERATOR, "operator"),
        }

    def issue(self, role: Role, name: str) -> IssuedCertificate:
        hosts = ("localhost", "127.0.0.1") if role is Role.COORDINATOR else ()
        return self.authority.issue(role, name, hosts=hosts, out_dir=self.folder / role / name)

    def _identity(self, issued: IssuedCertificate) -> dict[str, Any]:
        return {"certificate": issued.cert, "key": issued.key, "ca": issued.ca}

    async def start(self) -> None:
        """Start the coordinator; a second time on the ports of the first."""
        crl = self.authority.revocation_list_path
        self.authority.revocation_list()
        ports = (self.server.port, self.server.http_port) if self.server else (0, 0)
        settings = Settings.model_validate(
            {
                "identity": {**self._identity(self.certificates["coordinator"]), "crl": crl},
                "storage": {"database": self.database_url, **self.storage},
                "sites": self.sites,
                "coordinator": {
                    "listen": f"127.0.0.1:{ports[0]}",
                    "http_listen": f"127.0.0.1:{ports[1]}",
                    "data_dir": self.folder / "data",
                    "heartbeat_seconds": 2.0,
                    **self.settings,
                },
            }
        )
        self.server = new_coordinator(settings, "coordinator-under-test")
        await self.server.start()

    async def stop(self) -> None:
        """Stop all clients, then the coordinator."""
        for name in list(self.clients):
            await self.stop_client(name)
        if self.server is not None:
            async with asyncio.timeout(30):
                await self.server.stop()

    def start_client(
        self,
        name: str,
        *,
        certificate: IssuedCertificate | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> "asyncio.Task[None]":
        """Start a client; its task ends with the error that ended the client."""
        assert self.server is not None
        issued = certificate or self.certificates.get(name) or self.issue(Role.CLIENT, name)
        self.certificates[name] = issued
        settings = Settings.model_validate(
            {
                "identity": self._identity(issued),
                "client": {
                    "coordinator": f"localhost:{self.server.port}",
                    "state_dir": self.folder / "clients" / name,
                    "apps": [STUDY],
                    "data": dict(data or {}),
                    **self.client_settings,
                },
            }
        )
        agent = new_client(settings)
        self.agents[name] = agent
        self.clients[name] = asyncio.create_task(agent.run())
        return self.clients[name]

    async def start_clients(self, count: int) -> None:
        """Start clients site-1 … and wait until they are attached."""
        for number in range(1, count + 1):
            self.start_client(f"site-{number}", data={"number": number})
        await asyncio.gather(*(agent.attached.wait() for agent in self.agents.values()))

    async def stop_client(self, name: str) -> None:
        """End a client as a crash would: without a word."""
        task = self.clients.pop(name)
        task.cancel()
        _, still_running = await asyncio.wait({task}, timeout=30)
        assert not still_running, f"{name} did not end"
        if not task.cancelled():
            task.exception()  # seen: a test that expects it awaits the task itself
        del self.agents[name]

    def http(self, name: str = "operator") -> httpx.AsyncClient:
        """Return an HTTP client with this certificate."""
        assert self.server is not None
        issued = self.certificates[name]
        return httpx.AsyncClient(
            base_url=f"https://localhost:{self.server.http_port}",
            verify=client_context(issued.cert, issued.key, issued.ca),
            timeout=60,
        )

    async def submit(self, job: Mapping[str, Any], app: App) -> str:
        """Submit a job with the study's initial model; return the run's id."""
        run_id = new_id("run")
        buffers = encode(initial_model(app, job.get("train", {}), seed=0))
        body, digest = b"".join(buffers), digest_of(buffers)
        async with self.http() as http:
            upload = await http.put(
                f"/api/v1/runs/{run_id}/model", content=body, headers={"X-Kumiai-Digest": digest}
            )
            assert upload.status_code == 200, upload.text
            created = await http.put(
                f"/api/v1/runs/{run_id}", json={"job": dict(job), "model_digest": digest}
            )
            assert created.status_code == 201, created.text
        return run_id

    async def until(
        self, run_id: str, is_so: Callable[[Any], object], *, seconds: float = 60
    ) -> Any:
        """Return the run once it is as wanted."""
        async with self.http() as http:

            async def look() -> Any:
                return (await http.get(f"/api/v1/runs/{run_id}")).json()

            return await eventually(look, is_so, seconds=seconds)

    async def until_round(self, run_id: str, number: int) -> Any:
        """Return the run once it has come to this round."""
        return await self.until(run_id, lambda run: run["round"] >= number)

    async def wait_for(self, run_id: str, state: str = "finished", seconds: float = 60) -> Any:
        """Return the run once it has ended."""
        run = await self.until(run_id, _has_ended, seconds=seconds)
        assert run["state"] == state, run
        return run

    async def model(self, run_id: str, version: str = "latest") -> dict[str, np.ndarray[Any, Any]]:
        """Return a model of a run."""
        async with self.http() as http:
            answer = await http.get(f"/api/v1/runs/{run_id}/models/{version}/content")
            assert answer.status_code == 200, answer.text
            return dict(decode(answer.content).arrays)


def _has_ended(run: Any) -> bool:
    return run["state"] in {"finished", "failed", "stopped"}


def job(**tables: Any) -> dict[str, Any]:
    """Return a small job for the test study."""
    run = {"app": "counting", "rounds": 3, **tables.pop("run", {})}
    return {"run": run, **tables}


__all__ = ["STUDY", "Federation", "Update", "job"]
