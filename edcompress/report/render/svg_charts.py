"""Charts as values: where their lines, ticks and names are, in per cent of the drawing. `templates/chart.html` draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from edcompress.core.frozen import MOST_FLOAT

NAME = (16.0, 9.0)
"""Approximate width and height of a dot's name, in per cent of a chart of the width that a desktop shows."""

MOST_POINTS = 400  # of one line; more are not visible and make the page heavy


class Line(NamedTuple):
    """One line of a chart: its name, its colour (a CSS variable) and its points (x, y); only finite y are drawn."""

    name: str
    color: str
    points: Sequence[tuple[float, float]]


class Dot(NamedTuple):
    """A labelled point of a chart of points; those of the `front` are joined by a line."""

    name: str
    x: float
    y: float
    front: bool


class Bar(NamedTuple):
    """One labelled horizontal bar: its `share` of the full width in [0, 1], and its colour (a CSS variable)."""

    name: str
    text: str
    share: float
    color: str

    @property
    def width(self) -> str:
        """The share as a CSS length."""
        return f"{100 * min(max(self.share, 0.0), 1.0):.2f}%"


class Label(NamedTuple):
    """A tick's text, and its place as CSS."""

    text: str
    place: str


class Name(NamedTuple):
    """A dot's name, its place as CSS, and whether it is "above" or "below" that."""

    text: str
    place: str
    side: str


class Curve(NamedTuple):
    """A line's points in the drawing, as SVG writes them, and its colour."""

    points: str
    color: str


class Chart(NamedTuple):
    """A chart ready to be drawn; without curves there is nothing finite to draw.

    `keys` explain the colours, and `grid` has the heights of horizontal lines. Only charts of dots have `names`.
    """

    title: str
    x_name: str
    keys: Sequence[Line]
    grid: Sequence[str]
    curves: Sequence[Curve]
    x_labels: Sequence[Label]
    y_labels: Sequence[Label]
    names: Sequence[Name] | None = None

    @property
    def is_of_dots(self) -> bool:
        """Whether the curves' points have names."""
        return self.names is not None


class _Frame(NamedTuple):
    """The values at the edges of a drawing."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        """Return the distance from the left edge, in per cent."""
        return 100 * (value - self.x_low) / (self.x_high - self.x_low)

    def y(self, value: float) -> float:
        """Return the distance from the lower edge, in per cent."""
        return 100 * (value - self.y_low) / (self.y_high - self.y_low)


def line_chart(title: str, lines: Sequence[Line], x_name: str) -> Chart:
    """Return the chart of lines over a shared x axis; it has no curves if no point is finite."""
    drawn = [line._replace(points=_visible(line.points)) for line in lines]
    drawn = [line for line in drawn if line.points]
    if not drawn:
        return Chart(title, x_name, (), (), (), (), ())
    x_low, x_high = _bounds([x for line in drawn for x, _ in line.points])
    ticks = nice_ticks(*_bounds([y for line in drawn for _, y in line.points]))
    frame = _Frame(x_low, x_high, ticks[0], ticks[-1])
    return _chart(title, x_name, drawn, ticks, frame)._replace(keys=drawn)


def dot_chart(title: str, dots: Sequence[Dot], x_name: str) -> Chart:
    """Return the chart of named dots, with a line that joins the front."""
    x_ticks = nice_ticks(*_bounds([dot.x for dot in dots]))
    ticks = nice_ticks(*_bounds([dot.y for dot in dots]))
    frame = _Frame(x_ticks[0], x_ticks[-1], ticks[0], ticks[-1])
    front = Line("not beaten in both", "--pruned", sorted((dot.x, dot.y) for dot in dots if dot.front))
    others = [Line(dot.name, "--dense", [(dot.x, dot.y)]) for dot in dots if not dot.front]
    marks = [Line(dot.name, "--pruned", [(dot.x, dot.y)]) for dot in dots if dot.front]
    chart = _chart(title, x_name, [front, *others, *marks], ticks, frame)
    return chart._replace(keys=[front], names=_names(dots, frame))


def _chart(title: str, x_name: str, lines: Sequence[Line], ticks: Sequence[float], frame: _Frame) -> Chart:
    inside = [tick for tick in nice_ticks(frame.x_low, frame.x_high) if frame.x_low <= tick <= frame.x_high]
    return Chart(
        title=title,
        x_name=x_name,
        keys=(),
        grid=[f"{100 - frame.y(tick):.2f}" for tick in ticks],
        curves=[Curve(_points(line, frame), line.color) for line in lines],
        x_labels=[Label(f"{tick:.6g}", f"left:{frame.x(tick):.2f}%") for tick in inside],
        y_labels=[Label(f"{tick:.6g}", f"bottom:{frame.y(tick):.2f}%") for tick in ticks],
    )


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Return about `wanted` round numbers, ascending and evenly spaced, that enclose `low` < `high`."""
    step = _nice_step((high - low) / wanted)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def _nice_step(rough: float) -> float:
    scale = 10.0 ** math.floor(math.log10(rough))
    return next(factor * scale for factor in (1, 2, 5, 10) if factor * scale >= rough * 0.999)


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """Return the smallest and the largest value, spread a little if they are equal but for rounding."""
    low, high = min(values), max(values)
    spread = abs(low) * 0.05 or 0.5 if math.isclose(low, high, rel_tol=1e-12, abs_tol=1e-300) else 0.0
    return low - spread, high + spread


def _visible(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    finite = [(x, y) for x, y in points if abs(y) <= MOST_FLOAT]  # neither infinite nor NaN
    stride = max(1, math.ceil(len(finite) / MOST_POINTS))
    kept = finite[::stride]
    return kept if not finite or kept[-1] == finite[-1] else [*kept, finite[-1]]


def _points(line: Line, frame: _Frame) -> str:
    places = [(frame.x(x), 100 - frame.y(y)) for x, y in line.points]
    if len(places) == 1:
        places *= 2  # a line of one point is drawn as a dot by its round caps
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in places)


def _names(dots: Sequence[Dot], frame: _Frame) -> list[Name]:
    """Return the names beside their dots: on no other name, on the side with more room, and off the falling line of the front."""
    names, taken = [], list[tuple[float, float]]()
    for dot in dots:
        x, y = frame.x(dot.x), frame.y(dot.y)
        right, above = x <= 50, dot.front and x <= 50
        sides = [(right, above), (not right, not above), (right, not above), (not right, above)]
        right, above = next((side for side in sides if _is_free(_corner(x, y, *side), taken)), sides[0])
        taken.append(_corner(x, y, right, above))
        place = f"left:{x:.2f}%" if right else f"right:{100 - x:.2f}%"
        names.append(Name(dot.name, f"{place};bottom:{y:.2f}%", "above" if above else "below"))
    return names


def _corner(x: float, y: float, right: bool, above: bool) -> tuple[float, float]:
    """Return the lower left corner of a name beside the dot at x, y."""
    return x if right else x - NAME[0], y if above else y - NAME[1]


def _is_free(corner: tuple[float, float], taken: Sequence[tuple[float, float]]) -> bool:
    """Return whether a name there is inside the chart, and on no other."""
    inside = 0 <= corner[0] <= 100 - NAME[0] and corner[1] >= 0
    return inside and all(abs(corner[0] - x) >= NAME[0] or abs(corner[1] - y) >= NAME[1] for x, y in taken)
