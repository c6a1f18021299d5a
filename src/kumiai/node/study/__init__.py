"""The data scientist's interface: a study is one ``App`` with a few plain functions.

Study code is installed at every site by the people there; nothing executable ever travels. A job
names an app, a client offers the apps it was given.

This room holds no sockets, no files of its own and no event loop: the client process and the
simulation call ``execution`` from a worker thread.
"""

from kumiai.node.study.app import App
from kumiai.node.study.context import Context
from kumiai.node.study.errors import StudyError, TaskCancelledError
from kumiai.node.study.execution import initial_model, run_evaluate, run_gradients, run_train
from kumiai.node.study.loading import load_app
from kumiai.node.study.outcome import Evaluation, Update
from kumiai.node.study.site import Site

__all__ = [
    "App",
    "Context",
    "Evaluation",
    "Site",
    "StudyError",
    "TaskCancelledError",
    "Update",
    "initial_model",
    "load_app",
    "run_evaluate",
    "run_gradients",
    "run_train",
]
