"""Bytes of messages: what is written is read, and nothing else is."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kumiai.core.errors import KumiaiError, SecureAggregationError
from kumiai.secagg.client_records import ClientRecord
from kumiai.secagg.descriptor import RoundDescriptor
from kumiai.secagg.messages import CODECS, Kind, read_envelope
from kumiai.secagg.receipts import verify_receipt
from kumiai.secagg.server_records import ServerRecord
from kumiai.secagg.wire import (
    Codec,
    blob,
    choice,
    fixed,
    increasing,
    indices,
    many,
    number,
    real,
    record,
    text,
)
from tests.secagg.forms import size
from tests.secagg.rounds import VERIFIER, Network, describe, paillier_network, signers_of

Make = Callable[[], Codec[Any]]
"""Makes a form within the test, so that a changed form is seen."""

rising = functools.partial(increasing, key=int)

FORMS: list[tuple[Make, Any, bytes]] = [
    (lambda: number(2, "n"), 258, b"\x02\x01"),
    (lambda: number(1, "n"), 255, b"\xff"),
    (lambda: number(1, "n", least=2, most=5), 2, b"\x02"),
    (lambda: number(1, "n", least=2, most=5), 5, b"\x05"),
    (lambda: fixed(3, "f"), b"abc", b"abc"),
    (lambda: blob(3, "b"), b"abc", b"\x03\0\0\0abc"),
    (lambda: text(4, "t"), "é", b"\x02\0\0\0\xc3\xa9"),
    (lambda: real("r"), 1.0, bytes.fromhex("000000000000f03f")),
    (lambda: real("r"), 0.5, bytes.fromhex("000000000000e03f")),
    (lambda: choice((True, False), "c"), False, b"\x02"),
    (lambda: many(number(1, "n"), 3, "m"), (3, 1, 1), b"\x03\0\0\0\x03\x01\x01"),
    (lambda: indices(4, "p"), (0, 1, 3), b"\x03\0\0\0\0\0\x01\0\x03\0"),
    (lambda: indices(300, "p"), (258,), b"\x01\0\0\0\x02\x01"),
    (lambda: indices(4, "p"), (), b"\0\0\0\0"),
    (lambda: rising(number(1, "n"), 3, "i"), (1, 3, 4), b"\x03\0\0\0\x01\x03\x04"),
]


@pytest.mark.parametrize(("make", "value", "data"), FORMS)
def test_each_value_has_its_one_form(make: Make, value: Any, data: bytes) -> None:
    assert make().write(value) == data
    assert make().decode(data) == value


@pytest.mark.parametrize(("make", "value", "data"), FORMS)
def test_bytes_too_few_or_too_many_are_refused(make: Make, value: Any, data: bytes) -> None:
    with pytest.raises(SecureAggregationError, match="must end after its last field, got 1 bytes"):
        make().decode(data + b"\0")
    for cut in range(len(data)):
        with pytest.raises(SecureAggregationError, match="must be"):
            make().decode(data[:cut])


@pytest.mark.parametrize(
    ("make", "data", "problem"),
    [
        (lambda: number(1, "n", least=2, most=5), b"\x01", "n must be 2 to 5, got 1"),
        (lambda: number(1, "n", least=2, most=5), b"\x06", "n must be 2 to 5, got 6"),
        (lambda: number(2, "n"), b"\x06", "n must be 2 bytes, got the last 1"),
        (lambda: fixed(3, "f"), b"ab", "f must be 3 bytes, got the last 2"),
        (lambda: blob(3, "b"), b"\x04\0\0\0abcd", "length of b must be 0 to 3, got 4"),
        (lambda: blob(3, "b"), b"\x03\0\0\0ab", "b must be 3 bytes, got the last 2"),
        (lambda: text(4, "t"), b"\0\0\0\0", "t must be printable and not empty, got 0 bytes"),
        (lambda: text(4, "t"), b"\x01\0\0\0\n", "t must be printable and not empty, got 1 bytes"),
        (lambda: text(4, "t"), b"\x01\0\0\0\xff", "t must be UTF-8, got 1 bytes"),
        (lambda: text(4, "t"), b"\x05\0\0\0abcde", "length of t must be 0 to 4, got 5"),
        (
            lambda: real("r"),
            bytes.fromhex("000000000000f07f"),
            "r must be a finite number .*, got inf",
        ),
        (
            lambda: real("r"),
            bytes.fromhex("000000000000f87f"),
            "r must be a finite number .*, got nan",
        ),
        (lambda: real("r"), bytes(8), "r must be a finite number above 0, got 0"),
        (
            lambda: real("r"),
            bytes.fromhex("000000000000f0bf"),
            "r must be a finite number .*, got -1",
        ),
        (lambda: real("r"), bytes(7), "r must be 8 bytes, got the last 7"),
        (lambda: choice((True, False), "c"), b"\0", "c must be 1 to 2, got 0"),
        (lambda: choice((True, False), "c"), b"\x03", "c must be 1 to 2, got 3"),
        (
            lambda: many(number(1, "n"), 3, "m"),
            b"\x04\0\0\0abcd",
            "count of m must be 0 to 3, got 4",
        ),
        (lambda: indices(2, "p"), size(3) + bytes(6), "count of p must be 0 to 2, got 3"),
        (lambda: indices(4, "p"), size(2) + bytes(3), "p must be 4 bytes, got the last 3"),
        (lambda: indices(4, "p"), size(2) + bytes(4), "p must increase, got one that is not"),
        (lambda: indices(4, "p"), size(2) + b"\0\0\x04\0", "p must be 0 to 3, got 0 to 4"),
        (
            lambda: rising(number(1, "n"), 3, "i"),
            b"\x02\0\0\0\x03\x03",
            "i must increase, got one",
        ),
        (
            lambda: rising(number(1, "n"), 3, "i"),
            b"\x04\0\0\0abcd",
            "count of i must be 0 to 3",
        ),
    ],
)
def test_bytes_of_no_value_are_refused(make: Make, data: bytes, problem: str) -> None:
    with pytest.raises(SecureAggregationError, match=f"^{problem}"):
        make().decode(data)


@pytest.mark.parametrize(
    ("make", "value", "problem"),
    [
        (lambda: number(1, "n", most=5), 6, "n must be 0 to 5, got 6"),
        (lambda: number(1, "n"), -1, "n must be 0 to 255, got -1"),
        (lambda: number(1, "n"), 256, "n must be 0 to 255, got 256"),
        (lambda: fixed(3, "f"), b"ab", "f must be 3 bytes, got 2"),
        (lambda: blob(3, "b"), b"abcd", "length of b must be 0 to 3, got 4"),
        (lambda: text(4, "t"), "", "t must be printable and not empty, got 0 characters"),
        (lambda: text(4, "t"), "a\n", "t must be printable and not empty, got 2 characters"),
        (lambda: text(4, "t"), "abcde", "length of t must be 0 to 4, got 5"),
        (lambda: real("r"), 0.0, "r must be a finite number above 0, got 0"),
        (lambda: real("r"), float("nan"), "r must be a finite number above 0, got nan"),
        (lambda: real("r"), float("inf"), "r must be a finite number above 0, got inf"),
        (lambda: choice((1, 2), "c"), 3, "not in tuple"),
        (lambda: many(number(1, "n"), 1, "m"), (1, 2), "count of m must be 0 to 1, got 2"),
        (lambda: indices(4, "p"), (2, 1), "p must increase, got one that is not larger"),
        (lambda: indices(4, "p"), (1, 1), "p must increase, got one that is not larger"),
        (lambda: indices(4, "p"), (-1, 1), "p must be 0 to 3, got -1 to 1"),
        (lambda: indices(4, "p"), (1, 4), "p must be 0 to 3, got 1 to 4"),
        (lambda: rising(number(1, "n"), 3, "i"), (2, 1), "i must increase, got one"),
        (lambda: rising(number(1, "n"), 3, "i"), (1, 3, 3), "i must increase, got one"),
        (lambda: rising(number(1, "n"), 3, "i"), (1, 2, 3, 4), "count of i must be 0 to 3"),
    ],
)
def test_values_out_of_their_limits_are_not_written(make: Make, value: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make().write(value)


def test_what_increases_may_do_so_by_a_part_of_it() -> None:
    pair = record(complex, real=number(1, "real"), imag=number(1, "imag"))
    codec = increasing(pair, 2, "pairs", key=lambda each: each.imag)
    data = b"\x02\0\0\0" + bytes([9, 1, 4, 2])

    assert codec.decode(data) == (9 + 1j, 4 + 2j)
    with pytest.raises(SecureAggregationError, match="pairs must increase"):
        codec.decode(b"\x02\0\0\0" + bytes([4, 2, 9, 1]))


@dataclass(frozen=True)
class Span:
    start: int
    stop: int


def test_a_record_is_its_fields_in_order() -> None:
    codec = record(Span, start=number(1, "start"), stop=number(1, "stop"))

    assert codec.write(Span(3, 4)) == b"\x03\x04"
    assert codec.decode(b"\x03\x04") == Span(3, 4)


@pytest.fixture(scope="module")
def finished() -> Network:
    network = Network(4)
    network.run()
    return network


def messages(network: Network) -> list[bytes]:
    sends = [send for name in network.names for send in network.sent[name] + network.told[name]]
    return [send.message for send in sends]


def test_every_kind_of_message_is_written_as_it_was_read(finished: Network) -> None:
    other = paillier_network(3)
    other.run()
    kinds = set()
    for network, data in [(each, data) for each in (finished, other) for data in messages(each)]:
        envelope = read_envelope(data, network.descriptor)
        codec = CODECS[envelope.kind][1]
        kinds.add(envelope.kind)

        assert envelope.encode() == data
        assert codec.write(codec.decode(envelope.body)) == envelope.body

    assert kinds == set(Kind) - {Kind.NONCE_REVEAL, Kind.NONCE_REVEALS, Kind.ABANDONMENT}


@settings(max_examples=300)
@given(st.data())
def test_changed_bodies_are_refused_or_are_other_messages_in_their_one_form(
    finished: Network, data: st.DataObject
) -> None:
    envelope = read_envelope(data.draw(st.sampled_from(messages(finished))), finished.descriptor)
    body = bytearray(envelope.body)
    place = data.draw(st.integers(0, len(body) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "grow", "repeat"])):
        case "flip":
            body[place] ^= data.draw(st.integers(1, 255))
        case "cut":
            del body[place:]
        case "grow":
            body[place:place] = data.draw(st.binary(min_size=1, max_size=9))
        case _:
            body += body[place:]
    codec = CODECS[envelope.kind][1]

    try:
        value = codec.decode(bytes(body))
    except SecureAggregationError:
        return
    assert codec.write(value) == bytes(body)


@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused_with_an_error_of_ours(data: bytes) -> None:
    readers = (
        RoundDescriptor.decode,
        lambda content: ClientRecord.decode(content, 1),
        ServerRecord.decode,
        lambda content: verify_receipt(content, {}, verifier=VERIFIER),
        *(codec.decode for _, codec in CODECS.values()),
    )

    for read in readers:
        try:
            read(data)
        except KumiaiError:
            continue


def test_a_message_of_another_version_is_refused(finished: Network) -> None:
    data = b"\x01\0" + messages(finished)[0][2:]

    with pytest.raises(SecureAggregationError, match="version must be 2 to 2, got 1"):
        read_envelope(data, finished.descriptor)


def test_a_descriptor_is_read_as_it_was_written() -> None:
    descriptor = describe(signers_of(5))

    again = RoundDescriptor.decode(descriptor.encode())

    assert again == descriptor
    assert again.context() == descriptor.context()
