"""What a looker-on knows of a run: built from the stream's events, and from nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kumiai.node.operator.events import ServerSentEvent

__all__ = ["RoundLine", "RunPicture"]

_ENDED = frozenset({"finished", "failed", "stopped"})


@dataclass(slots=True)
class RoundLine:
    """One round.

    Attributes:
        round: 0 is the initial model.
        reports: updates that are in, or in the sum.
        wanted: updates that are wanted.
        is_published: whether it made its model.
        loss, accuracy: of that model, on all sites' held-out rows; known one round later.
    """

    round: int
    reports: int = 0
    wanted: int = 0
    is_published: bool = False
    loss: float | None = None
    accuracy: float | None = None


@dataclass(slots=True)
class RunPicture:
    """One run.

    Attributes:
        rounds_total: how many rounds it will have.
        is_private: whether sites measure nothing that leaves them.
        lines: the rounds so far.
        phases: what each attached client does.
        out: client to why it is out, as the one who put it out tells.
        state: ``running`` until the stream has said how the run ended.
        reason: why it is in that state.
    """

    rounds_total: int
    is_private: bool = False
    lines: dict[int, RoundLine] = field(default_factory=dict)
    phases: Mapping[str, str] = field(default_factory=dict)
    out: dict[str, str] = field(default_factory=dict)
    state: str = "running"
    reason: str | None = None

    @property
    def last_published(self) -> int:
        """The number of the last round that made a model; 0 before the first."""
        return max((line.round for line in self.lines.values() if line.is_published), default=0)

    @property
    def has_ended(self) -> bool:
        """Whether the run has come to its end, good or bad."""
        return self.state in _ENDED

    def is_told(self, line: RoundLine) -> bool:
        """Return whether all that can be known of a round is known."""
        if self.is_private:
            return line.is_published or line.round == 0
        return line.accuracy is not None

    def line(self, number: int) -> RoundLine:
        """Return the round's line; an empty one if nothing is known of it yet."""
        return self.lines.setdefault(number, RoundLine(number))

    def apply(self, event: ServerSentEvent) -> None:
        """Take in the next event of the stream."""
        match event.kind:
            case "event":
                self._apply_event(event.data)
            case "progress":
                self._apply_progress(event.data)
            case "end":
                self.state, self.reason = event.data["state"], event.data["reason"]

    def _apply_event(self, event: Mapping[str, Any]) -> None:
        data = event["data"] or {}
        match event["kind"]:
            case "round_opened":
                self.line(event["round"]).wanted = data["target"]
            case "round_published":
                line = self.line(event["round"])
                line.reports, line.is_published = data["reports"], True
            case "model_evaluated":
                line = self.line(event["round"])
                line.loss = data["metrics"].get("loss")
                line.accuracy = data["metrics"].get("accuracy")

    def _apply_progress(self, progress: Mapping[str, Any]) -> None:
        self.phases = progress["phases"]
        line = self.line(progress["round"])
        if not line.is_published:
            line.reports = progress["counts"]["reported"]
