"""Values with their format in the first byte: JSON or MessagePack, compressed above a size.

So a reader needs no setting, and a changed setting breaks no value that is stored already.
Nothing that is read can run code, and what is unpacked is bounded: the bytes of a store that
others share may be anybody's.
"""

import zlib
from typing import Any, Literal

from kumiai.core.errors import CodecError, ConfigError
from kumiai.storage.cache.serialisation import JSONSerializer, Serializer

__all__ = ["MessagePackSerializer", "PackedSerializer"]

_JSON = 0x01
_MSGPACK = 0x02
_ZLIB = 0x10
_FORMATS = 0x0F


class MessagePackSerializer:
    """MessagePack: as JSON, and bytes; smaller than JSON, seldom faster.

    Raises:
        ConfigError: ``msgpack`` is not installed.
    """

    def __init__(self) -> None:
        try:
            import msgpack  # type: ignore[import-untyped] # noqa: PLC0415 - an extra
        except ImportError as error:
            raise ConfigError(
                "serializer msgpack must be installed, got none; pip install 'kumiai[redis]'"
            ) from error
        self._msgpack: Any = msgpack

    def dumps(self, value: Any) -> bytes:
        """Return the bytes of a value.

        Raises:
            ValueError: it has no place in MessagePack.
        """
        try:
            packed: bytes = self._msgpack.packb(value, strict_types=False)
        except (TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"value must fit MessagePack, got {error}") from error
        return packed

    def loads(self, data: bytes | memoryview) -> Any:
        """Return the value of the bytes; its lengths are bounded by theirs.

        Raises:
            CodecError: they are no MessagePack.
        """
        try:
            return self._msgpack.unpackb(data, strict_map_key=False)
        except (ValueError, TypeError, RecursionError, self._msgpack.UnpackException):
            raise CodecError(
                f"value must be MessagePack, got {len(data)} bytes of something else"
            ) from None


class PackedSerializer:
    """Writes one format and reads all; compresses what is large.

    Args:
        format: how values are written.
        compress_above_bytes: larger values are compressed if that helps; ``None``: never.
        max_bytes: how large a value may be when it is not compressed, in both directions.

    Raises:
        ConfigError: MessagePack is asked for and not installed.
        ValueError: the format is unknown, or a size is not above 0.
    """

    def __init__(
        self,
        format: Literal["json", "msgpack"] = "json",  # noqa: A002 - the field's word
        *,
        compress_above_bytes: int | None = 4096,
        max_bytes: int = 64 * 2**20,
    ) -> None:
        if format not in {"json", "msgpack"}:
            raise ValueError(f"format must be 'json' or 'msgpack', got {format!r}")
        if max_bytes <= 0 or (compress_above_bytes is not None and compress_above_bytes <= 0):
            raise ValueError(
                "max_bytes and compress_above_bytes must be above 0, "
                f"got {max_bytes} and {compress_above_bytes}"
            )
        self._tag = _MSGPACK if format == "msgpack" else _JSON
        self._compress_above_bytes = compress_above_bytes
        self._max_bytes = max_bytes
        self._writer = _serializer(self._tag)

    def dumps(self, value: Any) -> bytes:
        """Return the bytes of a value.

        Raises:
            ValueError: it has no place in the format, or is too large.
        """
        body = self._writer.dumps(value)
        if len(body) > self._max_bytes:
            raise ValueError(
                f"value must be at most {self._max_bytes} bytes when written, got {len(body)}"
            )
        if self._compress_above_bytes is not None and len(body) > self._compress_above_bytes:
            smaller = zlib.compress(body, 1)
            if len(smaller) < len(body):
                return bytes((self._tag | _ZLIB,)) + smaller
        return bytes((self._tag,)) + body

    def loads(self, data: bytes) -> Any:
        """Return the value.

        Raises:
            CodecError: the bytes are none of ours, damaged or too large.
        """
        tag = data[0] if data else 0
        if tag & _FORMATS not in {_JSON, _MSGPACK} or tag & ~_FORMATS not in {0, _ZLIB}:
            raise CodecError(f"value must begin with a known format, got {len(data)} other bytes")
        body = data[1:]
        if tag & _ZLIB:
            body = self._decompressed(body)
        elif len(body) > self._max_bytes:
            raise CodecError(f"value must be at most {self._max_bytes} bytes, got {len(body)}")
        return _serializer(tag & _FORMATS).loads(body)

    def _decompressed(self, body: bytes) -> bytes:
        stream = zlib.decompressobj()
        try:
            whole = stream.decompress(body, self._max_bytes)
        except zlib.error:
            raise CodecError(f"value must be whole, got {len(body)} damaged bytes") from None
        if not stream.eof:
            raise CodecError(
                f"value must be whole and at most {self._max_bytes} bytes when decompressed, "
                "got another"
            )
        return whole


def _serializer(tag: int) -> Serializer:
    return MessagePackSerializer() if tag == _MSGPACK else JSONSerializer()
