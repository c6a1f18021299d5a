"""Where the blobs of a run are kept: one place for the names, one folder per thing deleted."""

__all__ = [
    "model_namespace",
    "run_namespaces",
    "state_namespace",
    "sum_namespace",
    "update_namespace",
]


def model_namespace(run_id: str) -> str:
    """Return where the models of a run are kept."""
    return f"models/{run_id}"


def state_namespace(run_id: str, round_number: int | None = None) -> str:
    """Return where the strategy's state is kept that a round (any round) left behind."""
    base = f"states/{run_id}"
    return base if round_number is None else f"{base}/{round_number}"


def sum_namespace(run_id: str, round_number: int) -> str:
    """Return where the sum of a round's hidden updates is kept, for its clients to check."""
    return f"{state_namespace(run_id, round_number)}/sum"


def update_namespace(
    run_id: str, round_number: int | None = None, client_id: str | None = None
) -> str:
    """Return where the spooled updates of a run (of one of its rounds, of one client) are kept."""
    base = f"updates/{run_id}"
    if round_number is None:
        return base
    return f"{base}/{round_number}" if client_id is None else f"{base}/{round_number}/{client_id}"


def run_namespaces(run_id: str) -> tuple[str, ...]:
    """Return all namespaces of a run; what is below them is its own."""
    return (model_namespace(run_id), state_namespace(run_id), update_namespace(run_id))
