"""App: registering functions, and data loaded once for each site."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from kumiai.core.errors import ConfigError
from kumiai.node.study import App, Context, Evaluation, Site, Update


class Study:
    def model(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return {"w": np.zeros(2)}

    def train(self, weights: dict[str, Any], context: Context) -> Update:
        return Update(weights, 1)

    def evaluate(self, weights: dict[str, Any], context: Context) -> Evaluation:
        return Evaluation(1, {})

    def data(self, site: Site) -> str:
        return f"data of {site.name}"


def test_decorated_functions_stay_themselves_and_become_the_apps() -> None:
    app = App("a")

    @app.model
    def model(config: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    @app.train
    def train(weights: dict[str, Any], context: Context) -> Update:
        return Update(weights, 1)

    assert app.model_function is model
    assert app.train_function is train
    assert app.evaluate_function is None
    app.verify_complete()


@pytest.mark.parametrize("study", [Study, Study()])
def test_a_class_or_its_object_is_a_study(study: object) -> None:
    app = App("a", study=study)

    assert app.train_function({"w": np.zeros(2)}, app.context("s")).examples == 1
    assert app.evaluate_function is not None
    assert app.context("s").data == "data of s"


def test_a_loader_that_is_given_wins_over_the_studys_own() -> None:
    assert App("a", study=Study, data=lambda site: "given").context("s").data == "given"


def test_a_study_object_without_a_needed_method_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"app 'a' must have a function model\(config\), got"):
        App("a", study=object())


def test_an_app_without_train_is_not_complete() -> None:
    app = App("a")
    app.model(lambda config: {})

    with pytest.raises(
        ConfigError, match=r"a function train\(weights, context\), got none: .*@app"
    ):
        app.verify_complete()


def test_a_function_registered_twice_is_refused() -> None:
    app = App("a", study=Study)

    with pytest.raises(ValueError, match="train of app 'a' must be given once"):
        app.train(lambda weights, context: None)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda weights: None, r"train of app 'a' must take \(weights, context\), got \(weights\)"),
        ("train", "train of app 'a' must be a function, got str"),
    ],
)
def test_a_function_that_cannot_be_called_as_it_will_be_is_refused(
    function: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        App("a").train(function)


def test_an_async_function_is_refused() -> None:
    async def train(weights: dict[str, Any], context: Context) -> None: ...

    with pytest.raises(TypeError, match="train of app 'a' must be a plain function, got async def"):
        App("a").train(train)


def test_a_callable_that_does_not_tell_its_arguments_is_taken_on_trust() -> None:
    app = App("a")
    app.model(dict)

    assert app.model_function({"seed": 1}) == {"seed": 1}


def test_a_wrong_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="app name must be"):
        App("my study")


def test_data_are_loaded_when_first_read_and_once_for_each_name_and_options() -> None:
    loads: list[Site] = []

    def load(site: Site) -> object:
        loads.append(site)
        return object()

    app = App("a", data=load)
    context = app.context(Site("x", {"partition": 0, "partitions": 2}))
    assert loads == []

    same = app.context(Site("x", {"partitions": 2, "partition": 0}), round=2)
    other_options = app.context(Site("x", {"partition": 1, "partitions": 2}))
    other_name = app.context(Site("y", {"partition": 0, "partitions": 2}))

    assert context.data is context.data is same.data
    assert len({id(c.data) for c in (context, other_options, other_name)}) == 3
    assert len(loads) == 3


def test_two_threads_that_want_the_same_data_load_them_once() -> None:
    loads: list[str] = []
    entered, leave = threading.Event(), threading.Event()

    def load(site: Site) -> str:
        loads.append(site.name)
        if site.name == "slow":
            entered.set()
            leave.wait(10)
        return site.name

    app = App("a", data=load)
    threads = [threading.Thread(target=app.data_of, args=(Site("slow"),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    entered.wait(10)

    beside = app.data_of(Site("quick"))  # another site does not wait for the slow one
    leave.set()
    for thread in threads:
        thread.join(10)

    assert beside == "quick"
    assert sorted(loads) == ["quick", "slow"]


def test_a_loader_that_raised_is_asked_again() -> None:
    answers: list[Callable[[], str]] = [lambda: "data", lambda: str(1 / 0)]
    app = App("a", data=lambda site: answers.pop()())

    with pytest.raises(ZeroDivisionError):
        app.data_of(Site("s"))

    assert app.data_of(Site("s")) == "data"


def test_data_without_a_loader_are_refused_with_the_mend() -> None:
    with pytest.raises(
        ConfigError, match=r"data of app 'a' must be given .* App\('a', data=load\)"
    ):
        _ = App("a").context("s").data


def test_an_app_shows_its_name() -> None:
    assert repr(App("heart")) == "App('heart')"
