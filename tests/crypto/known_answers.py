"""The known answers in ``tests/vectors``; each file says where they come from."""

import json
from pathlib import Path
from typing import Any

__all__ = ["known_answers"]

FOLDER = Path(__file__).resolve().parents[1] / "vectors"


def known_answers(name: str) -> Any:
    """Return the content of one file."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
