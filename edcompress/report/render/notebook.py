"""The face of a result in a notebook: its main figures, and a picture of the layers' widths before and after."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from edcompress.core.results.report import Report
from edcompress.report.gate.outcome import loud_warnings
from edcompress.report.render.html_page import render_template, tiles_of


class LayerWidth(NamedTuple):
    """The channels of a layer, and how many of them are kept."""

    name: str
    kept: int
    channels: int


class _Bar(NamedTuple):
    name: str
    text: str
    before: str
    after: str


def render_notebook(report: Report, layers: Iterable[LayerWidth], folder: str) -> str:
    """Return the HTML of a result for the output of a notebook's cell.

    Args:
        report: The run's report.
        layers: The layers in the order of the network.
        folder: The run folder.
    """
    widths = list(layers)
    widest = max((layer.channels for layer in widths), default=1)
    return render_template(
        "notebook.html",
        network=report.network,
        verdict=report.verdict,
        tiles=tiles_of(report),
        alarms=loud_warnings(report),
        bars=[_bar(layer, widest) for layer in widths],
        folder=folder,
    )


def _bar(layer: LayerWidth, widest: int) -> _Bar:
    name, kept, channels = layer
    before, after = (f"{100 * count / widest:.2f}%" for count in (channels, kept))
    return _Bar(name, f"{channels} → {kept}" if kept < channels else str(channels), before, after)
