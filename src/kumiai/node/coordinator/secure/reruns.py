"""A round whose sum was wrong goes again in parts: which are to come, and which have come to a sum.

Everything follows from the round's attempts. The first wrong sum is split in two groups; each of
the attempts that follow is one group's, in order, and a group that is wrong again is split again.
A group that cannot be split, or loses a member, gives nothing to this round.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from kumiai.secagg import KeptSum, WrongSum
from kumiai.storage import SecureRoundRecord

__all__ = ["Ended", "Rerun", "decode_wrong", "encode_wrong", "rerun_of"]

Group = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt that has ended, and what came of it."""

    attempt: SecureRoundRecord
    wrong: WrongSum | None = None
    kept: KeptSum | None = None


@dataclass(frozen=True, slots=True)
class Rerun:
    """How far a round is that goes again in parts.

    Attributes:
        first: the attempt whose sum was wrong.
        pending: groups that are to be summed, the next one first.
        done: those that came to a sum.
        wrong: groups of which one member at least has lied, and that are too small to be split.
    """

    first: SecureRoundRecord
    pending: tuple[Group, ...]
    done: tuple[Ended, ...]
    wrong: tuple[Group, ...]

    @property
    def counted(self) -> Group:
        """Whose updates are in a sum already."""
        return tuple(name for each in self.done if each.kept for name in each.kept.survivors)


def rerun_of(attempts: Iterable[Ended]) -> Rerun | None:
    """Return how far a round is; ``None``: it does not go again in parts.

    Args:
        attempts: of the round, those that have ended, in their order.
    """
    first: SecureRoundRecord | None = None
    pending: tuple[Group, ...] = ()
    done: list[Ended] = []
    wrong: list[Group] = []
    for each in attempts:
        if first is None and each.wrong is None:
            continue
        if first is None:
            first = each.attempt
        else:
            pending = pending[1:]
        if each.wrong is not None and each.wrong.groups:
            pending = (*each.wrong.groups, *pending)
        elif each.wrong is not None:
            wrong.append(each.wrong.survivors)
        elif each.kept is not None:
            done.append(each)
    return None if first is None else Rerun(first, pending, tuple(done), tuple(wrong))


def encode_wrong(wrong: WrongSum) -> bytes:
    """Return what is kept of a wrong sum."""
    return orjson.dumps({"survivors": wrong.survivors, "groups": wrong.groups})


def decode_wrong(data: bytes) -> WrongSum:
    """Return a wrong sum as `encode_wrong` wrote it."""
    told = orjson.loads(data)
    return WrongSum(tuple(told["survivors"]), tuple(tuple(each) for each in told["groups"]))
