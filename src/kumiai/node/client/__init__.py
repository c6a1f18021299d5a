"""The client of a site: one session, one worker, the data never leave."""

import kumiai.node.wire  # noqa: F401 - before any module here imports grpc, see there
