"""How the programs log: one line per event, for people or as JSON, and nothing that is secret.

Rules kept here: times are ISO 8601 in UTC; a value whose key names a secret never appears; bytes,
arrays and objects that might hold them appear as their kind and size; tracebacks show code lines
and no variables.
"""

import enum
import logging
import math
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from kumiai.node.settings import LogSettings

__all__ = ["configure_logs", "without_secrets"]

_SECRET_WORDS: Final = frozenset(
    {
        *("authorization", "cookie", "credential", "credentials", "key", "keys", "passphrase"),
        *("passphrases", "passwd", "password", "passwords", "private", "pwd", "secret", "secrets"),
        *("token", "tokens"),
    }
)
# Words of snake_case, kebab-case, camelCase and ABCCase.
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
# JSON has its own way to write these.
_VISIBLE: Final = {
    **dict.fromkeys([*range(32), *range(127, 160), 0x2028, 0x2029], "\N{REPLACEMENT CHARACTER}"),
    ord("\n"): " | ",
    ord("\t"): " ",
}
_TEXT_CHARS_MAX: Final = 4_000
_ITEMS_MAX: Final = 100
_DEPTH_MAX: Final = 4
# structlog's own: how an exception is to be rendered, and who logged.
_KEPT: Final = frozenset({"event", "exc_info", "stack_info", "_record", "_from_structlog"})
# Libraries that tell much of what they do at INFO.
_QUIET: Final = ("aiosqlite", "alembic", "asyncio", "grpc", "httpcore", "httpx", "uvicorn")


def configure_logs(settings: LogSettings, *, stream: TextIO | None = None) -> None:
    """Log as told, from structlog's loggers and from those of libraries alike.

    Args:
        settings: level and format.
        stream: where to; by default the standard error.
    """
    target = sys.stderr if stream is None else stream
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(_level(settings)),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                without_secrets,
                *_renderers(settings, target),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=_level(settings), force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, _level(settings)))


def without_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Drop what is named like a secret, and replace what might hold numbers of a client."""
    return {
        name: value if name in _KEPT and name != "event" else _shown(value, _DEPTH_MAX)
        for name, value in event.items()
        if not _is_secret(name)
    }


def _is_secret(name: str) -> bool:
    return any(word.lower() in _SECRET_WORDS for word in _WORD.findall(name))


def _shown(value: object, depth: int) -> Any:
    """Return the value if it is plain, else words for it."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)  # JSON has no word for it
        case None | bool() | int() | float():
            return value
        case enum.Enum():
            return str(value.value)
        case str() | PurePath() | BaseException():
            # Half of a surrogate pair can not be written to a file.
            text = str(value).encode(errors="replace").decode()
            return text if len(text) <= _TEXT_CHARS_MAX else text[:_TEXT_CHARS_MAX] + "..."
        case bytes() | bytearray() | memoryview():
            return f"<{memoryview(value).nbytes} bytes>"
        case Mapping() if depth and len(value) <= _ITEMS_MAX:
            return {
                str(name): _shown(each, depth - 1)
                for name, each in value.items()
                if not _is_secret(str(name))
            }
        case list() | tuple() | set() | frozenset() if depth and len(value) <= _ITEMS_MAX:
            return [_shown(each, depth - 1) for each in value]
        case _:
            # Not its repr: that of an array, of a message or of a dataclass shows what it holds.
            return f"<{type(value).__name__}{_extent(value)}>"


def _extent(value: object) -> str:
    if (shape := getattr(value, "shape", None)) is not None:
        return f" {getattr(value, 'dtype', '')} {shape}"
    return f" of {len(value)}" if isinstance(value, Collection) else ""


def _renderers(settings: LogSettings, target: TextIO) -> list[Processor]:
    if settings.format == "json":
        return [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(sort_keys=True),
        ]
    return [
        _on_one_line,
        structlog.dev.ConsoleRenderer(
            colors=target.isatty(),
            # Not the pretty one: it shows the variables of every frame.
            exception_formatter=structlog.dev.plain_traceback,
        ),
    ]


def _on_one_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Keep a text from outside from looking like lines of its own, or from steering a terminal."""
    return {
        name: value.translate(_VISIBLE) if isinstance(value, str) else value
        for name, value in event.items()
    }


def _level(settings: LogSettings) -> int:
    return logging.getLevelNamesMapping()[settings.level.upper()]
