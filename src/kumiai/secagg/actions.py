"""What a state machine asks of whoever runs it, to be done in the order given."""

from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Action",
    "Advance",
    "AskUpdate",
    "Exclude",
    "KeepReceipt",
    "Outcome",
    "Persist",
    "Publish",
    "Send",
    "Stop",
    "WrongSum",
]


@dataclass(frozen=True, slots=True)
class Persist:
    """Append a record and make it durable, sealed at rest, before anything that follows.

    A client's records hold its secrets of the round.
    """

    record: bytes = field(repr=False)

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: what is to be sealed goes nowhere else before."""
        raise TypeError("a Persist cannot be pickled")


@dataclass(frozen=True, slots=True)
class Advance:
    """Set the round's monotonic counter to this, which must be one less now.

    The counter lives where no snapshot of the records takes it back. If it is not one less, the
    records are an old copy, or another copy is running: do nothing that follows, and restore.
    """

    counter: int


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message.

    Attributes:
        message: a signed envelope.
        attachment: what its body names by digest; empty for most.
        vector: the masked vector, or the sum; to be sent as a stream of bytes.
        recipients: names of clients; none: the coordinator.
    """

    message: bytes = field(repr=False)
    attachment: bytes = field(default=b"", repr=False)
    vector: memoryview | None = field(default=None, repr=False)
    recipients: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AskUpdate:
    """Call ``submit`` with the update once it is there."""


@dataclass(frozen=True, slots=True)
class KeepReceipt:
    """Keep this proof that the update was counted once."""

    receipt: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Exclude:
    """Name, record and leave out a client that did what it must not.

    Attributes:
        client: its name.
        reason: what it did, for people.
        evidence: what it has signed, if that shows it.
    """

    client: str
    reason: str
    evidence: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a round gives.

    Attributes:
        total: shape (dimension,), int64: the sum of the quantised updates times their weights.
        weight: the sum of the weights.
        step: what one unit of a quantised update stands for.
        survivors: names of the clients in the sum.
    """

    total: NDArray[np.int64] = field(repr=False)
    weight: int
    step: float
    survivors: tuple[str, ...]

    def mean(self) -> NDArray[np.float32]:
        """Return the weighted mean of the updates, shape (dimension,), float32."""
        return (self.total * (self.step / self.weight)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Publish:
    """A quorum has checked the sum: it may be used now."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class WrongSum:
    """A sum that is not that of what its clients had committed to.

    Attributes:
        survivors: who is in it; one of them at least has uploaded something else.
        groups: in which they go again; none: they are too few to be told apart.
    """

    survivors: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """The round ends without a result; begin another, with a new round id.

    Attributes:
        reason: for people.
        wrong: what was found instead of the sum, if it was that.
    """

    reason: str
    wrong: WrongSum | None = None


Action = Persist | Advance | Send | AskUpdate | KeepReceipt | Exclude | Publish | Stop
