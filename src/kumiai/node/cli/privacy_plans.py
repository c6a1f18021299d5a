"""How the epsilon of a plan grows over its rounds: of a job, or of noise that is named by hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kumiai.core.errors import ConfigError
from kumiai.node.cli.invocation import Invocation
from kumiai.node.cli.submission import prepare
from kumiai.node.cli.text_plot import Series, text_plot
from kumiai.node.noised_rounds import private_plan_of
from kumiai.privacy import (
    Adjacency,
    Event,
    GaussianEvent,
    Method,
    PoissonGaussianEvent,
    PrivacyUnit,
    event_to_json,
    tight_epsilon,
)
from kumiai.privacy.budget import BudgetLimit, Standing, epsilon_spent, releases_left
from kumiai.privacy.ledger import BudgetScope, Guarantee, ScopeKind

__all__ = ["PrivacyPlan", "event_by_hand", "plan_by_hand", "plan_of_job"]

_POINTS_MAX: Final = 60


@dataclass(frozen=True, slots=True)
class PrivacyPlan:
    """Releases over some rounds.

    Attributes:
        event: one of them.
        rounds: how many.
        delta: at which epsilons are stated.
        releases: in how many of them anybody is after so many rounds.
        unit: whose part is hidden; of noise that is named by hand nobody has said it.
        limit: a budget, if there is one.
        notes: what is said of it besides, in words.
    """

    event: Event
    rounds: int
    delta: float
    releases: Callable[[int], int]
    unit: PrivacyUnit = PrivacyUnit.UNSTATED
    limit: float | None = None
    notes: Sequence[str] = ()

    def told(self) -> dict[str, Any]:
        """Return the curve, for programs.

        Raises:
            ConfigError: a number is out of its range.
        """
        text, count = event_to_json(self.event), min(self.rounds, _POINTS_MAX)
        at = [-(-self.rounds * number // count) for number in range(1, count + 1)]
        try:
            points = [
                {"rounds": each, "epsilon": epsilon_spent({text: self.releases(each)}, self.delta)}
                for each in at
            ]
        except (TypeError, ValueError) as error:
            raise ConfigError(str(error)) from error
        return {
            "rounds": self.rounds,
            "delta": self.delta,
            "unit": self.unit.value,
            "sampling": self.event.sampling.value,
            "adjacency": self.event.adjacency.value,
            "epsilon": points[-1]["epsilon"],
            "points": points,
        }

    def claims(self) -> str:
        """Return what the epsilon is about, for people."""
        told = f"unit {self.unit}, adjacency {self.event.adjacency}, sampling {self.event.sampling}"
        return f"({Method.RDP}; {told})"

    def tight(self) -> float:
        """Return the tighter epsilon that holds if the plan was fixed beforehand."""
        return tight_epsilon({self.event: self.releases(self.rounds)}, self.delta).epsilon

    def rounds_in_budget(self) -> int | None:
        """Return for how many rounds the limit is enough; ``None``: there is none.

        Raises:
            ConfigError: the limit is none.
        """
        if self.limit is None:
            return None
        guarantee = Guarantee(PrivacyUnit.RECORD, self.event.adjacency)
        try:
            scope = BudgetScope(ScopeKind.MODEL, "simulated")
            limit = BudgetLimit(scope, guarantee, self.limit, self.delta)
        except (TypeError, ValueError) as error:
            raise ConfigError(str(error)) from error
        return releases_left(Standing(limit, 0.0, {}), {event_to_json(self.event): 1})

    def text(self, told: dict[str, Any]) -> str:
        """Return the same for people.

        Args:
            told: of this plan, with what was added to it.
        """
        points = [(each["rounds"], each["epsilon"]) for each in told["points"]]
        head = f"epsilon at delta {self.delta:g}: {told['epsilon']:.4g} after {self.rounds} rounds"
        head += f" {self.claims()}"
        if told["epsilon_tight"] is not None:
            head += f"; {told['epsilon_tight']:.4g} if the plan was fixed beforehand"
        legend = "* epsilon"
        if self.limit is not None:
            enough = told["rounds_in_budget"]
            legend += f"   - the budget of {self.limit:g}, enough for {enough} rounds"
        return "\n\n".join(
            [*self.notes, head, text_plot([Series("*", points)], limit=self.limit), legend]
        )


def plan_of_job(
    invocation: Invocation, path: Path, *, app_reference: str | None, model: Path | None
) -> PrivacyPlan:
    """Return the plan of a job, wherever its noise is added.

    Raises:
        ConfigError: it is no private job, or no noise keeps its epsilon.
        KumiaiError: its model cannot be made or read.
    """
    prepared, invocation.overrides = prepare(
        path, invocation.overrides, app_reference=app_reference, model=model, token=None
    )
    privacy = prepared.job.privacy
    if privacy is None:
        raise ConfigError("privacy must be a table of the job, got a job without noise")
    plan = private_plan_of(
        prepared.job, privacy, sum(array.size for array in prepared.arrays.values())
    )
    return PrivacyPlan(
        plan.event(),
        plan.rounds,
        plan.delta,
        plan.releases,
        PrivacyUnit(privacy.unit),
        notes=prepared.outlook(),
    )


def plan_by_hand(
    noise_multiplier: float,
    rounds: int,
    *,
    delta: float,
    sampling_rate: float | None,
    adjacency: str,
    limit: float | None = None,
) -> PrivacyPlan:
    """Return the plan of so much noise in each round.

    Raises:
        ConfigError: a number is out of its range.
    """
    event = event_by_hand(noise_multiplier, sampling_rate, adjacency)
    return PrivacyPlan(event, rounds, delta, lambda after: after, limit=limit)


def event_by_hand(noise_multiplier: float, sampling_rate: float | None, adjacency: str) -> Event:
    """Return a release with so much noise.

    Raises:
        ConfigError: a number is out of its range.
    """
    if adjacency not in set(Adjacency):
        raise ConfigError(f"adjacency must be one of {', '.join(Adjacency)}, got {adjacency!r}")
    kind = Adjacency(adjacency)
    try:
        if sampling_rate is None:
            return GaussianEvent(noise_multiplier, adjacency=kind)
        return PoissonGaussianEvent(sampling_rate, noise_multiplier, adjacency=kind)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error
