"""The receipts of this site, and for which rounds it has none yet.

A round in which this site has an update is noted before the update leaves. The note goes when the
receipt comes, or when the coordinator says that there is none; until then the site asks for it in
each of its sessions. A receipt proves itself, by keys that this site remembers.
"""

from pathlib import Path
from typing import Final

from kumiai.core.errors import SecureAggregationError
from kumiai.core.ids import verify_name
from kumiai.crypto.signatures import Ed25519Verifier
from kumiai.identity import files
from kumiai.node.client.secure.known_peers import KnownPeers, clients_of
from kumiai.node.wire.secure_parts import RoundKey
from kumiai.secagg import verify_receipt

__all__ = ["ReceiptFolder"]

_AWAITED_MAX: Final = 64
"""As many rounds back the coordinator keeps what receipts are made of."""


class ReceiptFolder:
    """The receipts' folder."""

    def __init__(self, folder: Path, name: str, peers: KnownPeers) -> None:
        """Use a folder, made where it does not exist.

        Args:
            folder: private.
            name: this site's.
            peers: the keys that it remembers.

        Raises:
            StorageError: the folder cannot be used.
        """
        files.new_private_directory(folder)
        self._folder = folder
        self._name = name
        self._peers = peers

    def await_one(self, key: RoundKey) -> None:
        """Note durably that a receipt is to come; forgets the oldest notes."""
        notes = sorted(self._folder.glob("*.awaited"), key=lambda path: path.stat().st_mtime_ns)
        for path in notes[: max(0, len(notes) - _AWAITED_MAX + 1)]:
            path.unlink(missing_ok=True)
        files.write_atomic(self._note(key), b"", mode=0o600)

    def awaited(self) -> list[RoundKey]:
        """Return the rounds for which there is no receipt yet; which attempt it was is nothing."""
        parts = [path.stem.rpartition(".") for path in sorted(self._folder.glob("*.awaited"))]
        return [(run_id, int(number), 1) for run_id, _, number in parts if number.isdecimal()]

    def take(self, key: RoundKey, receipt: bytes) -> Path | None:
        """Check and keep a receipt.

        Args:
            key: of the round.
            receipt: from outside; empty: there is none.

        Returns:
            Where it is; ``None``: none was awaited, or there is none.

        Raises:
            KumiaiError: it proves nothing about this site's update in that round.
        """
        verify_name("run", key[0])  # files are named after it
        note = self._note(key)
        if not note.exists():
            return None
        path = None
        if receipt:
            self._verify(key, receipt)
            path = self._folder / f"{key[0]}.{key[1]}.receipt"
            files.write_atomic(path, receipt, mode=0o600)
        note.unlink(missing_ok=True)
        return path

    def _verify(self, key: RoundKey, receipt: bytes) -> None:
        roster = clients_of(self._peers.load())
        facts = verify_receipt(receipt, roster, verifier=Ed25519Verifier())
        proven, own = (facts.run_id, facts.round_number, facts.client), (*key[:2], self._name)
        if proven != own:
            raise SecureAggregationError(
                f"receipt must be of {own[2]!r} in round {own[1]} of {own[0]}, got one of "
                f"{proven[2]!r} in round {proven[1]} of {proven[0]}"
            )

    def _note(self, key: RoundKey) -> Path:
        return self._folder / f"{key[0]}.{key[1]}.awaited"
