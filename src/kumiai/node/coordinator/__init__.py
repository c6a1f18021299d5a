"""The coordinator: sessions, transfers, the round engine, leadership."""

import kumiai.node.wire  # noqa: F401 - before any module here imports grpc, see there
