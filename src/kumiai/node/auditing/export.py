"""The whole log as lines of JSON, and the check of such a file without any coordinator.

The first line names the log and the keys that have signed it. Then each entry has a line with
its value of the hash chain, and each checkpoint one behind the last entry that it is about; the
last line says how many entries there are. Persons stand in it as pseudonyms: the file can be
given away, and who was redacted since is not in it.
"""

import base64
import binascii
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import orjson

from kumiai.core.errors import IntegrityError
from kumiai.identity import TrustBundle
from kumiai.identity.audit import Checkpoint
from kumiai.node.auditing.evidence import CheckedLog, TrustedKeys, VerifiedLog
from kumiai.storage import AuditLog

__all__ = ["EXPORT_LINE_BYTES_MAX", "exported_lines", "verify_export"]

EXPORT_LINE_BYTES_MAX: Final = 1 << 20
_FORMAT: Final = "kumiai audit export 1"
_KEYS_MAX: Final = 10_000


async def exported_lines(log: AuditLog) -> AsyncIterator[bytes]:
    """Yield the lines of the log as it stands now.

    However long it is, a few thousand entries are in memory at once.
    """
    end = await log.end()
    size = 0 if end is None else end.size
    coming = log.checkpoints()
    point = await anext(coming, None)
    keys = [orjson.Fragment(document) for document in await log.signers()]
    yield _line({"format": _FORMAT, "keys": keys})
    async for record in log.read(0, size):
        chain = base64.b64encode(record.chain).decode()
        yield _line({"entry": orjson.Fragment(record.body), "chain": chain})
        while point is not None and point.size <= record.sequence + 1:
            yield _line({"checkpoint": point.note})
            point = await anext(coming, None)
    yield _line({"end": size})


def verify_export(
    lines: Iterable[bytes], trust: TrustBundle, trusted: Checkpoint | None = None
) -> VerifiedLog:
    """Check a file of `exported_lines`, line by line.

    Args:
        lines: each with its line break, at most `EXPORT_LINE_BYTES_MAX` bytes.
        trust: the federation's authorities.
        trusted: how the log stood when somebody looked who kept it.

    Raises:
        IntegrityError: an entry was changed, deleted, moved, put in or cut off; the message names
            the first. Or it is no such file.
        CertificateError: a checkpoint was signed by nobody of the federation.
    """
    reading = iter(lines)
    checked = CheckedLog(TrustedKeys(_keys_in(next(reading, b"")), trust), trusted)
    found: VerifiedLog | None = None
    for number, line in enumerate(reading, start=2):
        if found is not None:
            raise IntegrityError(f"export must end with its last line, got line {number} behind it")
        match _parsed(line, number):
            case {"entry": dict(entry), "chain": str(chain)}:
                body = orjson.dumps(entry, option=orjson.OPT_SORT_KEYS)
                # Every entry says its own place; in the file it has no other.
                checked.add(_place_in(entry, number), body, _bytes_of(chain, number))
            case {"checkpoint": str(note)}:
                checked.see(note)
            case {"end": int(size)}:
                found = checked.end(size)
            case _:
                raise _unreadable(number)
    if found is None:
        raise IntegrityError(
            f"entry {checked.size} of the audit log or the end of the export must follow, got "
            "nothing: the file was cut off"
        )
    return found


def _keys_in(line: bytes) -> list[str]:
    match _parsed(line, 1):
        case {"format": str(name), "keys": list(keys)} if name == _FORMAT:
            return [orjson.dumps(key).decode() for key in keys[:_KEYS_MAX]]
    raise IntegrityError("export must begin as a file of `kumiai audit export`, got something else")


def _parsed(line: bytes, number: int) -> Any:
    try:
        return orjson.loads(line) if len(line) <= EXPORT_LINE_BYTES_MAX else None
    except ValueError:
        raise _unreadable(number) from None


def _place_in(entry: dict[str, Any], number: int) -> int:
    match entry:
        case {"seq": int(place)}:
            return place
    raise _unreadable(number)


def _bytes_of(text: str, number: int) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise _unreadable(number) from None


def _unreadable(number: int) -> IntegrityError:
    return IntegrityError(
        f"line {number} of the export must be an entry, a checkpoint or the end, got something else"
    )


def _line(told: dict[str, Any]) -> bytes:
    return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)
