"""What stays of a round once its sum is out: the sum's name, and what makes everybody's receipt.

The sum itself lies elsewhere, under its digest. A receipt proves itself, so that nobody needs to
sign it anew, and a client that was away gets it whenever it asks.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kumiai.secagg.actions import Outcome
from kumiai.secagg.descriptor import CLIENT_COUNT_MAX
from kumiai.secagg.receipts import Receipt
from kumiai.secagg.wire import Codec, blob, fixed, increasing, number, real, record, text

__all__ = ["KeptSum"]

_NAME_SIZE_MAX: Final = 128
_PART_SIZE_MAX: Final = 1 << 28


@dataclass(frozen=True, slots=True)
class KeptInput:
    """A survivor's input, as it signed it."""

    client: str
    message: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeptSum:
    """What stays of a round.

    Attributes:
        total_digest: BLAKE3 of `Outcome.total`, as bytes.
        weight: the sum of the weights.
        step: what one unit of the total stands for.
        evidence: of all receipts, `RoundEvidence.encode`.
        inputs: of the survivors, by name.
    """

    total_digest: bytes
    weight: int
    step: float
    evidence: bytes = field(repr=False)
    inputs: tuple[KeptInput, ...]

    @classmethod
    def of(
        cls, outcome: Outcome, total_digest: bytes, proven: tuple[bytes, tuple[bytes, ...]]
    ) -> "KeptSum":
        """Return what stays.

        Args:
            outcome: what the round gave.
            total_digest: of its total.
            proven: `ServerRound.proven`.
        """
        evidence, messages = proven
        kept = sorted(
            (KeptInput(name, each) for name, each in zip(outcome.survivors, messages, strict=True)),
            key=_by_name,
        )
        return cls(total_digest, outcome.weight, outcome.step, evidence, tuple(kept))

    @property
    def survivors(self) -> tuple[str, ...]:
        """The names of the clients in the sum."""
        return tuple(each.client for each in self.inputs)

    def outcome(self, total: NDArray[np.int64]) -> Outcome:
        """Return what the round gave, from its total."""
        return Outcome(total, self.weight, self.step, self.survivors)

    def find_receipt(self, client: str) -> bytes | None:
        """Return a client's receipt; ``None``: its update is not in the sum."""
        for each in self.inputs:
            if each.client == client:
                return Receipt(each.message, self.evidence).encode()
        return None

    def encode(self) -> bytes:
        """Return the whole as bytes."""
        return _KEPT.write(self)

    @classmethod
    def decode(cls, data: bytes) -> "KeptSum":
        """Return what the bytes stand for.

        Raises:
            SecureAggregationError: they stand for nothing that stays of a round.
        """
        return _KEPT.decode(data)


def _by_name(kept: KeptInput) -> bytes:
    return kept.client.encode()


_KEPT: Final[Codec[KeptSum]] = record(
    KeptSum,
    total_digest=fixed(32, "total_digest"),
    weight=number(8, "weight", least=1),
    step=real("step"),
    evidence=blob(_PART_SIZE_MAX, "evidence"),
    inputs=increasing(
        record(
            KeptInput,
            client=text(_NAME_SIZE_MAX, "client"),
            message=blob(_PART_SIZE_MAX, "input"),
        ),
        CLIENT_COUNT_MAX,
        "inputs",
        key=_by_name,
    ),
)
