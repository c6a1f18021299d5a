"""Differential privacy: what a release costs, and what is left.

Pure and synchronous: events, numbers and arrays in, numbers out; no files, clocks, logs or threads.
"""

from kumiai.privacy.accountant import RDPAccountant
from kumiai.privacy.calibration import calibrate_noise, rounds_left
from kumiai.privacy.clipping import AdaptiveClipping, ClippingStatistics, next_clipping_norm
from kumiai.privacy.clipping_round import ClippedSum, ClippingRelease, ClippingRound
from kumiai.privacy.conversion import OrderGridWarning, delta_of, epsilon_of
from kumiai.privacy.events import (
    Adjacency,
    DiscreteGaussianEvent,
    Event,
    FixedSizeGaussianEvent,
    GaussianEvent,
    MatrixEvent,
    PoissonDiscreteGaussianEvent,
    PoissonGaussianEvent,
    Sampling,
    SkellamEvent,
    TreeEvent,
    event_from_json,
    event_to_json,
    l1_norm_max_of,
)
from kumiai.privacy.history import HistoryEntry, PrivacyHistory
from kumiai.privacy.mechanisms import GaussianMechanism, SkellamShares
from kumiai.privacy.rdp import DEFAULT_ORDERS, rdp_of
from kumiai.privacy.records import RecordSum, l2_norm_max_in_steps
from kumiai.privacy.results import Method, PrivacySpent, PrivacyUnit
from kumiai.privacy.sampler import skellam_again
from kumiai.privacy.scheduled_sum import EarlierRound, ScheduledSum
from kumiai.privacy.tight import tight_epsilon
from kumiai.privacy.training import PrivateTraining, TrainingStep, TrainingTerms

__all__ = [
    "DEFAULT_ORDERS",
    "AdaptiveClipping",
    "Adjacency",
    "ClippedSum",
    "ClippingRelease",
    "ClippingRound",
    "ClippingStatistics",
    "DiscreteGaussianEvent",
    "EarlierRound",
    "Event",
    "FixedSizeGaussianEvent",
    "GaussianEvent",
    "GaussianMechanism",
    "HistoryEntry",
    "MatrixEvent",
    "Method",
    "OrderGridWarning",
    "PoissonDiscreteGaussianEvent",
    "PoissonGaussianEvent",
    "PrivacyHistory",
    "PrivacySpent",
    "PrivacyUnit",
    "PrivateTraining",
    "RDPAccountant",
    "RecordSum",
    "Sampling",
    "ScheduledSum",
    "SkellamEvent",
    "SkellamShares",
    "TrainingStep",
    "TrainingTerms",
    "TreeEvent",
    "calibrate_noise",
    "delta_of",
    "epsilon_of",
    "event_from_json",
    "event_to_json",
    "l1_norm_max_of",
    "l2_norm_max_in_steps",
    "next_clipping_norm",
    "rdp_of",
    "rounds_left",
    "skellam_again",
    "tight_epsilon",
]
