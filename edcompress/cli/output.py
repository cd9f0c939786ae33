"""Results on stdout, as tables for people or as JSON for machines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from pydantic import BaseModel

from edcompress.cli import tables
from edcompress.cli.console import out, print_json, say, say_loudly
from edcompress.core.results.inspection import Inspection
from edcompress.core.results.measures import Accuracy, Latency
from edcompress.core.results.recipe_check import RecipeCheck
from edcompress.core.results.report import TOP5, Report, Sweep, TargetResult
from edcompress.core.results.scores import MetricInfo, Scores, images_of, value_of
from edcompress.core.results.verdict import Verdict
from edcompress.report.gate.noise import noise_warning
from edcompress.report.gate.outcome import loud_warnings, remarks
from edcompress.report.render.formatting import calls, headline_text, human, measured_with, plain, setting
from edcompress.report.render.point_rows import point_doubts
from edcompress.report.render.rows import ship_line
from edcompress.report.render.verdict_rows import check_notes
from edcompress.runs.folder import FILES


def show_latency(latency: Mapping[str, Sequence[Latency]], *, as_json: bool) -> None:
    """Show a table of files for each setting, and what they were measured with."""
    if as_json:
        print_json({name: [value.model_dump() for value in values] for name, values in latency.items()})
        return
    settings = list(zip(*latency.values(), strict=True))
    for values in settings:
        out.print(tables.latency_table(dict(zip(latency, values, strict=True))))
    say(measured_with(settings[0][0]))
    if warning := noise_warning(chain.from_iterable(settings)):
        say(f"warning: {warning}")


def show_inspection(found: Inspection, *, as_json: bool) -> None:
    """Show the groups with their share of the cost, which are locked and why, how far pruning can go, and warnings."""
    if as_json:
        print_json(found.model_dump())
        return
    out.print(tables.groups_table(found))
    if found.layers:
        out.print(tables.layers_table(found))
    free = [group for group in found.groups if group.locked is None]
    say(
        f"{len(free)} of {len(found.groups)} groups can be pruned, {sum(group.channels for group in free)} channels in all"
    )
    say(f"{found.network}: {human(found.size.macs)} multiply-accumulates, {human(found.size.params)} parameters")
    smallest = " and ".join(f"{share:.1%} of the {kind}" for kind, share in found.smallest.items())
    say(f"the constraints leave at least {smallest}")
    if found.round_to:
        say(f"for the recipe's target, widths are multiples of {found.round_to}")
    _warn(found.warnings)


def show_checks(found: Sequence[RecipeCheck], *, as_json: bool) -> None:
    """Show the plan of each recipe that can be run, and warnings; as JSON a list of all, with their faults."""
    if as_json:
        print_json([one.model_dump() for one in found])
        return
    for one in found:
        if not one.faults:
            say(f"{one.recipe}: fine ({one.network} on {one.dataset})")
            out.print(tables.plan_table(one))
            for key, value in one.chosen.items():
                say(f"chosen: {key} = {value}")
        _warn(f"{one.recipe}: {text}" for text in one.warnings)


def show_report(report: Report, folder: Path, *, as_json: bool) -> None:
    """Show dense and pruned side by side, the stages, the proofs, the target, and the files of the run."""
    if as_json:
        print_json(report.model_dump())
        return
    for table in (tables.comparison_table(report), tables.stages_table(report), tables.proofs_table(report)):
        out.print(table)
    if report.pruned.more_latency_ms:
        out.print(tables.settings_table(report))
    if report.variants:
        out.print(tables.variants_table(report))
    if report.points:
        out.print(tables.points_table("Trials", report.points, report.metric))
        _warn(point_doubts(report.points))
    say(_achieved(report.target, report.metric))
    if latency := report.pruned.latency_ms:
        say(f"latency: {setting(latency)}, {calls(latency)}")
    if warning := noise_warning(report.latencies):
        say(f"warning: {warning}")
    _warn(remarks(report))
    for text in loud_warnings(report):
        say_loudly(text)
    if line := ship_line(report):
        say(line)
    for name in FILES:
        if (folder / name).exists():
            say(f"  {folder / name}")


def _warn(texts: Iterable[str]) -> None:
    for text in texts:
        say(f"warning: {text}")


def _achieved(target: TargetResult, metric: MetricInfo) -> str:
    if target.is_drop:
        asked, lost = (f"{value:.2%}" if metric.share else plain(value) for value in (target.asked, target.achieved))
        return f"{metric.label} drop on the held-out images: asked for at most {asked}, {lost} lost"
    asked = f"{target.kind}: asked for at most {target.asked:.1%}" if target.kind != "none" else "macs: no target"
    predicted = f" ({target.predicted:.1%} predicted)" if target.predicted is not None else ""
    return f"{asked}, {target.achieved:.1%} left{predicted}; widths are multiples of {target.round_to}"


def show_sweep(found: Sweep, folder: Path, *, as_json: bool) -> None:
    """Show the points side by side, and the files of the sweep."""
    if as_json:
        print_json(found.model_dump())
        return
    headline = found.dense.headline(found.metric)
    share = f"{value_of(headline):.2%}" if found.metric.share else plain(value_of(headline))
    title = f"{found.network}, dense {share} of {images_of(headline)}"
    out.print(tables.points_table(title, found.points, found.metric))
    _warn(point_doubts(found.points))
    for name in ("sweep.json", "sweep.html"):
        say(f"  {folder / name}")


def show_verdict(verdict: Verdict, *, as_json: bool) -> None:
    """Show each limit with its margin, and notes on how certain the figures are."""
    if as_json:
        print_json(verdict.model_dump())
        return
    out.print(tables.verdict_table(verdict))
    for note in check_notes(verdict):
        say(note)


def show_accuracy(found: Accuracy | Scores, classes: int, *, as_json: bool) -> None:
    """Show top-1, and top-5 if there are more than five classes; or the score of another metric."""
    if isinstance(found, Scores):
        show_value(found, as_json, *score_lines(found))
        return
    accuracy = found
    counts = {1: accuracy.top1, TOP5: accuracy.top5}
    lines = {k: f"top-{k}  {count.correct} of {count.total}  ({count.fraction:.2%})" for k, count in counts.items()}
    if classes <= TOP5:
        lines[TOP5] = f"top-{TOP5}  n/a: {classes} classes"
    show_value(accuracy, as_json, *lines.values())


def score_lines(scores: Scores) -> list[str]:
    """Return the recipe's metric, and top-1 where each image has one class, a line each."""
    headline = scores.headline
    lines = [f"{scores.metric.label}  {headline_text(headline, scores.metric)} on {images_of(headline)} images"]
    if accuracy := scores.accuracy:
        lines.append(f"top-1  {accuracy.top1.correct} of {accuracy.top1.total}  ({accuracy.top1.fraction:.2%})")
    return lines


def show_value(value: BaseModel, as_json: bool, *lines: str) -> None:
    """Show the value as JSON, or the lines."""
    if as_json:
        print_json(value.model_dump())
        return
    for line in lines:
        say(line)
