"""Who said what in a round: opening messages, and digests of all that was said."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.descriptor import RoundDescriptor
from kumiai.secagg.messages import (
    Body,
    Envelope,
    Signer,
    Survivor,
    Verifier,
    decode_body,
    encode_body,
    read_envelope,
    seal_envelope,
    verify_envelope,
)
from kumiai.secagg.parameters import Adversary

__all__ = ["Conversation", "Said", "seen_digest"]

T = TypeVar("T")
_DOMAIN: Final = b"kumiai/secagg/transcript/v1/"


@dataclass(frozen=True, slots=True)
class Said:
    """A client's message that was checked.

    Attributes:
        index: of the client.
        envelope: as signed.
        data: the envelope's bytes.
    """

    index: int
    envelope: Envelope
    data: bytes


def seen_digest(context: bytes, *phases: Mapping[int, bytes]) -> bytes:
    """Return what stands for all encoded bodies of the phases before, by client."""
    parts = [
        index.to_bytes(2, "little") + body
        for bodies in phases
        for index, body in sorted(bodies.items())
    ]
    return _digest(context, "seen", len(phases).to_bytes(1, "little"), *parts)


def _digest(context: bytes, name: str, *parts: bytes) -> bytes:
    hasher = hashlib.sha256(_DOMAIN + context)
    for part in (name.encode(), *parts):
        hasher.update(len(part).to_bytes(8, "little") + part)
    return hasher.digest()


class Conversation:
    """Opens and makes the messages of one round."""

    __slots__ = ("_indices", "_verifier", "context", "descriptor")

    def __init__(self, descriptor: RoundDescriptor, verifier: Verifier) -> None:
        """Name the round, and who checks signatures."""
        self.descriptor = descriptor
        self.context = descriptor.context()
        self._verifier = verifier
        self._indices = {member.name: index for index, member in enumerate(descriptor.roster)}

    @property
    def is_malicious(self) -> bool:
        """Whether the coordinator may say to each client whatever it likes."""
        return self.descriptor.adversary is Adversary.MALICIOUS

    def name(self, index: int) -> str:
        """Return a client's name."""
        return self.descriptor.roster[index].name

    def seal(self, body: Body, sender: str, signer: Signer) -> bytes:
        """Return a body in a signed envelope."""
        return seal_envelope(
            body, sender=sender, signer=signer, descriptor=self.descriptor, context=self.context
        )

    def open_client(self, data: bytes) -> Said:
        """Return a client's message, its signature checked.

        Raises:
            KumiaiError: the sender is not in the roster or did not sign this.
        """
        envelope = read_envelope(data, self.descriptor)
        index = self._indices.get(envelope.sender)
        if index is None:
            raise SecureAggregationError(
                f"sender must be in the round's roster, got {envelope.sender!r}"
            )
        self._verify(envelope, self.descriptor.roster[index].verification_key)
        return Said(index, envelope, data)

    def open_coordinator(self, data: bytes) -> Envelope:
        """Return the coordinator's message, its signature checked.

        Raises:
            KumiaiError: the sender may not speak for the coordinator or did not sign this.
        """
        envelope = read_envelope(data, self.descriptor)
        keys = {each.name: each.verification_key for each in self.descriptor.coordinators}
        key = keys.get(envelope.sender)
        if key is None:
            raise SecureAggregationError(f"sender must be a coordinator, got {envelope.sender!r}")
        self._verify(envelope, key)
        return envelope

    def open_all(self, envelopes: Iterable[bytes], expected: type[T]) -> dict[int, tuple[Said, T]]:
        """Return messages of one kind by their clients' indices, which must ascend.

        Raises:
            KumiaiError: one is malformed, not signed by its sender, of another kind, or a second
                of its sender.
        """
        opened: dict[int, tuple[Said, T]] = {}
        last = -1
        for data in envelopes:
            said = self.open_client(data)
            if said.index <= last:
                raise SecureAggregationError(
                    f"messages must be one of each client by index, got {said.index} after {last}"
                )
            last = said.index
            opened[last] = (said, decode_body(said.envelope, expected))
        return opened

    def digest(self, name: str, *parts: bytes) -> bytes:
        """Return what stands for some parts of the round under a name."""
        return _digest(self.context, name, *parts)

    def seen_digest(self, *phases: Mapping[int, Body]) -> bytes:
        """Return what stands for all bodies of the phases before, by client."""
        return seen_digest(
            self.context,
            *({index: encode_body(body) for index, body in bodies.items()} for bodies in phases),
        )

    def agreement_digest(
        self, seen: bytes, sharers: Sequence[int], survivors: Sequence[Survivor]
    ) -> bytes:
        """Return what clients sign before they unmask anything."""
        return self.digest(
            "agreement",
            seen,
            b"".join(index.to_bytes(2, "little") for index in sharers),
            b"".join(each.index.to_bytes(2, "little") + each.input_digest for each in survivors),
        )

    def input_digest(self, body: bytes) -> bytes:
        """Return what stands for a `MaskedInput`."""
        return self.digest("input", body)

    def result_digest(self, agreement: bytes, sum_digest: bytes) -> bytes:
        """Return what clients sign after they have checked the sum."""
        return self.digest("result", agreement, sum_digest)

    def _verify(self, envelope: Envelope, key: bytes) -> None:
        verify_envelope(
            envelope,
            key=key,
            verifier=self._verifier,
            descriptor=self.descriptor,
            context=self.context,
        )
