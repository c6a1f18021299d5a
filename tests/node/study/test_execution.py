"""Execution: a study's functions are called, and what comes back is judged."""

import sysconfig
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from kumiai.core.errors import ConfigError, UpdateRejectedError
from kumiai.node.study import (
    App,
    Context,
    Evaluation,
    StudyError,
    TaskCancelledError,
    Update,
    initial_model,
    run_evaluate,
    run_gradients,
    run_train,
)
from kumiai.node.study.execution import failure_of

MODEL = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "steps": np.array(4, np.int64)}


def new_app(
    train: Callable[..., Any] | None = None,
    evaluate: Callable[..., Any] | None = None,
    model: Callable[..., Any] | None = None,
) -> App:
    app = App("toy", data=lambda site: [1, 2])
    for register, function in ((app.train, train), (app.evaluate, evaluate), (app.model, model)):
        if function is not None:
            register(function)
    return app


def frozen(arrays: Mapping[str, Any]) -> dict[str, Any]:
    copies = {name: array.copy() for name, array in arrays.items()}
    for array in copies.values():
        array.flags.writeable = False
    return copies


def test_a_study_may_change_its_weights_in_place_and_the_base_stays() -> None:
    def train(weights: dict[str, Any], context: Context) -> Update:
        weights["w"] += 1
        weights["steps"] += 1
        return Update(weights, len(context.data), {"loss": 0.5})

    base = frozen(MODEL)
    app = new_app(train)

    update = run_train(app, base, app.context("s"))

    np.testing.assert_array_equal(update.weights["w"], MODEL["w"] + 1)
    assert update.weights["steps"] == 5
    assert update.weights["steps"].shape == ()
    np.testing.assert_array_equal(base["w"], MODEL["w"])
    assert (update.examples, update.metrics) == (2, {"loss": 0.5})


def test_trained_weights_come_back_contiguous_and_in_the_models_order() -> None:
    def train(weights: dict[str, Any], context: Context) -> Update:
        return Update({"steps": weights["steps"], "w": np.asfortranarray(weights["w"])}, 1)

    app = new_app(train)

    update = run_train(app, MODEL, app.context("s"))

    assert list(update.weights) == ["w", "steps"]
    assert update.weights["w"].flags.c_contiguous


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"w": MODEL["w"]}, "array 'steps' must be present"),
        (
            {**MODEL, "w": MODEL["w"].astype(np.float64)},
            r"array 'w' must be float32\[2, 3\], got float64\[2, 3\]",
        ),
        ({**MODEL, "w": MODEL["w"].T}, r"array 'w' must be float32\[2, 3\], got float32\[3, 2\]"),
        ({**MODEL, "extra": np.zeros(1)}, "array 'extra' must not be present"),
    ],
)
def test_an_update_of_another_layout_is_rejected_by_array_name(
    weights: dict[str, Any], message: str
) -> None:
    app = new_app(lambda _weights, _context: Update(weights, 1))

    with pytest.raises(UpdateRejectedError, match=f"update of train of app 'toy': {message}"):
        run_train(app, MODEL, app.context("s"))


def test_a_study_that_raises_is_told_with_file_line_type_and_text() -> None:
    def train(weights: dict[str, Any], context: Context) -> Update:
        return Update(weights @ 2, 1)  # type: ignore[operator]

    app = new_app(train)

    with pytest.raises(StudyError) as caught:
        run_train(app, MODEL, app.context("s"))

    line = train.__code__.co_firstlineno + 1
    assert str(caught.value) == (
        f"train of app 'toy' failed at test_execution.py:{line} with TypeError: "
        "unsupported operand type(s) for @: 'dict' and 'int'"
    )
    assert isinstance(caught.value.__cause__, TypeError)


def test_an_error_inside_a_library_is_told_at_the_users_own_line() -> None:
    def train(weights: dict[str, Any], context: Context) -> Update:
        np.linalg.cholesky(np.zeros((2, 2)))
        return Update(weights, 1)

    app = new_app(train)

    line = train.__code__.co_firstlineno + 1
    with pytest.raises(StudyError, match=rf"failed at test_execution.py:{line} with LinAlgError"):
        run_train(app, MODEL, app.context("s"))


def test_a_bad_update_is_told_at_the_line_that_builds_it() -> None:
    def train(weights: dict[str, Any], context: Context) -> Update:
        return Update(weights, 0)

    app = new_app(train)

    line = train.__code__.co_firstlineno + 1
    with pytest.raises(StudyError, match=rf"py:{line} with ValueError: examples must be > 0"):
        run_train(app, MODEL, app.context("s"))


def test_a_study_that_exits_the_process_only_fails_its_task() -> None:
    def train(weights: dict[str, Any], context: Context) -> Update:
        raise SystemExit(3)

    app = new_app(train)

    with pytest.raises(StudyError, match="with SystemExit: 3"):
        run_train(app, MODEL, app.context("s"))


def test_a_cancelled_task_passes_as_what_it_is() -> None:
    def train(weights: dict[str, Any], context: Context) -> Update:
        context.check_cancelled()
        return Update(weights, 1)

    app = new_app(train)

    with pytest.raises(TaskCancelledError):
        run_train(app, MODEL, app.context("s", cancelled=lambda: True))


@pytest.mark.parametrize("result", [None, (MODEL, 3), Evaluation(1, {})])
def test_train_must_return_an_update(result: object) -> None:
    app = new_app(lambda _weights, _context: result)

    with pytest.raises(StudyError, match=r"train of app 'toy' must return kumiai.Update, got \w+"):
        run_train(app, MODEL, app.context("s"))


def test_evaluation_sees_the_weights_read_only_and_without_a_copy() -> None:
    seen: dict[str, Any] = {}

    def evaluate(weights: dict[str, Any], context: Context) -> Evaluation:
        seen.update(weights)
        return Evaluation(3, {"accuracy": 0.75})

    app = new_app(evaluate=evaluate)
    model = {name: array.copy() for name, array in MODEL.items()}

    evaluation = run_evaluate(app, model, app.context("s"))

    assert evaluation == Evaluation(3, {"accuracy": 0.75})
    assert np.shares_memory(seen["w"], model["w"])
    assert not seen["w"].flags.writeable
    assert model["w"].flags.writeable


def test_an_evaluation_that_writes_into_the_model_fails() -> None:
    def evaluate(weights: dict[str, Any], context: Context) -> Evaluation:
        weights["w"] += 1
        return Evaluation(1, {})

    app = new_app(evaluate=evaluate)

    with pytest.raises(StudyError, match=r"evaluate of app 'toy' failed .* read-only"):
        run_evaluate(app, MODEL, app.context("s"))


def test_evaluate_must_return_an_evaluation() -> None:
    app = new_app(evaluate=lambda _weights, _context: {"accuracy": 1.0})

    with pytest.raises(StudyError, match=r"must return kumiai.Evaluation, got dict"):
        run_evaluate(app, MODEL, app.context("s"))


def test_an_evaluation_without_a_function_is_refused_with_the_mend() -> None:
    app = new_app()

    with pytest.raises(StudyError, match=r"got none: write it, or set evaluation.every = 0"):
        run_evaluate(app, MODEL, app.context("s"))


def test_the_initial_model_gets_the_seed_and_the_jobs_table() -> None:
    seen: list[dict[str, Any]] = []

    def model(config: Mapping[str, Any]) -> dict[str, Any]:
        seen.append(dict(config))
        return {"b": np.zeros((3, 2), ml_dtypes.bfloat16).T, "a": np.array(1.0)}

    app = new_app(model=model)

    arrays = initial_model(app, {"hidden": 8}, seed=5)
    initial_model(app, {"seed": 6}, seed=5)

    assert seen == [{"seed": 5, "hidden": 8}, {"seed": 6}]
    assert list(arrays) == ["b", "a"]
    assert arrays["b"].flags.c_contiguous
    assert arrays["a"].shape == ()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (None, "model of app 'toy' must be a mapping from names to numpy arrays, got NoneType"),
        ({}, "model of app 'toy' must hold at least one array"),
        ({"w": np.array(["x"])}, "array 'w' of the model of app 'toy' must be of floats"),
        ({"w": np.zeros(1, bool)}, "got bool"),
        ({"w": np.zeros(1, np.longdouble)}, "got float128|got longdouble"),
        ({"w": np.zeros(1, ">f4")}, "got >f4"),
    ],
)
def test_an_initial_model_that_cannot_travel_is_refused(arrays: Any, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        initial_model(new_app(model=lambda _config: arrays), {})


def test_a_missing_function_is_the_configurations_fault() -> None:
    with pytest.raises(ConfigError, match="must have a function model"):
        initial_model(new_app(), {})
    with pytest.raises(ConfigError, match="must have a function train"):
        run_train(new_app(), MODEL, new_app().context("s"))


def test_a_long_or_many_lined_error_text_becomes_one_short_line() -> None:
    message = failure_of("train", ValueError("one\n  two " + "x" * 1000))

    assert message.startswith("train failed with ValueError: one two xxx")
    assert message.endswith("...")
    assert len(message) < 540


def test_an_error_without_text_is_told_by_its_type() -> None:
    assert failure_of("train", KeyError()) == "train failed with KeyError"


def test_a_study_that_is_an_installed_package_is_told_at_its_own_line() -> None:
    file = f"{sysconfig.get_path('purelib')}/installed_study.py"
    space: dict[str, Any] = {}
    exec(compile("def train(weights, context):\n    return 1 / 0\n", file, "exec"), space)
    app = new_app(space["train"])

    with pytest.raises(StudyError, match=r"failed at installed_study.py:2 with ZeroDivisionError"):
        run_train(app, MODEL, app.context("s"))


def test_an_error_in_compiled_code_alone_has_no_line() -> None:
    app = App("toy")
    app.model(int)

    with pytest.raises(StudyError, match="model of app 'toy' failed with TypeError"):
        initial_model(app, {})


def gradients_of(function: Callable[..., Any]) -> list[np.ndarray[Any, Any]]:
    app = new_app()
    app.gradients(function)
    return list(run_gradients(app, frozen(MODEL), app.context("s")))


def test_gradients_become_rows_in_the_order_of_the_names() -> None:
    def gradients(weights: dict[str, Any], context: Context) -> dict[str, Any]:
        w = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
        return {"w": w, "steps": np.array([7.0, 8.0])}

    (rows,) = gradients_of(gradients)

    assert rows.tolist() == [[7, 0, 1, 2, 3, 4, 5], [8, 6, 7, 8, 9, 10, 11]]
    assert rows.dtype == np.float64


def test_gradients_come_in_batches_and_what_has_none_is_zero() -> None:
    def gradients(weights: dict[str, Any], context: Context) -> Any:
        assert not weights["w"].flags.writeable
        yield {"w": np.ones((2, 2, 3))}
        yield {"steps": np.ones(1)}

    first, second = gradients_of(gradients)

    assert first.tolist() == [[0, 1, 1, 1, 1, 1, 1]] * 2
    assert second.tolist() == [[1, 0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (3, "must return a mapping of arrays, or yield them, got int"),
        ([3], "gradients must be a mapping from names to numpy arrays, got int"),
        ({"v": np.ones((2, 3))}, "gradients must be of the model's arrays, got 'v'"),
        ({"w": np.ones((2, 6))}, r"gradients\['w'\] must be floats of shape \(2, 2, 3\)"),
        ({"w": np.ones((2, 2, 3), int)}, r"gradients\['w'\] must be floats"),
        ({"w": np.ones((2, 2, 3)), "steps": np.ones(3)}, "the same number of records"),
        ({"steps": np.ones(())}, "the same number of records"),
    ],
)
def test_gradients_of_another_form_are_refused(found: Any, problem: str) -> None:
    with pytest.raises(StudyError, match=problem):
        gradients_of(lambda weights, context: found)


def test_gradients_that_fail_amid_their_batches_are_the_study_s_failure() -> None:
    def gradients(weights: dict[str, Any], context: Context) -> Any:
        yield {"w": np.ones((1, 2, 3))}
        raise ZeroDivisionError("no records")

    with pytest.raises(StudyError, match=r"gradients of app .toy. failed.*ZeroDivisionError"):
        gradients_of(gradients)
