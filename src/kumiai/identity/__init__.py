"""Who is who in a federation: certificates, their authority, and mutual TLS 1.3.

Every member holds an ECDSA P-256 certificate of its federation's own authority; the certificate's
one URI name, ``kumiai://<federation>/<role>/<name>``, is its identity. This room issues and
revokes certificates, checks one's own before connecting and a peer's at every call, and builds
the TLS contexts for HTTP. It does not speak gRPC and keeps no sessions.

All functions here are synchronous; those that touch files or sockets say so, and a program with
an event loop runs them in a thread.
"""

from kumiai.identity.authenticator import Admission, AsyncMTLSAuthenticator, MTLSAuthenticator
from kumiai.identity.authority import CertificateManager, IssuedCertificate
from kumiai.identity.check import (
    PeerCertificate,
    PeerRefusedError,
    PeerRules,
    Refusal,
    read_peer,
    verify_peer,
)
from kumiai.identity.denials import Denial, Denials, NoDenials
from kumiai.identity.handshake import diagnose_handshake, explain_handshake
from kumiai.identity.index import IssuedRecord, RevocationReason
from kumiai.identity.issuer import SignedSite, SiteIssuer
from kumiai.identity.middleware import (
    CallGate,
    MTLSAuthenticationMiddleware,
    RefusedCall,
    Requirement,
    TokenReader,
)
from kumiai.identity.names import Identity, Role, identity_of, identity_uri
from kumiai.identity.permissions import (
    Permission,
    Principal,
    permissions_of,
    principal_of,
    roles_with,
    verify_permission,
)
from kumiai.identity.rate_limits import CallLimits, LimitRules
from kumiai.identity.renewal import RenewableFiles
from kumiai.identity.revocation import RevocationList, RevocationWatcher
from kumiai.identity.tls import (
    bearer_context,
    client_context,
    connect,
    rotating_server_context,
    server_context,
)
from kumiai.identity.tokens import APITokenSecret, new_api_token, parse_api_token
from kumiai.identity.trust import TrustBundle, verify_own_certificate
from kumiai.identity.vouchers import VouchedKey, new_voucher, verify_voucher
from kumiai.identity.watching import WatchedFiles

__all__ = [
    "APITokenSecret",
    "Admission",
    "AsyncMTLSAuthenticator",
    "CallGate",
    "CallLimits",
    "CertificateManager",
    "Denial",
    "Denials",
    "Identity",
    "IssuedCertificate",
    "IssuedRecord",
    "LimitRules",
    "MTLSAuthenticationMiddleware",
    "MTLSAuthenticator",
    "NoDenials",
    "PeerCertificate",
    "PeerRefusedError",
    "PeerRules",
    "Permission",
    "Principal",
    "Refusal",
    "RefusedCall",
    "RenewableFiles",
    "Requirement",
    "RevocationList",
    "RevocationReason",
    "RevocationWatcher",
    "Role",
    "SignedSite",
    "SiteIssuer",
    "TokenReader",
    "TrustBundle",
    "VouchedKey",
    "WatchedFiles",
    "bearer_context",
    "client_context",
    "connect",
    "diagnose_handshake",
    "explain_handshake",
    "identity_of",
    "identity_uri",
    "new_api_token",
    "new_voucher",
    "parse_api_token",
    "permissions_of",
    "principal_of",
    "read_peer",
    "roles_with",
    "rotating_server_context",
    "server_context",
    "verify_own_certificate",
    "verify_peer",
    "verify_permission",
    "verify_voucher",
]
