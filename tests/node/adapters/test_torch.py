"""The PyTorch adapter: modules become studies."""

import sys
from typing import Any

import numpy as np
import pytest

import kumiai
from kumiai.core.arrays import BFLOAT16
from kumiai.core.errors import ConfigError
from kumiai.node.datasets import SiteData, digits
from kumiai.node.study import (
    App,
    Context,
    Site,
    StudyError,
    TaskCancelledError,
    initial_model,
    run_evaluate,
    run_train,
)


def test_without_torch_the_mend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)

    with pytest.raises(ConfigError, match=r"got none: pip install 'kumiai\[torch\]'"):
        kumiai.torch("a", list, loss=min, optimizer=list, data=list)


try:
    import torch
    from torch import nn
except ModuleNotFoundError:
    torch = None  # type: ignore[assignment]

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")


def load(site: Site) -> SiteData:
    data = digits(site)
    return SiteData(data.x_train / 16, data.y_train, data.x_test / 16, data.y_test)


def new_app(build: Any = None, **settings: Any) -> App:
    arguments: dict[str, Any] = {
        "loss": nn.functional.cross_entropy,
        "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        "data": load,
        **settings,
    }
    return kumiai.torch("t", build or (lambda: nn.Linear(64, 10)), **arguments)


def context_of(app: App, partition: int = 0, **settings: Any) -> Context:
    return app.context(Site("s", {"partition": partition, "partitions": 4}), **settings)


@needs_torch
def test_averaged_networks_learn() -> None:
    app = new_app(lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))
    weights: Any = initial_model(app, {})

    for number in range(15):
        updates = [
            run_train(app, weights, context_of(app, i, seed=number)).weights for i in range(4)
        ]
        weights = {name: np.mean([u[name] for u in updates], axis=0) for name in weights}

    evaluation = run_evaluate(app, weights, context_of(app))
    assert evaluation.metrics["accuracy"] > 0.9
    assert evaluation.metrics["loss"] < 0.7


@needs_torch
def test_buffers_travel_with_the_parameters_integers_and_scalars_included() -> None:
    app = new_app(lambda: nn.Sequential(nn.Linear(64, 10), nn.BatchNorm1d(10)), batch_size=100)
    model = initial_model(app, {})
    rows = len(load(Site("s", {"partition": 0, "partitions": 4})).y_train)

    update = run_train(app, model, context_of(app, config={"epochs": 2}))

    assert list(model) == [
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    ]
    assert model["1.num_batches_tracked"].dtype == np.int64
    assert model["1.num_batches_tracked"].shape == ()
    assert update.weights["1.num_batches_tracked"] == 2 * -(-rows // 100)
    assert not np.array_equal(update.weights["1.running_mean"], model["1.running_mean"])


@needs_torch
def test_bfloat16_keeps_its_bits_both_ways() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(64, 10).to(torch.bfloat16)

        def forward(self, x: Any) -> Any:
            return self.inner(x.to(torch.bfloat16)).float()

    app = new_app(Half, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    model = initial_model(app, {})

    update = run_train(app, model, context_of(app))

    assert model["inner.weight"].dtype == BFLOAT16
    assert np.array_equal(
        update.weights["inner.weight"].view(np.int16), model["inner.weight"].view(np.int16)
    )


@needs_torch
def test_a_task_repeated_gives_the_same_update_to_the_bit_dropout_included() -> None:
    app = new_app(lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 10)))
    model = initial_model(app, {}, seed=4)

    one = run_train(app, model, context_of(app, seed=7)).weights
    torch.rand(3)
    two = run_train(app, model, context_of(app, seed=7)).weights
    other = run_train(app, model, context_of(app, seed=8)).weights

    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not np.array_equal(one["1.weight"], other["1.weight"])


@needs_torch
def test_the_initial_model_follows_the_seed_and_leaves_torchs_generator_alone() -> None:
    app = new_app()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)

    one, two, other = (initial_model(app, {}, seed=seed) for seed in (5, 5, 6))

    assert torch.equal(torch.rand(3), expected)
    assert np.array_equal(one["weight"], two["weight"])
    assert not np.array_equal(one["weight"], other["weight"])


@needs_torch
def test_the_proximal_term_keeps_an_update_near_its_base() -> None:
    app = new_app(epochs=5)
    model = initial_model(app, {})

    def distance(**config: float) -> float:
        update = run_train(app, model, context_of(app, config=config))
        return float(sum(np.square(update.weights[n] - model[n]).sum() for n in model))

    assert distance(proximal_mu=1.0) < 0.5 * distance()


@needs_torch
def test_a_proximal_step_is_the_gradient_of_the_written_formula() -> None:
    rate, mu = 0.1, 2.0
    x, y = np.ones((4, 1), np.float32), np.zeros((4, 1), np.float32)
    app = new_app(
        lambda: nn.Linear(1, 1, bias=False),
        loss=nn.functional.mse_loss,
        data=lambda _site: SiteData(x, y, x, y),
        batch_size=4,
    )
    base = {"weight": np.array([[3.0]], np.float32)}

    update = run_train(app, base, context_of(app, config={"epochs": 2, "proximal_mu": mu}))

    first = 3.0 - rate * 2 * 3.0  # at the base the term's gradient is 0
    second = first - rate * (2 * first + mu * (first - 3.0))
    assert update.weights["weight"][0, 0] == pytest.approx(second, rel=1e-6)


@needs_torch
def test_targets_that_are_numbers_are_evaluated_by_the_loss_and_given_metrics() -> None:
    x = np.arange(10, dtype=np.float64)[:, None]
    data = {"data": lambda _site: (x, 2 * x), "loss": nn.functional.mse_loss}
    model = {"weight": np.array([[1.0]], np.float32), "bias": np.zeros(1, np.float32)}
    plain = new_app(lambda: nn.Linear(1, 1), **data)
    measured = new_app(
        lambda: nn.Linear(1, 1),
        metrics={"worst": lambda outputs, targets: (outputs - targets).abs().max()},
        **data,
    )

    metrics = run_evaluate(measured, model, context_of(measured)).metrics

    assert set(run_evaluate(plain, model, context_of(plain)).metrics) == {"loss"}
    assert set(metrics) == {"loss", "worst"}
    assert metrics["worst"] ** 2 >= metrics["loss"] > 0


@needs_torch
def test_progress_is_told_and_a_withdrawn_task_stops() -> None:
    app = new_app()
    reports: list[tuple[float, str]] = []
    model = initial_model(app, {})

    run_train(
        app,
        model,
        context_of(app, config={"epochs": 2}, report=lambda *report: reports.append(report)),
    )

    assert reports == [(0.5, "epoch 1 of 2"), (1.0, "epoch 2 of 2")]
    with pytest.raises(TaskCancelledError):
        run_train(app, model, context_of(app, cancelled=lambda: True))


@needs_torch
def test_a_batch_size_that_is_no_positive_integer_is_refused() -> None:
    app = new_app()

    with pytest.raises(StudyError, match="batch_size must be an integer >= 1, got 0"):
        run_train(app, initial_model(app, {}), context_of(app, config={"batch_size": 0}))


@needs_torch
def test_an_error_in_the_module_is_told_at_the_users_line() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 10)

        def forward(self, x: Any) -> Any:
            return self.inner(x)

    app = new_app(Broken)

    with pytest.raises(StudyError, match=r"train of app 't' failed at test_torch.py:\d+ with Runt"):
        run_train(app, initial_model(app, {}), context_of(app))
