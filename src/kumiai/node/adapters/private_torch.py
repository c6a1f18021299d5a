"""Private training of PyTorch modules: each record's gradient is clipped before any sum of them.

Opacus finds the norm of each record's gradient in one pass backwards, without ever making it (ghost
clipping), and a second pass gives the sum of the clipped ones. Coins, noise and counting are not
its but those of `kumiai.privacy`: the coins and the noise are exact and from the operating system's
randomness, and sums are divided by a public number.
"""

import importlib
import math
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kumiai.core.errors import ConfigError
from kumiai.node.study import Context
from kumiai.privacy import PrivateTraining, TrainingStep

__all__ = ["private_gradients", "train_privately"]

_ROWS_AT_ONCE: Final = 256
_SLACK: Final = 2.0**-7
"""How far floats of 32 bits may be off; steps have noise for as much."""


def train_privately(  # noqa: PLR0917 - in the order in which a loop uses them
    module: Any, optimizer: Any, loss: Callable[[Any, Any], Any], x: Any, y: Any, context: Context
) -> None:
    """Train a PyTorch module by the private steps that the job asks for.

    ::

        @app.train
        def train(weights, context):
            x, y = context.data
            module = build()
            module.load_state_dict({name: torch.from_numpy(a) for name, a in weights.items()})
            optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
            km.train_privately(module, optimizer, cross_entropy, x, y, context)
            return km.Update({n: t.numpy() for n, t in module.state_dict().items()}, len(y))

    How many steps, which part of the records each draws, the clip and the noise stand in the job's
    ``[privacy]`` table. Buffers of the module end as they began: nothing hides what is in them.

    Args:
        module: its layers treat each row by itself; its parameters are trained in place.
        optimizer: of its parameters.
        loss: of (outputs, targets), a scalar tensor, the mean over the batch.
        x: all inputs of the site, a tensor whose first axis is the record.
        y: all targets.
        context: of the task.

    Raises:
        ConfigError: Opacus is not installed, the job has no ``noise = "local"``, or the module has
            a layer that mixes records, a parameter that works outside of its own layer, or floats
            of 16 bits.
        TaskCancelledError: the task was withdrawn.
    """
    for _ in private_gradients(module, loss, x, y, context):
        optimizer.step()


def private_gradients(
    module: Any, loss: Callable[[Any, Any], Any], x: Any, y: Any, context: Context
) -> Iterator[None]:
    """Put a step's noised mean gradient into the parameters' ``grad``, once for each step.

    Args and errors as of `train_privately`.
    """
    if context.privacy is None:
        raise ConfigError(
            "context.privacy must be set to train privately, got none: the job needs "
            'noise = "local" in its [privacy] table'
        )
    clipping = _Clipping(module, loss, context.privacy)
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    module.train()
    try:
        for step in context.privacy.steps(clipping.dimension):
            context.check_cancelled()
            clipping.add_to(step, x, y)
            for buffer, before in buffers:
                buffer.detach_().copy_(before)
            clipping.set_gradients(step.mean())
            yield
    finally:
        clipping.close()


class _Clipping:
    """A module whose records' gradients are clipped."""

    def __init__(
        self, module: Any, loss: Callable[[Any, Any], Any], training: PrivateTraining
    ) -> None:
        self._torch = importlib.import_module("torch")
        self._loss = loss
        self._clip = training.terms.clip
        self._parameters = [each for each in module.parameters() if each.requires_grad]
        self._is_verified = False
        for each in self._parameters:
            if each.dtype not in {self._torch.float32, self._torch.float64}:
                raise ConfigError(
                    "module must have parameters of 32 or 64 bits to be trained privately, got "
                    f"{each.dtype}: shorter sums are off by more than the noise makes up for"
                )
        try:
            self._module = _ghost()(
                module, max_grad_norm=self._clip, loss_reduction="sum", use_ghost_clipping=True
            )
        except NotImplementedError as error:
            raise ConfigError(
                "module must treat each record by itself to be trained privately, got a layer that "
                f"does not, or that Opacus does not know (GroupNorm instead of BatchNorm?): {error}"
            ) from error

    @property
    def dimension(self) -> int:
        return sum(each.numel() for each in self._parameters)

    def add_to(self, step: TrainingStep, x: Any, y: Any) -> None:
        """Add the clipped gradients of the records that the step picks."""
        rows = self._torch.from_numpy(step.picked(len(y))).to(y.device)
        for some in rows.split(_ROWS_AT_ONCE):
            while len(some):
                losses, norms = self._norms(x[some], y[some])
                is_good = self._torch.isfinite(norms) & self._torch.isfinite(losses)
                if bool(is_good.all()):
                    step.add_clipped(self._clipped_sum(losses, norms), len(some))
                    break
                # One that is not finite counts as zero, and must not spoil the others.
                some = some[is_good]  # noqa: PLW2901
        self._forget()

    def set_gradients(self, mean: NDArray[np.float64]) -> None:
        at = 0
        for each in self._parameters:
            part = self._torch.from_numpy(mean[at : at + each.numel()]).reshape(each.shape)
            each.grad = part.to(each.device, each.dtype)
            at += each.numel()

    def close(self) -> None:
        """Take Opacus' hooks off the module."""
        self._module.to_standard_module()

    def _norms(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Return each record's loss, its graph kept, and the norm of its gradient."""
        self._forget()
        # Hooks on a layer whose inputs have no gradient are warned of at each pass.
        outputs = self._module(x.detach().requires_grad_() if x.is_floating_point() else x)
        losses = self._torch.stack(
            [
                self._loss(outputs[row : row + 1], y[row : row + 1]).reshape(())
                for row in range(len(y))
            ]
        )
        losses.sum().backward(retain_graph=True)
        norms = self._module.get_norm_sample().detach()
        if norms.shape != (len(y),):
            raise ConfigError(
                f"module must keep one row for each of {len(y)} records in all of its layers, got "
                f"{norms.shape[0]} somewhere; do not fold another axis into the first"
            )
        return losses, norms

    def _clipped_sum(self, losses: Any, norms: Any) -> NDArray[np.float64]:
        self._forget()
        factors = (self._clip / norms.clamp(min=1e-12)).clamp(max=1.0)
        self._module.disable_hooks()
        try:
            self._verify_whole(losses, norms)
            (factors * losses).sum().backward()
        finally:
            self._module.enable_hooks()
        parts = [
            self._torch.zeros_like(each) if each.grad is None else each.grad
            for each in self._parameters
        ]
        flat = self._torch.cat([part.detach().double().reshape(-1) for part in parts])
        total: NDArray[np.float64] = flat.cpu().numpy()
        return total

    def _verify_whole(self, losses: Any, norms: Any) -> None:
        """Check once that a norm is that of all that its record moves, on the longest of a batch.

        Opacus looks at layers from outside: of a parameter that is used beside its layer, as an
        embedding that is the last layer's matrix as well, it sees a part.
        """
        if self._is_verified:
            return
        row = int(norms.argmax())
        found = self._torch.autograd.grad(
            losses[row], self._parameters, retain_graph=True, allow_unused=True
        )
        parts = [float(part.double().norm()) for part in found if part is not None]
        least = _SLACK * self._clip
        if math.hypot(*parts) > float(norms[row]) * (1 + _SLACK) + least:
            raise ConfigError(
                "module must use each parameter in its own layer alone to be trained privately, "
                "got one whose gradient is longer than its layers tell; give each use its own"
            )
        # What is this short tells nothing of the others.
        self._is_verified = float(norms[row]) > least

    def _forget(self) -> None:
        for each in self._parameters:
            each.grad = None


def _ghost() -> Any:
    try:
        return importlib.import_module("opacus.grad_sample").GradSampleModuleFastGradientClipping
    except ModuleNotFoundError as error:
        raise ConfigError(
            "private training of a PyTorch module must have Opacus, got none: "
            "pip install 'kumiai[torch]'"
        ) from error
