"""What the TLS library refused, as one of our own refusals.

A handshake that the library ends is no call and has no caller whose certificate could be read;
what is left is the library's error. Pure.
"""

import ssl
from typing import Final

from kumiai.identity.check import PeerRefusedError, Refusal

__all__ = ["refusal_of_handshake"]

# X509_V_ERR_* of OpenSSL's x509_vfy.h.
_CERTIFICATES: Final = {
    **dict.fromkeys((2, 7, 19, 20, 21, 24, 25, 27, 28, 30, 32), Refusal.WRONG_AUTHORITY),
    **dict.fromkeys((9, 13), Refusal.NOT_YET_VALID),
    **dict.fromkeys((10, 14), Refusal.EXPIRED),
    **dict.fromkeys((66, 67, 68), Refusal.WEAK_KEY),
    18: Refusal.SELF_SIGNED,
    22: Refusal.OVERSIZED_CHAIN,
    26: Refusal.WRONG_USAGE,
}
_REASONS: Final = {
    "UNSUPPORTED_PROTOCOL": Refusal.OLD_TLS,
    "VERSION_TOO_LOW": Refusal.OLD_TLS,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": Refusal.NO_CERTIFICATE,
}
_MENDS: Final = {
    Refusal.OLD_TLS: "connect with TLS 1.3",
    Refusal.NO_CERTIFICATE: "give the certificate and key that the federation issued",
    Refusal.BAD_HANDSHAKE: "check that it speaks TLS, and that no proxy is in between",
}
_MEND_OF_CERTIFICATES: Final = (
    "have one issued by this federation, and compare the clocks of both machines"
)


def refusal_of_handshake(error: ssl.SSLError) -> PeerRefusedError | None:
    """Return our refusal for an error of the TLS library at the server's end.

    Returns:
        ``None`` if the other side gave up: it went away, or does not accept our certificate.
    """
    # Errors that are not made inside of OpenSSL have no reason at all.
    reason = getattr(error, "reason", None) or ""
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) or "_ALERT_" in reason:
        return None
    if isinstance(error, ssl.SSLCertVerificationError):
        refusal = _CERTIFICATES.get(error.verify_code, Refusal.BAD_HANDSHAKE)
        said, mend = error.verify_message, _MEND_OF_CERTIFICATES
    else:
        refusal = _REASONS.get(reason, Refusal.BAD_HANDSHAKE)
        said, mend = reason.lower().replace("_", " ") or "no reason", _MENDS[refusal]
    return PeerRefusedError(refusal, f"handshake must pass the TLS library, got {said}; {mend}")
