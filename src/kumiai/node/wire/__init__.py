"""The gRPC wire: messages, method names, channel options, and who is at the other end.

Mutual TLS 1.3 always. gRPC's Python API can not name the lowest TLS version, but all our keys are
ECDSA, and the only TLS 1.2 cipher suite that is left enabled here needs an RSA key: a TLS 1.2
handshake finds no common suite and fails, while TLS 1.3 suites are not touched. gRPC reads the
setting when it is first imported, so this package must come before it; a coordinator proves at its
start that TLS 1.2 is refused.
"""

import os

os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES256-GCM-SHA384"
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # our own errors say what its lines hint at
