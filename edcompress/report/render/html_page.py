"""report.html and sweep.html: one page each, with all that it needs inside it: no network, no script. Markup is in `templates/`."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from edcompress.core.results.measures import Latency
from edcompress.core.results.report import Point, Report, SearchSummary, Sweep, TargetResult
from edcompress.core.results.scores import MetricInfo, images_of, value_of
from edcompress.core.results.verdict import Verdict
from edcompress.report.gate.noise import noise_warning
from edcompress.report.gate.outcome import has_fallen, is_beyond_noise, loud_warnings, remarks
from edcompress.report.render.choice_rows import CHOICE_HEADINGS, choice_rows, statistics_note
from edcompress.report.render.formatting import (
    MISSING,
    calls,
    counts_text,
    headline_text,
    measured_with,
    milliseconds,
    plain,
    setting,
    speedup,
)
from edcompress.report.render.point_rows import point_columns, point_doubts
from edcompress.report.render.rows import (
    PERCENTILES,
    comparison_rows,
    proof_rows,
    setting_rows,
    ship_line,
    stages,
    variant_headings,
    variant_rows,
)
from edcompress.report.render.svg_charts import Bar, Chart, Dot, Line, dot_chart, line_chart
from edcompress.report.render.verdict_rows import check_notes, check_rows

if TYPE_CHECKING:
    from jinja2 import Environment

_KINDS = {"macs": "multiply-accumulates", "params": "parameters", "channels": "prunable channels",
          "latency": "time in onnxruntime"}  # fmt: skip
_TILES = {"MACs": "MACs", "ONNX size": "ONNX file", "latency p50": "latency (p50)"}
"""Rows of the comparison that are tiles too, and how the tiles call them."""


class _Table(NamedTuple):
    headings: Sequence[str]
    rows: Iterable[Sequence[str]]
    style: str = ""


class Tile(NamedTuple):
    """One of the main figures: its change, and the values of both networks."""

    name: str
    change: str
    dense: str
    pruned: str


class _Points(NamedTuple):
    chart: Chart
    table: _Table
    warnings: Sequence[str]


class _Latency(NamedTuple):
    notes: Sequence[str]
    pairs: Sequence[tuple[str, Sequence[Bar]]]
    settings: _Table | None


class _Gate(NamedTuple):
    table: _Table
    notes: Sequence[str]


class _Search(NamedTuple):
    notes: Sequence[str]
    charts: Sequence[Chart]


class _Groups(NamedTuple):
    note: str
    bars: Sequence[Bar]


def render_page(
    report: Report, generations: Sequence[Mapping[str, Any]], plan: Mapping[str, Any], flags: Sequence[str] = ()
) -> str:
    """Return the HTML document of a run.

    Args:
        report: The run's report.
        generations: The lines of search.jsonl (generation, budget, energy_best, energy_mean, diversity); empty for methods without them.
        plan: Its `groups` list {"name", "channels", "kept"} of each group.
        flags: What the command that repeats the run needs besides weights and recipe.
    """
    return render_template(
        "report.html",
        title=f"{report.network} – edcompress",
        report=report,
        asked=_asked(report.target, report.metric),
        tiles=tiles_of(report),
        alarms=loud_warnings(report),
        remarks=remarks(report),
        bad=(report.metric.label,) if has_fallen(report) or is_beyond_noise(report) else (),
        comparison=_Table(("", "dense", "pruned", "change"), comparison_rows(report)),
        points=_points(report.points, report.metric) if report.points else None,
        latency=_latency(report),
        ship_line=ship_line(report),
        variants=_Table(variant_headings(report), variant_rows(report)),
        gate=_gate(report.verdict) if report.verdict else None,
        stages=_stage_bars(report),
        statistics=statistics_note(report),
        choices=_Table(CHOICE_HEADINGS, choice_rows(report), "prose"),
        proofs=_Table(("", "largest difference", "relative", "of"), proof_rows(report), "prose"),
        search=_search(report.search, generations),
        groups=_groups(plan.get("groups", ())),
        command=_command(report, flags),
        facts=_facts(report),
    )


def _command(report: Report, flags: Sequence[str]) -> str:
    """Return what repeats the run: a command, or a call in Python where it was made from objects."""
    model = (report.settings or {}).get("model", {})
    if model.get("object"):
        return "edcompress.prune(model, train=..., val=..., test=..., out=...)  # in Python, with the same objects and sections"
    return shlex.join(["edcompress", "prune", report.checkpoint, "--recipe", "recipe.yaml", *flags])


def render_sweep(found: Sweep) -> str:
    """Return the HTML document of a sweep."""
    metric, n = found.metric, len(found.points)
    headline = found.dense.headline(metric)
    which = "" if metric.counted else f"{metric.label} "
    return render_template(
        "sweep.html",
        title=f"{found.network} – edcompress sweep",
        network=found.network,
        lead=f"{n} networks pruned from {found.checkpoint}, which has {which}{headline_text(headline, metric)} on "
        f"{images_of(headline)} test images.",
        points=_points(found.points, metric),
    )


def render_template(template: str, **values: Any) -> str:
    """Return a template of `templates/`, filled in."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # here, so that commands without a page start fast

    return Environment(
        loader=PackageLoader("edcompress.report.render"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )


def _asked(target: TargetResult, metric: MetricInfo) -> str:
    """Return the sentence about the target."""
    if target.kind == "none":
        return f"No target was set; the search left {100 * target.achieved:.1f} % of the multiply-accumulates."
    if target.is_drop:
        asked, lost = (
            f"{100 * value:.2f}" if metric.share else plain(value) for value in (target.asked, target.achieved)
        )
        return (
            f"Asked for the smallest network that loses at most {asked} {'points ' if metric.share else ''}of {metric.label}; on the "
            f"held-out images, this one loses {lost}."
        )
    predicted = "" if target.predicted is None else f" The search used a prediction of {100 * target.predicted:.1f} %."
    return (
        f"Asked to keep at most {100 * target.asked:.1f} % of the {_KINDS[target.kind]}; "
        f"{100 * target.achieved:.1f} % are left, in widths that are multiples of {target.round_to}.{predicted}"
    )


def tiles_of(report: Report) -> list[Tile]:
    """Return the main figures with their changes."""
    tiles = {report.metric.label: report.metric.label, **_TILES}
    rows = [row for row in comparison_rows(report) if row.name in tiles]
    return [Tile(tiles[row.name], row.change.partition(" (")[0], row.dense, row.pruned) for row in rows]


def _points(points: Sequence[Point], metric: MetricInfo) -> _Points:
    scale, unit = (100, ", per cent") if metric.share else (1, "")
    dots = [
        Dot(point.name, point.speedup, scale * value_of(point.headline), point.front)
        for point in points
        if point.headline
    ]
    chart = dot_chart(f"{metric.title} on the test images{unit}", dots, "speed-up in onnxruntime")
    return _Points(chart, _Table(*point_columns(points, metric=metric)), point_doubts(points))


def _latency(report: Report) -> _Latency | None:
    dense, pruned = report.dense.latency_ms, report.pruned.latency_ms
    if dense is None or pruned is None:
        return None
    longest = max(getattr(latency, kind) for latency in (dense, pruned) for kind in PERCENTILES)
    pairs = [(kind, _latency_bars(kind, dense, pruned, longest)) for kind in PERCENTILES]
    headings = ("", "dense p50", "pruned p50", "speed-up")
    settings = _Table(headings, setting_rows(report)) if report.pruned.more_latency_ms else None
    return _Latency(_latency_notes(report, pruned), pairs, settings)


def _latency_notes(report: Report, pruned: Latency) -> list[str]:
    notes = [f"{calls(pruned)}, {setting(pruned)}; {measured_with(pruned)}."]
    if warning := noise_warning(report.latencies):
        notes.append(f"Warning: {warning}.")
    if found := pruned.speedup:
        notes.append(f"Speed-up {speedup(found)}, {100 * found.confidence:g} % confidence.")
    return notes


def _latency_bars(kind: str, dense: Latency, pruned: Latency, longest: float) -> list[Bar]:
    values = {"dense": getattr(dense, kind), "pruned": getattr(pruned, kind)}
    return [
        Bar(name, milliseconds(value), value / longest if longest > 0 else 0.0, f"--{name}")
        for name, value in values.items()
    ]


def _gate(verdict: Verdict) -> _Gate:
    # The answer is next to the name, so that a phone shows it without scrolling.
    rows = [(row.name, row.answer, row.value, row.limit, row.margin) for row in check_rows(verdict)]
    return _Gate(_Table(("", "answer", "value", "limit", "margin"), rows), check_notes(verdict))


def _stage_bars(report: Report) -> list[Bar]:
    bars, metric = [], report.metric
    headlines = [(name, result.headline(metric)) for name, result in stages(report)]
    values = [value_of(found) if images_of(found) else 0.0 for _, found in headlines]
    full = 1.0 if metric.share else max(*values, 0.0) or 1.0
    for (name, found), value in zip(headlines, values, strict=True):
        color = "--dense" if name == "dense" else "--pruned"
        bars.append(Bar(name, f"{headline_text(found, metric)} ({counts_text(found)})", value / full, color))
    return bars


def _search(search: SearchSummary, generations: Sequence[Mapping[str, Any]]) -> _Search:
    done = f"{search.method}, {search.epochs} epoch{'s' * (search.epochs != 1)}, {search.generations} generations, {search.seconds:.0f} s"
    if not generations:
        return _Search([f"{done}.", f"No population: {_chosen(search)}, so there is no curve to draw."], ())
    end = f"{'converged' if search.converged else 'not converged'}, last diversity {search.diversity:.3g}"
    return _Search([f"{done}; {end}."], _curves(generations))


def _chosen(search: SearchSummary) -> str:
    """Return how a method without a population chose the channels."""
    if search.method == "plan":
        return "the channels are those of search.plan"
    return "the channels were ranked " + (f"{search.generations} times" if search.generations else "once")


def _curves(generations: Sequence[Mapping[str, Any]]) -> list[Chart]:
    best, mean, diversity, budget = (
        Line(name, color, _series(generations, key))
        for name, color, key in (
            ("best", "--pruned", "energy_best"),
            ("mean", "--dense", "energy_mean"),
            ("share of genes that differ", "--third", "diversity"),
            ("share that a state may keep", "--ink", "budget"),
        )
    )
    charts = [("Energy (lower is better)", [best, mean]), ("Diversity", [diversity]), ("Budget", [budget])]
    return [line_chart(title, lines, "generation") for title, lines in charts]


def _series(generations: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Return (generation, value) points; a value that is missing or null becomes NaN, which the chart omits."""
    values = ((line["generation"], line.get(key)) for line in generations)
    return [(float(x), math.nan if y is None else float(y)) for x, y in values]


def _groups(groups: Sequence[Mapping[str, Any]]) -> _Groups | None:
    if not groups:
        return None
    counts = [(str(group["name"]), len(group["kept"]), int(group["channels"])) for group in groups]
    kept, channels = sum(kept for _, kept, _ in counts), sum(channels for _, _, channels in counts)
    return _Groups(
        f"{kept} of {channels} channels in {len(groups)} groups stay; a group's layers lose the same channels.",
        [_group_bar(*count) for count in counts],
    )


def _group_bar(name: str, kept: int, channels: int) -> Bar:
    share = kept / channels if channels else 0.0
    return Bar(name, f"{kept}/{channels} · {100 * share:.0f} %", share, "--pruned")


def _facts(report: Report) -> dict[str, str]:
    """Return what the run was made of and with."""
    return {
        "weights": report.checkpoint,
        **({"weights from": report.source.address} if report.source else {}),
        "recipe hash": report.recipe_hash,
        "took": f"{report.seconds:.0f} s",
        **{key: MISSING if value is None else str(value) for key, value in report.machine.items()},
        **report.versions,
    }
