"""The signing keys of the others, as this site first saw them.

A coordinator that can issue certificates could issue one for itself in a site's name, and so put
itself between two sites. What it cannot do is to make a site forget: a member that comes with
another key than before is not talked to, until this site's operator has removed it from the file.
Whoever wants no trust in the first sight either writes the file beforehand.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from kumiai.core.errors import IntegrityError, NotFoundError
from kumiai.identity import files

__all__ = ["PEERS_FILE", "KnownPeers", "clients_of"]

PEERS_FILE: Final = "known-peers.json"
_SIZE_BYTES_MAX: Final = 1 << 22
_KEY: Final = re.compile(r"[0-9a-f]{64}")


class KnownPeers:
    """The keys that are known, in a file that people can read and write."""

    def __init__(self, path: Path, *, is_closed: bool = False) -> None:
        """Use a file.

        Args:
            path: need not exist.
            is_closed: take nobody who is not in the file.
        """
        self._path = path
        self._is_closed = is_closed

    def load(self) -> dict[str, str]:
        """Return the keys by URI, 64 hexadecimal digits each; reads the file.

        Raises:
            IntegrityError: it is damaged.
            StorageError: it cannot be read.
        """
        try:
            content = files.read_file(self._path, "known peers", size_bytes_max=_SIZE_BYTES_MAX)
        except NotFoundError:
            return {}
        try:
            keys: Any = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise IntegrityError(self._damaged()) from error
        if not isinstance(keys, dict) or not all(
            isinstance(key, str) and _KEY.fullmatch(key) for key in keys.values()
        ):
            raise IntegrityError(self._damaged())
        return keys

    def verify(self, presented: Mapping[str, bytes]) -> None:
        """Check members' keys against those that are known, and remember the new ones durably.

        Args:
            presented: keys by URI, each vouched for by a certificate.

        Raises:
            IntegrityError: a member's key is another than before, or it is unknown and the file
                is closed; nothing is remembered then.
            StorageError: the file cannot be read or written.
        """
        known = self.load()
        new = {uri: key.hex() for uri, key in presented.items() if uri not in known}
        changed = sorted(
            uri for uri, key in presented.items() if known.get(uri, key.hex()) != key.hex()
        )
        if changed:
            raise IntegrityError(
                f"signing key of {changed[0]} must be the one that this site knows, got another; "
                "somebody may pretend to be it: ask its people, and if they did change the key, "
                f"remove its line from {self._path}"
            )
        if new and self._is_closed:
            raise IntegrityError(
                f"signing key of {min(new)} must stand in {self._path}, got none; add the key that "
                "its people tell you"
            )
        if new:
            text = json.dumps(known | new, indent=1, sort_keys=True) + "\n"
            files.write_atomic(self._path, text.encode(), mode=0o644)

    def _damaged(self) -> str:
        return (
            f"known peers must be a JSON object of keys by URI, got something else in "
            f"{self._path}; restore it from a backup"
        )


def clients_of(keys: Mapping[str, str]) -> dict[str, bytes]:
    """Return the clients' keys by name, out of all by URI."""
    return {
        uri.rpartition("/")[2]: bytes.fromhex(key) for uri, key in keys.items() if "/client/" in uri
    }
