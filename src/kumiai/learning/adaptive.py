"""The adaptive server optimizers: each number of the model gets a step size of its own.

Letters in the formulas: x model, d mean update, m momentum, v second moment, a learning_rate,
b1 beta_1, b2 beta_2, t the round, counted from 1.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kumiai.core.arrays import NamedArrays
from kumiai.learning.deltas import Arrays, computing_dtype, floating_of, like, sum_of
from kumiai.learning.parameters import FRACTION, POSITIVE, TAU, number, verify_fields

__all__ = ["FedAdagrad", "FedAdam", "FedYogi"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Adaptive(ABC):
    """What the three share: m = b1 m + (1 - b1) d, x + a m / (sqrt(v) + tau).

    They differ in how v follows d^2. As in the paper v starts at tau^2, and neither moment is
    corrected for its start.

    Source: Reddi et al. 2021, "Adaptive Federated Optimization", Algorithm 2.
    """

    learning_rate: float = number(POSITIVE, 0.01)
    beta_1: float = number(FRACTION, 0.9)
    tau: float = number(TAU, 1e-3)
    """Degree of adaptivity: the smaller, the more each number gets a step of its own."""

    name: ClassVar[str]

    def __post_init__(self) -> None:
        """Refuse a parameter that makes no sense."""
        verify_fields(self)

    def initial_state(self, model: NamedArrays) -> Arrays:
        """Return m = 0 and v = tau^2 for each floating array."""
        return _moments(model, self.tau**2)

    def apply(
        self, model: NamedArrays, mean_update: NamedArrays, state: NamedArrays
    ) -> tuple[Arrays, Arrays]:
        """Return the next model, and m and v."""
        steps = dict(mean_update)
        new_state: Arrays = {}
        for name in floating_of(model):
            old = state[f"m/{name}"]
            d = like(old, mean_update[name])
            m = like(old, self.beta_1 * old + (1 - self.beta_1) * d)
            v = like(old, self._second_moment(state[f"v/{name}"], d * d))
            new_state |= {f"m/{name}": m, f"v/{name}": v}
            m, v = self._corrected(m, v, state)
            steps[name] = like(old, self.learning_rate * m / (np.sqrt(v) + self.tau))
        return sum_of(model, steps), new_state

    def client_config(self) -> Mapping[str, float]:
        """Return nothing: clients train as they are used to."""
        return {}

    @abstractmethod
    def _second_moment(self, v: NDArray[Any], d_squared: NDArray[Any]) -> Any:
        """Return the next v."""

    def _corrected(
        self, m: NDArray[Any], v: NDArray[Any], state: NamedArrays
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the moments that the step is made of."""
        return m, v


def _moments(model: NamedArrays, second_moment: float) -> Arrays:
    state: Arrays = {}
    for name, array in floating_of(model).items():
        dtype = computing_dtype(array.dtype)
        state[f"m/{name}"] = np.zeros(array.shape, dtype)
        state[f"v/{name}"] = np.full(array.shape, second_moment, dtype)
    return state


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAdagrad(_Adaptive):
    """Adagrad at the server: v + d^2, by default without momentum."""

    learning_rate: float = number(POSITIVE, 0.1)
    beta_1: float = number(FRACTION, 0.0)

    name: ClassVar[str] = "fedadagrad"

    def _second_moment(self, v: NDArray[Any], d_squared: NDArray[Any]) -> Any:
        return v + d_squared


@dataclass(frozen=True, slots=True, kw_only=True)
class FedYogi(_Adaptive):
    """Yogi at the server: v - (1 - b2) d^2 sign(v - d^2)."""

    beta_2: float = number(FRACTION, 0.99)

    name: ClassVar[str] = "fedyogi"

    def _second_moment(self, v: NDArray[Any], d_squared: NDArray[Any]) -> Any:
        return v - (1 - self.beta_2) * d_squared * np.sign(v - d_squared)


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAdam(_Adaptive):
    """Adam at the server: b2 v + (1 - b2) d^2.

    With ``bias_correction`` v starts at 0 and the step is made of m / (1 - b1^t) and
    v / (1 - b2^t), as in Kingma and Ba 2015, Algorithm 1; without, it is the paper's.
    """

    beta_2: float = number(FRACTION, 0.99)
    bias_correction: bool = False

    name: ClassVar[str] = "fedadam"

    def initial_state(self, model: NamedArrays) -> Arrays:
        """Return m = 0 and v for each floating array, and with bias correction the rounds done."""
        if self.bias_correction:
            return _moments(model, 0.0) | {"rounds": np.zeros((), np.int64)}
        return _Adaptive.initial_state(self, model)

    def apply(
        self, model: NamedArrays, mean_update: NamedArrays, state: NamedArrays
    ) -> tuple[Arrays, Arrays]:
        """Return the next model, and m, v and with bias correction the rounds done."""
        new_model, new_state = _Adaptive.apply(self, model, mean_update, state)
        if self.bias_correction:
            new_state["rounds"] = like(state["rounds"], state["rounds"] + 1)
        return new_model, new_state

    def _second_moment(self, v: NDArray[Any], d_squared: NDArray[Any]) -> Any:
        return self.beta_2 * v + (1 - self.beta_2) * d_squared

    def _corrected(
        self, m: NDArray[Any], v: NDArray[Any], state: NamedArrays
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        if not self.bias_correction:
            return m, v
        t = int(state["rounds"]) + 1
        return m / (1 - self.beta_1**t), v / (1 - self.beta_2**t)
