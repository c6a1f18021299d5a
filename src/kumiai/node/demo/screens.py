"""What the demo looks like: on a terminal, in a file or pipe, or silent for a program."""

import json
from collections.abc import Iterable
from typing import Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kumiai.node.demo.picture import RoundLine, RunPicture
from kumiai.node.demo.result import DemoResult

__all__ = ["JsonScreen", "PlainScreen", "Screen", "TerminalScreen"]

_OTHER_LINES = 12
_ROUND_LINES_LEAST = 3


class Screen(Protocol):
    """Whoever shows a demo."""

    def step(self, text: str) -> None:
        """Show that something is done."""
        ...

    def note(self, text: str) -> None:
        """Show something that happened in a round."""
        ...

    def show(self, picture: RunPicture) -> None:
        """Show how the run stands."""
        ...

    def result(self, result: DemoResult) -> None:
        """Show what came out; the run is over."""
        ...

    def say(self, lines: Iterable[str]) -> None:
        """Show what can be done now."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was; safe to repeat."""
        ...


class JsonScreen:
    """Nothing but the result, as one JSON document."""

    def __init__(self, stream: TextIO) -> None:
        """Write to this stream."""
        self._stream = stream

    def step(self, text: str) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def show(self, picture: RunPicture) -> None:
        """Show nothing."""

    def result(self, result: DemoResult) -> None:
        """Print the document."""
        print(json.dumps(result.document(), indent=2), file=self._stream, flush=True)

    def say(self, lines: Iterable[str]) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Do nothing."""


class PlainScreen:
    """One line for each thing, as it happens."""

    def __init__(self, stream: TextIO) -> None:
        """Write to this stream."""
        self._stream = stream
        self._shown = -1

    def step(self, text: str) -> None:
        """Print a line."""
        self._print(text)

    def note(self, text: str) -> None:
        """Print a line."""
        self._print(text)

    def show(self, picture: RunPicture) -> None:
        """Print a line for each round whose model has been evaluated since."""
        while (line := picture.lines.get(self._shown + 1)) and picture.is_told(line):
            self._shown = line.round
            measured = f"loss {_number(line.loss)}, accuracy {_percent(line.accuracy)}"
            stand = _stand(line) if picture.is_private else f"{_stand(line) + ',':17} {measured}"
            self._print(f"round {line.round:>3} of {picture.rounds_total}: {stand}")

    def result(self, result: DemoResult) -> None:
        """Print the comparison."""
        self._print("\nmeasured on the held-out rows of all sites:")
        for name, value, remark in (*_comparison(result), *_privacy(result)):
            self._print(f"  {name:12} {value:>7}  {remark}")
        self._print(_timing(result))

    def say(self, lines: Iterable[str]) -> None:
        """Print the lines."""
        for line in lines:
            self._print(line)

    def close(self) -> None:
        """Do nothing."""

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class TerminalScreen:
    """A picture that changes in place; what has been said stays above it."""

    def __init__(self, console: Console) -> None:
        """Draw on this console; the first line appears at once."""
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()
        self._picture: RunPicture | None = None

    def step(self, text: str) -> None:
        """Print a line with a tick."""
        self._console.print(Text.assemble(("✓ ", "green"), text))

    def note(self, text: str) -> None:
        """Print a line that stands out."""
        self._console.print(Text.assemble(("▸ ", "yellow"), (text, "yellow")))

    def show(self, picture: RunPicture) -> None:
        """Draw the rounds and the clients anew."""
        self._picture = picture
        room = max(self._console.size.height - _OTHER_LINES, _ROUND_LINES_LEAST)
        lines = [picture.lines[number] for number in sorted(picture.lines)]
        drawn = Group(_rounds_table(picture, lines[-room:]), _clients_line(picture))
        self._live.update(drawn, refresh=True)

    def result(self, result: DemoResult) -> None:
        """Replace the moving picture by all rounds and the comparison."""
        self.close()
        if self._picture is not None:
            self._console.print(_rounds_table(self._picture, result.history))
        table = Table(title="measured on the held-out rows of all sites", title_justify="left")
        table.add_column("trained")
        table.add_column("accuracy", justify="right")
        table.add_column("", style="dim")
        for name, value, remark in (*_comparison(result), *_privacy(result)):
            style = "bold green" if name == "federated" else ""
            table.add_row(name, value, remark, style=style)
        self._console.print(table)
        self._console.print(_timing(result), style="dim")

    def say(self, lines: Iterable[str]) -> None:
        """Print the lines as they are."""
        for line in lines:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """End the moving picture."""
        self._live.stop()


def _rounds_table(picture: RunPicture, lines: Iterable[RoundLine]) -> Table:
    table = Table(title=f"{picture.rounds_total} rounds", title_justify="left")
    for name in ("round", "reports", "loss", "accuracy"):
        table.add_column(name, justify="right")
    table.add_column("", width=24)
    for line in lines:
        table.add_row(
            str(line.round) if line.round else "start",
            _reports(line),
            _number(line.loss),
            _percent(line.accuracy),
            _bar(line.accuracy),
        )
    return table


def _clients_line(picture: RunPicture) -> RenderableType:
    shown = Text("sites: ")
    for client in sorted({*picture.phases, *picture.out}):
        why = picture.out.get(client)
        if why is not None:
            shown.append(f"✗ {client} {why}  ", "bold red")
        else:
            shown.append(f"● {client} {picture.phases[client]}  ", "green")
    return shown


def _comparison(result: DemoResult) -> Iterable[tuple[str, str, str]]:
    local = result.yardsticks.local
    lowest, highest = _percent(min(local.values())), _percent(max(local.values()))
    return (
        (
            "local only",
            _percent(result.yardsticks.local_mean),
            f"each site its own model, {lowest} to {highest}",
        ),
        ("federated", _percent(result.federated), "one model, no row has left its site"),
        ("pooled", _percent(result.yardsticks.pooled), "one model from all rows in one place"),
    )


def _privacy(result: DemoResult) -> Iterable[tuple[str, str, str]]:
    facts = result.privacy
    if facts is None:
        return ()
    return (
        ("noise-free", _percent(facts.accuracy_without), "the same steps, simulated"),
        (
            "epsilon",
            f"{facts.epsilon:.2f}",
            f"at delta {facts.delta:g}, for each {facts.unit}, over all rounds",
        ),
    )


def _timing(result: DemoResult) -> str:
    processes = len(result.yardsticks.local) + 1
    return (
        f"{processes} processes started in {result.start_seconds:.1f} s, "
        f"{result.history[-1].round} rounds took {result.run_seconds:.1f} s"
    )


def _reports(line: RoundLine) -> str:
    return f"{line.reports} of {line.wanted}" if line.round else ""


def _stand(line: RoundLine) -> str:
    return f"{_reports(line)} reports" if line.round else "initial model"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _bar(value: float | None) -> Text:
    return Text("━" * round(24 * (value or 0.0)), "green")
