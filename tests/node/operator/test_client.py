"""The operator's client against servers that are not, or no longer, a coordinator.

What it does with a real coordinator is shown in ``cli/test_run_commands.py``.
"""

import http.server
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kumiai.core.clock import SystemClock
from kumiai.core.digest import digest_of
from kumiai.core.error_kinds import ERRORS_BY_KIND
from kumiai.core.errors import (
    CertificateError,
    ConfigError,
    ConflictError,
    DeadlineError,
    IntegrityError,
    KumiaiError,
    NotFoundError,
    StorageError,
    TransportError,
)
from kumiai.identity import (
    CertificateManager,
    IssuedCertificate,
    Role,
    client_context,
    server_context,
)
from kumiai.node.operator.client import OperatorClient, address_of
from kumiai.node.settings import IdentitySettings, OperatorSettings, Settings

Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[Role, IssuedCertificate]:
    folder = tmp_path_factory.mktemp("members")
    authority = CertificateManager(folder / "ca", clock=SystemClock())
    authority.create("hospitals")
    return {
        Role.OPERATOR: authority.issue(Role.OPERATOR, "ada", out_dir=folder / "ada"),
        Role.COORDINATOR: authority.issue(
            Role.COORDINATOR, "c", hosts=["localhost", "127.0.0.1"], out_dir=folder / "c"
        ),
    }


class OtherServer:
    """An HTTPS server that answers each request with the next of its answers."""

    def __init__(self, certificate: IssuedCertificate) -> None:
        self.answers: list[Answer | None] = []
        self.asked: list[tuple[str, str, bytes]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.asked.append((self.command, self.path, body))
                answer = outer.answers.pop(0)
                if answer is None:
                    outer.silence.wait(30)
                    return
                status, headers, content = answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_POST = handle_any  # noqa: N815 - the base class's names

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass

        self.silence = threading.Event()
        self._server = Server(("127.0.0.1", 0), Handler)
        context = server_context(
            certificate.cert, certificate.key, certificate.ca, client_certificate="optional"
        )
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.silence.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server(members: dict[Role, IssuedCertificate]) -> Iterator[OtherServer]:
    running = OtherServer(members[Role.COORDINATOR])
    yield running
    running.close()


@pytest.fixture
def connect(
    server: OtherServer, members: dict[Role, IssuedCertificate]
) -> Iterator[Callable[..., OperatorClient]]:
    """Make clients of the server; what they pause is noted, not waited for."""
    opened = []
    own = members[Role.OPERATOR]

    def connect(**changes: Any) -> OperatorClient:
        options: dict[str, Any] = {
            "url": server.url,
            "context": client_context(own.cert, own.key, own.ca),
            "timeout_seconds": 5.0,
            "diagnose": lambda: None,
            "pause": lambda _seconds: None,
        }
        client = OperatorClient(**(options | changes))
        opened.append(client)
        return client

    yield connect
    for client in opened:
        client.__exit__()


def answer(text: str, status: int = 200, **headers: str) -> Answer:
    return status, {name.replace("_", "-"): each for name, each in headers.items()}, text.encode()


@pytest.mark.parametrize("kind", sorted(ERRORS_BY_KIND))
def test_an_error_arrives_as_the_one_it_was(
    server: OtherServer, connect: Callable[..., OperatorClient], kind: str
) -> None:
    server.answers = [answer(f'{{"error": {{"kind": "{kind}", "message": "m"}}}}', 418)]

    with pytest.raises(KumiaiError, match=r"^m$") as caught:
        connect().info()

    assert type(caught.value) is ERRORS_BY_KIND[kind]


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("<html>", 200),
        ("[1]", 200),
        ("<html>", 502),
        ('{"error": "x"}', 404),
        ('{"error": {"kind": "new", "message": "m"}}', 500),
        ("", 302),
    ],
)
def test_an_answer_of_something_else_is_told_with_the_mend(
    server: OtherServer, connect: Callable[..., OperatorClient], text: str, status: int
) -> None:
    server.answers = [answer(text, status)]

    with pytest.raises(TransportError, match=r"operator\.url is the coordinator's http_listen"):
        connect().info()


def test_silence_is_a_time_out(server: OtherServer, connect: Callable[..., OperatorClient]) -> None:
    server.answers = [None]

    with pytest.raises(DeadlineError, match=r"within 0\.2 s"):
        connect(timeout_seconds=0.2).info()


def test_a_broken_connection_is_diagnosed(
    server: OtherServer, connect: Callable[..., OperatorClient]
) -> None:
    refusal = CertificateError("your certificate is revoked")

    with pytest.raises(CertificateError, match="revoked"):
        connect(url="https://127.0.0.1:9", diagnose=lambda: refusal).info()
    with pytest.raises(TransportError, match="must stay connected"):
        connect(url="https://127.0.0.1:9").info()


def test_a_run_s_name_stays_one_part_of_the_path(
    server: OtherServer, connect: Callable[..., OperatorClient]
) -> None:
    server.answers = [answer("{}")]

    connect().run("../clients?x")

    assert server.asked[0][1] == "/api/v1/runs/..%2Fclients%3Fx"


def test_all_clients_are_listed(
    server: OtherServer, connect: Callable[..., OperatorClient]
) -> None:
    server.answers = [answer('{"clients": [{"client_id": "a"}]}')]

    assert connect().clients() == [{"client_id": "a"}]


def test_an_upload_tells_its_progress_and_its_digest(
    server: OtherServer, connect: Callable[..., OperatorClient]
) -> None:
    server.answers = [answer('{"digest": "d", "size_bytes": 3}')]
    passed: list[int] = []

    uploaded = connect().upload_model("run-x", {"w": np.zeros(400_000, np.float32)}, passed.append)

    (method, path, body) = server.asked[0]
    assert (method, path) == ("PUT", "/api/v1/runs/run-x/model")
    assert sum(passed) == len(body) > 1_600_000
    assert len(passed) == 2
    assert (uploaded.digest, uploaded.size_bytes) == ("d", 3)


MODEL = b"the bytes of a model"


def model_answer(content: bytes = MODEL, digest: str | None = None) -> Answer:
    return (
        200,
        {
            "Content-Length": str(len(content)),
            "X-Kumiai-Digest": digest or digest_of([content]),
        },
        content,
    )


def test_a_download_is_verified_and_put_in_place(
    server: OtherServer, connect: Callable[..., OperatorClient], tmp_path: Path
) -> None:
    server.answers = [model_answer()]
    sizes: list[int] = []

    def begin(size_bytes: int) -> Callable[[int], None]:
        sizes.append(size_bytes)
        return sizes.append

    connect().download_model("run-x", "latest", tmp_path / "m", begin=begin)

    assert (tmp_path / "m").read_bytes() == MODEL
    assert sizes == [len(MODEL), len(MODEL)]
    assert server.asked[0][1] == "/api/v1/runs/run-x/models/latest/content"


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (model_answer(digest=digest_of([b"another"])), IntegrityError),
        ((200, {"Content-Length": "9", "X-Kumiai-Digest": digest_of([MODEL])}, b"abc"), None),
        ((200, {}, MODEL), TransportError),
        ((200, {"Content-Length": "x", "X-Kumiai-Digest": "d"}, MODEL), None),
        (answer('{"error": {"kind": "not_found", "message": "m"}}', 404), NotFoundError),
    ],
)
def test_a_download_that_goes_wrong_leaves_the_old_file(
    server: OtherServer,
    connect: Callable[..., OperatorClient],
    tmp_path: Path,
    given: Answer,
    error: type[KumiaiError] | None,
) -> None:
    server.answers = [given]
    (tmp_path / "m").write_text("old")

    with pytest.raises(error or TransportError):
        connect().download_model("run-x", 3, tmp_path / "m")

    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m").read_text() == "old"


def test_a_download_needs_a_folder(
    server: OtherServer, connect: Callable[..., OperatorClient], tmp_path: Path
) -> None:
    server.answers = [model_answer()]

    with pytest.raises(StorageError, match="cannot write"):
        connect().download_model("run-x", 3, tmp_path / "none" / "m")


def test_a_stream_goes_on_where_it_broke(
    server: OtherServer, connect: Callable[..., OperatorClient]
) -> None:
    pauses: list[float] = []
    server.answers = [
        answer('id: 5\nevent: event\ndata: {"n": 5}\n\nevent: progress\ndata: {}\n\n'),
        answer('{"error": {"kind": "storage", "message": "down"}}', 503),
        answer('id: 6\nevent: event\ndata: {"n": 6}\n\n: comment\n\n'),
        answer('event: end\ndata: {"state": "finished"}\n\nevent: event\ndata: {}\n\n'),
    ]

    kinds = [each.kind for each in connect(pause=pauses.append).follow("run-x", after=2)]

    assert kinds == ["event", "progress", "lost", "lost", "event", "lost", "end"]
    assert [path.rpartition("after=")[2] for _, path, _ in server.asked] == ["2", "5", "5", "6"]
    assert pauses == [0.2, 0.4, 0.2]


def test_a_stream_that_never_began_is_an_error(connect: Callable[..., OperatorClient]) -> None:
    with pytest.raises(TransportError):
        list(connect(url="https://127.0.0.1:9").follow("run-x"))


def test_a_stream_that_is_refused_is_not_tried_again(
    server: OtherServer, connect: Callable[..., OperatorClient]
) -> None:
    server.answers = [
        answer("event: progress\ndata: {}\n\n"),
        answer('{"error": {"kind": "conflict", "message": "too many"}}', 409),
    ]

    with pytest.raises(ConflictError, match="too many"):
        list(connect().follow("run-x"))


def test_patience_with_a_lost_stream_ends(
    server: OtherServer, connect: Callable[..., OperatorClient]
) -> None:
    waited: list[float] = []
    server.answers = [answer("event: progress\ndata: {}\n\n")]
    server.answers += [answer("", 502)] * 200

    with pytest.raises(TransportError):
        list(connect(pause=waited.append).follow("run-x"))

    assert 600 <= sum(waited) < 610
    assert max(waited) == 5.0


def test_a_client_is_made_of_settings(members: dict[Role, IssuedCertificate]) -> None:
    own = members[Role.OPERATOR]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = Settings(
        identity=IdentitySettings(certificate=own.cert, key=own.key, ca=own.ca),
        operator=OperatorSettings(url=f"https://127.0.0.1:{port}", timeout_seconds=5),
    )

    with (
        OperatorClient.of(settings) as client,
        pytest.raises(TransportError, match="nothing listens"),
    ):
        client.info()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://a.example:1", ("a.example", 1)),
        ("https://a.example", ("a.example", 443)),
        ("https://[::1]:8420", ("::1", 8420)),
    ],
)
def test_a_url_has_host_and_port(url: str, address: tuple[str, int]) -> None:
    assert address_of(url) == address


def test_what_is_no_url_is_told() -> None:
    with pytest.raises(ConfigError, match=r"operator\.url must be https://host:port"):
        address_of("https://a:port")


@pytest.mark.parametrize("token", [None, "kumiai_secret"])
def test_whoever_holds_a_revoked_certificate_is_asked_nothing(
    server: OtherServer, members: dict[Role, IssuedCertificate], tmp_path: Path, token: str | None
) -> None:
    own = members[Role.OPERATOR]
    shutil.copytree(own.cert.parents[1] / "ca", tmp_path / "ca")
    authority = CertificateManager(tmp_path / "ca", clock=SystemClock())
    settings = Settings(
        identity=IdentitySettings(
            certificate=own.cert, key=own.key, ca=own.ca, crl=authority.revocation_list_path
        ),
        operator=OperatorSettings(url=server.url, token=token),
    )
    server.answers = [answer("{}")]

    with OperatorClient.of(settings) as client:
        client.info()
    authority.revoke("c", "key-compromise")

    with (
        pytest.raises(CertificateError, match="must not be revoked, got serial"),
        OperatorClient.of(settings) as client,
    ):
        client.info()
    assert len(server.asked) == 1
