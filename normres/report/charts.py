"""Charts as data: what stands in a figure, apart from how it is drawn.

paper.py draws a chart for print, interactive.py for the page.  Errors are in percent here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

# line: means with markers; points: the seeds; curve: many steps, few markers; thin: no marker; cross: diverged runs.
Kind = Literal["line", "points", "curve", "thin", "cross"]


@dataclass(frozen=True)
class Series:
    """Points of one look.

    Attributes:
      label: in the legend; series with the same label look alike and are hidden together.
      kind: how it is drawn.
      x, y: the points; a cross has None for the coordinate at whose upper end it stands.
      bars: half the length of each point's bar, along the axis of the errors; two rows: the parts below and above, in
        print only; empty = no bars.
      texts: what the page says of each point.
      hollow: whether markers are empty, as of numbers that are not ours.
    """

    label: str
    kind: Kind
    x: Sequence[Any]
    y: Sequence[Any]
    bars: Sequence[Any] = ()
    texts: Sequence[str] = ()
    hollow: bool = False


@dataclass(frozen=True)
class Panel:
    """Series under a title; a panel of its own scale does not share the axis of the errors with the others."""

    title: str
    series: Sequence[Series]
    own_scale: bool = False


@dataclass(frozen=True)
class Chart:
    """A figure of the page.

    Attributes:
      name: of its files.
      alternative: the text for a reader who cannot see it.
      caption: under the figure.
      x, y: titles of the axes.
      ticks: the values of x that are named; empty = as they come.
      rows: names of the rows from top to bottom, if y is not a number.
      log_x: whether x is logarithmic.
      largest: where the axis of errors should end, in percent; 0 = after the largest.
      by_depth: whether labels are depths, whose colours run from light to dark.
      unit: of y; what is no percentage has an axis that ends where its numbers do.
      log_y: whether y is logarithmic.
      columns: the most panels side by side; 0 = as many as fit.
    """

    name: str
    panels: Sequence[Panel]
    alternative: str
    caption: str
    x: str
    y: str = "error (%)"
    ticks: Sequence[float] = ()
    rows: Sequence[str] = ()
    log_x: bool = False
    largest: float = 0.0
    by_depth: bool = False
    unit: str = "%"
    log_y: bool = False
    columns: int = 0

    @property
    def labels(self) -> list[str]:
        """The labels of all series, in their order; what has the same place here looks the same in every panel."""
        return list(dict.fromkeys(one.label for panel in self.panels for one in panel.series))

    def places(self, panel: Panel) -> list[float]:
        """Returns those of `ticks` at which a panel has points."""
        return sorted({x for one in panel.series for x in one.x} & set(self.ticks)) or list(self.ticks)

    def edge(self, panel: Panel) -> float:
        """Returns the error at which a panel's crosses stand: above all numbers, in percent."""
        if self.largest:
            return self.largest
        values = [value for one in panel.series for value in (one.x if self.rows else one.y) if value is not None]
        return min(100.0 if self.unit == "%" else math.inf, 1.08 * max(values, default=90.0))


def named_ticks(places: Sequence[float], log: bool) -> list[float]:
    """Returns the values that have the room for a name on an axis, the smallest and the largest among them."""
    size, (first, *_, last) = math.log if log else float, [places[0], *places]
    room = 0.12 * (size(last) - size(first))
    named = [last]
    for place in reversed(places[1:-1]):
        if min(size(named[-1]) - size(place), size(place) - size(first)) > room:
            named.append(place)
    return named if last == first else [*named, first]
