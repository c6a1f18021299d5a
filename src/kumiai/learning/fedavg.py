"""FedAvg and the two strategies that are FedAvg but for one thing.

Letters in the formulas: x model, d mean update, m momentum, a learning_rate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kumiai.core.arrays import NamedArrays
from kumiai.learning.deltas import Arrays, computing_dtype, floating_of, like, sum_of
from kumiai.learning.parameters import FRACTION, NOT_NEGATIVE, POSITIVE, number, verify_fields

__all__ = ["FedAvg", "FedAvgM", "FedProx"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvg:
    """The mean itself: x + d.

    Source: McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", Algorithm 1.
    """

    name: ClassVar[str] = "fedavg"

    def initial_state(self, model: NamedArrays) -> Arrays:
        """Return nothing: it remembers nothing."""
        return {}

    def apply(
        self, model: NamedArrays, mean_update: NamedArrays, state: NamedArrays
    ) -> tuple[Arrays, Arrays]:
        """Return x + d, and no state."""
        return sum_of(model, mean_update), {}

    def client_config(self) -> Mapping[str, float]:
        """Return nothing: clients train as they are used to."""
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class FedProx:
    """FedAvg whose clients are held near the model they started from.

    A client adds ``proximal_mu / 2 * ||w - x||^2`` to its loss, w being its own weights; 0 is
    FedAvg.

    Source: Li et al. 2020, "Federated Optimization in Heterogeneous Networks", Algorithm 2.
    """

    proximal_mu: float = number(NOT_NEGATIVE, 0.01)

    name: ClassVar[str] = "fedprox"

    def __post_init__(self) -> None:
        """Refuse a parameter that makes no sense."""
        verify_fields(self)

    def initial_state(self, model: NamedArrays) -> Arrays:
        """Return nothing: it remembers nothing."""
        return {}

    def apply(
        self, model: NamedArrays, mean_update: NamedArrays, state: NamedArrays
    ) -> tuple[Arrays, Arrays]:
        """Return x + d, and no state."""
        return sum_of(model, mean_update), {}

    def client_config(self) -> Mapping[str, float]:
        """Return ``proximal_mu``."""
        return {"proximal_mu": float(self.proximal_mu)}


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvgM:
    """FedAvg with momentum at the server: m = momentum * m + d, x + a * m.

    Source: Hsu, Qi, Brown 2019, "Measuring the Effects of Non-Identical Data Distribution for
    Federated Visual Classification".
    """

    learning_rate: float = number(POSITIVE, 1.0)
    momentum: float = number(FRACTION, 0.9)

    name: ClassVar[str] = "fedavgm"

    def __post_init__(self) -> None:
        """Refuse a parameter that makes no sense."""
        verify_fields(self)

    def initial_state(self, model: NamedArrays) -> Arrays:
        """Return m = 0 for each floating array."""
        return {
            f"m/{name}": np.zeros(array.shape, computing_dtype(array.dtype))
            for name, array in floating_of(model).items()
        }

    def apply(
        self, model: NamedArrays, mean_update: NamedArrays, state: NamedArrays
    ) -> tuple[Arrays, Arrays]:
        """Return the next model, and m."""
        steps = dict(mean_update)
        new_state: Arrays = {}
        for name in floating_of(model):
            old = state[f"m/{name}"]
            m = like(old, self.momentum * old + like(old, mean_update[name]))
            new_state[f"m/{name}"] = m
            steps[name] = like(old, self.learning_rate * m)
        return sum_of(model, steps), new_state

    def client_config(self) -> Mapping[str, float]:
        """Return nothing: clients train as they are used to."""
        return {}
