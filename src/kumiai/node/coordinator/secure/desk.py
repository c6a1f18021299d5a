"""What clients say of secure rounds in their sessions: their key, and the rounds' messages."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import structlog
from google.protobuf.message import DecodeError

from kumiai.core.clock import Clock
from kumiai.core.errors import CertificateError, KumiaiError
from kumiai.identity import NoDenials, PeerRules, Principal, TrustBundle, verify_voucher
from kumiai.node.coordinator.secure.mailbox import Letter, SecureMailbox
from kumiai.node.coordinator.secure.receipts import ReceiptDesk
from kumiai.node.coordinator.secure.sums import VouchedMember
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.secure_parts import PartCollector, parts_of

__all__ = ["SecureDesk"]

_MESSAGE_SIZE_BYTES_MAX: Final = 8 << 20


class SecureDesk:
    """Takes what a session brings for secure rounds."""

    def __init__(
        self, mailbox: SecureMailbox, receipts: ReceiptDesk, *, ca: Path, clock: Clock
    ) -> None:
        """Put letters into a mailbox.

        Args:
            mailbox: of the runs that are led here.
            receipts: of all runs.
            ca: the federation's authorities; read at each use.
            clock: says whether certificates are in force.
        """
        self._mailbox = mailbox
        self._receipts = receipts
        self._ca = ca
        self._clock = clock
        self._log = structlog.get_logger("kumiai.secure")

    async def signing_key(self, caller: Principal, voucher: bytes) -> VouchedMember | None:
        """Return the signing key that a client vouches for; ``None`` if it cannot be used."""
        if not voucher:
            return None
        try:
            return await asyncio.to_thread(self._verified, caller, voucher)
        except KumiaiError as error:
            self._log.warning("voucher refused", client=caller.name, reason=str(error))
            return None

    def collector(self) -> PartCollector:
        """Return what puts the parts of one session together."""
        return PartCollector(size_bytes_max=_MESSAGE_SIZE_BYTES_MAX)

    def arrive(self, client_id: str) -> None:
        """Let the runs know that a client is there."""
        self._mailbox.arrive(client_id)

    async def take(
        self, client_id: str, part: pb.SecurePart, collector: PartCollector
    ) -> Iterable[pb.SecurePart]:
        """Take a part of a client's message; return the answer's parts, if there is one at once.

        Raises:
            IntegrityError: the message is too long.
            DecodeError: it does not parse, or is none that a client may send.
            StorageError: the database failed.
        """
        ended = collector.take(part)
        if ended is None:
            return ()
        key, content = ended
        match content.WhichOneof("body"):
            case "message":
                message = content.message
                self._mailbox.put(Letter(key, client_id, message.envelope, message.attachment))
                return ()
            case "ask_receipt":
                answer = await self._receipts.answer(key, client_id)
                return () if answer is None else parts_of(key, answer)
            case _:
                raise DecodeError("a client sends messages of rounds, and asks for receipts")

    def _verified(self, caller: Principal, voucher: bytes) -> VouchedMember:
        own = caller.identity
        if own is None:
            raise CertificateError("voucher must come with a certificate, got a token")
        rules = PeerRules(own.federation, None, NoDenials())
        vouched = verify_voucher(voucher, TrustBundle.load(self._ca), rules, self._clock.now())
        if vouched.identity.uri != own.uri:
            raise CertificateError(
                f"voucher must be of the client that shows it, {own.uri}, "
                f"got one of {vouched.identity.uri}"
            )
        return VouchedMember(own.name, vouched.public_key, voucher)
