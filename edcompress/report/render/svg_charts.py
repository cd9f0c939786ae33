"""Charts as small pieces of HTML around inline SVG. Text stays HTML, so that it keeps its size when a chart shrinks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from edcompress.core.frozen import MOST_FLOAT

NAME = (16.0, 9.0)
"""About the width and height of a dot's name, in per cent of a chart as wide as a desktop shows it."""

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


def line_chart(title: str, lines: Sequence[Line], x_name: str) -> str:
    """An HTML figure with the lines over a shared x axis; a sentence instead where no point is finite."""
    drawn = [line._replace(points=_visible(line.points)) for line in lines]
    drawn = [line for line in drawn if line.points]
    if not drawn:
        return f'<figure><figcaption>{escape(title)}</figcaption><p class="soft">No finite values.</p></figure>'
    x_low, x_high = _bounds([x for line in drawn for x, _ in line.points])
    ticks = nice_ticks(*_bounds([y for line in drawn for _, y in line.points]))
    frame = (x_low, x_high, ticks[0], ticks[-1])
    return (
        f"<figure>{_caption(title, drawn)}<div class='plot'>{_y_labels(ticks)}"
        f"{_svg(title, drawn, ticks, frame)}{_x_labels(x_low, x_high)}</div>"
        f"<p class='axis'>{escape(x_name)}</p></figure>"
    )


def dot_chart(title: str, dots: Sequence[Dot], x_name: str) -> str:
    """An HTML figure with named dots; the line joins the front."""
    x_ticks = nice_ticks(*_bounds([dot.x for dot in dots]))
    ticks = nice_ticks(*_bounds([dot.y for dot in dots]))
    frame = (x_ticks[0], x_ticks[-1], ticks[0], ticks[-1])
    front = Line("not beaten in both", "--pruned", sorted((dot.x, dot.y) for dot in dots if dot.front))
    others = [Line(dot.name, "--dense", [(dot.x, dot.y)]) for dot in dots if not dot.front]
    marks = [Line(dot.name, "--pruned", [(dot.x, dot.y)]) for dot in dots if dot.front]
    return (
        f"<figure class='dots'>{_caption(title, [front])}<div class='plot'>{_y_labels(ticks)}"
        f"<div class='field'>{_svg(title, [front, *others, *marks], ticks, frame)}{_names(dots, frame)}</div>"
        f"{_x_labels(x_ticks[0], x_ticks[-1])}</div><p class='axis'>{escape(x_name)}</p></figure>"
    )


def bar(name: str, text: str, share: float, color: str) -> str:
    """One labelled horizontal bar, `share` in [0, 1] of the full width; `color` is a CSS variable."""
    width = f"{100 * min(max(share, 0.0), 1.0):.2f}%"
    return (
        f'<div class="bar"><div><span>{escape(name)}</span>'
        f"<span>{escape(text)}</span></div>"
        f'<svg role="img" aria-label="{escape(name)}: {escape(text)}">'
        '<rect width="100%" height="8" rx="4" style="fill:var(--track)"/>'
        f'<rect width="{width}" height="8" rx="4" style="fill:var({color})"/></svg></div>'
    )


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """About `wanted` round numbers, ascending and evenly spaced, that enclose `low` < `high`."""
    step = _nice_step((high - low) / wanted)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def _nice_step(rough: float) -> float:
    scale = 10.0 ** math.floor(math.log10(rough))
    return next(factor * scale for factor in (1, 2, 5, 10) if factor * scale >= rough * 0.999)


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """The smallest and the largest value, spread a little where they are the same, but perhaps for rounding."""
    low, high = min(values), max(values)
    spread = abs(low) * 0.05 or 0.5 if math.isclose(low, high, rel_tol=1e-12, abs_tol=1e-300) else 0.0
    return low - spread, high + spread


def _visible(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    finite = [(x, y) for x, y in points if abs(y) <= MOST_FLOAT]  # and of infinities and NaN none
    stride = max(1, math.ceil(len(finite) / MOST_POINTS))
    kept = finite[::stride]
    return kept if not finite or kept[-1] == finite[-1] else [*kept, finite[-1]]


def _caption(title: str, lines: Sequence[Line]) -> str:
    keys = "".join(f'<span class="key" style="--key:var({line.color})">{escape(line.name)}</span>' for line in lines)
    return f"<figcaption>{escape(title)}<div>{keys}</div></figcaption>"


def _svg(title: str, lines: Sequence[Line], ticks: Sequence[float], frame: tuple[float, float, float, float]) -> str:
    heights = [100 - _percent(tick, frame[2], frame[3]) for tick in ticks]
    grid = "".join(f'<line x1="0" x2="100" y1="{height:.2f}" y2="{height:.2f}"/>' for height in heights)
    paths = "".join(_polyline(line, frame) for line in lines)
    label = f'role="img" aria-label="{escape(title)}"'
    return f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" {label}>{grid}{paths}</svg>'


def _polyline(line: Line, frame: tuple[float, float, float, float]) -> str:
    x_low, x_high, y_low, y_high = frame
    places = [(_percent(x, x_low, x_high), 100 - _percent(y, y_low, y_high)) for x, y in line.points]
    if len(places) == 1:
        places *= 2  # a line of one point is drawn as a dot by its round caps
    text = " ".join(f"{x:.2f},{y:.2f}" for x, y in places)
    return f'<polyline points="{text}" style="stroke:var({line.color})"/>'


def _names(dots: Sequence[Dot], frame: tuple[float, float, float, float]) -> str:
    """The names beside their dots, where no other name is, there is more room, and the falling line of the front does not pass."""
    spans, taken = [], list[tuple[float, float]]()
    for dot in dots:
        x, y = _percent(dot.x, frame[0], frame[1]), _percent(dot.y, frame[2], frame[3])
        right, above = x <= 50, dot.front and x <= 50
        places = [(right, above), (not right, not above), (right, not above), (not right, above)]
        right, above = next((place for place in places if _is_free(_corner(x, y, *place), taken)), places[0])
        taken.append(_corner(x, y, right, above))
        side = f"left:{x:.2f}%" if right else f"right:{100 - x:.2f}%"
        spans.append(
            f'<span class="{"above" if above else "below"}" style="{side};bottom:{y:.2f}%">{escape(dot.name)}</span>'
        )
    return "".join(spans)


def _corner(x: float, y: float, right: bool, above: bool) -> tuple[float, float]:
    """The lower left corner of a name beside the dot at x, y."""
    return x if right else x - NAME[0], y if above else y - NAME[1]


def _is_free(corner: tuple[float, float], taken: Sequence[tuple[float, float]]) -> bool:
    """Whether a name there is inside the chart, and on no other."""
    inside = 0 <= corner[0] <= 100 - NAME[0] and corner[1] >= 0
    return inside and all(abs(corner[0] - x) >= NAME[0] or abs(corner[1] - y) >= NAME[1] for x, y in taken)


def _y_labels(ticks: Sequence[float]) -> str:
    places = [_percent(tick, ticks[0], ticks[-1]) for tick in ticks]
    spans = (f'<span style="bottom:{place:.2f}%">{tick:.6g}</span>' for place, tick in zip(places, ticks, strict=True))
    return f'<div class="y">{"".join(spans)}</div>'


def _x_labels(low: float, high: float) -> str:
    inside = [tick for tick in nice_ticks(low, high) if low <= tick <= high]
    spans = (f'<span style="left:{_percent(tick, low, high):.2f}%">{tick:.6g}</span>' for tick in inside)
    return f'<div class="x">{"".join(spans)}</div>'


def _percent(value: float, low: float, high: float) -> float:
    return 100 * (value - low) / (high - low)
