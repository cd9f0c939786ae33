"""Rich tables of results; they fit 80 columns and say everything without colour."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from edcompress.core.plain_text import one_line
from edcompress.core.results.inspection import Inspection
from edcompress.core.results.measures import Latency
from edcompress.core.results.recipe_check import RecipeCheck
from edcompress.core.results.report import Point, Report
from edcompress.core.results.scores import TOP1, MetricInfo
from edcompress.core.results.verdict import Verdict
from edcompress.report.gate.outcome import has_fallen, is_beyond_noise
from edcompress.report.render.check_rows import plan_rows
from edcompress.report.render.formatting import calls, setting
from edcompress.report.render.inspection_rows import group_rows, layer_rows
from edcompress.report.render.point_rows import point_columns
from edcompress.report.render.rows import (
    comparison_rows,
    latency_rows,
    proof_rows,
    setting_rows,
    stage_headings,
    stage_rows,
    variant_headings,
    variant_rows,
)
from edcompress.report.render.verdict_rows import check_rows


def comparison_table(report: Report) -> Table:
    """Return accuracy, cost and latency of dense and pruned, and the change of each."""
    table = _table("Dense and pruned", ("", "dense", "pruned", "change"), comparison_rows(report))
    table.columns[0].no_wrap = table.columns[3].no_wrap = False  # below 80 columns
    if has_fallen(report) or is_beyond_noise(report):
        table.rows[0].style = "bold red"
    return table


def variants_table(report: Report) -> Table:
    """Return pruned.onnx and its variants."""
    table = _table("Files to ship", variant_headings(report), variant_rows(report))
    table.columns[0].overflow = "fold"
    table.columns[0].no_wrap = table.columns[4].no_wrap = False
    return table


def settings_table(report: Report) -> Table:
    """Return the median call of the dense and the pruned network at every batch size and number of threads."""
    headings = ("", "dense p50", "pruned p50", "speed-up")
    return _table("Latency by batch size and threads", headings, setting_rows(report))


def latency_table(latency: Mapping[str, Latency]) -> Table:
    """Return percentiles, memory, and the speed-up over the first, of models that were measured side by side, by name."""
    one = next(iter(latency.values()))
    headings = ("model", "p50", "p90", "p99", "memory", "speed-up")
    table = _table(f"{setting(one)}: {calls(one)}", headings, latency_rows(latency))
    table.columns[0].overflow, table.columns[0].no_wrap = "fold", False
    return table


def stages_table(report: Report) -> Table:
    """Return the accuracy of the dense network, under the mask, after surgery and after fine-tuning."""
    metric = report.metric
    title = f"{'Accuracy' if metric.counted else metric.title} through the stages"
    return _table(title, stage_headings(report), stage_rows(report))


def proofs_table(report: Report) -> Table:
    """Return how far apart the logits are of the networks that must be equal."""
    table = _table("Proofs", ("", "largest diff", "relative", "of"), proof_rows(report))
    table.columns[3].justify, table.columns[3].no_wrap = "left", False
    return table


def points_table(title: str, points: Sequence[Point], metric: MetricInfo = TOP1) -> Table:
    """Return several networks side by side, smallest first."""
    judged = any(point.judged_drop is not None for point in points)
    headings, rows = point_columns(
        points, ("params", "test") if judged else ("params", "p50"), metric
    )  # fits 80 columns
    table = _table(title, headings, rows)
    table.columns[0].overflow, table.columns[0].no_wrap = "fold", False
    for row, point in zip(table.rows, points, strict=True):
        row.style = "bold" if point.chosen else None if point.front else "dim"
    return table


def plan_table(found: RecipeCheck) -> Table:
    """Return what a run of a recipe works on, how long it trains, and what it takes."""
    table = _table("Plan", ("", ""), plan_rows(found))
    table.show_header = False
    table.columns[1].justify, table.columns[1].no_wrap, table.columns[1].overflow = "left", False, "fold"
    return table


def groups_table(found: Inspection) -> Table:
    """Return every group of channels, the share of the cost of the layers that it touches, and why it is locked."""
    headings = ("group", "channels", "layers", "MACs", "params", "")
    table = _table(f"Groups of {found.network}", headings, group_rows(found))
    table.columns[0].overflow = "fold"
    table.columns[0].no_wrap = table.columns[5].no_wrap = False
    table.columns[5].justify = "left"
    for row, group in zip(table.rows, found.groups, strict=True):
        row.style = "dim" if group.locked else None
    return table


def layers_table(found: Inspection) -> Table:
    """Return every layer's share of the time in onnxruntime, largest first, and of the multiply-accumulates."""
    table = _table("Time in onnxruntime", ("layer", "time", "MACs"), layer_rows(found))
    table.columns[0].overflow, table.columns[0].no_wrap = "fold", False
    return table


def verdict_table(verdict: Verdict) -> Table:
    """Return each limit of the gate with its value, margin and answer."""
    answer = "pass" if verdict.passed else "FAIL"
    table = _table(f"Gate: {answer}", ("", "value", "limit", "margin", "answer"), check_rows(verdict))
    table.columns[0].no_wrap = False  # below 80 columns
    for row, checked in zip(table.rows, verdict.checks, strict=True):
        row.style = None if checked.passed else "bold red"
    return table


def _table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table whose cells are shown as they are: names may contain brackets, line ends, or worse."""
    table = Table(title=Text(one_line(title), "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if position else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    return table
