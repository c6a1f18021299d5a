import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import IntegrityError
from kumiai.identity.audit import (
    CHAIN_START,
    Act,
    Actor,
    AuditScribe,
    Checkpoint,
    LogHead,
    LogVerifier,
    PersonKey,
    Sealed,
    chained,
    decode_entry,
    leaf_hash,
    open_actor,
)
from tests.identity.audit.log import MemoryLog, Row

SIZE = 20


def verify(rows: list[Row], size: int = SIZE) -> LogVerifier:
    verifier = LogVerifier()
    for row in rows:
        verifier.add(*row)
    verifier.end(size, "the log's own count")
    return verifier


def relinked(rows: list[Row]) -> list[Row]:
    """Return the rows with every value of the chain made anew, as a clever forger would."""
    found, chain = [], CHAIN_START
    for sequence, body, _ in rows:
        chain = chained(chain, leaf_hash(body))
        found.append((sequence, body, chain))
    return found


def changed(rows: list[Row], at: int) -> list[Row]:
    sequence, body, chain = rows[at]
    return [*rows[:at], (sequence, body.replace(b"run/r", b"run/s"), chain), *rows[at + 1 :]]


def rewritten(rows: list[Row], at: int) -> list[Row]:
    sequence, body, _ = rows[at]
    return [*rows[:at], (sequence, b"{}" + body, b""), *rows[at + 1 :]]


def deleted(rows: list[Row], at: int) -> list[Row]:
    return rows[:at] + rows[at + 1 :]


def swapped(rows: list[Row], at: int) -> list[Row]:
    (one, body, chain), (two, other, link) = rows[at], rows[at + 1]
    return [*rows[:at], (one, other, link), (two, body, chain), *rows[at + 2 :]]


def truncated(rows: list[Row], at: int) -> list[Row]:
    return rows[:at]


def inserted(rows: list[Row], at: int) -> list[Row]:
    shifted = [(sequence + 1, body, chain) for sequence, body, chain in rows[at:]]
    return [*rows[:at], rows[at - 1], *shifted]


def inserted_anew(rows: list[Row], at: int) -> list[Row]:
    sequence, body, chain = rows[at]
    shifted = [(sequence + 1, body, chain) for sequence, body, chain in rows[at:]]
    return [*rows[:at], (sequence, body.replace(b"run/r", b"run/s"), chain), *shifted]


ATTACKS: dict[str, tuple[Callable[[list[Row], int], list[Row]], str]] = {
    "changed": (changed, "was changed"),
    "no entry any more": (rewritten, "was changed"),
    "deleted": (deleted, "was deleted"),
    "swapped": (swapped, "it was moved"),
    "truncated": (truncated, "was cut off, by the log's own count"),
    "inserted twice": (inserted, "stand once, got it again after"),
    "inserted anew": (inserted_anew, "it was changed, or what stands before"),
}


def test_the_chain_is_that_of_every_release() -> None:
    label = b"kumiai audit chain v1\0"

    assert hashlib.sha256(label).digest() == CHAIN_START
    assert chained(b"c" * 32, b"l" * 32) == hashlib.sha256(label + b"c" * 32 + b"l" * 32).digest()
    assert LogHead() == LogHead(0, CHAIN_START, b"")


def test_a_checkpoint_says_of_which_log_and_when() -> None:
    head = LogHead(1, b"c" * 32, b"h" * 32)

    assert head.checkpoint("kumiai/f/audit", 5) == Checkpoint(
        "kumiai/f/audit", 1, b"h" * 32, b"c" * 32, 5
    )


def test_a_log_that_nobody_touched_is_right() -> None:
    log = MemoryLog().filled(SIZE)

    verifier = verify(log.read())

    assert verifier.size == SIZE
    last = log.rows[-1]
    assert verifier.head == LogHead(SIZE, last.chain, last.frontier)


@pytest.mark.parametrize("attack", ATTACKS)
@given(at=st.integers(1, SIZE - 2))
def test_the_first_wrong_entry_is_named(attack: str, at: int) -> None:
    rows = MemoryLog().filled(SIZE).read()
    forge, words = ATTACKS[attack]

    with pytest.raises(IntegrityError, match=words) as caught:
        verify(forge(rows, at))

    named = at - 1 if attack == "inserted twice" else at
    assert str(caught.value).startswith(f"entry {named} of the audit log")


def test_a_deletion_whose_hashes_were_made_anew_is_named() -> None:
    rows = relinked(deleted(MemoryLog().filled(SIZE).read(), 4))

    with pytest.raises(IntegrityError, match="entry 4 of the audit log must exist, got 5"):
        verify(rows)


def test_several_entries_that_are_missing_are_named() -> None:
    rows = MemoryLog().filled(SIZE).read()

    with pytest.raises(IntegrityError, match="one of the entries 3 to 7 was deleted"):
        verify(rows[:3] + rows[8:])
    with pytest.raises(IntegrityError, match="one: entry 3 was deleted"):
        verify(rows[:3] + rows[4:])


def test_a_change_with_all_hashes_made_anew_is_between_two_checkpoints() -> None:
    log = MemoryLog().filled(SIZE)
    forged = relinked(changed(log.read(), 13))
    heads = {row.size: LogHead(row.size, row.chain, row.frontier) for row in log.rows}
    verifier = LogVerifier()
    for row in forged[:10]:
        verifier.add(*row)
    verifier.check(heads[10].checkpoint("kumiai/hospitals/audit", 1))
    for row in forged[10:15]:
        verifier.add(*row)

    with pytest.raises(IntegrityError, match="one of the entries 10 to 14 of the audit log"):
        verifier.check(heads[15].checkpoint("kumiai/hospitals/audit", 1))


def test_a_checkpoint_with_another_chain_is_refused() -> None:
    log = MemoryLog().filled(2)
    verifier = verify(log.read(), 2)

    with pytest.raises(IntegrityError, match="entries 0 to 1 of the audit log must be what"):
        verifier.check(LogHead(2, bytes(32), log.rows[-1].frontier).checkpoint("o", 1))
    other_root = LogHead(2, log.rows[-1].chain, bytes(32))
    with pytest.raises(IntegrityError, match="entries 0 to 1 of the audit log must be what"):
        verifier.check(other_root.checkpoint("o", 1))
    with pytest.raises(ValueError, match="checkpoint must be about 2 entries, got 1"):
        verifier.check(LogHead(1, bytes(32), bytes(32)).checkpoint("o", 1))


def test_a_damaged_head_takes_no_entry() -> None:
    with pytest.raises(IntegrityError, match="frontier of 3 entries"):
        LogHead(3, bytes(32), b"").appended(b"body")


def test_entries_show_persons_only_to_whom_has_their_key() -> None:
    log = MemoryLog(key=PersonKey(bytes(32)))
    ann = Actor("operator", "ann", 7, "10.0.0.1")

    entry = decode_entry(log.add(actor=ann).body.encode())

    assert isinstance(entry.actor, Sealed)
    assert open_actor(entry.role, entry.actor, log.key, entry.sequence) == ann
    assert "ann" not in log.rows[0].body
    assert "10.0.0.1" not in log.rows[0].body


def test_coordinators_stand_in_the_clear_and_nobody_as_nothing() -> None:
    log = MemoryLog()

    mine = log.add(Act.COORDINATOR_STARTED, actor=Actor("coordinator", "coordinator-1"))
    unknown = log.add(Act.AUTHENTICATION_REFUSED, actor=Actor("nobody"))

    assert decode_entry(mine.body.encode()).actor == "coordinator-1"
    assert decode_entry(unknown.body.encode()).actor is None
    assert (mine.person, unknown.person) == (None, None)


def test_a_new_person_gets_a_key_after_its_pseudonym() -> None:
    person, secret = AuditScribe().new_person()

    assert PersonKey(secret).person == person
