"""Runs during which one process is killed at a named point, and started again."""

import re
from collections.abc import Mapping
from typing import Any

from tests.system.federation import SITES, Federation, Mortal

__all__ = ["SECONDS", "died_at", "with_a_killed_client", "with_a_killed_coordinator"]

SECONDS = 100.0


async def with_a_killed_coordinator(
    federation: Federation, job: Mapping[str, Any], death: str
) -> str:
    """Run a job to its end while the coordinator dies at this point; return the run."""
    await federation.start_coordinator(death)
    federation.start_living_clients(*SITES)
    async with federation.within(SECONDS):
        run_id = await federation.submit(job)
        await federation.wait_for_end(run_id)
    died_at(federation.coordinator, death)
    return run_id


async def with_a_killed_client(
    federation: Federation, job: Mapping[str, Any], death: str, *, name: str = "site-3"
) -> str:
    """Run a job to its end while a client dies at this point; return the run."""
    await federation.start_coordinator()
    client = await federation.start_mortal_client(name, death)
    federation.start_living_clients(*(site for site in SITES if site != name))
    async with federation.within(SECONDS):
        run_id = await federation.submit(job)
        await federation.wait_for_end(run_id)
    died_at(client, death)
    return run_id


def died_at(mortal: Mortal, death: str) -> None:
    """Check that a process has died at this point, once."""
    ends = [life.names()[-1:] for life in mortal.lives[:-1]]
    assert ends == [[re.sub(r":\d+$", "", death.rpartition(">")[2])]], mortal.report()
