"""What tests of private runs ask both ledgers for, and what they set."""

from typing import Any

from kumiai.core.clock import SystemClock
from kumiai.node.client.budget import SiteLedger, read_copy
from kumiai.privacy.budget import BudgetLimit
from kumiai.privacy.reconciling import SiteCopy
from tests.integration.federation import Federation

__all__ = ["copy_of", "releases_of", "set_budget", "start_without_budget", "told_of"]


def copy_of(federation: Federation, site: str) -> SiteCopy:
    """Return what a site's own ledger holds."""
    ledger = SiteLedger(federation.folder / "clients" / site, site, SystemClock())
    return read_copy(ledger.export())


async def releases_of(federation: Federation) -> dict[str, int]:
    """Return how many releases each scope has paid for at the coordinator."""
    async with federation.http() as http:
        scopes = (await http.get("/api/v1/budgets")).json()["scopes"]
    return {each["scope"]: each["spent"][0]["releases"] for each in scopes}


async def set_budget(federation: Federation, limit: BudgetLimit) -> None:
    """Set a budget at the coordinator."""
    async with federation.http() as http:
        answer = await http.put("/api/v1/budgets", json=limit.to_content())
    assert answer.status_code < 300, answer.text


async def start_without_budget(federation: Federation, site: str) -> None:
    """Start a site anew, with a budget of its own that pays for nothing."""
    await federation.stop_client(site)
    federation.client_settings = {"budget_epsilon": 0.001}
    federation.start_client(site, data={"number": 4})
    await federation.agents[site].attached.wait()


async def told_of(federation: Federation, run_id: str, site: str) -> dict[str, Any]:
    """Return how a run's explanation says that a site fared in its last round."""
    async with federation.http() as http:
        told = (await http.get(f"/api/v1/runs/{run_id}/explain")).json()
    (found,) = [each for each in told["clients"] if each["client"] == site]
    return dict(found)
