"""What holds for every test: its group follows from the folder it stands in."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
GROUPS = ("unit", "integration", "system")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test as unit, integration or system unless it is marked already."""
    for item in items:
        if any(item.get_closest_marker(group) for group in GROUPS):
            continue
        folder = item.path.relative_to(TESTS).parts[0]
        item.add_marker(folder if folder in GROUPS else "unit")
