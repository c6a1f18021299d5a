"""Strategies: how the mean update of a round moves the model.

A strategy is an immutable value and its functions are pure. What it remembers from round to round
is a mapping of named arrays, like the model itself, so that another coordinator goes on from the
stored state with the same bits. The mean update plays the part of the negative gradient (the
"pseudo-gradient" of Reddi et al. 2021). Optimizers work on floating arrays; integers and bool
move by the plain mean in every strategy (see ``kumiai.learning.deltas``).
"""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from kumiai.core.arrays import NamedArrays
from kumiai.core.errors import ConfigError
from kumiai.learning.adaptive import FedAdagrad, FedAdam, FedYogi
from kumiai.learning.deltas import Arrays
from kumiai.learning.fedavg import FedAvg, FedAvgM, FedProx

__all__ = ["STRATEGY_NAMES", "Strategy", "new_strategy"]


class Strategy(Protocol):
    """What a run asks of its strategy."""

    @property
    def name(self) -> str:
        """What jobs call it."""
        ...

    def initial_state(self, model: NamedArrays) -> Arrays:
        """Return the state before the first round; empty if the strategy keeps none."""
        ...

    def apply(
        self, model: NamedArrays, mean_update: NamedArrays, state: NamedArrays
    ) -> tuple[Arrays, Arrays]:
        """Return the next model and the next state: no views of ``model`` or ``state``.

        Args:
            model: the model that the clients started from.
            mean_update: as ``mean_of_updates`` returns it; it is used up, its memory may become
                the next model's.
            state: what ``initial_state`` or the round before returned.
        """
        ...

    def client_config(self) -> Mapping[str, float]:
        """Return what the clients' training needs to know."""
        ...


_STRATEGIES: dict[str, type[Any]] = {
    FedAvg.name: FedAvg,
    FedProx.name: FedProx,
    FedAvgM.name: FedAvgM,
    FedAdagrad.name: FedAdagrad,
    FedAdam.name: FedAdam,
    FedYogi.name: FedYogi,
}
STRATEGY_NAMES = tuple(_STRATEGIES)


def new_strategy(name: str, params: Mapping[str, object]) -> Strategy:
    """Return the strategy of that name with these parameters.

    Args:
        name: one of ``STRATEGY_NAMES``.
        params: by field name; what is left out has its default.

    Raises:
        ConfigError: the name, a parameter's name or its value is wrong.
    """
    if name not in _STRATEGIES:
        raise ConfigError(
            f"strategy must be one of {', '.join(STRATEGY_NAMES)}, got {name!r}"
            f"{_did_you_mean(name, STRATEGY_NAMES)}"
        )
    fields = [field.name for field in dataclasses.fields(_STRATEGIES[name])]
    for param in params:
        if param not in fields:
            rule = f"one of {', '.join(fields)}" if fields else "left out, there are none"
            raise ConfigError(
                f"parameter of {name} must be {rule}, got {param!r}{_did_you_mean(param, fields)}"
            )
    strategy: Strategy = _STRATEGIES[name](**params)
    return strategy


def _did_you_mean(wrong: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(wrong.lower(), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
