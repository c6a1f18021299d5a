"""What can go wrong inside a study.

KumiaiError
├── StudyError             the study's own code raised or returned something unusable
└── TaskCancelledError     the task was withdrawn; the study stopped as it was asked to
"""

from kumiai.core.errors import KumiaiError

__all__ = ["StudyError", "TaskCancelledError"]


class StudyError(KumiaiError):
    """The study's code raised or returned something unusable.

    The message names function, app, the user's file and line, and the exception's type and text; it
    may travel to the coordinator. The full traceback hangs on ``__cause__`` and stays at the site.
    """


class TaskCancelledError(KumiaiError):
    """The task was withdrawn: its round is closed, its run stopped or the client is ending."""
