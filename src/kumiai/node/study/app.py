"""``App``: the functions of one study under one name, and its data, loaded once per site."""

import inspect
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from kumiai.core.arrays import NamedArrays
from kumiai.core.errors import ConfigError
from kumiai.core.ids import verify_name
from kumiai.node.study.context import Context
from kumiai.node.study.outcome import Evaluation, Update
from kumiai.node.study.site import Site
from kumiai.privacy import PrivateTraining, TrainingTerms

__all__ = [
    "App",
    "DataLoader",
    "EvaluateFunction",
    "GradientsFunction",
    "ModelFunction",
    "TrainFunction",
]

ModelFunction = Callable[[Mapping[str, Any]], NamedArrays]
TrainFunction = Callable[[dict[str, Any], Context], Update]
EvaluateFunction = Callable[[dict[str, Any], Context], Evaluation]
GradientsFunction = Callable[[dict[str, Any], Context], NamedArrays | Iterable[NamedArrays]]
DataLoader = Callable[[Site], Any]

_F = TypeVar("_F", bound=Callable[..., Any])

_PARAMETERS = {
    "data": ("site",),
    "evaluate": ("weights", "context"),
    "gradients": ("weights", "context"),
    "model": ("config",),
    "train": ("weights", "context"),
}


class App:
    """A study: how the model begins, how a site trains it and how a site evaluates it.

    With decorators::

        app = App("heart", data=load)

        @app.model
        def model(config): ...              # -> named arrays, the initial model

        @app.train
        def train(weights, context): ...    # -> Update

        @app.evaluate
        def evaluate(weights, context): ... # -> Evaluation; optional

    or with a class whose methods carry the same names: ``App("heart", study=Heart)``; a method
    ``data(site)`` is its loader.

    * ``model(config)`` gets the job's ``train`` table and gives the same arrays each time it is
      called with the same table; if it draws numbers, from a generator seeded with
      ``config["seed"]``. It runs once, where the job is submitted, and never at a site.
    * ``train(weights, context)`` gets a dict of writable arrays that it may change in place.
    * ``evaluate(weights, context)`` gets the same as read-only arrays.
    * ``gradients(weights, context)`` is for runs that hide each record: it gets the model and gives
      every record's gradient of the loss, as arrays of the model's names whose first axis is the
      record; all at once, or in batches as a generator. It may leave arrays out that have none.
    * ``data(site)`` gets a ``Site`` and returns whatever the study likes to find in
      ``context.data``; it runs once per site and process.
    """

    def __init__(
        self,
        name: str,
        *,
        data: DataLoader | None = None,
        study: object | None = None,
    ) -> None:
        """Name the study, and give its data loader and its functions if they stand already.

        Args:
            name: what jobs call it, see ``kumiai.core.ids.verify_name``.
            data: the loader; wins over a ``data`` method of ``study``.
            study: an object, or a class that is called without arguments, with methods ``model``,
                ``train`` and perhaps ``evaluate``, ``gradients`` and ``data``.

        Raises:
            ConfigError: the name is no valid name, or ``study`` lacks a method.
            TypeError: a function takes other arguments than it will be given.
        """
        self.name = verify_name("app name", name)
        self._functions: dict[str, Callable[..., Any]] = {}
        self._cells: dict[tuple[str, str], _Cell] = {}
        self._lock = threading.Lock()
        if study is not None:
            self._adopt(study() if isinstance(study, type) else study)
        if data is not None:
            self._functions.pop("data", None)
            self._register("data", data)

    def model(self, function: _F) -> _F:
        """Make ``function(config)`` the one that builds the initial model."""
        return self._register("model", function)

    def train(self, function: _F) -> _F:
        """Make ``function(weights, context)`` the one that trains at a site."""
        return self._register("train", function)

    def evaluate(self, function: _F) -> _F:
        """Make ``function(weights, context)`` the one that evaluates at a site."""
        return self._register("evaluate", function)

    def gradients(self, function: _F) -> _F:
        """Make ``function(weights, context)`` the one that gives each record's gradient."""
        return self._register("gradients", function)

    @property
    def model_function(self) -> ModelFunction:
        """The function that builds the initial model."""
        return self._function("model")

    @property
    def train_function(self) -> TrainFunction:
        """The function that trains."""
        return self._function("train")

    @property
    def gradients_function(self) -> GradientsFunction:
        """The function that gives each record's gradient."""
        return self._function("gradients")

    @property
    def has_gradients(self) -> bool:
        """Whether the study gives each record's gradient."""
        return "gradients" in self._functions

    @property
    def evaluate_function(self) -> EvaluateFunction | None:
        """The function that evaluates; ``None`` if the study has none."""
        return self._functions.get("evaluate")

    def verify_complete(self) -> None:
        """Check that the study can take part in a run.

        Raises:
            ConfigError: it has no ``model`` or no ``train`` function.
        """
        self._function("model")
        self._function("train")

    def context(
        self,
        site: Site | str,
        *,
        round: int = 1,  # noqa: A002  the field's plain word
        rounds: int = 1,
        config: Mapping[str, Any] | None = None,
        seed: int = 0,
        report: Callable[[float, str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        privacy: TrainingTerms | None = None,
    ) -> Context:
        """Return the context of one task at ``site``; its arguments are those of ``Context``.

        The client process and the simulation use it, and so can a notebook or a test:
        ``train(weights, app.context("hospital-a"))``. ``privacy`` is how to train privately.
        """
        place = Site(site) if isinstance(site, str) else site
        return Context(
            place,
            load_data=lambda: self.data_of(place),
            round=round,
            rounds=rounds,
            config=config,
            seed=seed,
            report=report,
            cancelled=cancelled,
            privacy=None if privacy is None else PrivateTraining(privacy),
        )

    def data_of(self, site: Site) -> Any:
        """Return the site's data, loaded once for each name and options while the process lives.

        Two threads that ask for the same site load it once; different sites load side by side. A
        loader that raised is asked again the next time.

        Raises:
            ConfigError: the app has no data loader.
        """
        loader = self._functions.get("data")
        if loader is None:
            raise ConfigError(
                f"data of app {self.name!r} must be given where context.data is used, got none: "
                f"pass a loader, App({self.name!r}, data=load)"
            )
        options = json.dumps(dict(site.options), sort_keys=True, default=repr)
        with self._lock:
            cell = self._cells.setdefault((site.name, options), _Cell())
        return cell.get(lambda: loader(site))

    def __repr__(self) -> str:
        return f"App({self.name!r})"

    def _adopt(self, study: object) -> None:
        for role in _PARAMETERS:
            method = getattr(study, role, None)
            if method is not None:
                self._register(role, method)
        self.verify_complete()

    def _register(self, role: str, function: _F) -> _F:
        if not callable(function):
            raise TypeError(
                f"{role} of app {self.name!r} must be a function, got {type(function).__name__}"
            )
        if role in self._functions:
            raise ValueError(f"{role} of app {self.name!r} must be given once, got a second one")
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"{role} of app {self.name!r} must be a plain function, got async def")
        self._verify_signature(role, function)
        self._functions[role] = function
        return function

    def _verify_signature(self, role: str, function: Callable[..., Any]) -> None:
        try:
            signature = inspect.signature(function)
        except ValueError:  # some built-in and compiled functions do not tell
            return
        try:
            signature.bind(*_PARAMETERS[role])
        except TypeError:
            wanted = ", ".join(_PARAMETERS[role])
            raise TypeError(
                f"{role} of app {self.name!r} must take ({wanted}), got {signature}"
            ) from None

    def _function(self, role: str) -> Callable[..., Any]:
        if role not in self._functions:
            raise ConfigError(
                f"app {self.name!r} must have a function {role}({', '.join(_PARAMETERS[role])}), "
                f"got none: write it under @app.{role}"
            )
        return self._functions[role]


class _Cell:
    """One value that is made at most once, by the first thread that asks."""

    __slots__ = ("_filled", "_lock", "_value")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._filled = False
        self._value: Any = None

    def get(self, load: Callable[[], Any]) -> Any:
        with self._lock:
            if not self._filled:
                self._value = load()
                self._filled = True
            return self._value
