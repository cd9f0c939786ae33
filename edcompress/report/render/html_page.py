"""report.html: one page about one run, with all it needs inside it: no network, no script."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from edcompress.core.results.measures import Latency
from edcompress.core.results.report import Point, Report, SearchSummary, Sweep
from edcompress.core.results.verdict import Verdict
from edcompress.report.gate.noise import noise_warning
from edcompress.report.gate.sanity import alarms
from edcompress.report.render.formatting import MISSING, calls, measured_with, milliseconds, percent, setting, speedup
from edcompress.report.render.rows import (
    PERCENTILES,
    VARIANT_HEADINGS,
    comparison_rows,
    point_columns,
    point_doubts,
    proof_rows,
    setting_rows,
    ship_line,
    stages,
    variant_rows,
)
from edcompress.report.render.svg_charts import Dot, Line, bar, dot_chart, line_chart
from edcompress.report.render.verdict_rows import check_notes, check_rows

_KINDS = {"macs": "multiply-accumulates", "params": "parameters", "channels": "prunable channels",
          "latency": "time in onnxruntime"}  # fmt: skip


def render_page(
    report: Report, generations: Sequence[Mapping[str, Any]], plan: Mapping[str, Any], flags: Sequence[str] = ()
) -> str:
    """The whole HTML document; `flags` are what the command that runs it again needs besides weights and recipe.

    `generations` are the lines of search.jsonl (generation, budget, energy_best, energy_mean, diversity), empty for
    controls; `plan["groups"]` lists {"name", "channels", "kept"} of each group.
    """
    parts = [
        _header(report),
        _tiles(report),
        _section("Dense and pruned", _comparison(report)),
        *([_section("Trials", _points(report.points))] if report.points else []),
        _section("Latency in onnxruntime", _latency(report)),
        *([_section("Files to ship", _shipped(report))] if report.ship else []),
        _section("Gate", _gate(report.verdict)),
        _section("Accuracy through the stages", _stages(report)),
        _section("Proofs", _proofs(report)),
        _section("Search", _search(report, generations)),
        _section("Kept channels", _groups(plan.get("groups", ()))),
        _section("Run it again", _reproduce(report, flags)),
    ]
    return _document(f"{report.network} – edcompress", "\n".join(parts))


def render_sweep(found: Sweep) -> str:
    """The whole HTML document of a sweep."""
    top1, n = found.dense.accuracy.top1, len(found.points)
    lead = f"{n} networks pruned from {found.checkpoint}, which has {percent(top1)} on {top1.total} test images."
    head = f'<header><p class="eyebrow">edcompress · sweep</p><h1>{escape(found.network)}</h1><p class="lead">{escape(lead)}</p></header>'
    return _document(f"{found.network} – edcompress sweep", head + _section("Side by side", _points(found.points)))


def _document(title: str, body: str) -> str:
    style = files("edcompress.report.render").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"


def _note(text: str) -> str:
    return f'<p class="soft">{escape(text)}</p>'


def _header(report: Report) -> str:
    return (
        f'<header><p class="eyebrow">edcompress · recipe {escape(report.recipe)} · seed {report.seed}</p>'
        f'<h1>{escape(report.network)}</h1><p class="lead">{escape(_asked(report))}</p>{_pill(report.verdict)}</header>'
    )


def _asked(report: Report) -> str:
    target = report.target
    if target.kind == "none":
        return f"No target was set; the search left {100 * target.achieved:.1f} % of the multiply-accumulates."
    if target.kind == "max_top1_drop":
        return (
            f"Asked for the smallest network that loses at most {100 * target.asked:.2f} points of top-1; on the images that judge, "
            f"this one loses {100 * target.achieved:.2f}."
        )
    return (
        f"Asked to keep at most {100 * target.asked:.1f} % of the {_KINDS[target.kind]}; "
        f"{100 * target.achieved:.1f} % are left, in channels by multiples of {target.round_to}."
        + (
            f" The search went by a prediction of {100 * target.predicted:.1f} %."
            if target.predicted is not None
            else ""
        )
    )


def _pill(verdict: Verdict | None) -> str:
    if verdict is None:
        return '<span class="pill">not gated yet</span>'
    if verdict.passed:
        return '<span class="pill pass">✓ gate passed</span>'
    return '<span class="pill fail">✗ gate FAILED</span>'


def _tiles(report: Report) -> str:
    shown = {"top-1": "top-1", "MACs": "MACs", "ONNX size": "ONNX file", "latency p50": "latency (p50)"}
    tiles = [
        f"<div class='tile'><span>{escape(shown[row.name])}</span><b>{escape(row.change.partition(' (')[0])}</b>"
        f"<span>{escape(row.dense)} → {escape(row.pruned)}</span></div>"
        for row in comparison_rows(report)
        if row.name in shown
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], style: str = "") -> str:
    """A table that scrolls sideways on its own; cells are escaped, and the gate's answers coloured."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(_cell(text) for text in row)}</tr>" for row in rows)
    return f'<div class="scroll {style}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str) -> str:
    style = {"pass": ' class="pass-text"', "FAIL": ' class="fail-text"'}.get(text, "")
    return f"<td{style}>{escape(text)}</td>"


def _comparison(report: Report) -> str:
    warned = "".join(f'<p class="fail-text">{escape(f"Warning: {text}.")}</p>' for text in alarms(report))
    return warned + _table(("", "dense", "pruned", "change"), comparison_rows(report))


def _points(points: Sequence[Point]) -> str:
    """Several networks as a chart of top-1 over speed-up and as a table."""
    dots = [Dot(point.name, point.speedup, 100 * point.top1.fraction, point.front) for point in points]
    chart = dot_chart("Top-1 on the test images, per cent", dots, "speed-up in onnxruntime")
    return chart + _table(*point_columns(points)) + "".join(_note(f"Warning: {text}.") for text in point_doubts(points))


def _latency(report: Report) -> str:
    dense, pruned = report.dense.latency_ms, report.pruned.latency_ms
    if dense is None or pruned is None:
        return _note("Not measured yet: run edcompress export --onnx.")
    longest = max(getattr(latency, kind) for latency in (dense, pruned) for kind in PERCENTILES)
    pairs = "".join(_latency_pair(kind, dense, pruned, longest) for kind in PERCENTILES)
    how = f"{calls(pruned)}, {setting(pruned)}; {measured_with(pruned)}."
    warning = noise_warning(report.latencies)
    how = _note(how) + (_note(f"Warning: {warning}.") if warning else "")
    return f'{how}{_interval(pruned)}<div class="pairs">{pairs}</div>{_settings(report)}'


def _interval(pruned: Latency) -> str:
    found = pruned.speedup
    return _note(f"Speed-up {speedup(found)}, {100 * found.confidence:g} % confidence.") if found else ""


def _settings(report: Report) -> str:
    if not report.pruned.more_latency_ms:
        return ""
    return _table(("", "dense p50", "pruned p50", "speed-up"), setting_rows(report))


def _latency_pair(kind: str, dense: Latency, pruned: Latency, longest: float) -> str:
    bars = (
        bar(name, milliseconds(value), value / longest if longest > 0 else 0.0, f"--{name}")
        for name, value in (("dense", getattr(dense, kind)), ("pruned", getattr(pruned, kind)))
    )
    return f"<div><h3>{kind}</h3>{''.join(bars)}</div>"


def _shipped(report: Report) -> str:
    rows = variant_rows(report)
    return _note(ship_line(report)) + (_table(VARIANT_HEADINGS, rows) if rows else "")


def _gate(verdict: Verdict | None) -> str:
    if verdict is None:
        return _note("Not judged yet: run edcompress gate.")
    # The answer stands next to the name, so that a phone shows it without scrolling.
    rows = ((row.name, row.answer, row.value, row.limit, row.margin) for row in check_rows(verdict))
    notes = "".join(_note(text) for text in check_notes(verdict))
    return _table(("", "answer", "value", "limit", "margin"), rows) + notes


def _stages(report: Report) -> str:
    bars = []
    for name, result in stages(report):
        top1 = result.accuracy.top1
        color = "--dense" if name == "dense" else "--pruned"
        text = f"{percent(top1)} ({top1.correct}/{top1.total})"
        bars.append(bar(name, text, top1.fraction if top1.total else 0.0, color))
    note = _note("Top-1 on the test images. Surgery is followed by a new estimate of the batch-norm statistics.")
    return f'{note}<div class="bars wide">{"".join(bars)}</div>'


def _proofs(report: Report) -> str:
    note = _note("Networks that must compute the same, held against each other: largest difference of their logits.")
    return note + _table(("", "largest difference", "relative", "of"), proof_rows(report), style="prose")


def _search(report: Report, generations: Sequence[Mapping[str, Any]]) -> str:
    search = report.search
    done = f"{search.method}, {search.epochs} epoch{'s' * (search.epochs != 1)}, {search.generations} generations, {search.seconds:.0f} s"
    if not generations:
        return _note(f"{done}.") + _note(f"No population: {_chosen(search)}, so there is no curve to draw.")
    end = f"{'converged' if search.converged else 'not converged'}, last diversity {search.diversity:.3g}"
    return f'{_note(f"{done}; {end}.")}<div class="charts">{_curves(generations)}</div>'


def _chosen(search: SearchSummary) -> str:
    """How a method without a population comes to its channels."""
    if search.method == "plan":
        return "the channels are those of search.plan"
    return "the channels were ranked " + (f"{search.generations} times" if search.generations else "once")


def _curves(generations: Sequence[Mapping[str, Any]]) -> str:
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
    return "".join(line_chart(title, lines, "generation") for title, lines in charts)


def _series(generations: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(generation, value) points; a value that is missing or null becomes NaN, which the chart leaves out."""
    values = ((line["generation"], line.get(key)) for line in generations)
    return [(float(x), math.nan if y is None else float(y)) for x, y in values]


def _groups(groups: Sequence[Mapping[str, Any]]) -> str:
    if not groups:
        return _note("The plan has no groups.")
    kept, channels = (sum(counts) for counts in zip(*(_counts(group) for group in groups), strict=True))
    note = _note(
        f"{kept} of {channels} channels in {len(groups)} groups stay; a group's layers lose the same channels."
    )
    return f'{note}<div class="bars">{"".join(_group_bar(group) for group in groups)}</div>'


def _counts(group: Mapping[str, Any]) -> tuple[int, int]:
    return len(group["kept"]), int(group["channels"])


def _group_bar(group: Mapping[str, Any]) -> str:
    kept, channels = _counts(group)
    share = kept / channels if channels else 0.0
    return bar(str(group["name"]), f"{kept}/{channels} · {100 * share:.0f} %", share, "--pruned")


def _reproduce(report: Report, flags: Sequence[str]) -> str:
    facts = {
        "checkpoint": report.checkpoint,
        "recipe hash": report.recipe_hash,
        "took": f"{report.seconds:.0f} s",
        **{key: MISSING if value is None else str(value) for key, value in report.machine.items()},
        **report.versions,
    }
    pairs = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    command = shlex.join(["edcompress", "prune", report.checkpoint, "--recipe", "recipe.yaml", *flags])
    return f"<pre>{escape(command)}</pre><dl>{pairs}</dl>"
