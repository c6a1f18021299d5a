"""Long messages of secure aggregation, in parts that a session carries beside its other words."""

from collections.abc import Iterator

from kumiai.core.errors import IntegrityError
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import CONTROL_BYTES_MAX

__all__ = ["PartCollector", "RoundKey", "parts_of"]

RoundKey = tuple[str, int, int]
"""Run, round and attempt."""

_PART_BYTES = CONTROL_BYTES_MAX - 4096


def parts_of(key: RoundKey, content: pb.SecureContent) -> Iterator[pb.SecurePart]:
    """Yield a message's parts, in the order of sending."""
    run_id, number, attempt = key
    data = content.SerializeToString()
    for start in range(0, max(len(data), 1), _PART_BYTES):
        yield pb.SecurePart(
            run_id=run_id,
            round=number,
            attempt=attempt,
            content=data[start : start + _PART_BYTES],
            is_last=start + _PART_BYTES >= len(data),
        )


class PartCollector:
    """Puts one sender's parts together, one message at a time."""

    def __init__(self, *, size_bytes_max: int) -> None:
        """Take messages of at most so many bytes."""
        self._size_bytes_max = size_bytes_max
        self._key: RoundKey | None = None
        self._data = bytearray()

    def take(self, part: pb.SecurePart) -> tuple[RoundKey, pb.SecureContent] | None:
        """Return the message that this part ends, if it ends one.

        A part of another round begins anew: what came before was cut off.

        Raises:
            IntegrityError: the message is too long.
            DecodeError: it does not parse.
        """
        key = (part.run_id, part.round, part.attempt)
        if key != self._key:
            self._key = key
            self._data.clear()
        if len(self._data) + len(part.content) > self._size_bytes_max:
            self._data.clear()
            raise IntegrityError(
                f"message of secure aggregation must be at most {self._size_bytes_max} bytes"
            )
        self._data += part.content
        if not part.is_last:
            return None
        data = bytes(self._data)
        self._data.clear()
        return key, pb.SecureContent.FromString(data)
