"""Bytes of messages: what is written is read, and nothing else is."""

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
    many,
    number,
    real,
    record,
    text,
)
from tests.secagg.rounds import VERIFIER, Network, describe, paillier_network, signers_of

FORMS: list[tuple[Codec[Any], Any, bytes]] = [
    (number(2, "n"), 258, b"\x02\x01"),
    (fixed(3, "f"), b"abc", b"abc"),
    (blob(3, "b"), b"ab", b"\x02\0\0\0ab"),
    (text(4, "t"), "é", b"\x02\0\0\0\xc3\xa9"),
    (real("r"), 1.0, bytes.fromhex("000000000000f03f")),
    (choice((True, False), "c"), False, b"\x02"),
    (many(number(1, "n"), 3, "m"), (3, 1), b"\x02\0\0\0\x03\x01"),
    (increasing(number(1, "n"), 3, "i"), (1, 3), b"\x02\0\0\0\x01\x03"),
]


@pytest.mark.parametrize(("codec", "value", "data"), FORMS)
def test_each_value_has_its_one_form(codec: Codec[Any], value: Any, data: bytes) -> None:
    assert codec.write(value) == data
    assert codec.decode(data) == value


@pytest.mark.parametrize(("codec", "value", "data"), FORMS)
def test_bytes_too_few_or_too_many_are_refused(codec: Codec[Any], value: Any, data: bytes) -> None:
    with pytest.raises(SecureAggregationError, match="must end after its last field, got 1 bytes"):
        codec.decode(data + b"\0")
    for size in range(len(data)):
        with pytest.raises(SecureAggregationError, match="must be"):
            codec.decode(data[:size])


@pytest.mark.parametrize(
    ("codec", "data"),
    [
        (number(1, "n", least=2, most=5), b"\x01"),
        (number(1, "n", least=2, most=5), b"\x06"),
        (blob(3, "b"), b"\x04\0\0\0abcd"),
        (text(4, "t"), b"\0\0\0\0"),
        (text(4, "t"), b"\x01\0\0\0\n"),
        (text(4, "t"), b"\x01\0\0\0\xff"),
        (real("r"), bytes.fromhex("000000000000f07f")),
        (real("r"), bytes.fromhex("000000000000f87f")),
        (real("r"), bytes(8)),
        (real("r"), bytes.fromhex("000000000000f0bf")),
        (choice((True, False), "c"), b"\0"),
        (choice((True, False), "c"), b"\x03"),
        (many(number(1, "n"), 3, "m"), b"\x04\0\0\0abcd"),
        (increasing(number(1, "n"), 3, "i"), b"\x02\0\0\0\x03\x03"),
    ],
)
def test_bytes_of_no_value_are_refused(codec: Codec[Any], data: bytes) -> None:
    with pytest.raises(SecureAggregationError, match="must"):
        codec.decode(data)


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        (number(1, "n", most=5), 6),
        (number(1, "n"), -1),
        (fixed(3, "f"), b"ab"),
        (blob(3, "b"), b"abcd"),
        (text(4, "t"), ""),
        (text(4, "t"), "a\n"),
        (text(4, "t"), "abcde"),
        (real("r"), 0.0),
        (real("r"), float("nan")),
        (choice((1, 2), "c"), 3),
        (many(number(1, "n"), 1, "m"), (1, 2)),
        (increasing(number(1, "n"), 3, "i"), (2, 1)),
    ],
)
def test_values_out_of_their_limits_are_not_written(codec: Codec[Any], value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has words of its own
        codec.write(value)


def test_a_record_is_its_fields_in_order() -> None:
    codec = record(range, start=number(1, "start"), stop=number(1, "stop"))

    assert codec.write(range(3, 4)) == b"\x03\x04"


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
    data = b"\x02\0" + messages(finished)[0][2:]

    with pytest.raises(SecureAggregationError, match="version must be 1 to 1, got 2"):
        read_envelope(data, finished.descriptor)


def test_a_descriptor_is_read_as_it_was_written() -> None:
    descriptor = describe(signers_of(5))

    again = RoundDescriptor.decode(descriptor.encode())

    assert again == descriptor
    assert again.context() == descriptor.context()
