"""How both ends of the wire are set up: method names, limits, TLS."""

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from kumiai.core.clock import Clock
from kumiai.core.errors import ConfigError
from kumiai.identity import WatchedFiles, connect, server_context

__all__ = [
    "ATTACH",
    "BLOB_SERVICE",
    "CHUNK_BYTES",
    "CONTROL_BYTES_MAX",
    "GET",
    "PROTOCOL_VERSION",
    "PUT",
    "REVOCATIONS_BYTES_MAX",
    "SESSION_SERVICE",
    "STAT",
    "TlsFiles",
    "chunk_bytes_for",
    "open_channel",
    "server_credentials",
    "server_options",
    "verify_only_tls_1_3",
]

PROTOCOL_VERSION = 3
"""Raised with each field that the other end must heed; see the head of `kumiai.proto`."""
SESSION_SERVICE = "kumiai.v1.Session"
BLOB_SERVICE = "kumiai.v1.Blob"
ATTACH = f"/{SESSION_SERVICE}/Attach"
PUT = f"/{BLOB_SERVICE}/Put"
GET = f"/{BLOB_SERVICE}/Get"
STAT = f"/{BLOB_SERVICE}/Stat"

# Smaller ones cost more CPU (a quarter of it: 40 % more per byte), larger ones gain nothing. gRPC
# holds a few chunks of every stream that moves, hence smaller ones where there are many.
CHUNK_BYTES = 1 << 20
CONTROL_BYTES_MAX = 256 << 10
REVOCATIONS_BYTES_MAX = 128 << 10
_CHUNK_BYTES_MIN = 128 << 10
_CHUNKS_OF_ALL_BYTES = 4 << 20
_MESSAGE_BYTES_MAX = CHUNK_BYTES + (64 << 10)
_KEEPALIVE_MS = 20_000
_KEEPALIVE_TIMEOUT_MS = 10_000
_HANDSHAKE_TIMEOUT_MS = 10_000
_SELF_CHECK_SECONDS = 5.0
_HANDSHAKES_BEGIN_SECONDS = 0.2


def chunk_bytes_for(streams: int) -> int:
    """Return the size of chunks, in bytes, when so many streams move at once.

    All together they stay small, so that memory does not grow with the number of clients.
    """
    return max(_CHUNK_BYTES_MIN, min(CHUNK_BYTES, _CHUNKS_OF_ALL_BYTES // max(streams, 1)))


class TlsFiles:
    """The three PEM files that an end needs: its certificate, its key, the federation's CA."""

    __slots__ = ("ca", "certificate", "key")

    def __init__(self, *, certificate: Path, key: Path, ca: Path) -> None:
        """Name the files; they are read at use, so that a renewed certificate is taken up."""
        self.certificate = certificate
        self.key = key
        self.ca = ca


def server_credentials(
    files: TlsFiles, clock: Clock, on_accepted: Callable[[], None] = lambda: None
) -> grpc.ServerCredentials:
    """Return credentials that demand a certificate of the federation from every client.

    Replaced files are taken up with the next handshake; connections that are open stay. Files
    that do not fit together are not taken up.

    Args:
        files: the coordinator's own.
        clock: paces new tries after files that are not fit for use.
        on_accepted: called before each handshake, in a thread of gRPC's that must not wait: it
            moves the bytes of other connections, too.

    Raises:
        NotFoundError, StorageError, CertificateError: the files can not be used.
    """
    newest = WatchedFiles(
        (files.certificate, files.key, files.ca), lambda: _configuration(files), clock
    )
    return grpc.dynamic_ssl_server_credentials(newest.value, _Renewal(newest, on_accepted), True)  # noqa: FBT003


class _Renewal:
    """What gRPC asks before each handshake, one after the other, in threads of its own.

    gRPC 1.85 frees what its handshakes are made of when it is given another configuration, and a
    handshake that asked just before may not have begun yet: the process dies of it. So it is
    given one only when the files have changed, after those have had the time to begin.
    """

    def __init__(
        self,
        newest: WatchedFiles[grpc.ServerCertificateConfiguration],
        on_accepted: Callable[[], None],
    ) -> None:
        self._newest = newest
        self._on_accepted = on_accepted
        self._given = newest.value

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        self._on_accepted()
        current = self._newest.current()
        if current is self._given:
            return None
        self._given = current
        time.sleep(_HANDSHAKES_BEGIN_SECONDS)
        return current


def _configuration(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    # Made for its checks: gRPC would take a key that belongs to another certificate, and then
    # refuse everybody.
    server_context(files.certificate, files.key, files.ca, client_certificate="required")
    return grpc.ssl_server_certificate_configuration(
        [(files.key.read_bytes(), files.certificate.read_bytes())],
        root_certificates=files.ca.read_bytes(),
    )


def server_options() -> list[tuple[str, Any]]:
    """Return the limits of the coordinator's port."""
    return [
        ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        # Everybody may connect; who says nothing would keep the connection for two minutes.
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_TIMEOUT_MS),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.max_concurrent_streams", 64),
        # A window that grows with the bandwidth lets gRPC take whole updates into memory while the
        # disk is behind: a gigabyte with 32 clients. The fixed one takes three megabytes each, and
        # carries 100 MB/s over a round trip of 50 ms.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.so_reuseport", 0),
    ]


def open_channel(address: str, files: TlsFiles) -> grpc.aio.Channel:
    """Return a channel to the coordinator at ``host:port``; it connects at the first call."""
    credentials = grpc.ssl_channel_credentials(
        root_certificates=files.ca.read_bytes(),
        private_key=files.key.read_bytes(),
        certificate_chain=files.certificate.read_bytes(),
    )
    options = [
        ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
        # Two channels of one process must be two connections: bulk data would hold up control.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.enable_http_proxy", 0),
    ]
    return grpc.aio.secure_channel(address, credentials, options=options)


def verify_only_tls_1_3(host: str, port: int, files: TlsFiles) -> None:
    """Check that our own port refuses TLS 1.2; blocking.

    Raises:
        ConfigError: it does not: gRPC was imported before `kumiai.node.wire`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the same process opened the port a moment ago
    context.load_verify_locations(files.ca)
    context.load_cert_chain(files.certificate, files.key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        with connect(context, host, port, _SELF_CHECK_SECONDS) as secure:
            secure.do_handshake()
    except OSError:  # ssl.SSLError is one: the handshake failed, as it must
        return
    raise ConfigError(
        "the coordinator's port must refuse TLS 1.2, got a TLS 1.2 connection: grpc was imported "
        "before kumiai; import kumiai.node.wire first"
    )
