"""Adaptive clipping: a clipping norm that finds the median of the updates' norms, privately.

After each round the norm moves by the noisy fraction of updates that were within it: if more than
the target were, it shrinks, and else it grows, by the same factor for the same excess. What moves
it is released with the round's sum, under one price; nothing here ever depends on norms without
noise. So all that follows, the next norms, the learning rate and the statistics, costs nothing
more and may be published.

The expected step is zero only where the expected fraction is the target, and leads there from both
sides: a norm that is off by a factor comes within a quarter of the quantile in a few dozen rounds,
and then stays around it, the closer the larger the cohort and the smaller the learning rate.

Source: Andrew, Thakkar, McMahan, Ramaswamy 2021, algorithm 1.
"""

import math
import reprlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kumiai.privacy.accountant import RDPAccountant
from kumiai.privacy.checking import open_fraction, positive
from kumiai.privacy.clipping_round import ClippingRelease, ClippingRound, checked_norm
from kumiai.privacy.results import PrivacySpent
from kumiai.privacy.sampler import Integers
from kumiai.privacy.tensors import Gradients, Shapes, flat_norm, named, scaled, shapes_of

__all__ = ["AdaptiveClipping", "ClippingStatistics", "next_clipping_norm"]

Mean: TypeAlias = NDArray[np.float64]

_RANGE: Final = 1e6
"""How far from the initial norm the norm may go, where nothing else is said."""
_HISTORY_COUNT_MAX: Final = 10_000
_MEMORY: Final = 0.8
_BOOST: Final = 4.0


@dataclass(frozen=True, slots=True)
class ClippingStatistics:
    """What the rounds so far have shown; all of it may be published.

    Attributes:
        rounds: how many have ended.
        clipping_norm: of the next round.
        clipping_norms: of the rounds that have ended, the last 10 000.
        unclipped_fraction: the noisy fraction of the last round, or ``None`` before the first.
        learning_rate: of the last step of the norm.
        noise_norm: how long the noise in the mean is, about, with the next round's norm; ``None``
            before anything was clipped. If the clipping norm is far below it, more clipping would
            lose little; if it is far above, a higher target quantile loses less to clipping.
    """

    rounds: int
    clipping_norm: float
    clipping_norms: tuple[float, ...]
    unclipped_fraction: float | None
    learning_rate: float
    noise_norm: float | None


class AdaptiveClipping:
    """Clips updates to a norm that follows their median, and releases each round's noisy mean.

    ::

        clipper = AdaptiveClipping(
            initial_clipping_norm=1.0, noise_multiplier=1.1, target_delta=1e-5, learning_rate=0.1
        )
        clipped_gradients, grad_norm, clip_norm = clipper.clip_gradients(gradients)

    A round ends with `end_round`, which charges, adds noise and moves the norm; the call that
    completes the cohort does so by itself. The clipped gradients and the norm that a call returns
    belong to the one who contributed: they are without noise, so they are never to be logged,
    exported or sent. What may leave is `last_release` and `statistics`.

    It is not safe to be used from several threads at once.

    Attributes:
        accountant: where each round is charged before its noise is drawn.
        target_delta: at which `privacy_spent` tells the epsilon.
        last_release: the noisy mean and fraction of the last round, or ``None`` before the first.
    """

    def __init__(
        self,
        initial_clipping_norm: float = 1.0,
        noise_multiplier: float = 1.1,
        target_delta: float = 1e-5,
        learning_rate: float = 0.1,
        *,
        cohort_size: int = 10,
        target_quantile: float = 0.5,
        clipping_norm_min: float | None = None,
        clipping_norm_max: float | None = None,
        count_deviation: float | None = None,
        dynamic_learning_rate: bool = True,
        accountant: RDPAccountant | None = None,
    ) -> None:
        """Begin.

        Args:
            initial_clipping_norm: of the first round, 1e-100 to 1e100.
            noise_multiplier: standard deviation of the noise divided by the clipping norm, for the
                mean and the fraction together, > 0.
            target_delta: between 0 and 1.
            learning_rate: how far the logarithm of the norm moves, per excess of the fraction, > 0.
            cohort_size: how many contributions a round has, as is publicly expected; the
                denominator, whoever comes.
            target_quantile: which of the updates' norms is looked for, between 0 and 1.
            clipping_norm_min: below which the norm never falls; ``None``: a millionth of the first.
            clipping_norm_max: above which it never rises; ``None``: a million times the first.
            count_deviation: of the noise in the count of unclipped updates, as in `ClippingRound`.
            dynamic_learning_rate: learn up to five times as fast while the fraction stays on one
                side of the target; a function of noisy fractions alone.
            accountant: that of the run; ``None``: one of its own.

        Raises:
            TypeError, ValueError: an argument is not what it must be, by its name.
        """
        norm = checked_norm("initial_clipping_norm", initial_clipping_norm)
        least = norm / _RANGE if clipping_norm_min is None else clipping_norm_min
        most = norm * _RANGE if clipping_norm_max is None else clipping_norm_max
        self._norm_min = checked_norm("clipping_norm_min", least)
        self._norm_max = checked_norm("clipping_norm_max", most)
        if not self._norm_min <= norm <= self._norm_max:
            raise ValueError(
                f"initial_clipping_norm must be from clipping_norm_min of {self._norm_min!r} to "
                f"clipping_norm_max of {self._norm_max!r}, got {norm!r}"
            )
        self._round = ClippingRound(
            clipping_norm=norm,
            noise_multiplier=noise_multiplier,
            cohort_size=cohort_size,
            count_deviation=count_deviation,
        )
        self.target_delta = open_fraction("target_delta", target_delta)
        self._target_quantile = open_fraction("target_quantile", target_quantile)
        self._learning_rate = positive("learning_rate", learning_rate)
        self._boost = _BOOST if dynamic_learning_rate else 0.0
        self._excess = 0.0
        self.accountant = RDPAccountant() if accountant is None else accountant
        self.last_release: ClippingRelease | None = None
        self._norms: deque[float] = deque(maxlen=_HISTORY_COUNT_MAX)
        self._rounds = 0
        self._shapes: Shapes = {}
        self._are_named = False
        self._total: Integers | None = None
        self._count = 0

    @property
    def clipping_norm(self) -> float:
        """The norm of the round that is under way."""
        return self._round.clipping_norm

    @property
    def current_round(self) -> ClippingRound:
        """The public facts of the round that is under way."""
        return self._round

    def clip_gradients(self, gradients: Gradients) -> tuple[Any, float, float]:
        """Clip one contribution over all of its tensors at once, and count it in.

        Args:
            gradients: a list, a tuple or a dict of tensors of floats, of numpy or PyTorch, on
                any device; of the same names and shapes each time; finite; kept as they are.

        Returns:
            The clipped gradients, new and in the same form; their L2 norm before; and the clipping
            norm of this round. The first two are private.

        Raises:
            TypeError, ValueError: the gradients are not what they must be; nothing is counted.
        """
        tensors = named(gradients)
        shapes = shapes_of(tensors)
        if self._shapes and list(shapes.items()) != list(self._shapes.items()):
            raise ValueError(
                "gradients must have the same names and shapes, in the same order, each time: "
                f"{reprlib.repr(self._shapes)}, got {reprlib.repr(shapes)}"
            )
        norm = flat_norm(tensors)
        contribution = self._round.contribution_of(tensors, norm)
        clipping_norm = self.clipping_norm
        clipped = scaled(gradients, min(1.0, clipping_norm / norm) if norm else 1.0)
        self._shapes, self._are_named = shapes, isinstance(gradients, Mapping)
        if self._total is None:
            self._total = contribution
        else:
            self._total += contribution
        self._count += 1
        if self._count == self._round.cohort_size:
            self.end_round()
        return clipped, norm, clipping_norm

    def end_round(self) -> ClippingRelease:
        """Charge the round, release its noisy mean and fraction, and move the clipping norm.

        A round to which nobody came is released and charged as any other.

        Returns:
            What may be published; `last_release` from now on.

        Raises:
            RuntimeError: nothing was ever clipped, so that no shapes are known.
        """
        total = self._total
        if total is None:
            if not self._shapes:
                raise RuntimeError("clip_gradients must be called before end_round, got no call")
            total = np.zeros(_size_of(self._shapes) + 1, np.int64)
        self.accountant.compose(self._round.event)
        release = self._round.release(total)
        self._total, self._count = None, 0
        self._follow(release.unclipped_fraction)
        self.last_release = release
        return release

    def _follow(self, unclipped_fraction: float) -> None:
        """Move on to the next round; only noisy numbers come in here."""
        deviation = unclipped_fraction - self._target_quantile
        self._excess = _MEMORY * self._excess + (1 - _MEMORY) * deviation
        self._norms.append(self.clipping_norm)
        self._rounds += 1
        following = next_clipping_norm(
            self.clipping_norm,
            unclipped_fraction,
            learning_rate=self.learning_rate,
            target_quantile=self._target_quantile,
        )
        self._round = ClippingRound(
            clipping_norm=min(max(following, self._norm_min), self._norm_max),
            noise_multiplier=self._round.noise_multiplier,
            cohort_size=self._round.cohort_size,
            count_deviation=self._round.count_deviation,
        )

    @property
    def learning_rate(self) -> float:
        """That of the last step: greater while the fraction stays on one side of the target."""
        most = max(self._target_quantile, 1 - self._target_quantile)
        return self._learning_rate * (1 + self._boost * abs(self._excess) / most)

    @property
    def statistics(self) -> ClippingStatistics:
        """What the rounds so far have shown."""
        release = self.last_release
        noise_norm = None
        if self._shapes:
            deviation = self._round.sum_deviation / self._round.cohort_size
            noise_norm = deviation * math.sqrt(_size_of(self._shapes))
        return ClippingStatistics(
            rounds=self._rounds,
            clipping_norm=self.clipping_norm,
            clipping_norms=tuple(self._norms),
            unclipped_fraction=None if release is None else release.unclipped_fraction,
            learning_rate=self.learning_rate,
            noise_norm=noise_norm,
        )

    def privacy_spent(self) -> PrivacySpent:
        """Return what the accountant's releases come to at the target delta."""
        return self.accountant.epsilon(self.target_delta)

    def mean_gradients(self) -> list[Mean] | dict[Any, Mean]:
        """Return the noisy mean of the last round in the form of the gradients, as float64.

        Raises:
            RuntimeError: no round has ended.
        """
        if self.last_release is None:
            raise RuntimeError("a round must have ended before its mean is asked for, got none")
        ends = np.cumsum([math.prod(shape) for shape in self._shapes.values()])
        pieces = np.split(self.last_release.mean, ends[:-1])
        shapes = self._shapes.values()
        means = [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]
        return dict(zip(self._shapes, means, strict=True)) if self._are_named else means

    def __repr__(self) -> str:
        return f"<AdaptiveClipping to {self.clipping_norm:g} after {self._rounds} rounds>"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: a round under way holds a sum without noise."""
        raise TypeError("an AdaptiveClipping cannot be pickled: keep its statistics instead")


def next_clipping_norm(
    clipping_norm: float,
    unclipped_fraction: float,
    *,
    learning_rate: float,
    target_quantile: float = 0.5,
) -> float:
    """Return the norm of the next round.

    Args:
        clipping_norm: of this round.
        unclipped_fraction: how many updates were within it, noisy, 0 to 1.
        learning_rate: > 0.
        target_quantile: which fraction it should be.

    Source: Andrew et al. 2021, algorithm 1: C exp(-learning_rate (fraction - quantile)).
    """
    return clipping_norm * math.exp(-learning_rate * (unclipped_fraction - target_quantile))


def _size_of(shapes: Shapes) -> int:
    return sum(map(math.prod, shapes.values()))
