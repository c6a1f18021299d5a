"""The room itself: cheap to enter, and complete."""

import subprocess
import sys

import pytest

HEAVY = "{'numpy', 'ml_dtypes', 'blake3'} & set(sys.modules)"


@pytest.mark.parametrize("module", ["errors", "ids", "clock", "failpoints"])
def test_a_program_that_needs_no_arrays_loads_no_numpy(module: str) -> None:
    code = f"import sys, kumiai.core.{module}; sys.exit(bool({HEAVY}))"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
