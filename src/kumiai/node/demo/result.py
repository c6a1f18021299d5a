"""What a demo came to."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kumiai.node.demo.picture import RoundLine
from kumiai.node.studies import Baselines

__all__ = ["Comeback", "DemoResult", "PrivateFacts"]


@dataclass(frozen=True, slots=True)
class Comeback:
    """The story of the client that was killed.

    Attributes:
        client: which.
        round: it was killed in this one, before it reported.
        away_seconds: from the kill until it was attached again.
        reports: how many reports the round closed with.
        wanted: how many it wanted.
    """

    client: str
    round: int
    away_seconds: float
    reports: int
    wanted: int

    @property
    def took_part(self) -> bool:
        """Whether the round has everybody's update after all."""
        return self.reports >= self.wanted


@dataclass(frozen=True, slots=True)
class PrivateFacts:
    """What a private run promised, and what it cost.

    Attributes:
        unit: whose part is hidden.
        epsilon: what all rounds cost.
        delta: at this delta.
        noise_multiplier: the noise's standard deviation over the clip.
        accuracy: of the last model, measured here: sites tell no numbers in a private run.
        accuracy_without: of the same study trained for as many rounds without noise.
    """

    unit: str
    epsilon: float
    delta: float
    noise_multiplier: float
    accuracy: float
    accuracy_without: float


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The whole outcome.

    Attributes:
        study: its name.
        run_id: the run's.
        history: the initial model, then one line per round.
        yardsticks: what the federated accuracy is compared with.
        comeback: ``None`` if nobody was killed.
        model: where it lies.
        start_seconds: until all clients were attached.
        run_seconds: from the job's submission to its end.
        privacy: ``None`` if no noise was added.
    """

    study: str
    run_id: str
    history: tuple[RoundLine, ...]
    yardsticks: Baselines
    comeback: Comeback | None
    model: Path
    start_seconds: float
    run_seconds: float
    privacy: PrivateFacts | None = None

    @property
    def federated(self) -> float:
        """The last model's accuracy on all sites' held-out rows, 0 to 1."""
        if self.privacy is not None:
            return self.privacy.accuracy
        return self.history[-1].accuracy or 0.0

    def document(self) -> Mapping[str, Any]:
        """Return it as plain JSON values."""
        yardsticks, comeback = self.yardsticks, self.comeback
        return {
            "study": self.study,
            "run_id": self.run_id,
            "sites": list(yardsticks.local),
            "rounds": self.history[-1].round,
            "accuracy": {
                "local_only": yardsticks.local_mean,
                "federated": self.federated,
                "pooled": yardsticks.pooled,
            },
            "local_only": dict(yardsticks.local),
            "killed": comeback and {**asdict(comeback), "took_part": comeback.took_part},
            "privacy": self.privacy and asdict(self.privacy),
            "model": str(self.model),
            "start_seconds": round(self.start_seconds, 3),
            "run_seconds": round(self.run_seconds, 3),
            "history": [
                {
                    "round": line.round,
                    "reports": line.reports,
                    "loss": line.loss,
                    "accuracy": line.accuracy,
                }
                for line in self.history
            ],
        }
