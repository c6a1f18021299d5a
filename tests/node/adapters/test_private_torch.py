"""PyTorch modules trained privately: ghost clipping, exact noise, nothing told beside it."""

import sys
from typing import Any

import numpy as np
import pytest

import kumiai
from kumiai.core.errors import ConfigError
from kumiai.node.adapters import private_torch
from kumiai.node.study import App, Context, StudyError, TaskCancelledError, initial_model, run_train
from kumiai.privacy import TrainingTerms

try:
    import opacus
    import torch
    from torch import nn
except ModuleNotFoundError:
    opacus = torch = None  # type: ignore[assignment]

needs_opacus = pytest.mark.skipif(opacus is None, reason="PyTorch and Opacus are not installed")

COUNT, SIZE, CLASSES = 24, 6, 3


def terms(**changes: Any) -> TrainingTerms:
    silent = {"noise_multiplier": 1e-6, "sampling_rate": 1.0, "batch": float(COUNT)}
    return TrainingTerms(**{"clip": 0.3, "steps": 1, **silent, **changes})


def data_of() -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(COUNT, SIZE)).astype(np.float32)
    x[:4] *= 20  # some gradients are far beyond the clip, most are not
    return torch.from_numpy(x), torch.from_numpy(rng.integers(CLASSES, size=COUNT))


def network() -> Any:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(SIZE, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, CLASSES))


def context_with(asked: TrainingTerms | None, **settings: Any) -> Context:
    return App("t").context("s", privacy=asked, **settings)


def trained(module: Any, asked: TrainingTerms, x: Any, y: Any, *, rate: float = 1.0) -> Any:
    optimizer = torch.optim.SGD(module.parameters(), lr=rate)
    kumiai.train_privately(
        module, optimizer, nn.functional.cross_entropy, x, y, context_with(asked)
    )
    return module


def moved(module: Any, before: Any) -> Any:
    pairs = zip(module.parameters(), before.parameters(), strict=True)
    return torch.cat([(now - then).detach().reshape(-1) for now, then in pairs]).numpy()


def test_without_opacus_the_mend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus.grad_sample", None)

    with pytest.raises(ConfigError, match=r"got none: pip install 'kumiai\[torch\]'"):
        private_torch._ghost()


def test_a_job_without_local_noise_does_not_train_privately() -> None:
    with pytest.raises(ConfigError, match=r'the job needs noise = "local"'):
        kumiai.train_privately(None, None, lambda a, b: a, [], [], context_with(None))


@needs_opacus
def test_the_sum_is_that_of_gradients_clipped_one_by_one() -> None:
    x, y = data_of()
    before, clip = network(), 2.5
    expected = torch.zeros(sum(each.numel() for each in before.parameters()))
    norms = []
    for row in range(COUNT):
        before.zero_grad()
        nn.functional.cross_entropy(before(x[row : row + 1]), y[row : row + 1]).backward()
        flat = torch.cat([each.grad.reshape(-1) for each in before.parameters()])
        norms.append(float(flat.norm()))
        expected += flat * min(1.0, clip / norms[-1])

    after = trained(network(), terms(clip=clip), x, y)

    assert min(norms) < clip < max(norms)
    np.testing.assert_allclose(moved(after, before), -expected.numpy() / COUNT, atol=1e-5)


@needs_opacus
def test_noise_lies_on_every_parameter_and_steps_add_up() -> None:
    x, y = data_of()
    build = lambda: nn.Linear(SIZE, 4_000)  # noqa: E731
    before = build()
    module = build()
    module.load_state_dict(before.state_dict())
    asked = terms(noise_multiplier=2.0, sampling_rate=1e-9, steps=4, batch=10.0)

    trained(module, asked, x, y % 4_000, rate=0.5)

    assert moved(module, before).std() == pytest.approx(0.5 * 2.0 * 0.3 / 10 * 2 * 1.0079, rel=0.03)


@needs_opacus
def test_a_record_that_is_not_finite_counts_as_zero_and_spoils_no_other() -> None:
    x, y = data_of()
    broken = x.clone()
    broken[7, 2] = float("nan")
    broken[9, 0] = 3e38
    without = [row for row in range(COUNT) if row not in {7, 9}]

    after = trained(network(), terms(), broken, y)
    expected = trained(network(), terms(), x[without], y[without])

    np.testing.assert_allclose(moved(after, network()), moved(expected, network()), atol=2e-6)


@needs_opacus
@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Linear(SIZE, 4), nn.BatchNorm1d(4)),
        lambda: nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Flatten(0, 1), nn.Linear(3, 2)),
    ],
)
def test_a_module_that_mixes_records_is_refused(build: Any) -> None:
    x, y = data_of()

    with pytest.raises(ConfigError, match="module must"):
        trained(build(), terms(), x, y % 2)


@needs_opacus
def test_a_parameter_that_works_beside_its_layer_is_refused() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(SIZE, SIZE, bias=False)

        def forward(self, inputs: Any) -> Any:
            return nn.functional.linear(self.layer(inputs), self.layer.weight)

    x, y = data_of()
    twice, opposite = torch.cat([x[:1], -x[:1]]), torch.tensor([0, 1])

    with pytest.raises(ConfigError, match="each parameter in its own layer alone"):
        trained(Tied(), terms(), torch.cat([twice, x]), torch.cat([opposite, y]))


@needs_opacus
def test_records_that_move_nothing_are_no_proof_of_a_module() -> None:
    x, y = data_of()
    module = nn.Linear(SIZE, 4)
    context = context_with(terms(steps=2))
    clipping = private_torch._Clipping(module, nn.functional.cross_entropy, context.privacy)
    first, second = context.privacy.steps(clipping.dimension)
    with torch.no_grad():
        module.bias[:] = torch.tensor([99.0, 0, 0, 0])

    clipping.add_to(first, x * 0, y * 0)
    assert not clipping._is_verified
    clipping.add_to(second, x, y)

    assert clipping._is_verified


@needs_opacus
def test_a_module_of_short_floats_is_refused() -> None:
    x, y = data_of()

    with pytest.raises(ConfigError, match=r"32 or 64 bits .* got torch\.bfloat16"):
        trained(network().to(torch.bfloat16), terms(), x.to(torch.bfloat16), y)


@needs_opacus
def test_buffers_end_as_they_began_and_the_module_is_its_own_again() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(SIZE, CLASSES)
            self.inner = Memory()

        def forward(self, inputs: Any) -> Any:
            self.inner.total += inputs.sum()
            return self.layer(inputs)

    class Memory(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(()))

    x, y = data_of()
    module = Remembers()

    trained(module, terms(steps=2), x, y)

    assert float(module.inner.total) == 0
    assert not any(hasattr(each, "_norm_sample") for each in module.parameters())
    assert not any(each._forward_hooks for each in module.modules())


@needs_opacus
def test_large_batches_are_added_up_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data_of()
    whole = trained(network(), terms(), x, y)
    monkeypatch.setattr(private_torch, "_ROWS_AT_ONCE", 7)

    parts = trained(network(), terms(), x, y)

    np.testing.assert_allclose(moved(whole, network()), moved(parts, network()), atol=2e-6)


@needs_opacus
def test_a_withdrawn_task_ends_between_steps() -> None:
    x, y = data_of()
    module = network()
    context = context_with(terms(), cancelled=lambda: True)

    with pytest.raises(TaskCancelledError):
        kumiai.train_privately(
            module,
            torch.optim.SGD(module.parameters(), lr=1.0),
            nn.CrossEntropyLoss(),
            x,
            y,
            context,
        )


@needs_opacus
def test_an_app_around_a_module_trains_privately_where_the_job_asks_for_it() -> None:
    x, y = data_of()
    app = kumiai.torch(
        "t",
        lambda: nn.Linear(SIZE, CLASSES),
        loss=nn.functional.cross_entropy,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5),
        data=lambda site: (x.numpy(), y.numpy()),
    )
    weights = initial_model(app, {})
    asked = terms(steps=30, clip=5.0)
    pulled = {"config": {"proximal_mu": 1.0}}

    far = run_train(app, weights, app.context("s", privacy=asked))
    near = run_train(app, weights, app.context("s", privacy=asked, **pulled))

    def distance(update: Any) -> float:
        return float(sum(((update.weights[n] - weights[n]) ** 2).sum() for n in weights))

    assert far.examples == 1
    assert far.metrics == {}
    assert 0 < distance(near) < 0.5 * distance(far)


@needs_opacus
def test_a_module_trained_by_floats_alone_sends_nothing() -> None:
    app = App("t")
    app.train(lambda weights, context: kumiai.Update(weights, 5))

    with pytest.raises(StudyError, match=r"use kumiai\.train_privately"):
        run_train(app, {"w": np.zeros(2)}, app.context("s", privacy=terms()))
