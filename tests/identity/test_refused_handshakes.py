"""What the TLS library refuses becomes a refusal of a kind, with a mend; giving up is none."""

import ssl

import pytest

from kumiai.identity import Refusal
from kumiai.identity.refused_handshakes import refusal_of_handshake


def verification(code: int, message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.reason = "CERTIFICATE_VERIFY_FAILED"
    error.verify_code, error.verify_message = code, message
    return error


def failure(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, "failed")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (2, Refusal.WRONG_AUTHORITY),
        (7, Refusal.WRONG_AUTHORITY),
        (9, Refusal.NOT_YET_VALID),
        (10, Refusal.EXPIRED),
        (13, Refusal.NOT_YET_VALID),
        (14, Refusal.EXPIRED),
        (18, Refusal.SELF_SIGNED),
        (19, Refusal.WRONG_AUTHORITY),
        (20, Refusal.WRONG_AUTHORITY),
        (21, Refusal.WRONG_AUTHORITY),
        (22, Refusal.OVERSIZED_CHAIN),
        (24, Refusal.WRONG_AUTHORITY),
        (25, Refusal.WRONG_AUTHORITY),
        (26, Refusal.WRONG_USAGE),
        (27, Refusal.WRONG_AUTHORITY),
        (28, Refusal.WRONG_AUTHORITY),
        (30, Refusal.WRONG_AUTHORITY),
        (32, Refusal.WRONG_AUTHORITY),
        (66, Refusal.WEAK_KEY),
        (67, Refusal.WEAK_KEY),
        (68, Refusal.WEAK_KEY),
        (86, Refusal.BAD_HANDSHAKE),
    ],
)
def test_each_fault_of_a_certificate_has_its_kind(code: int, kind: Refusal) -> None:
    refused = refusal_of_handshake(verification(code, "said by the library"))

    assert refused is not None
    assert refused.refusal is kind
    assert str(refused) == (
        "handshake must pass the TLS library, got said by the library; "
        "have one issued by this federation, and compare the clocks of both machines"
    )


@pytest.mark.parametrize(
    ("reason", "kind", "words"),
    [
        ("UNSUPPORTED_PROTOCOL", Refusal.OLD_TLS, "unsupported protocol; connect with TLS 1.3"),
        ("VERSION_TOO_LOW", Refusal.OLD_TLS, "version too low; connect with TLS 1.3"),
        (
            "PEER_DID_NOT_RETURN_A_CERTIFICATE",
            Refusal.NO_CERTIFICATE,
            "peer did not return a certificate; give the certificate and key",
        ),
        (
            "HTTP_REQUEST",
            Refusal.BAD_HANDSHAKE,
            "http request; check that it speaks TLS, and that no proxy is in between",
        ),
        ("", Refusal.BAD_HANDSHAKE, "no reason; check that it speaks TLS"),
    ],
)
def test_what_is_no_fault_of_a_certificate_has_its_kind_too(
    reason: str, kind: Refusal, words: str
) -> None:
    refused = refusal_of_handshake(failure(reason))

    assert refused is not None
    assert refused.refusal is kind
    assert f"handshake must pass the TLS library, got {words}" in str(refused)


@pytest.mark.parametrize(
    "error",
    [
        ssl.SSLEOFError(8, "eof"),
        ssl.SSLZeroReturnError(6, "closed"),
        failure("TLSV1_ALERT_UNKNOWN_CA"),
        failure("SSLV3_ALERT_BAD_CERTIFICATE"),
    ],
)
def test_who_gives_up_was_not_refused(error: ssl.SSLError) -> None:
    assert refusal_of_handshake(error) is None


def test_an_error_without_a_reason_is_told_as_well() -> None:
    assert refusal_of_handshake(ssl.SSLError(1, "failed")) is not None
