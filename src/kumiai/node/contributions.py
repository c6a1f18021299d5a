"""What a site contributes to a sum, before it is hidden: by a client process or a virtual one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from kumiai.core.arrays import NamedArrays, layout_of
from kumiai.learning import delta_of, dimension_of, flattened
from kumiai.node.client.secure.weighing import weight_of
from kumiai.node.noised_rounds import PrivateTerms, event_of_round
from kumiai.node.study import App, Context, run_gradients, run_train
from kumiai.privacy import ClippedSum, Event, RecordSum
from kumiai.secagg import Numbers, RoundDescriptor, TrainedAhead, verify_scales

__all__ = ["CONTRIBUTION", "Contribution", "clipped_contribution_of", "contribution_of"]

CONTRIBUTION: Final = "contribution"
"""Under this name a contribution in whole steps travels alone, as an update with one array."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """A vector that is to be hidden, and what may be said beside it.

    Attributes:
        vector: shape (numbers of the model,): the update, or a sum of records in whole steps.
        examples: how many it stands for; 1 where that is private.
        metrics: what the study measured; none where that is private.
        ahead: when it was made, if that was before the round.
    """

    vector: Numbers = field(repr=False)
    examples: int
    metrics: Mapping[str, float]
    privacy: PrivateTerms | None = None
    ahead: TrainedAhead | None = None

    def weight_in(
        self,
        descriptor: RoundDescriptor,
        examples_per_weight: int,
        *,
        client: str,
        pay: Callable[[str, Event], None] | None = None,
    ) -> int:
        """Return what it weighs in a round, which is checked to keep what was promised.

        Args:
            descriptor: the round.
            examples_per_weight: of the task.
            client: whose contribution it is.
            pay: takes the unit and the price of what is private, before the weight is told; its
                errors pass. ``None``: nobody pays.

        Raises:
            ConfigError: it weighs too much, or the round is not as private as the task.
            SecureAggregationError: somebody counts more or less in the round than it must.
        """
        verify_scales(descriptor, client, self.ahead)
        if self.privacy is None:
            return weight_of(self.examples, examples_per_weight, descriptor.weight_bound)
        event = event_of_round(descriptor, self.privacy)
        if pay is not None:
            pay(self.privacy.unit, event)
        return 1


def contribution_of(
    app: App, base: NamedArrays, context: Context, privacy: PrivateTerms | None
) -> Contribution:
    """Let the study do its part.

    Args:
        app: the study.
        base: the model that the round began with.
        context: the task.
        privacy: how contributions are clipped and counted; ``None``: nothing is private.

    Raises:
        StudyError, UpdateRejectedError, TaskCancelledError, ConfigError: as the study's functions.
    """
    layout = layout_of(base)
    if privacy is not None and privacy.unit == "record":
        total = RecordSum(dimension_of(layout), clip=privacy.clip, step=privacy.step)
        for rows in run_gradients(app, base, context):
            context.check_cancelled()
            total.add(rows)
        if total.dropped:
            _log("gradients of records are not finite and count as zero", app)
        return Contribution(total.total(), 1, {}, privacy)
    update = run_train(app, base, context)
    vector = flattened(delta_of(update.weights, base), layout)
    if privacy is not None:
        return Contribution(_finite(vector, app), 1, {}, privacy)
    return Contribution(vector, update.examples, update.metrics)


def clipped_contribution_of(
    app: App, base: NamedArrays, context: Context, terms: ClippedSum
) -> dict[str, NDArray[np.int32]]:
    """Let the study do its part, where the coordinator sums what it sees and adds the noise.

    Args:
        app: the study.
        base: the model that the round began with.
        context: the task.
        terms: how the update is clipped and counted.

    Returns:
        The whole steps of the update, shape (numbers of the model,) or one more for the count.

    Raises:
        StudyError, UpdateRejectedError, TaskCancelledError: as the study's function.
    """
    update = run_train(app, base, context)
    vector = _finite(flattened(delta_of(update.weights, base), layout_of(base)), app)
    return {CONTRIBUTION: terms.contribution({CONTRIBUTION: vector}).astype(np.int32)}


def _finite(vector: NDArray[np.float32], app: App) -> NDArray[np.float32]:
    if np.isfinite(vector).all():
        return vector
    # A refusal would tell of this client what the noise is to hide.
    _log("update is not finite and counts as zero", app)
    return np.zeros_like(vector)


def _log(event: str, app: App) -> None:
    structlog.get_logger("kumiai.client").warning(event, app=app.name)
