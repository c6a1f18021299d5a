"""An audit of the real release finds no more than is charged for, and each planted mistake."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kumiai.privacy import DEFAULT_ORDERS, rdp_of
from kumiai.privacy.clipping_round import STEPS, ClippingRelease, ClippingRound
from kumiai.privacy.conversion import epsilon_of as epsilon_of_curve
from kumiai.privacy.keystream import Keystream
from kumiai.privacy.mechanisms import SkellamShares
from tests.privacy.auditing import (
    audited_epsilon,
    binomial_upper_tail,
    gaussian_delta,
    gaussian_epsilon,
    rate_at_least,
)

DELTA = 1e-5
RUNS = 12_000
COHORT = 10
ROUND = ClippingRound(clipping_norm=1.0, noise_multiplier=1.1, cohort_size=COHORT)
CLAIM = gaussian_epsilon(1 / 1.1, DELTA)
# Two layers of four numbers; the canary goes one way as far as it is let, the others the other.
CANARY = {"first": np.array([3.0, 0, 0, 0]), "second": np.array([4.0, 0, 0, 0])}
OTHER = {"first": np.array([-0.6, 0, 0, 0]), "second": np.array([-0.8, 0, 0, 0])}


@dataclass(frozen=True)
class Way:
    """How a round is released: rightly, or with a mistake.

    Attributes:
        contribution: what a client sends of its update.
        mechanism_round: whose noise is added.
        denominator: by what the sum is divided, given how many came.
    """

    contribution: Callable[[dict[str, Any]], NDArray[np.int64]] = ROUND.contribution
    mechanism_round: ClippingRound = ROUND
    denominator: Callable[[int], int] = lambda came: COHORT

    def total(self, updates: list[dict[str, Any]]) -> NDArray[np.int64]:
        size = sum(each.size for each in CANARY.values()) + 1
        return sum(map(self.contribution, updates), np.zeros(size, np.int64))

    def release(self, keystream: Keystream, total: Any, came: int) -> ClippingRelease:
        noisy = self.mechanism_round.mechanism._release_with(keystream, total)
        opened = ROUND.opened(noisy)
        return replace(opened, mean=opened.mean * COHORT / self.denominator(came))


def epsilon_of(way: Way) -> float:
    """Audit the canary's part in a round to which nine others came."""
    others = [OTHER] * (COHORT - 1)
    # What the canary adds: the whole of its vector, which no test can do better than look along.
    direction = way.contribution(CANARY) / STEPS
    scores = []
    for key, updates in ((1, [*others, CANARY]), (2, others)):
        keystream = Keystream(bytes([key]) * 32)
        total = way.total(updates)
        releases = [way.release(keystream, total, len(updates)) for _ in range(RUNS)]
        means = np.array([each.mean for each in releases]) * COHORT
        fractions = np.array([each.unclipped_fraction for each in releases]) - 0.5
        counts = fractions * COHORT * 2 * ROUND.sign_steps / STEPS
        scores.append(means @ direction[:-1] + counts * direction[-1])
    return audited_epsilon(scores[0], scores[1], DELTA)


def of_each_layer(update: dict[str, Any]) -> NDArray[np.int64]:
    """Clip each layer to the norm by itself."""
    layers = [ROUND.contribution({name: tensor})[:-1] for name, tensor in update.items()]
    return np.append(np.concatenate(layers), ROUND.contribution(update)[-1])


def of_another_norm(update: dict[str, Any]) -> NDArray[np.int64]:
    """Clip to a norm that has grown, and count in the steps of the one that noise is made for."""
    grown = replace(ROUND, clipping_norm=2.0).contribution(update)
    return np.append(2 * grown[:-1], grown[-1])


def weighted(update: dict[str, Any]) -> NDArray[np.int64]:
    """Count the canary four times, as if it had four times the records of others."""
    return ROUND.contribution(update) * (4 if update is CANARY else 1)


MISTAKES = {
    "half the noise": Way(mechanism_round=replace(ROUND, noise_multiplier=0.55)),
    "each layer clipped by itself": Way(contribution=of_each_layer),
    "clipped to another norm than is charged for": Way(contribution=of_another_norm),
    "a weighted mean charged as one without weights": Way(contribution=weighted),
    "divided by those who came": Way(denominator=lambda came: came),
}


def test_the_claim_is_the_one_that_the_accountant_makes() -> None:
    charged = epsilon_of_curve(DEFAULT_ORDERS, rdp_of(ROUND.event), DELTA)

    assert CLAIM <= charged <= 1.15 * CLAIM


def test_an_audit_of_the_release_finds_nearly_what_is_claimed_and_no_more() -> None:
    found = epsilon_of(Way())

    assert 0.75 * CLAIM < found <= CLAIM


@pytest.mark.parametrize("mistake", MISTAKES)
def test_an_audit_finds_each_planted_mistake(mistake: str) -> None:
    assert epsilon_of(MISTAKES[mistake]) > 1.1 * CLAIM


def test_an_audit_of_shares_finds_no_more_than_is_claimed() -> None:
    shares = SkellamShares(
        noise_multiplier=1.1, l2_norm_squared=STEPS**2, dimension=RUNS, share_count=3
    )

    # As many releases of one coordinate; two of five clients dropped out.
    noise = [
        sum(shares._share_with(Keystream(bytes([3 * world + n]) * 32)) for n in range(3))
        for world in (0, 1)
    ]

    found = audited_epsilon(noise[0] + STEPS, np.asarray(noise[1]), DELTA)
    assert 0.75 * CLAIM < found <= CLAIM


def test_an_audit_finds_that_a_share_too_few_came() -> None:
    shares = SkellamShares(
        noise_multiplier=1.1, l2_norm_squared=STEPS**2, dimension=RUNS, share_count=3
    )

    noise = [shares._share_with(Keystream(bytes([world]) * 32)) for world in (0, 1)]

    assert audited_epsilon(noise[0] + STEPS, noise[1], DELTA) > 1.1 * CLAIM


# ---------------------------------------------------------------------------- the audit's own parts


def test_the_delta_of_the_gaussian_mechanism_is_the_integral_of_its_losses() -> None:
    mu, epsilon, width = 0.9, 1.5, 1e-4
    points = np.arange(-12, 12, width) + width / 2
    densities = [np.exp(-((points - at) ** 2) / 2) / math.sqrt(2 * math.pi) for at in (mu, 0.0)]

    integral = np.maximum(densities[0] - math.exp(epsilon) * densities[1], 0).sum() * width

    assert gaussian_delta(epsilon, mu) == pytest.approx(float(integral), rel=1e-6)
    assert gaussian_epsilon(1.0, 1e-5) == pytest.approx(4.377, abs=1e-3)


def test_the_bound_of_a_rate_is_clopper_and_pearsons() -> None:
    # No failure among n bounds the rate at alpha^(1/n); nothing bounds it from no success.
    assert rate_at_least(20, 20) == pytest.approx(0.025 ** (1 / 20), rel=1e-9)
    assert rate_at_least(0, 20) == 0.0
    assert binomial_upper_tail(3, 4, 0.5) == pytest.approx(5 / 16)


def test_an_audit_finds_nothing_where_nothing_is() -> None:
    scores = np.random.default_rng(1).normal(size=(2, 4000))

    assert audited_epsilon(scores[0], scores[1], DELTA) < 0.3
    assert audited_epsilon(np.zeros(100), np.zeros(100), DELTA) == 0.0
