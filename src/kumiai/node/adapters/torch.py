"""PyTorch: from a function that builds a module to an ``App``.

The model's arrays are the module's ``state_dict``: parameters and buffers, integer ones such as
``num_batches_tracked`` included. Module and optimizer are built anew for each task, so that a task
depends on nothing but the model, its seed and the site's data.
"""

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from kumiai.core.arrays import BFLOAT16, NamedArrays
from kumiai.core.errors import ConfigError
from kumiai.node.adapters.private_torch import private_gradients
from kumiai.node.adapters.site_data import positive_setting, site_data
from kumiai.node.study import App, Context, Evaluation, Site, Update

__all__ = ["torch"]


def torch(
    name: str,
    build: Callable[[], Any],
    *,
    loss: Callable[[Any, Any], Any],
    optimizer: Callable[[Any], Any],
    data: Callable[[Site], Any],
    epochs: int = 1,
    batch_size: int = 32,
    metrics: Mapping[str, Callable[[Any, Any], Any]] | None = None,
    device: str = "cpu",
) -> App:
    """Return an app that trains a PyTorch module.

    ::

        app = km.torch(
            "digits",
            lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
            loss=nn.functional.cross_entropy,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
            data=km.datasets.digits,
        )

    ``epochs`` and ``batch_size`` in the job's ``train`` table win over the arguments. With a
    strategy that sends ``proximal_mu``, FedProx's term is added to the loss. A job with
    ``noise = "local"`` trains it privately, see `train_privately`: its steps take the place of
    epochs and batches.

    Args:
        name: of the app.
        build: returns a new module; called under the run's seed.
        loss: of (outputs, targets), a scalar tensor, the mean over the batch.
        optimizer: of the module's parameters, returns an optimizer.
        data: of the site, returns ``SiteData`` or a pair ``(x, y)`` of arrays; inputs go to the
            module as they are, floats as float32.
        epochs: passes over the site's rows in each round.
        batch_size: rows for each step.
        metrics: name to a function of (outputs, targets) over the held-out rows. ``None``: the
            accuracy if the targets are integers, else the loss alone.
        device: where the site computes.

    Raises:
        ConfigError: PyTorch is not installed.
    """
    library = _library()
    study = _TorchStudy(
        library,
        build,
        loss=loss,
        optimizer=optimizer,
        load=data,
        epochs=epochs,
        batch_size=batch_size,
        metrics=metrics,
        device=library.device(device),
    )
    return App(name, study=study)


def _library() -> Any:
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "kumiai.torch must have PyTorch, got none: pip install 'kumiai[torch]'"
        ) from error


class _TorchStudy:
    def __init__(
        self,
        library: Any,
        build: Callable[[], Any],
        *,
        loss: Callable[[Any, Any], Any],
        optimizer: Callable[[Any], Any],
        load: Callable[[Site], Any],
        epochs: int,
        batch_size: int,
        metrics: Mapping[str, Callable[[Any, Any], Any]] | None,
        device: Any,
    ) -> None:
        self._torch = library
        self._build = build
        self._loss = loss
        self._optimizer = optimizer
        self._load = load
        self._epochs = epochs
        self._batch_size = batch_size
        self._metrics = metrics
        self._device = device

    def data(self, site: Site) -> tuple[Any, Any, Any, Any]:
        data = site_data(self._load(site))
        return (
            self._inputs(data.x_train),
            self._inputs(data.y_train),
            self._inputs(data.x_test),
            self._inputs(data.y_test),
        )

    def model(self, config: Mapping[str, Any]) -> dict[str, Any]:
        with self._seeded(int(config["seed"])):
            module = self._build()
        return _arrays_of(module, self._torch)

    def train(self, weights: dict[str, Any], context: Context) -> Update:
        x, y, _, _ = context.data
        epochs = positive_setting(context.config, "epochs", self._epochs)
        batch_size = positive_setting(context.config, "batch_size", self._batch_size)
        mu = float(context.config.get("proximal_mu", 0.0))
        with self._seeded(context.seed):
            module = self._module_with(weights)
            base = [parameter.detach().clone() for parameter in module.parameters()]
            optimizer = self._optimizer(module.parameters())
            if context.privacy is not None:
                for _ in private_gradients(module, self._loss, x, y, context):
                    self._add_pull(module, base, mu)
                    optimizer.step()
                return Update(_arrays_of(module, self._torch), len(y))
            module.train()
            total = 0.0
            for epoch in range(epochs):
                context.check_cancelled()
                total = 0.0
                for rows in self._batches(context, len(y), batch_size):
                    optimizer.zero_grad()
                    loss = self._loss(module(x[rows]), y[rows])
                    (loss + self._distance(module, base, mu)).backward()
                    optimizer.step()
                    total += float(loss.detach()) * len(rows)
                context.report((epoch + 1) / epochs, f"epoch {epoch + 1} of {epochs}")
        return Update(_arrays_of(module, self._torch), len(y), {"loss": total / len(y)})

    def evaluate(self, weights: dict[str, Any], context: Context) -> Evaluation:
        _, _, x, y = context.data
        with self._seeded(context.seed), self._torch.inference_mode():
            module = self._module_with(weights)
            module.eval()
            outputs = module(x)
            values = {"loss": float(self._loss(outputs, y))}
            for name, metric in self._metrics_for(y).items():
                values[name] = float(metric(outputs, y))
        return Evaluation(len(y), values)

    def _seeded(self, seed: int) -> AbstractContextManager[None]:
        return _Seeded(self._torch, seed, self._device)

    def _inputs(self, array: Any) -> Any:
        values = np.asarray(array)
        if values.dtype.kind == "f":
            values = values.astype(np.float32)
        return self._torch.tensor(values, device=self._device)

    def _module_with(self, weights: NamedArrays) -> Any:
        module = self._build()
        module.load_state_dict(
            {name: _tensor_of(array, self._torch) for name, array in weights.items()}
        )
        return module.to(self._device)

    def _batches(self, context: Context, count: int, batch_size: int) -> list[Any]:
        order = self._torch.from_numpy(context.rng.permutation(count)).to(self._device)
        return list(order.split(batch_size))

    def _distance(self, module: Any, base: list[Any], mu: float) -> Any:
        # mu / 2 * |w - w_base|^2 (Li et al. 2020, equation 2).
        if mu == 0:
            return 0.0
        pairs = zip(module.parameters(), base, strict=True)
        return mu / 2 * sum(((now - before) ** 2).sum() for now, before in pairs)

    def _add_pull(self, module: Any, base: list[Any], mu: float) -> None:
        # The gradient of that distance: it knows no record, so that the noise is not for it.
        if mu:
            with self._torch.no_grad():
                for now, before in zip(module.parameters(), base, strict=True):
                    if now.grad is not None:
                        now.grad += mu * (now - before)

    def _metrics_for(self, targets: Any) -> Mapping[str, Callable[[Any, Any], Any]]:
        if self._metrics is not None:
            return self._metrics
        return {} if targets.is_floating_point() else {"accuracy": _accuracy}


class _Seeded:
    """PyTorch's generators under a seed for a while, then as they were.

    They belong to the whole process: where several sites train in one process at the same time,
    dropout and the like are not repeatable. The order of the rows is: it comes from the context.
    """

    def __init__(self, library: Any, seed: int, device: Any) -> None:
        self._torch = library
        self._seed = seed
        self._fork = library.random.fork_rng([device] if device.type == "cuda" else [])

    def __enter__(self) -> None:
        self._fork.__enter__()
        self._torch.manual_seed(self._seed % 2**63)

    def __exit__(self, *exception: object) -> None:
        self._fork.__exit__(*exception)


def _accuracy(outputs: Any, targets: Any) -> Any:
    return (outputs.argmax(dim=1) == targets).float().mean()


def _arrays_of(module: Any, library: Any) -> dict[str, Any]:
    arrays = {}
    for name, value in module.state_dict().items():
        tensor = value.detach().cpu().contiguous()
        if tensor.dtype == library.bfloat16:  # numpy knows no bfloat16: the same bits as integers
            arrays[name] = tensor.view(library.int16).numpy().view(BFLOAT16).copy()
        else:
            arrays[name] = tensor.numpy().copy()
    return arrays


def _tensor_of(array: Any, library: Any) -> Any:
    if array.dtype == BFLOAT16:
        return library.from_numpy(array.view(np.int16).copy()).view(library.bfloat16)
    return library.from_numpy(array.copy())
