"""Where the hidden sum of a round stands: its phase, who is awaited, who was left out and why."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.secagg import RoundDescriptor, Standing, standing_of, suspects
from kumiai.storage import SecureRoundRepository, SecureRoundState

__all__ = ["HiddenRound", "find_hidden_round", "hidden_lines"]

_NAMES_MAX: Final = 20
_WORDS: Final = {
    "ADVERTISING": "clients say their keys",
    "ADVERTISING_HIDDEN": "clients say their keys",
    "REVEALING": "clients draw who is whose neighbour",
    "SHARING": "clients share their secrets",
    "COLLECTING": "hidden updates come in",
    "AGREEING": "clients agree on who is in the sum",
    "UNMASKING": "clients help to take the masks off the sum",
    "CONFIRMING": "clients check the sum",
    "OPENING": "a client tells the decrypted sum",
    "PUBLISHED": "the sum is checked",
    "ABANDONED": "there is no sum",
}


@dataclass(frozen=True, slots=True)
class HiddenRound:
    """The newest attempt to sum a round whose updates are hidden.

    Attributes:
        attempt: its number.
        state: whether it goes on.
        reason: why it ended without a sum.
        standing: where it stands, while it goes on.
        excluded: who was left out, in this attempt or an earlier one, with the reason.
        suspects: whom the run's wrong sums point to, and who are left out of it.
    """

    attempt: int
    state: SecureRoundState
    reason: str | None = None
    standing: Standing | None = None
    excluded: Mapping[str, str] = field(default_factory=dict)
    suspects: tuple[str, ...] = ()


async def find_hidden_round(
    secure: SecureRoundRepository, run_id: str, round_number: int
) -> HiddenRound | None:
    """Return the hidden sum of a round; ``None``: its updates are not hidden, or not yet asked.

    Raises:
        SecureAggregationError: its records cannot be read.
        StorageError: the database failed.
    """
    attempt = await secure.find(run_id, round_number)
    if attempt is None:
        return None
    standing = None
    if attempt.state == "open" and attempt.opening:
        opening = pb.SecureOpening.FromString(attempt.opening)
        descriptor = RoundDescriptor.decode(opening.descriptor)
        standing = standing_of(descriptor, await secure.records(attempt))
    return HiddenRound(
        attempt.attempt,
        attempt.state,
        attempt.reason,
        standing,
        await secure.exclusions(run_id, round_number),
        tuple(sorted(suspects(await secure.wrong_groups(run_id)))),
    )


def hidden_lines(hidden: HiddenRound) -> Iterator[str]:
    """Yield what a person should know of it."""
    head = f"hidden sum, attempt {hidden.attempt}"
    if (standing := hidden.standing) is not None:
        yield f"{head}: {_WORDS[standing.phase.name]}"
        if standing.awaited:
            answered = len(standing.answered)
            yield f"{head}: {answered} answered, waits for {_listed(standing.awaited)}"
    elif hidden.state in {"aborted", "wrong"}:
        yield f"{head}: ended without a sum: {hidden.reason}"
    for client, reason in sorted(hidden.excluded.items()):
        yield f"left out of the sum: {client}: {reason}"
    for client in hidden.suspects:
        yield (
            f"left out of the run: {client}: sums that it was in were wrong, whoever else was in "
            "them; it uploads something else than it commits to"
        )


def _listed(names: tuple[str, ...]) -> str:
    rest = len(names) - _NAMES_MAX
    shown = ", ".join(names[:_NAMES_MAX])
    return shown if rest <= 0 else f"{shown} and {rest} more"
