"""Sessions, models and clients to look for, made in the ways in which the product makes them."""

from collections.abc import Awaitable, Callable, Sequence

from kumiai.storage import (
    Changes,
    ClientRegistryRepository,
    DatabaseManager,
    ModelRepository,
    NewClient,
    NewModel,
    Page,
    RunRecord,
    RunRepository,
    TrainingHistoryRepository,
)
from tests.storage.leading import TTL_SECONDS, Leading, new_run

__all__ = ["Catalogue", "all_pages"]


class Catalogue:
    """The repositories of one database, and rows for them."""

    def __init__(self, database: DatabaseManager) -> None:
        self.database = database
        self.runs = RunRepository(database)
        self.history = TrainingHistoryRepository(database)
        self.models = ModelRepository(database)
        self.clients = ClientRegistryRepository(database)

    async def add_run(
        self,
        run_id: str,
        *,
        description: str | None = None,
        tags: Sequence[str] | None = None,
        **values: object,
    ) -> RunRecord:
        """Submit a run and describe it."""
        await self.runs.create(new_run(run_id, **values))
        return await self.history.update(run_id, Changes(description=description, tags=tags))

    async def lead(self, run_id: str) -> Leading:
        """Take the lease of a run and start it."""
        lease = await self.runs.acquire_lease(run_id, "leader-1", TTL_SECONDS)
        if lease is None:
            raise RuntimeError("the lease must be free in a test")
        await self.runs.start(lease)
        return Leading(self.runs, lease)

    async def end(self, run_id: str) -> None:
        """Let a run come to its end."""
        await self.runs.finish((await self.lead(run_id)).lease, "finished", "done")

    async def add_models(self, run_id: str, count: int, *, first: int = 1) -> None:
        """Enter models of the rounds from ``first`` on."""
        await self.models.add_many(
            NewModel(run_id, number, f"d{number}", 10, "digits")
            for number in range(first, first + count)
        )

    async def add_clients(self, *client_ids: str) -> None:
        """Announce clients."""
        await self.clients.register_many(NewClient(client_id) for client_id in client_ids)


async def all_pages(
    fetch: Callable[[str | None], Awaitable[Page[object]]], *, pages_max: int = 1000
) -> list[object]:
    """Return the items of all pages, one after the other."""
    found: list[object] = []
    cursor: str | None = None
    for _ in range(pages_max):
        page = await fetch(cursor)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found
    raise RuntimeError(f"a list must end, got more than {pages_max} pages")
