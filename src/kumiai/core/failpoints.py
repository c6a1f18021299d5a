"""Named points where a test may stop the process.

``reach("round.open.committed")`` marks a point of the program. Nothing happens there unless a
test program has installed a hook; the crash tests install one that kills the process with
SIGKILL. The hook is process-wide because a crash is.
"""

from collections.abc import Callable

__all__ = ["install", "reach"]

_hook: Callable[[str], None] | None = None


def install(hook: Callable[[str], None] | None) -> None:
    """Call ``hook(name)`` at every named point from now on; ``None`` removes it."""
    global _hook  # noqa: PLW0603 - one hook a process, see the module's text
    _hook = hook


def reach(name: str) -> None:
    """Mark the named point."""
    if _hook is not None:
        _hook(name)
