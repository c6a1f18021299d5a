import base64
import copy
import hashlib
import json
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.clock import Clock
from kumiai.core.errors import CertificateError, IntegrityError
from kumiai.identity import CertificateManager, IssuedCertificate, TrustBundle
from kumiai.identity.audit import (
    CertifiedKey,
    Checkpoint,
    CheckpointSigner,
    EntryProof,
    Frontier,
    LogHead,
    inclusion_ranges,
    leaf_hash,
    open_note,
    origin_of,
)
from tests.identity.audit.log import MemoryLog

ORIGIN = origin_of("hospitals")
POINT = Checkpoint(ORIGIN, 3, b"r" * 32, b"c" * 32, 1_763_792_000_000_000)
CURVE_KEY = ec.generate_private_key(ec.SECP256R1())
SIGNER = CheckpointSigner.new(ORIGIN, b"no certificate", CURVE_KEY)
NOTE = SIGNER.sign(POINT)
DAY_SECONDS = 86_400


def signer_of(issued: IssuedCertificate, origin: str = ORIGIN) -> CheckpointSigner:
    key = serialization.load_pem_private_key(issued.key.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return CheckpointSigner.new(origin, issued.cert.read_bytes(), key)


def test_a_note_is_that_of_the_standard() -> None:
    lines = NOTE.split("\n")

    assert lines[0] == "kumiai/hospitals/audit"
    assert lines[1] == "3"
    assert lines[2] == "cnJycnJycnJycnJycnJycnJycnJycnJycnJycnJycnI="
    assert lines[3].startswith("kumiai-chain Y2Nj")
    assert lines[4] == "kumiai-time-us 1763792000000000"
    assert lines[5] == ""
    assert lines[6].startswith("\N{EM DASH} kumiai/hospitals/audit ")
    assert lines[7:] == [""]


def test_a_note_is_opened_with_the_key_that_signed_it() -> None:
    other = CheckpointSigner.new(ORIGIN, b"", CURVE_KEY).certified

    assert open_note(NOTE, [other, SIGNER.certified]) == (POINT, SIGNER.certified)
    with pytest.raises(IntegrityError, match="signed by a known key"):
        open_note(NOTE, [other])
    with pytest.raises(IntegrityError, match="signed by a known key"):
        open_note(NOTE, [replace(SIGNER.certified, origin="kumiai/others/audit")])


@given(st.integers(0, len(NOTE) - 1), st.characters())
def test_a_changed_note_is_refused(place: int, character: str) -> None:
    changed = NOTE[:place] + character + NOTE[place + 1 :]
    if changed == NOTE:
        return

    with pytest.raises(IntegrityError):
        open_note(changed, [SIGNER.certified])


@pytest.mark.parametrize(
    "note",
    [
        "",
        NOTE * 9,
        NOTE.replace("\n3\n", "\n03\n"),
        NOTE.replace("\n3\n", "\n\N{ARABIC-INDIC DIGIT THREE}\n"),
        NOTE.replace("kumiai-chain ", ""),
        NOTE.replace("kumiai-time-us ", "more\nkumiai-time-us "),
        NOTE.replace("\N{EM DASH} ", "- "),
        NOTE.replace("\N{EM DASH} kumiai/hospitals", "\N{EM DASH} kumiai/others"),
        NOTE.replace("\N{EM DASH} kumiai/hospitals/audit ", "\N{EM DASH} kumiai/hospitals/audit !"),
        NOTE.replace("cnJy", "cn!y"),
        NOTE.replace("kumiai/hospitals/audit\n", "hospitals\n"),
        NOTE + NOTE.split("\n\n")[1],
    ],
)
def test_a_text_that_is_no_note_is_refused(note: str) -> None:
    with pytest.raises(IntegrityError):
        open_note(note, [SIGNER.certified])


def signed(text: str, signer: CheckpointSigner = SIGNER) -> str:
    """Return a note over any text at all, with a signature that is right."""
    key = bytes.fromhex(signer.certified.key_id)[:4]
    signature = base64.b64encode(key + signer._key.sign(text.encode())).decode()
    return f"{text}\n\N{EM DASH} {signer.certified.origin} {signature}\n"


TEXT = POINT.to_text()


def test_a_signature_names_its_key_by_the_first_bytes_of_the_name() -> None:
    named = ORIGIN.encode() + b"\n\x01" + SIGNER.certified.public_key
    signature = base64.b64decode(NOTE.split(" ")[-1])

    assert SIGNER.certified.key_id == hashlib.sha256(named).hexdigest()
    assert signature[:4].hex() == SIGNER.certified.key_id[:8]
    assert len(signature) == 4 + 64
    assert signed(TEXT) == NOTE


def test_a_log_without_entries_has_a_checkpoint() -> None:
    empty = replace(POINT, size=0, at_us=0)

    assert open_note(SIGNER.sign(empty), [SIGNER.certified])[0] == empty


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("\n3\n", "\n-3\n"),
        TEXT.replace("\n3\n", f"\n{'9' * 30}\n"),
        TEXT.replace("nI=\n", "nJ=\n"),
        replace(POINT, root=b"r" * 31).to_text(),
        replace(POINT, chain=b"c" * 33).to_text(),
        replace(POINT, root=b"r" * 33, chain=b"c" * 33).to_text(),
    ],
    ids=["below zero", "beyond 64 bits", "another base64", "short root", "long chain", "both"],
)
def test_even_a_signature_does_not_make_a_checkpoint_of_another_text(text: str) -> None:
    assert text != TEXT

    with pytest.raises(IntegrityError, match="must be a signed note of an audit log"):
        open_note(signed(text), [SIGNER.certified])


@pytest.mark.parametrize("origin", ["hospitals", "kumiai/a+b/audit", "kumiai/hospitals/audit2"])
def test_even_a_signature_does_not_make_an_audit_log_of_another_one(origin: str) -> None:
    signer = CheckpointSigner.new(origin, b"", CURVE_KEY)

    with pytest.raises(IntegrityError, match="must be a signed note of an audit log"):
        open_note(signer.sign(replace(POINT, origin=origin)), [signer.certified])


def test_a_signature_under_another_keys_name_counts_for_nothing() -> None:
    head, _, last = NOTE.rpartition(" ")
    renamed = b"name" + base64.b64decode(last)[4:]

    with pytest.raises(IntegrityError, match="signed by a known key"):
        open_note(f"{head} {base64.b64encode(renamed).decode()}\n", [SIGNER.certified])


def test_a_key_of_another_log_counts_for_nothing_even_where_the_short_names_meet() -> None:
    class Namesake(CertifiedKey):
        key_id = SIGNER.certified.key_id  # type: ignore[assignment]

    key = SIGNER.certified
    namesake = Namesake("kumiai/others/audit", key.public_key, key.certificates, key.signature)

    with pytest.raises(IntegrityError, match="signed by a known key"):
        open_note(NOTE, [namesake])


def test_a_public_key_that_is_none_has_signed_nothing() -> None:
    broken = replace(SIGNER.certified, public_key=b"short")
    signature = bytes.fromhex(broken.key_id)[:4] + bytes(64)
    text = NOTE.split("\n\n")[0]
    note = f"{text}\n\n\N{EM DASH} {ORIGIN} {base64.b64encode(signature).decode()}\n"

    with pytest.raises(IntegrityError, match="signed by a known key"):
        open_note(note, [broken])


def test_a_signer_signs_only_its_own_log() -> None:
    with pytest.raises(ValueError, match="must be of kumiai/hospitals/audit"):
        SIGNER.sign(replace(POINT, origin="kumiai/others/audit"))


def test_a_signer_comes_back_from_its_file() -> None:
    again = CheckpointSigner.load(SIGNER.to_pem(), SIGNER.certified)

    assert open_note(again.sign(POINT), [SIGNER.certified])[0] == POINT


def pem_of(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    "pem", [b"", b"text", pem_of(CURVE_KEY), pem_of(ed25519.Ed25519PrivateKey.generate())]
)
def test_a_file_of_another_key_is_refused(pem: bytes) -> None:
    with pytest.raises(IntegrityError, match="signing key of the audit log must be"):
        CheckpointSigner.load(pem, SIGNER.certified)


def test_a_signer_shows_its_key_to_nobody() -> None:
    assert repr(SIGNER) == f"CheckpointSigner({SIGNER.certified.key_id[:12]})"
    with pytest.raises(TypeError, match="holds a secret"):
        copy.copy(SIGNER)


def test_a_key_that_a_coordinator_certified_is_trusted(
    authority: CertificateManager, coordinator: IssuedCertificate, clock: Clock
) -> None:
    trust = TrustBundle.load(authority.certificate_path)
    key = CertifiedKey.from_json(signer_of(coordinator).certified.to_json())

    key.verify(trust, at=clock.now())
    leaf = x509.load_pem_x509_certificate(coordinator.cert.read_bytes())
    (issuer,) = (each for each in authority.list_authorities() if each.kind == "members")
    above = x509.load_pem_x509_certificate(issuer.certificate.encode())
    begin = max(leaf.not_valid_before_utc, above.not_valid_before_utc).timestamp()
    key.verify(trust, at=begin)
    key.verify(trust, at=leaf.not_valid_after_utc.timestamp())

    with pytest.raises(CertificateError, match="in force when it signed"):
        key.verify(trust, at=leaf.not_valid_after_utc.timestamp() + 1)
    with pytest.raises(CertificateError, match="in force when it signed"):
        key.verify(trust, at=clock.now() + 5000 * DAY_SECONDS)
    with pytest.raises(CertificateError, match="in force when it signed"):
        key.verify(trust, at=clock.now() - DAY_SECONDS)
    with pytest.raises(IntegrityError, match="must be signed by the coordinator's"):
        replace(key, public_key=bytes(32)).verify(trust, at=clock.now())


def test_what_is_certified_is_labelled_and_says_of_which_log_it_is() -> None:
    content = b"kumiai audit signing key v1\0" + ORIGIN.encode() + b"\0"

    CURVE_KEY.public_key().verify(
        SIGNER.certified.signature,
        content + SIGNER.certified.public_key,
        ec.ECDSA(hashes.SHA256()),
    )


def test_a_key_is_written_in_one_way_and_read_up_to_a_limit() -> None:
    text = SIGNER.certified.to_json()
    largest = text + " " * (32 * 1024 - len(text))

    assert list(json.loads(text)) == ["certificates", "origin", "public_key", "signature"]
    assert CertifiedKey.from_json(largest) == SIGNER.certified
    with pytest.raises(IntegrityError, match="got 32769 characters"):
        CertifiedKey.from_json(largest + " ")


def test_a_key_of_anybody_else_is_not_trusted(
    authority: CertificateManager,
    coordinator: IssuedCertificate,
    client: IssuedCertificate,
    stranger: IssuedCertificate,
    clock: Clock,
) -> None:
    trust, now = TrustBundle.load(authority.certificate_path), clock.now()

    with pytest.raises(CertificateError, match="certified by a coordinator"):
        signer_of(client).certified.verify(trust, at=now)
    with pytest.raises(CertificateError, match="certified by a coordinator"):
        signer_of(coordinator, "kumiai/others/audit").certified.verify(trust, at=now)
    with pytest.raises(CertificateError, match="signed by the authority"):
        signer_of(stranger).certified.verify(trust, at=now)


def test_a_certificate_of_another_kind_of_key_certifies_nothing() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()

    assert not SIGNER.certified._is_signed_by(key)


@pytest.mark.parametrize("text", ["", "[]", "{}", "x" * 40_000, '{"origin": 1}', "{"])
def test_a_key_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError, match="key of the audit log must be as it was stored"):
        CertifiedKey.from_json(text)


def test_a_key_with_texts_that_are_no_bytes_is_refused() -> None:
    text = SIGNER.certified.to_json()

    with pytest.raises(IntegrityError, match="key of the audit log must be as it was stored"):
        CertifiedKey.from_json(text.replace('"public_key":"', '"public_key":"!'))


# ------------------------------------------------------------------------- proofs of one entry


def proof_of(log: MemoryLog, index: int) -> EntryProof:
    bodies = [row.body.encode() for row in log.rows]
    last = log.rows[-1]

    def root(start: int, end: int) -> bytes:
        edge = Frontier()
        for body in bodies[start:end]:
            edge.append(leaf_hash(body))
        return edge.root()

    path = [root(*each) for each in inclusion_ranges(index, len(bodies))]
    point = LogHead(last.size, last.chain, last.frontier).checkpoint(ORIGIN, 5)
    return EntryProof.against(SIGNER.sign(point), bodies[index], tuple(path))


PROOF = proof_of(MemoryLog().filled(3), 1).to_json()


@given(st.integers(1, 40), st.data())
def test_a_proof_shows_its_entry_to_whoever_trusts_the_key(size: int, data: st.DataObject) -> None:
    log = MemoryLog().filled(size)
    index = data.draw(st.integers(0, size - 1))

    proof = EntryProof.from_json(proof_of(log, index).to_json())

    entry, point, key = proof.verify([SIGNER.certified])
    assert (entry.sequence, point.size, key) == (index, size, SIGNER.certified)
    with pytest.raises(IntegrityError):
        replace(proof, body=proof.body.replace(b"run/r", b"run/s")).verify([SIGNER.certified])
    with pytest.raises(IntegrityError):
        replace(proof, path=(*proof.path, b"short")).verify([SIGNER.certified])
    for changed in (
        {"size": size + 1},
        {"chain": bytes(32)},
        {"at_us": 6},
        {"signature": proof.signature[:-1]},
        {"path": tuple(bytes(32) for _ in proof.path) or (bytes(32),)},
    ):
        with pytest.raises(IntegrityError):
            replace(proof, **changed).verify([SIGNER.certified])


def test_a_proof_is_good_by_whichever_known_key_has_signed_it_and_by_no_other() -> None:
    other = CheckpointSigner.new(ORIGIN, b"no certificate", CURVE_KEY).certified
    elsewhere = replace(SIGNER.certified, origin=origin_of("others"))
    proof = proof_of(MemoryLog().filled(2), 1)

    assert proof.verify([other, elsewhere, SIGNER.certified])[2] == SIGNER.certified
    with pytest.raises(IntegrityError, match="from entry 1 to the root of 2 entries that a known"):
        proof.verify([other, elsewhere])


def test_a_proof_may_be_written_anew_and_is_read_up_to_a_limit() -> None:
    log = MemoryLog().filled(3)
    proof = proof_of(log, 1)
    told = json.loads(proof.to_json())
    told["entry"] = dict(reversed(told["entry"].items()))
    text = json.dumps(told).encode()
    largest = text + b" " * (16 * 1024 - len(text))

    assert EntryProof.from_json(largest) == proof
    assert EntryProof.from_json(largest).verify([SIGNER.certified])[0].sequence == 1
    with pytest.raises(IntegrityError, match="got 16385 bytes of something else"):
        EntryProof.from_json(largest + b" ")


@pytest.mark.parametrize(
    "text",
    [b"", b"{}", b"[]", b" " * 20_000,
     *(PROOF.replace(here, there) for here, there in [
         (b'"entry":{', b'"entry":[],"more":{'), (b'"path":"', b'"path":"\\u00e9'),
         (b'"path":"', b'"path":" '), (b'"size":3', b'"size":"3"'), (b'"size":3', b'"size":3.0'),
         (b'"chain":"', b'"chain":"!'), (b'"at":5,', b""), (b'"signature":"', b'"signature":"=')])],
)  # fmt: skip
def test_a_file_that_is_no_proof_is_refused(text: bytes) -> None:
    assert text != PROOF
    with pytest.raises(IntegrityError, match="proof must be a file of"):
        EntryProof.from_json(text)
