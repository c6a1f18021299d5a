"""Rounds that go step by step: all clients fetch, then all send, as the benchmark says.

One more client than is measured is attached, and answers last: until then the coordinator waits,
so that adding up the updates does not run into the time of sending them.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _federation import (
    Driven,
    bare_clients,
    ended,
    federation_in,
    gathered,
    job_for,
    new_model,
)

from kumiai.node.local.federation import LocalFederation

__all__ = ["HeldRounds", "held_rounds"]


@dataclass(frozen=True, slots=True)
class HeldRounds:
    """A run whose steps are ours.

    Attributes:
        federation: the coordinator.
        groups: the measured clients.
        keeper: holds each round open.
        run_id: the run.
        other_names: clients that have certificates and are not started.
    """

    federation: LocalFederation
    groups: Sequence[Driven]
    keeper: Driven
    run_id: str
    other_names: Sequence[str]

    @property
    def coordinator(self) -> int:
        """The coordinator's process id."""
        return self.federation.coordinator.pid

    @property
    def pids(self) -> list[int]:
        """The processes that move bytes."""
        return [self.coordinator, *(group.pid for group in self.groups)]

    async def opened(self) -> int:
        """Return the number of the next round, once every client has its task."""
        answers = await gathered(each.ask(do="next_task") for each in (*self.groups, self.keeper))
        return int(answers[0]["round"])

    async def fetch(self) -> str:
        """Let all fetch the model; return where one of them has it."""
        return str((await self._all(do="fetch"))[0]["model"])

    async def prepare(self, model: str) -> None:
        """Let all make an update from this file."""
        await self._all(do="prepare", model=model)

    async def send(self) -> None:
        """Let all send their update; returns when each is acknowledged."""
        await self._all(do="send")

    async def close(self) -> None:
        """Let the round be closed, and the fetched models be deleted."""
        await self._all(do="forget_models")
        await self.keeper.ask(do="fail")

    async def finished(self) -> None:
        """Return once the last round is published and the run has ended."""
        await ended(self.federation, self.run_id)

    async def _all(self, **order: Any) -> list[dict[str, Any]]:
        return await gathered(group.ask(**order) for group in self.groups)


@asynccontextmanager
async def held_rounds(
    folder: Path, *, clients: int, numbers: int, rounds: int, processes: int, others: int = 0
) -> AsyncIterator[HeldRounds]:
    """Start a coordinator and so many clients, and a run over a model of so many float32.

    Args:
        folder: the federation's.
        clients: how many are measured.
        numbers: in the model.
        rounds: of the run.
        processes: that the clients share.
        others: for how many more clients certificates stand; they attach after the run began.
    """
    async with federation_in(folder, clients + 1 + others) as federation:
        names = federation.client_names
        async with (
            bare_clients(federation, names[:clients], processes=processes) as groups,
            bare_clients(federation, names[clients : clients + 1], processes=1) as keepers,
        ):
            run_id = await federation.api.submit(
                job_for(clients + 1, rounds, quorum=1), new_model(numbers)
            )
            yield HeldRounds(federation, groups, keepers[0], run_id, names[clients + 1 :])
