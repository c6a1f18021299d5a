"""A federation on PostgreSQL, Redis and S3, all of them processes, and its command line.

Everything lives in the event loop of a thread, so that one federation serves all tests of a module
whatever their own loops are. The servers are its own: tests kill them.
"""

import asyncio
import itertools
import json
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kumiai.node.local.federation import LocalFederation, ProcessOptions
from kumiai.node.local.folder import Tables
from kumiai.testing.databases import PostgresServer
from kumiai.testing.redis_server import RedisServer
from kumiai.testing.s3_server import S3Server
from tests.node.cli.program import STUDY
from tests.zygote import Zygote

SITES = ("site-1", "site-2", "site-3")
PREFIX = "federation"
ENDED = ("finished", "failed", "stopped")
_SECONDS = 90.0
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command has left behind."""

    code: int | None
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The standard output as JSON."""
        return json.loads(self.out)


class Platform:
    """A coordinator and three clients on servers of their own.

    Args:
        folder: of its own.
        zygote: forks the commands.
        config: tables of the coordinator's settings, laid over the usual ones.
        redis_password: that Redis asks for; none: it asks for none.
        database_password: stands in the coordinator's settings; the database takes any.
        log_level: of every process.
    """

    def __init__(
        self,
        folder: Path,
        zygote: Zygote,
        *,
        config: Tables | None = None,
        redis_password: str = "",
        database_password: str = "kumiai",
        log_level: str = "info",
    ) -> None:
        self.folder = folder
        self._zygote = zygote
        self._numbers = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.postgres = PostgresServer()
        asked = {"requirepass": redis_password} if redis_password else {}
        self.redis = RedisServer({"appendonly": "yes", **asked})
        self.redis_url = self.redis.url.replace("//", f"//:{redis_password}@" if asked else "//")
        self.s3 = S3Server()
        self.database_url = self.postgres.new_database(migrated=False).replace(
            ":kumiai@", f":{database_password}@"
        )
        self.processes = LocalFederation(
            folder / "federation",
            client_names=SITES,
            apps=[str(STUDY)],
            database_url=self.database_url,
            log_level=log_level,
            coordinator=ProcessOptions(config={**self._coordinator_tables(), **(config or {})}),
        )

    def start(self) -> None:
        """Start the coordinator and its clients."""
        self.do(self.processes.start())

    def close(self) -> None:
        """End everything."""
        self.do(self.processes.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        for server in (self.postgres, self.redis, self.s3):
            server.remove()

    def do(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine where the federation lives."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_SECONDS)

    def kumiai(self, *arguments: object, environ: Mapping[str, str] | None = None) -> Outcome:
        """Run a command as the operator, to its end."""
        return self.as_member("operator", *arguments, environ=environ)

    def as_member(
        self, path: str, *arguments: object, environ: Mapping[str, str] | None = None
    ) -> Outcome:
        """Run a command with the settings of a member, named by its folder."""
        config = self.processes.folder.path / path / "kumiai.toml"
        return self.do(self._run(["--config", config, *arguments], environ or {}))

    def submit(self, job: Path, *options: object) -> str:
        """Submit a run and return its id."""
        outcome = self.kumiai("run", "submit", job, "--app", STUDY, "-o", "json", *options)
        assert outcome.code == 0, outcome.err
        run_id: str = outcome.data["run_id"]
        return run_id

    def wait_for(self, run_id: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the run once it is so."""

        async def wait() -> dict[str, Any]:
            while not is_so(run := await self.processes.api.run(run_id)):
                await asyncio.sleep(0.02)
            return run

        return self.do(wait())

    def wait_for_round(self, run_id: str, number: int) -> None:
        """Return once the run is in this round."""
        self.wait_for(run_id, lambda run: run["round"] >= number)

    def wait_for_end(self, run_id: str) -> dict[str, Any]:
        """Return the run once it has ended."""
        return self.wait_for(run_id, lambda run: run["state"] in ENDED)

    async def _run(self, arguments: list[Any], environ: Mapping[str, str]) -> Outcome:
        name = f"command-{next(self._numbers)}"
        out, err = self.folder / f"{name}.out", self.folder / f"{name}.err"
        child = await self._zygote.fork(
            [str(each) for each in arguments],
            environment={"NO_COLOR": "1", "COLUMNS": "200", **environ},
            log=err,
            output=out,
            is_counted=True,
        )
        await child.ended()
        return Outcome(child.exit_code, out.read_text(), err.read_text())

    def _coordinator_tables(self) -> dict[str, dict[str, Any]]:
        keys = self.folder / "s3-keys"
        keys.write_text(
            "[default]\n"
            f"aws_access_key_id = {self.s3.access_key}\n"
            f"aws_secret_access_key = {self.s3.secret_key}\n"
        )
        return {
            "identity": {"crl": str(self.folder / "federation" / "ca" / "ca.crl")},
            "storage": {
                "redis": f"{self.redis_url}/0",
                "blobs": f"s3://{self.s3.bucket}/{PREFIX}",
                "s3_endpoint": self.s3.endpoint,
                "s3_credentials": str(keys),
            },
            "coordinator": {"heartbeat_seconds": 0.5, "lease_seconds": 1.0},
        }
