"""A plot of text: what a terminal, a log and a mail can show alike."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Series", "text_plot"]

_LABEL_WIDTH = 8


@dataclass(frozen=True, slots=True)
class Series:
    """Points under one mark.

    Attributes:
        mark: one character.
        points: ``(x, y)``, y at least 0.
    """

    mark: str
    points: Sequence[tuple[float, float]]


def text_plot(
    series: Sequence[Series], *, limit: float | None = None, width: int = 60, height: int = 12
) -> str:
    """Return a plot from (0, 0) up to the largest x and y.

    Args:
        series: a later one is drawn over an earlier one.
        limit: a level to be shown as a line.
        width: of the area, in characters.
        height: of it, in lines.
    """
    points = [point for each in series for point in each.points]
    x_max = max((x for x, _ in points), default=0.0) or 1.0
    y_max = max([y for _, y in points] + ([] if limit is None else [limit]), default=0.0) or 1.0
    area = [[" "] * width for _ in range(height)]

    def line_of(y: float) -> int:
        return height - 1 - min(height - 1, int(y / y_max * height))

    if limit is not None:
        area[line_of(limit)] = ["-"] * width
    for each in series:
        for x, y in each.points:
            area[line_of(y)][min(width - 1, int(x / x_max * width))] = each.mark
    labels = {0: f"{y_max:.3g}", height - 1: "0"}
    lines = [
        f"{labels.get(number, ''):>{_LABEL_WIDTH}} |{''.join(line).rstrip()}"
        for number, line in enumerate(area)
    ]
    axis = f"{'':>{_LABEL_WIDTH}} +{'-' * width}"
    ends = f"{'':>{_LABEL_WIDTH}}  0{f'{x_max:g}':>{width - 1}}"
    return "\n".join([*lines, axis, ends])
