"""How large the proof of an entry can become."""

import orjson
import pytest

from kumiai.identity.audit import (
    HASH_BYTES,
    Act,
    Actor,
    AuditScribe,
    Checkpoint,
    EntryProof,
    NewEntry,
    Outcome,
    origin_of,
)

MILLION = 1_000_000
LONGEST = Actor("recovery-operator", "n" * 96, 2**159 - 1, "a" * 64)
USUAL = Actor("data-scientist", "sonia.hernandez", 2**128 - 1, "2001:db8:85a3::8a2e:370:7334")


def size_of_proof(new: NewEntry, federation: str, entries: int = MILLION) -> int:
    """Return the bytes of a proof of the last entry of a log."""
    scribe, last = AuditScribe(), entries - 1
    _, secret = scribe.new_person()
    written = scribe.write(
        new,
        size=last,
        chain=bytes(HASH_BYTES),
        frontier=bytes(HASH_BYTES * last.bit_count()),
        at_us=1_763_800_000_000_000,
        secret=secret,
    )
    point = Checkpoint(
        origin_of(federation), entries, bytes(HASH_BYTES), bytes(HASH_BYTES), written.at_us
    )
    # A signature is 4 bytes of the key's name and 64 of its own, as base64.
    note = f"{point.to_text()}\n\N{EM DASH} {point.origin} {'A' * 92}\n"
    path = (bytes(HASH_BYTES),) * last.bit_length()
    return len(EntryProof(written.body.encode(), path, note).to_json())


@pytest.mark.parametrize(
    "detail",
    [
        {"refusal": "missing-permission", "call": "GET /api/v1/runs/run-k3x5q2v7mzt4a6cd/models"},
        {"serial": "f" * 32},
        {"name": "nightly-report", "permissions": "audit.read metrics.read runs.read", "days": 90},
    ],
)
def test_the_proof_of_a_usual_entry_among_a_million_is_two_kilobytes_at_most(
    detail: dict[str, str | int],
) -> None:
    new = NewEntry(
        Act.AUTHENTICATION_REFUSED, USUAL, "run/run-k3x5q2v7mzt4a6cd", Outcome.REFUSED, detail
    )

    assert size_of_proof(new, "european-cardiology-network") <= 2048


def test_the_proof_of_the_largest_entry_that_is_let_in_is_bounded() -> None:
    room = 384 - len(orjson.dumps({"k": ""}))
    largest = NewEntry(
        Act.AUTHENTICATION_REFUSED, LONGEST, "s" * 128, Outcome.REFUSED, {"k": "x" * room}
    )

    assert size_of_proof(largest, "f" * 63) <= 2400
    # A thousand times as many entries: ten hashes more.
    assert size_of_proof(largest, "f" * 63, 1000 * MILLION) <= 2900
