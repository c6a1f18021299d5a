"""Differential privacy: what a release costs, and what is left.

Pure and synchronous: events, numbers and arrays in, numbers out; no files, clocks, logs or threads.
"""

from kumiai.privacy.conversion import delta_of, epsilon_of
from kumiai.privacy.events import (
    Adjacency,
    DiscreteGaussianEvent,
    Event,
    FixedSizeGaussianEvent,
    GaussianEvent,
    MatrixEvent,
    PoissonGaussianEvent,
    Sampling,
    SkellamEvent,
    TreeEvent,
    event_from_json,
    event_to_json,
)
from kumiai.privacy.rdp import DEFAULT_ORDERS, rdp_of

__all__ = [
    "DEFAULT_ORDERS",
    "Adjacency",
    "DiscreteGaussianEvent",
    "Event",
    "FixedSizeGaussianEvent",
    "GaussianEvent",
    "MatrixEvent",
    "PoissonGaussianEvent",
    "Sampling",
    "SkellamEvent",
    "TreeEvent",
    "delta_of",
    "epsilon_of",
    "event_from_json",
    "event_to_json",
    "rdp_of",
]
