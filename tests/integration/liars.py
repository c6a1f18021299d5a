"""Sites that lie in hidden rounds: real clients, whose word about their update is changed."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kumiai.secagg import CommittedUpdate, RoundDescriptor, UpdateProofs
from tests.integration.federation import Federation

__all__ = ["Change", "let_lie"]

Change = Callable[[NDArray[np.int64], Callable[[NDArray[np.int64]], CommittedUpdate]], Any]
"""Makes of the numbers to commit to, and of what commits, what the site says."""


class _LyingProofs:
    """Commits to what the site likes, and checks others as it must."""

    def __init__(self, honest: UpdateProofs, change: Change) -> None:
        self._honest = honest
        self._change = change

    def blinding_count(self, descriptor: RoundDescriptor) -> int:
        return self._honest.blinding_count(descriptor)

    def commit(
        self, values: NDArray[np.int64], descriptor: RoundDescriptor, context: bytes
    ) -> CommittedUpdate:
        made: CommittedUpdate = self._change(
            values, lambda other: self._honest.commit(other, descriptor, context)
        )
        return made

    def verify_update(self, *arguments: Any, **keywords: Any) -> None:
        self._honest.verify_update(*arguments, **keywords)

    def verify_sum(
        self, commitments: Sequence[bytes], total: NDArray[np.int64], blindings: Sequence[int]
    ) -> None:
        self._honest.verify_sum(commitments, total, blindings)


def let_lie(federation: Federation, name: str, change: Change) -> None:
    """Let an attached site lie in every round from now on."""
    site: Any = federation.agents[name]._secure
    joined = site._joined

    def lying(*arguments: Any) -> Any:
        found, actions = joined(*arguments)
        knowledge = found.machine._knowledge
        knowledge._proofs = _LyingProofs(knowledge._proofs, change)
        return found, actions

    site._joined = lying
