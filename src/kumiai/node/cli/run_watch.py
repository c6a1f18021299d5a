"""A run as it goes on: the table of its rounds, and what is shown on a terminal or in a pipe."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import typer

from kumiai.node.cli.output import clean, shown_duration, shown_metrics, shown_time
from kumiai.node.operator.events import ServerSentEvent

__all__ = ["RoundLine", "RunPicture", "event_line", "watcher"]

_ROUNDS_SHOWN = 12
Show = Callable[[ServerSentEvent], None]


@dataclass(slots=True)
class RoundLine:
    """What is known of one round."""

    stage: str = "collecting"
    clients: int = 0
    reported: int = 0
    examples: int | None = None
    metrics: Mapping[str, float] | None = None
    evaluation: Mapping[str, float] | None = None
    opened_at: float | None = None
    published_at: float | None = None

    @property
    def seconds(self) -> float | None:
        """How long the round took; ``None`` while it is open."""
        if self.opened_at is None or self.published_at is None:
            return None
        return self.published_at - self.opened_at


@dataclass(slots=True)
class RunPicture:
    """All that a run's stream has told so far."""

    state: str = "submitted"
    rounds_total: int = 0
    rounds: dict[int, RoundLine] = field(default_factory=dict)
    doing: str = "waiting for a coordinator"
    trouble: str = ""

    @property
    def published(self) -> int:
        """How many rounds are done."""
        return sum(line.stage == "published" for n, line in self.rounds.items() if n > 0)

    def take(self, event: ServerSentEvent) -> None:
        """Take in one event of the stream."""
        match event.kind:
            case "event":
                self._take_row(event.data)
            case "progress":
                self._take_progress(event.data)
            case "lost":
                self.trouble = f"connection lost, trying again: {clean(event.data['reason'])}"
            case "end":
                self.state = event.data["state"]
                self.doing = clean(event.data["reason"] or self.state)

    def _take_row(self, row: Mapping[str, Any]) -> None:
        data, number = row["data"] or {}, row["round"]
        line = RoundLine() if number is None else self.rounds.setdefault(number, RoundLine())
        self.trouble = clean(row["text"]) if row["level"] != "info" else ""
        match row["kind"]:
            case "round_opened":
                line.opened_at, line.clients = row["at"], data["clients"]
                self.doing = f"round {number}: 0 of {line.clients} reported"
            case "round_closed":
                line.stage, line.reported = "aggregating", data["reports"]
                self.doing = f"round {number}: aggregating {_counted(line.reported, 'update')}"
            case "round_published":
                line.stage, line.published_at = "published", row["at"]
                line.reported, line.examples = data["reports"], data["examples"]
                line.metrics = data["metrics"]
                self.doing = f"round {number} is published"
            case "model_evaluated":
                line.stage = "published"
                line.evaluation = data["metrics"]
            case "waiting" | "evaluation_opened" | "stop_requested":
                self.doing = clean(row["text"])

    def _take_progress(self, data: Mapping[str, Any]) -> None:
        self.state, self.rounds_total = data["state"], data["rounds_total"]
        number, counts, phases = data["round"], data["counts"], data["phases"]
        line = self.rounds.setdefault(number, RoundLine(stage=data["stage"]))
        if number > 0 and data["stage"] == "collecting":
            line.reported = counts["reported"]
            line.clients = sum(counts.values())
            at_work = [f"{clean(name)} {clean(phase)}" for name, phase in sorted(phases.items())]
            self.doing = f"round {number}: {line.reported} of {line.clients} reported"
            if at_work:
                self.doing += f" ({', '.join(at_work[:6])}{', …' if len(at_work) > 6 else ''})"


def event_line(row: Mapping[str, Any]) -> str:
    """Return a row of a run's history as one line."""
    level = "" if row["level"] == "info" else f"{row['level']}: "
    client = f"{clean(row['client_id'])}: " if row["client_id"] else ""
    metrics = (row["data"] or {}).get("metrics")
    told = f"; {shown_metrics(metrics)}" if metrics else ""
    # Its text is the reason, which the line of the request has told already.
    text = "the run has stopped" if row["kind"] == "run_stopped" else clean(row["text"])
    return f"{shown_time(row['at'])}  {level}{client}{text}{told}"


def _counted(count: int, noun: str) -> str:
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"


def watcher() -> AbstractContextManager[Show]:
    """Return what shows a stream's events: a live table on a terminal, else a line per event."""
    return _live() if sys.stdout.isatty() else _plain()


@contextmanager
def _plain() -> Iterator[Show]:
    def show(event: ServerSentEvent) -> None:
        if event.kind == "event":
            typer.echo(event_line(event.data))
        elif event.kind == "lost":
            typer.echo(f"connection lost, trying again: {clean(event.data['reason'])}", err=True)
        # Whoever reads the pipe wants each line when it is true, not 8 KiB later.
        sys.stdout.flush()

    yield show


@contextmanager
def _live() -> Iterator[Show]:
    import rich.console
    import rich.live
    import rich.progress

    picture = RunPicture()
    bar = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
    )
    task = bar.add_task("rounds", total=None)
    console = rich.console.Console()
    with rich.live.Live(console=console, refresh_per_second=8) as live:

        def show(event: ServerSentEvent) -> None:
            picture.take(event)
            bar.update(task, completed=picture.published, total=picture.rounds_total or None)
            live.update(_drawn(picture, bar))

        yield show


def _drawn(picture: RunPicture, bar: Any) -> Any:
    import rich.console
    import rich.text

    parts = [_round_table(picture), bar, rich.text.Text(picture.doing, style="dim")]
    if picture.trouble:
        parts.append(rich.text.Text(picture.trouble, style="yellow"))
    return rich.console.Group(*parts)


def _round_table(picture: RunPicture) -> Any:
    import rich.box
    import rich.table
    import rich.text

    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for column in ("round", "stage", "reports", "examples", "training", "evaluation", "time"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for number in sorted(picture.rounds)[-_ROUNDS_SHOWN:]:
        line = picture.rounds[number]
        cells = (
            str(number),
            line.stage,
            f"{line.reported}/{line.clients}" if number else "-",
            "-" if line.examples is None else str(line.examples),
            shown_metrics(line.metrics),
            shown_metrics(line.evaluation),
            shown_duration(line.seconds),
        )
        table.add_row(*(rich.text.Text(cell) for cell in cells))
    return table
