"""Calling a study's functions and judging what comes back.

Everything here runs in the caller's thread and may take hours; it touches no network and no disk.
Nothing is logged here: a ``StudyError`` carries the traceback as its cause, and the process that
called logs it at the site. What leaves the site is the message alone.
"""

import math
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kumiai.core.arrays import BFLOAT16, Layout, NamedArrays, layout_of, verify_layout
from kumiai.core.errors import UpdateRejectedError
from kumiai.node.study.app import App
from kumiai.node.study.context import Context
from kumiai.node.study.errors import StudyError, TaskCancelledError
from kumiai.node.study.outcome import Evaluation, Update, verify_arrays
from kumiai.privacy import PrivateTraining

__all__ = [
    "ERROR_TEXT_LENGTH_MAX",
    "failure_of",
    "initial_model",
    "run_evaluate",
    "run_gradients",
    "run_train",
]

ERROR_TEXT_LENGTH_MAX = 500

_T = TypeVar("_T")


def initial_model(
    app: App, config: Mapping[str, Any], *, seed: int = 0
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the model a run begins with.

    Args:
        app: the study.
        config: the job's ``train`` table; the study finds ``seed`` in it as well.
        seed: the run's seed, unless the table has its own.

    Returns:
        Contiguous arrays of 16, 32 or 64 bit floats or of integers, in the study's order.

    Raises:
        StudyError: the study raised, or returned something else.
        ConfigError: the app has no ``model`` function.
    """
    found = _call(app, "model", app.model_function, {"seed": seed, **config})
    try:
        arrays = verify_arrays(f"model of app {app.name!r}", found)
    except (TypeError, ValueError) as error:
        raise StudyError(str(error)) from None
    for name, array in arrays.items():
        if not _travels(array.dtype):
            raise StudyError(
                f"array {name!r} of the model of app {app.name!r} must be of floats of 16, 32 or "
                f"64 bits or of integers, got {array.dtype}"
            )
    # asarray and not ascontiguousarray: that one turns shape () into (1,).
    return {name: np.asarray(array, order="C") for name, array in arrays.items()}


def run_train(app: App, weights: NamedArrays, context: Context) -> Update:
    """Let the study train, and return its update if it fits the model.

    Where the task asks for private training (``context.privacy``), a study that gives each record's
    gradient is trained by them here, and any other has to train by the steps of its context. Then
    nothing is told beside the weights: one example, no metrics.

    Args:
        app: the study.
        weights: the model; it is copied, so that the study may write and the caller keeps it.
        context: the task.

    Returns:
        The update: full weights, contiguous, in the order of ``weights``.

    Raises:
        StudyError: the study raised, or returned something that is no ``Update``, or was to train
            privately and did not.
        UpdateRejectedError: an array is missing, unknown or of another shape or dtype.
        TaskCancelledError: the study stopped because the task was withdrawn.
        ConfigError: the app has no ``train`` function.
    """
    training = context.privacy
    if training is None:
        return _trained(app, weights, context)
    if app.has_gradients:
        return Update(_descended(app, weights, context, training), 1)
    update = _trained(app, weights, context)
    if training.taken == 0:
        raise StudyError(
            f"train of app {app.name!r} must train by the steps of context.privacy, which the job "
            "asks for, got none taken: use kumiai.train_privately, or give each record's gradient "
            "under @app.gradients"
        )
    return Update(update.weights, 1)


def _trained(app: App, weights: NamedArrays, context: Context) -> Update:
    given = {name: np.array(array, order="C") for name, array in weights.items()}
    update = _returned(
        app, "train", _call(app, "train", app.train_function, given, context), Update
    )
    try:
        verify_layout(layout_of(update.weights), layout_of(weights))
    except UpdateRejectedError as error:
        raise UpdateRejectedError(f"update of train of app {app.name!r}: {error}") from None
    return replace(
        update, weights={name: np.asarray(update.weights[name], order="C") for name in weights}
    )


def _descended(
    app: App, weights: NamedArrays, context: Context, training: PrivateTraining
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the model after private descent along the study's gradients."""
    layout = layout_of(weights)
    moved = np.zeros(sum(math.prod(each.shape) for each in layout.values()))
    now = {name: np.array(array, order="C") for name, array in weights.items()}
    for step in training.steps(moved.size):
        context.check_cancelled()
        # Every record's gradient is computed in each step, whether its coin picks it or not: what
        # a record adds depends on no other one, and how long a step takes on none.
        for rows in run_gradients(app, now, context):
            step.add(rows[step.picked(len(rows))])
        moved -= training.terms.learning_rate * step.mean()
        with np.errstate(over="ignore"):
            now = _moved(weights, moved)
    return now


def _moved(weights: NamedArrays, moved: NDArray[np.float64]) -> dict[str, np.ndarray[Any, Any]]:
    places, at = {}, 0
    for name in sorted(weights):
        places[name] = slice(at, at + weights[name].size)
        at += weights[name].size
    return {
        name: np.asarray(array + moved[places[name]].reshape(array.shape)).astype(array.dtype)
        if array.dtype == BFLOAT16 or array.dtype.kind == "f"
        else np.array(array)  # integers have no gradient, and shall have no noise
        for name, array in weights.items()
    }


def run_gradients(
    app: App, weights: NamedArrays, context: Context
) -> Iterator[NDArray[np.float64]]:
    """Let the study compute each record's gradient, and yield them as rows.

    Args:
        app: the study.
        weights: the model; the study sees it read-only.
        context: the task.

    Yields:
        Batches of shape (records, numbers of the model), the model's arrays one after the other by
        name; zero where the study gives none.

    Raises:
        StudyError: the study raised, or returned something else.
        TaskCancelledError: the study stopped because the task was withdrawn.
        ConfigError: the app has no ``gradients`` function.
    """
    given = {name: array.view() for name, array in weights.items()}
    for array in given.values():
        array.flags.writeable = False
    layout = layout_of(weights)
    found = _call(app, "gradients", app.gradients_function, given, context)
    if isinstance(found, Mapping):
        found = [found]
    if not isinstance(found, Iterable):
        raise StudyError(
            f"gradients of app {app.name!r} must return a mapping of arrays, or yield them, got "
            f"{type(found).__name__}"
        )
    batches = iter(found)
    while True:
        # A generator computes here, and may raise here.
        batch = _call(app, "gradients", next, batches, None)
        if batch is None:
            return
        try:
            yield _rows_of(verify_arrays("gradients", batch), layout)
        except (TypeError, ValueError) as error:
            raise StudyError(f"gradients of app {app.name!r}: {error}") from None


def _rows_of(gradients: NamedArrays, layout: Layout) -> NDArray[np.float64]:
    if unknown := sorted(set(gradients) - set(layout)):
        raise ValueError(f"gradients must be of the model's arrays, got {unknown[0]!r}")
    counts = {array.shape[0] if array.ndim else -1 for array in gradients.values()}
    if len(counts) != 1 or -1 in counts:
        raise ValueError(
            "gradients must have the same number of records in every array, as its first axis"
        )
    count = counts.pop()
    columns = []
    for name in sorted(layout):
        shape = layout[name].shape
        if name not in gradients:
            columns.append(np.zeros((count, math.prod(shape))))
            continue
        array = gradients[name]
        if array.shape[1:] != shape or array.dtype.kind != "f":
            raise ValueError(
                f"gradients[{name!r}] must be floats of shape {(count, *shape)}, got "
                f"{array.dtype} of {array.shape}"
            )
        columns.append(array.reshape(count, -1).astype(np.float64))
    return np.concatenate(columns, axis=1)


def run_evaluate(app: App, weights: NamedArrays, context: Context) -> Evaluation:
    """Let the study evaluate, and return its result.

    Args:
        app: the study.
        weights: the model; the study sees it read-only, nothing is copied.
        context: the task.

    Raises:
        StudyError: the study has no ``evaluate``, it raised, or returned no ``Evaluation``.
        TaskCancelledError: the study stopped because the task was withdrawn.
    """
    if app.evaluate_function is None:
        raise StudyError(
            f"app {app.name!r} must have a function evaluate(weights, context), got none: "
            "write it, or set evaluation.every = 0 in the job"
        )
    given = {name: array.view() for name, array in weights.items()}
    for array in given.values():
        array.flags.writeable = False
    found = _call(app, "evaluate", app.evaluate_function, given, context)
    return _returned(app, "evaluate", found, Evaluation)


def failure_of(what: str, error: BaseException, *, files: frozenset[str] = frozenset()) -> str:
    """Return in one line what failed, where in the user's code, and with which error.

    Args:
        what: the subject, for example ``train of app 'heart'``.
        error: what was raised.
        files: the files of the study's functions, if known.

    Returns:
        ``{what} failed at {file}:{line} with {type}: {text}``; only the file's last part, and at
        most 500 characters of text, as it may travel.
    """
    text = " ".join(str(error).split())
    if len(text) > ERROR_TEXT_LENGTH_MAX:
        text = text[: ERROR_TEXT_LENGTH_MAX - 3] + "..."
    place = _place_of(error, files)
    return f"{what} failed{place} with {type(error).__name__}" + (f": {text}" if text else "")


def _call(app: App, role: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except TaskCancelledError:
        raise
    except (Exception, SystemExit) as error:  # user code may raise anything, sys.exit() included
        message = failure_of(f"{role} of app {app.name!r}", error, files=_files_of(function))
        raise StudyError(message) from error


def _returned(app: App, role: str, found: object, wanted: type[_T]) -> _T:
    if not isinstance(found, wanted):
        raise StudyError(
            f"{role} of app {app.name!r} must return kumiai.{wanted.__name__}, "
            f"got {type(found).__name__}"
        )
    return found


def _travels(dtype: np.dtype[Any]) -> bool:
    return dtype == BFLOAT16 or (dtype.kind in "fiu" and dtype.itemsize <= 8 and dtype.isnative)


def _files_of(function: Callable[..., Any]) -> frozenset[str]:
    code = getattr(function, "__code__", None)
    return frozenset() if code is None else frozenset({code.co_filename})


# The place a user can act on is the innermost line of their own: not numpy's, not ours. A study
# that is itself an installed package is recognised by the file of the function we called.
_OURS = str(Path(__file__).resolve().parent.parent)
_LIBRARIES = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)


def _place_of(error: BaseException, files: frozenset[str]) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_library(frame.filename)]
    known = [frame for frame in frames if frame.filename in files]
    for frame in reversed(own or known):
        return f" at {Path(frame.filename).name}:{frame.lineno}"
    return ""


def _is_library(filename: str) -> bool:
    return filename.startswith(("<", _OURS, *_LIBRARIES))
