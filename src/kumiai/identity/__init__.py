"""Who is who in a federation: certificates, their authority, and mutual TLS 1.3.

Every member holds an ECDSA P-256 certificate of its federation's own authority; the certificate's
one URI name, ``kumiai://<federation>/<role>/<name>``, is its identity. This room issues and
revokes certificates, checks one's own before connecting and a peer's at every call, and builds
the TLS contexts for HTTP. It does not speak gRPC and keeps no sessions.

All functions here are synchronous; those that touch files or sockets say so, and a program with
an event loop runs them in a thread.
"""

from kumiai.identity.authority import CertificateManager, IssuedCertificate
from kumiai.identity.check import verify_peer
from kumiai.identity.denials import Denial, Denials, NoDenials
from kumiai.identity.handshake import diagnose_handshake, explain_handshake
from kumiai.identity.index import IssuedRecord, RevocationReason
from kumiai.identity.names import Identity, Role, identity_of, identity_uri
from kumiai.identity.revocation import RevocationList, RevocationWatcher
from kumiai.identity.tls import client_context, server_context
from kumiai.identity.trust import TrustBundle, verify_own_certificate

__all__ = [
    "CertificateManager",
    "Denial",
    "Denials",
    "Identity",
    "IssuedCertificate",
    "IssuedRecord",
    "NoDenials",
    "RevocationList",
    "RevocationReason",
    "RevocationWatcher",
    "Role",
    "TrustBundle",
    "client_context",
    "diagnose_handshake",
    "explain_handshake",
    "identity_of",
    "identity_uri",
    "server_context",
    "verify_own_certificate",
    "verify_peer",
]
