"""How large the proof of an entry can become."""

import orjson
import pytest

from kumiai.identity import Role
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
LONGEST_ROLE = max(Role, key=len).value
LONGEST_ACT = max(Act, key=len)
ROOM = 360 - len(orjson.dumps({"k": ""}))


def size_of_proof(new: NewEntry, entries: int = MILLION) -> int:
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
        origin_of("f" * 63), entries, bytes(HASH_BYTES), bytes(HASH_BYTES), written.at_us
    )
    # A signature is 4 bytes of the key's name and 64 of its own, as base64.
    note = f"{point.to_text()}\n\N{EM DASH} {point.origin} {'A' * 92}\n"
    path = (bytes(HASH_BYTES),) * last.bit_length()
    return len(EntryProof.against(note, written.body.encode(), path).to_json())


def filled(unit: str, limit: int) -> str:
    """Return a text of such characters that takes as many bytes as the limit lets in."""
    each = len(orjson.dumps(unit)) - 2
    return unit * (limit // each) + "x" * (limit % each)


@pytest.mark.parametrize("unit", ["n", '"', "\\", "\N{SNOWMAN}", "\N{GRINNING FACE}"])
def test_the_proof_of_any_entry_among_a_million_is_two_kilobytes_at_most(unit: str) -> None:
    actor = Actor(LONGEST_ROLE, filled(unit, 63), 2**159 - 1, filled(unit, 64))
    largest = NewEntry(LONGEST_ACT, actor, "s" * 80, Outcome.REFUSED, {"k": filled(unit, ROOM)})

    assert 1900 < size_of_proof(largest) <= 2048
    for limits in (
        {"name": filled(unit, 63) + "x"},
        {"address": filled(unit, 64) + "x"},
    ):
        with pytest.raises(ValueError, match="printable bytes"):
            Actor(LONGEST_ROLE, **limits)
    for subject, detail in (("s" * 81, {}), ("", {"k": filled(unit, ROOM) + "x"})):
        with pytest.raises(ValueError, match="at most"):
            NewEntry(LONGEST_ACT, actor, subject, detail=detail)


def test_a_larger_log_makes_the_proof_larger_by_a_hash_for_each_doubling() -> None:
    usual = NewEntry(Act.RUN_CREATED, Actor("operator", "ann", 2**128, "10.0.0.1"), "run/run-1")

    grown = size_of_proof(usual, 1024 * MILLION) - size_of_proof(usual)

    assert 10 * 40 <= grown <= 10 * 40 + 10
