import hashlib
import struct
from collections.abc import Callable

import pytest

from kumiai.crypto.group import ORDER
from kumiai.crypto.transcript import Transcript


def spoken(*acts: Callable[[Transcript], object], protocol: str = "test") -> bytes:
    transcript = Transcript(protocol)
    for act in acts:
        act(transcript)
    return transcript.challenge_bytes("end")


def say(label: str, *parts: bytes) -> Callable[[Transcript], object]:
    return lambda transcript: transcript.append(label, *parts)


def ask(label: str) -> Callable[[Transcript], object]:
    return lambda transcript: transcript.challenge(label)


def number(value: int) -> Callable[[Transcript], object]:
    return lambda transcript: transcript.append_integer("n", value)


def absorbed(label: bytes, *parts: bytes) -> bytes:
    """Write down what is hashed, another way than the code does."""
    pieces = [label, struct.pack(">Q", len(parts)), *parts]
    return b"".join(struct.pack(">Q", len(piece)) + piece for piece in pieces)


def test_a_challenge_is_the_hash_of_everything_with_its_labels_and_lengths() -> None:
    before = absorbed(b"protocol", b"test") + absorbed(b"points", b"one", b"")
    first = before + absorbed(b"n", b"\x01\x00") + absorbed(b"n", b"") + absorbed(b"n", b"\xff")
    first += absorbed(b"challenge", b"x")

    transcript = Transcript("test")
    transcript.append("points", b"one", b"")
    for value in (256, 0, 255):
        transcript.append_integer("n", value)
    challenges = [transcript.challenge_bytes("x"), transcript.challenge("y")]

    expected = hashlib.sha512(first).digest()
    second = first + absorbed(b"challenged", expected) + absorbed(b"challenge", b"y")
    whole = int.from_bytes(hashlib.sha512(second).digest(), "big")
    assert challenges == [expected, whole % ORDER]


def test_the_same_conversation_gives_the_same_challenges() -> None:
    assert spoken(say("a", b"1"), ask("x")) == spoken(say("a", b"1"), ask("x"))


def test_conversations_that_differ_in_anything_give_different_challenges() -> None:
    conversations = [
        spoken(),
        spoken(protocol="other"),
        spoken(say("a")),
        spoken(say("a", b"")),
        spoken(say("a", b"", b"")),
        spoken(say("a", b"1")),
        spoken(say("b", b"1")),
        spoken(say("a1", b"")),
        spoken(say("a", b"12")),
        spoken(say("a", b"1", b"2")),
        spoken(say("a", b"1"), say("a", b"2")),
        spoken(say("a", b"2"), say("a", b"1")),
        spoken(ask("a")),
        spoken(ask("a"), ask("a")),
        spoken(ask("b")),
        spoken(say("challenge", b"a")),
        spoken(number(0)),
        spoken(number(1)),
        spoken(number(256)),
    ]

    assert len(set(conversations)) == len(conversations)


def test_each_challenge_depends_on_the_one_before() -> None:
    one, other = Transcript("test"), Transcript("test")

    first, second = one.challenges("x", 2)

    assert first != second
    assert other.challenges("x", 2) == [first, second]
    assert other.challenge("x") != one.challenge("y")


def test_challenges_are_spread_over_the_whole_group() -> None:
    transcript = Transcript("test")

    drawn = transcript.challenges("x", 200)

    assert all(0 <= each < ORDER for each in drawn)
    assert 70 <= sum(each > ORDER // 2 for each in drawn) <= 130


def test_a_negative_number_has_no_place_in_a_transcript() -> None:
    with pytest.raises(OverflowError):
        Transcript("test").append_integer("n", -1)
