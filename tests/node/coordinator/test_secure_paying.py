"""Who pays for a private round: nobody where nothing is private, and nobody without a ledger."""

from pathlib import Path
from typing import Any

import pytest

from kumiai.core.errors import ConfigError
from kumiai.node.coordinator.budgets import BudgetDesk
from kumiai.node.coordinator.secure.paying import RoundPayer, new_payer
from kumiai.node.job import parse_job
from kumiai.storage import Lease

PRIVATE: dict[str, Any] = {
    "run": {"app": "heart"},
    "evaluation": {"every": 0},
    "secure_aggregation": {"mode": "masking"},
    "privacy": {"unit": "client", "clip": 1.0, "delta": 1e-5, "noise_multiplier": 1.0},
}
OPEN = parse_job({"run": {"app": "heart"}})
NO_LEASE: Any = None


def desk(folder: Path) -> BudgetDesk:
    no_ledger: Any = None
    return BudgetDesk(no_ledger, folder, "c-1")


def test_a_run_without_privacy_pays_nothing(tmp_path: Path) -> None:
    lease: Lease = NO_LEASE

    assert new_payer(desk(tmp_path), lease, OPEN) is None
    assert new_payer(None, lease, OPEN) is None


def test_a_private_run_is_paid_for(tmp_path: Path) -> None:
    assert isinstance(new_payer(desk(tmp_path), NO_LEASE, parse_job(PRIVATE)), RoundPayer)


def test_a_private_run_is_refused_where_no_ledger_is_kept() -> None:
    with pytest.raises(ConfigError, match="this coordinator keeps no ledger"):
        new_payer(None, NO_LEASE, parse_job(PRIVATE))


def test_nobody_pays_for_a_run_that_is_not_private(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="privacy must be in the job of a private run"):
        RoundPayer(desk(tmp_path), NO_LEASE, OPEN)
