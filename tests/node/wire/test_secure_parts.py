"""Long messages in parts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import IntegrityError
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import CONTROL_BYTES_MAX
from kumiai.node.wire.secure_parts import PartCollector, parts_of

KEY = ("run-a", 3, 2)


def content(size: int) -> pb.SecureContent:
    return pb.SecureContent(message=pb.SecureMessage(envelope=bytes(size), attachment=b"end"))


@given(st.sampled_from([0, 1, 250_000, 258_000, 259_000, 700_000]))
def test_a_message_comes_out_as_it_went_in(size: int) -> None:
    collector = PartCollector(size_bytes_max=1 << 20)
    parts = list(parts_of(KEY, content(size)))

    ended = [collector.take(part) for part in parts]

    assert ended == [None] * (len(parts) - 1) + [(KEY, content(size))]
    for part in parts:
        message = pb.ClientMessage(secure=part)
        assert message.ByteSize() <= CONTROL_BYTES_MAX


def test_a_message_that_was_cut_off_does_not_mix_with_the_next() -> None:
    collector = PartCollector(size_bytes_max=1 << 20)
    first = next(parts_of(KEY, content(500_000)))
    other = ("run-b", 1, 1)

    assert collector.take(first) is None
    (part,) = parts_of(other, content(10))

    assert collector.take(part) == (other, content(10))


def test_a_message_that_is_too_long_is_refused_and_forgotten() -> None:
    collector = PartCollector(size_bytes_max=300_000)
    parts = list(parts_of(KEY, content(600_000)))

    assert collector.take(parts[0]) is None
    with pytest.raises(IntegrityError, match="at most 300000 bytes"):
        collector.take(parts[1])

    (part,) = parts_of(KEY, content(10))
    assert collector.take(part) == (KEY, content(10))
