"""scikit-learn: from an estimator to an ``App``.

Three kinds are understood, by what they can do:

* ``LogisticRegression``: ``fit`` with ``warm_start`` from the model; its ``max_iter`` is the
  number of local steps, so keep it small (5);
* ``SGDClassifier`` and the like: ``partial_fit``, once for each epoch, on ``coef_``;
* ``MLPClassifier``: the same, on ``coefs_`` and ``intercepts_``.

The arrays are float64, as scikit-learn computes. What else an optimizer remembers (step counts,
moments) begins anew in each round.
"""

import contextlib
import importlib
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kumiai.core.errors import ConfigError
from kumiai.node.adapters.site_data import positive_setting, site_data
from kumiai.node.datasets import SiteData
from kumiai.node.study import App, Context, Evaluation, Site, Update

__all__ = ["sklearn"]


def sklearn(
    name: str,
    estimator: Any,
    *,
    data: Callable[[Site], Any],
    features: int,
    classes: Sequence[int],
    epochs: int = 1,
) -> App:
    """Return an app that trains a scikit-learn classifier.

    ::

        app = km.sklearn(
            "tumours",
            LogisticRegression(max_iter=5),
            data=load,
            features=30,
            classes=(0, 1),
        )

    A site may lack classes. ``epochs`` in the job's ``train`` table wins over the argument; it says
    nothing to ``LogisticRegression``, whose ``max_iter`` does.

    Args:
        name: of the app.
        estimator: a ``LogisticRegression``, ``SGDClassifier``, ``Perceptron`` or ``MLPClassifier``
            with its settings; it is cloned, never changed.
        data: of the site, returns ``SiteData`` or a pair ``(x, y)`` of arrays.
        features: the number of columns of ``x``.
        classes: every class that any site may have.
        epochs: passes over the site's rows in each round.

    Raises:
        ConfigError: scikit-learn is not installed, or the estimator is of another kind.
    """
    base = _import("sklearn.base")
    study = _SklearnStudy(
        base.clone,
        estimator,
        kind=_kind_of(estimator, base.is_classifier),
        load=data,
        features=features,
        classes=classes,
        epochs=epochs,
    )
    return App(name, study=study)


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            "kumiai.sklearn must have scikit-learn, got none: pip install 'kumiai[sklearn]'"
        ) from error


def _kind_of(estimator: Any, is_classifier: Callable[[Any], bool]) -> "type[_Warm | _Stepwise]":
    parameters = estimator.get_params() if hasattr(estimator, "get_params") else {}
    if parameters and is_classifier(estimator):
        # Naive Bayes has partial_fit too, but holds counts and no coefficients; it draws nothing
        # at random, and so is told apart.
        if hasattr(estimator, "partial_fit") and "random_state" in parameters:
            return _Stepwise
        if "warm_start" in parameters and "solver" in parameters:
            return _Warm
    raise ConfigError(
        "estimator must be a LogisticRegression, or a classifier with partial_fit such as "
        f"SGDClassifier or MLPClassifier, got {type(estimator).__name__}"
    )


class _Warm:
    """``fit`` that begins where the model stands: LogisticRegression."""

    @staticmethod
    def prepare(estimator: Any, features: int, classes: Any) -> None:
        estimator.set_params(warm_start=True)
        rows = 1 if len(classes) == 2 else len(classes)
        estimator.coef_ = np.zeros((rows, features))
        estimator.intercept_ = np.zeros(rows)
        estimator.classes_ = classes
        estimator.n_features_in_ = features

    @staticmethod
    def fit(estimator: Any, x: Any, y: Any, classes: Any) -> None:
        # The shape of coef_ follows the classes in y: one row of weight 0 stands for each class
        # that this site lacks.
        absent = np.setdiff1d(classes, y)
        estimator.fit(
            np.concatenate([x, np.zeros((len(absent), x.shape[1]))]),
            np.concatenate([y, absent]),
            sample_weight=np.repeat([1.0, 0.0], [len(y), len(absent)]),
        )


class _Stepwise:
    """``partial_fit``: SGDClassifier, Perceptron, MLPClassifier."""

    @staticmethod
    def prepare(estimator: Any, features: int, classes: Any) -> None:
        # One step on rows of zeros lets scikit-learn lay out its arrays for all classes; what the
        # step did is then overwritten or, in a new model, is the same everywhere.
        estimator.partial_fit(np.zeros((len(classes), features)), classes, classes=classes)
        vars(estimator).pop("_optimizer", None)
        estimator.t_ = 1.0

    @staticmethod
    def fit(estimator: Any, x: Any, y: Any, _classes: Any) -> None:
        estimator.partial_fit(x, y)


class _SklearnStudy:
    def __init__(
        self,
        clone: Callable[[Any], Any],
        estimator: Any,
        *,
        kind: type[_Warm | _Stepwise],
        load: Callable[[Site], Any],
        features: int,
        classes: Sequence[int],
        epochs: int,
    ) -> None:
        self._clone = clone
        self._estimator = estimator
        self._kind = kind
        self._load = load
        self._features = features
        self._classes = np.unique(np.asarray(classes))
        self._epochs = epochs

    def data(self, site: Site) -> SiteData:
        data = site_data(self._load(site))
        return SiteData(
            data.x_train.astype(np.float64),
            data.y_train,
            data.x_test.astype(np.float64),
            data.y_test,
        )

    def model(self, config: Mapping[str, Any]) -> dict[str, Any]:
        estimator = self._new(int(config["seed"]))
        return {name: array.copy() for name, array in _arrays_of(estimator).items()}

    def train(self, weights: dict[str, Any], context: Context) -> Update:
        if context.config.get("proximal_mu"):
            raise ValueError(
                "strategy must not ask for a proximal term with a scikit-learn estimator, "
                "got proximal_mu: use fedavg or another strategy without one"
            )
        x, y = context.data.x_train, context.data.y_train
        estimator = self._with(weights, context.seed)
        epochs = 1
        if self._kind is _Stepwise:
            epochs = positive_setting(context.config, "epochs", self._epochs)
        for epoch in range(epochs):
            context.check_cancelled()
            with _unfinished:
                self._kind.fit(estimator, x, y, self._classes)
            context.report((epoch + 1) / epochs, f"epoch {epoch + 1} of {epochs}")
        metrics = {"accuracy": float(np.mean(estimator.predict(x) == y))}
        return Update(_arrays_of(estimator), len(y), metrics)

    def evaluate(self, weights: dict[str, Any], context: Context) -> Evaluation:
        x, y = context.data.x_test, context.data.y_test
        estimator = self._with(weights, context.seed)
        return Evaluation(len(y), {"accuracy": float(np.mean(estimator.predict(x) == y))})

    def _new(self, seed: int) -> Any:
        estimator = self._clone(self._estimator).set_params(random_state=seed % 2**32)
        self._kind.prepare(estimator, self._features, self._classes)
        return estimator

    def _with(self, weights: Mapping[str, Any], seed: int) -> Any:
        estimator = self._new(seed)
        # Written into the estimator's own arrays: some hold the same array under two names.
        for name, array in _arrays_of(estimator).items():
            array[...] = weights[name]
        return estimator


def _arrays_of(estimator: Any) -> dict[str, Any]:
    if hasattr(estimator, "coefs_"):
        return {
            **{f"coefs.{index}": array for index, array in enumerate(estimator.coefs_)},
            **{f"intercepts.{index}": array for index, array in enumerate(estimator.intercepts_)},
        }
    return {"coef": estimator.coef_, "intercept": estimator.intercept_}


class _Unfinished:
    """Ignores the warning that a few local steps did not converge: they are not meant to.

    Python's warning filters belong to the whole process. The first thread to come changes them and
    the last to go restores them, so that threads which overlap do not undo each other's change.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                category = _import("sklearn.exceptions").ConvergenceWarning
                self._filters.enter_context(
                    warnings.catch_warnings(action="ignore", category=category)
                )
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.close()


_unfinished = _Unfinished()
