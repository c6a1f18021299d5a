"""Learning: from the updates of a round to the next model.

The gate for updates, their weighted mean, and the strategies that turn the mean into a new model.
Pure functions of named arrays: no files, sockets, threads, clocks or random numbers; whoever wants
the mean on several cores passes an executor in.
"""

from kumiai.learning.adaptive import FedAdagrad, FedAdam, FedYogi
from kumiai.learning.averaging import mean_of_updates, weighted_metrics, weights_of
from kumiai.learning.deltas import delta_of
from kumiai.learning.fedavg import FedAvg, FedAvgM, FedProx
from kumiai.learning.flattening import dimension_of, flattened, unflattened
from kumiai.learning.strategies import STRATEGY_NAMES, Strategy, new_strategy
from kumiai.learning.verification import (
    METRIC_COUNT_MAX,
    nonfinite_count,
    verify_report,
    verify_update,
)

__all__ = [
    "METRIC_COUNT_MAX",
    "STRATEGY_NAMES",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedProx",
    "FedYogi",
    "Strategy",
    "delta_of",
    "dimension_of",
    "flattened",
    "mean_of_updates",
    "new_strategy",
    "nonfinite_count",
    "unflattened",
    "verify_report",
    "verify_update",
    "weighted_metrics",
    "weights_of",
]
