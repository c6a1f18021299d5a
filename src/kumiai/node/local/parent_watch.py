"""Running a module as a child that does not outlive its parent.

``python -m kumiai.node.local.parent_watch PARENT_PID MODULE [ARGUMENT ...]`` runs the module as
``python -m MODULE ARGUMENT ...`` would, and ends the process as soon as the parent is gone, even if
the parent was killed with SIGKILL and could tell nobody. The module knows nothing of it, so a
program that is meant to run on its own, as a service, has no switch for this.
"""

import os
import runpy
import sys
import threading
import time

__all__ = ["exit_with_parent", "main"]

_LOOK_SECONDS = 0.2
_ORPHAN_EXIT = 1


def exit_with_parent(parent_pid: int) -> None:
    """End this process without further ado once its parent is another process.

    Args:
        parent_pid: the parent that counts; if it is gone by now, the process ends soon.
    """
    threading.Thread(
        target=_watch, args=(parent_pid,), name="kumiai-parent-watch", daemon=True
    ).start()


def main(arguments: list[str]) -> None:
    """Run a module under the watch; the first argument is the parent's process id."""
    exit_with_parent(int(arguments[0]))
    sys.argv = arguments[1:]
    runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)


def _watch(parent_pid: int) -> None:
    # Asking every so often works on every Unix; a process whose parent died gets another.
    while os.getppid() == parent_pid:
        time.sleep(_LOOK_SECONDS)
    # Not through the main thread, which may hang: whoever owns the state survives a SIGKILL, too.
    os._exit(_ORPHAN_EXIT)


if __name__ == "__main__":
    main(sys.argv[1:])
