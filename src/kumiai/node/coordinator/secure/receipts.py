"""Receipts of rounds that are over, for whoever asks: a site that was away when they went out."""

from kumiai.core.errors import NotFoundError
from kumiai.node.coordinator.orders import verify_named_task
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.secure_parts import RoundKey
from kumiai.secagg import KeptSum
from kumiai.storage import RunRepository, SecureRoundRecord, SecureRoundRepository

__all__ = ["ReceiptDesk", "find_kept"]


class ReceiptDesk:
    """Answers sites that ask for a receipt."""

    def __init__(self, runs: RunRepository, secure: SecureRoundRepository) -> None:
        """Read from these."""
        self._runs = runs
        self._secure = secure

    async def answer(self, key: RoundKey, client_id: str) -> pb.SecureContent | None:
        """Return the receipt, or that there is none; ``None``: the round is under way.

        Raises:
            StorageError: the database failed.
        """
        run_id, number, _ = key
        try:
            verify_named_task(run_id, number)
            stage = (await self._runs.round(run_id, number)).stage
        except NotFoundError:
            stage = "abandoned"
        if stage in {"collecting", "closed"}:
            return None
        receipt = await self._find(run_id, number, client_id) if stage == "published" else None
        return pb.SecureContent(receipt=receipt or b"")

    async def _find(self, run_id: str, number: int, client_id: str) -> bytes | None:
        for attempt in await self._secure.attempts(run_id, number):
            kept = await find_kept(self._secure, attempt)
            if kept is not None and (receipt := kept.find_receipt(client_id)) is not None:
                return receipt
        return None


async def find_kept(secure: SecureRoundRepository, attempt: SecureRoundRecord) -> KeptSum | None:
    """Return what stays of an attempt that came to a sum; ``None``: it has none, or is too old.

    Raises:
        StorageError: the database failed.
    """
    result = await secure.result(attempt) if attempt.state == "done" else None
    return None if result is None else KeptSum.decode(result)
