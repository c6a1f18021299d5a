"""A coordinator's proof for one call: what it proves, and every way in which it fails."""

import struct
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kumiai.core.errors import CertificateError
from kumiai.identity import (
    NoDenials,
    PeerRefusedError,
    PeerRules,
    Refusal,
    RevocationList,
    TrustBundle,
)
from kumiai.identity.coordinator_proofs import (
    CHALLENGE_SIZE_BYTES,
    new_challenge,
    new_proof,
    verify_proof,
)
from kumiai.identity.keys import is_signed_by, verify_strong
from tests.identity.conftest import FEDERATION
from tests.identity.forge import Forged, forge, forge_authority, rsa_key

NOW: Final = 1e9
CLIENT: Final = f"kumiai://{FEDERATION}/client/site-1"
CHALLENGE: Final = bytes(range(CHALLENGE_SIZE_BYTES))
ROOT: Final = forge_authority()
TRUST: Final = TrustBundle.load(ROOT.pem)
RULES: Final = PeerRules(FEDERATION, None, NoDenials())


def coordinator(**fields: Any) -> Forged:
    return forge(by=ROOT, uris=[f"kumiai://{FEDERATION}/coordinator/main"], serial=77, **fields)


MAIN: Final = coordinator()
PROOF: Final = new_proof(CHALLENGE, CLIENT, MAIN.pem, MAIN.key_pem)


def longer_than_it_is(proof: bytes) -> bytes:
    """Return the proof with a last part that claims to be 512 bytes longer."""
    (size,) = struct.unpack_from(">H", proof)
    changed = bytearray(proof)
    changed[2 + size] ^= 2
    return bytes(changed)


def verified(proof: bytes = PROOF, challenge: bytes = CHALLENGE, client: str = CLIENT) -> str:
    peer = verify_proof(proof, challenge, client, trust=TRUST, rules=RULES, now=NOW)
    return peer.identity.name


def test_a_proof_names_the_coordinator_and_its_certificate() -> None:
    peer = verify_proof(PROOF, CHALLENGE, CLIENT, trust=TRUST, rules=RULES, now=NOW)

    assert (peer.identity.name, peer.serials) == ("main", (77,))


def test_a_proof_with_an_rsa_key_holds_and_one_that_another_signed_does_not() -> None:
    main, other = coordinator(key=rsa_key(3072)), coordinator()
    proof = new_proof(CHALLENGE, CLIENT, main.pem, main.key_pem)

    assert verified(proof) == "main"
    with pytest.raises(CertificateError, match="got another signature"):
        verified(new_proof(CHALLENGE, CLIENT, main.pem, other.key_pem))


@pytest.mark.parametrize(
    ("challenge", "client"),
    [(bytes(32), CLIENT), (CHALLENGE, f"kumiai://{FEDERATION}/client/site-2")],
)
def test_it_is_good_for_one_call_of_one_client(challenge: bytes, client: str) -> None:
    with pytest.raises(CertificateError, match="signed by its certificate's key for this call"):
        verified(challenge=challenge, client=client)


def test_whoever_has_another_key_proves_nothing_with_somebody_elses_certificate() -> None:
    thief = coordinator()

    with pytest.raises(CertificateError, match="got another signature"):
        verified(new_proof(CHALLENGE, CLIENT, MAIN.pem, thief.key_pem))


def test_a_member_of_another_role_is_no_coordinator() -> None:
    site = forge(by=ROOT)

    with pytest.raises(PeerRefusedError, match=r"must be a coordinator, got kumiai://.*/client/"):
        verified(new_proof(CHALLENGE, CLIENT, site.pem, site.key_pem))


def test_a_revoked_certificate_is_refused_and_so_is_one_that_has_expired() -> None:
    revoked = replace(RULES, revoked=RevocationList((), frozenset({77})))

    with pytest.raises(PeerRefusedError) as caught:
        verify_proof(PROOF, CHALLENGE, CLIENT, trust=TRUST, rules=revoked, now=NOW)
    assert caught.value.refusal is Refusal.REVOKED
    old = coordinator(ends=NOW - 1)
    with pytest.raises(PeerRefusedError) as caught:
        verified(new_proof(CHALLENGE, CLIENT, old.pem, old.key_pem))
    assert caught.value.refusal is Refusal.EXPIRED


def test_another_authority_vouches_for_nobody() -> None:
    elsewhere = forge_authority()
    stranger = forge(by=elsewhere, uris=[f"kumiai://{FEDERATION}/coordinator/main"])

    with pytest.raises(PeerRefusedError) as caught:
        verified(new_proof(CHALLENGE, CLIENT, stranger.pem, stranger.key_pem))

    assert caught.value.refusal is Refusal.WRONG_AUTHORITY


def test_challenges_differ_and_have_one_length() -> None:
    assert len({new_challenge() for _ in range(100)}) == 100
    assert {len(new_challenge()) for _ in range(10)} == {32}
    for wrong in (b"", CHALLENGE[1:], CHALLENGE + b"x"):
        with pytest.raises(CertificateError, match=f"must be 32 bytes, got {len(wrong)}"):
            new_proof(wrong, CLIENT, MAIN.pem, MAIN.key_pem)


@pytest.mark.parametrize(
    "proof",
    [
        b"",
        b"x",
        struct.pack(">H", 3) + b"abc" + struct.pack(">H", 2) + b"no",
        PROOF[:-1],
        PROOF + b"x",
        longer_than_it_is(PROOF),
        PROOF + bytes(12 * 1024),
    ],
)
def test_what_is_no_proof_is_refused(proof: bytes) -> None:
    message = f"must be a signature and certificates, got {len(proof)} bytes"

    with pytest.raises(CertificateError, match=message):
        verified(proof)


def proof_of_size(size_bytes: int) -> bytes:
    """Return a good proof of so many bytes; signatures are not always equally long."""
    letters = size_bytes - 1_000
    for _ in range(500):
        main = coordinator(hosts=["h" * 60] * (letters // 60) + ["x" * (1 + letters % 60)])
        proof = new_proof(CHALLENGE, CLIENT, main.pem, main.key_pem)
        if len(proof) == size_bytes:
            return proof
        letters += (size_bytes - len(proof)) // 2 or (size_bytes - len(proof))
    raise AssertionError(f"{len(proof)} bytes")


def test_a_proof_is_read_up_to_a_limit() -> None:
    assert verified(proof_of_size(12 * 1024)) == "main"
    with pytest.raises(CertificateError, match=r"must be a signature .* got 12289 bytes"):
        verified(proof_of_size(12 * 1024 + 1))
    with pytest.raises(PeerRefusedError, match="must show a certificate, got none"):
        verified(struct.pack(">H", 1) + b"x")


@given(st.binary(max_size=400))
def test_bytes_from_anywhere_are_refused_in_one_way(proof: bytes) -> None:
    with pytest.raises(CertificateError):
        verified(proof)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@given(st.integers(0, len(PROOF) - 1), st.integers(1, 255))
def test_a_changed_byte_proves_nothing(place: int, change: int) -> None:
    changed = bytearray(PROOF)
    changed[place] ^= change
    # How many bits of a certificate's signature go unused is signed by nobody, and says nothing.
    assume(place != PROOF.rindex(MAIN.certificate.signature) - 1)

    with pytest.raises(CertificateError):
        verified(bytes(changed))


def test_the_signed_bytes_are_known() -> None:
    size = struct.unpack_from(">H", PROOF)[0]
    signature = PROOF[2 : 2 + size]

    message = b"kumiai/identity/coordinator-proof/v1\x00" + CHALLENGE + CLIENT.encode()

    key = verify_strong(MAIN.certificate.public_key())
    assert is_signed_by(key, signature, message)
    assert not is_signed_by(key, signature, message + b"x")
