"""Status, runs and doctor tables: they fit 80 columns, cut nothing off and say everything without colour."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from edcompress.cli.console import out, print_json, say
from edcompress.core.results.scores import TOP1
from edcompress.report.render.formatting import MISSING
from edcompress.runs.progress import Progress
from edcompress.runs.status import Outcome, Status, is_here

if TYPE_CHECKING:
    from edcompress.workflows.doctor import Finding

_FORMS = {
    "loss": "loss {:.3f}",
    "accuracy": "top-1 {:.1%} on held-out images",
    "score": "metric {:.4g} on held-out images",
    "energy": "energy {:+.2f}",
    "diversity": "diversity {:.2f}",
}
_STYLES = {"running": "green", "failed": "bold red", "damaged": "bold red", "fault": "bold red", "note": "yellow"}


def show_status(status: Status, *, as_json: bool) -> None:
    """Show where a run stands, and how to continue one that is not running."""
    if as_json:
        print_json(status.model_dump(mode="json"))
        return
    out.print(_grid([("run", status.run), ("recipe", status.recipe or MISSING), *_standing(status)]))
    if status.trial:
        out.print(_grid([("trial", Path(status.trial.run).name), *_standing(status.trial)]))
    for fault in status.faults:
        say(fault)
    if status.command:
        say(f"continue with:\n  {status.command}")


def show_runs(statuses: Sequence[Status], root: Path, *, as_json: bool) -> None:
    """Show runs side by side, and what is wrong with damaged ones."""
    if as_json:
        print_json([status.model_dump(mode="json") for status in statuses])
        return
    if not statuses:
        say(f"no runs in {root}; start one with: edcompress prune WEIGHTS --recipe RECIPE")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run, recipe", overflow="fold")
    table.add_column("state", no_wrap=True)
    others = any(status.outcome and status.outcome.metric != TOP1 for status in statuses)
    for heading in ("metric" if others else "top-1, %", "MACs", "speed-up", "gate", "ago"):
        table.add_column(heading, overflow="fold", justify="right")
    for status in statuses:
        table.add_row(*map(Text, _run_row(status, root, others=others)), style=_STYLES.get(status.state))
    out.print(table)
    for status in statuses:
        for fault in status.faults:
            say(fault)


def show_findings(findings: Iterable[Finding], *, as_json: bool) -> None:
    """Show what `doctor` found, a line each."""
    if as_json:
        print_json([finding.model_dump() for finding in findings])
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        row = (finding.level.upper() if finding.level == "fault" else finding.level, finding.name, finding.text)
        table.add_row(*map(Text, row), style=_STYLES.get(finding.level))
    out.print(table)


def duration(seconds: float) -> str:
    """Return a length of time in one or two units, for example "12 s", "5 min", "3 h 20 min" or "2 d 5 h"."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if hours < 24:
        return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
    return f"{hours // 24} d {hours % 24} h" if hours % 24 else f"{hours // 24} d"


def _grid(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, min_width=10)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(name, Text(text))
    return table


def _standing(status: Status) -> Iterator[tuple[str, str]]:
    yield "state", _state(status)
    progress = status.progress
    if progress and status.state != "finished":
        yield "stage", _stage(progress)
        if figures := _figures(progress):
            yield "figures", figures
    if progress and status.state == "running":
        if progress.images_per_s is not None:
            yield "speed", f"{progress.images_per_s:.0f} images/s"
        if progress.phase_left_s is not None:
            yield "time left", _left(progress)
    if status.checkpoint_age_s is not None:
        yield "checkpoint", f"saved {duration(status.checkpoint_age_s)} ago"
    if status.outcome:
        yield "result", _result(status.outcome)


def _state(status: Status) -> str:
    progress = status.progress
    if progress is None:
        why = "; it has no progress.json: another version of edcompress started it" if status.state == "unknown" else ""
        return f"{status.state}{why}"
    process = progress.process
    verb = "" if progress.verb == "prune" else f"{progress.verb} "
    elsewhere = "" if is_here(process) else f" on {process.host}, whose processes are not visible from here"
    where = f"process {process.pid}{elsewhere}"
    active = f"last active {_ago(status)} ago"
    return {
        "running": f"{verb}running for {duration(_since(progress.began))}, {where}, {active}",
        "unknown": f"unknown: {verb}started by {where}; {active}",
        "failed": f"{verb}failed {_ago(status)} ago: {progress.error}",
        "interrupted": f"{verb}interrupted; {active}",
    }.get(status.state, f"{verb}{status.state} {_ago(status)} ago")


def _stage(progress: Progress) -> str:
    if progress.phase is None:
        return progress.stage or "starting"
    step = f", step {progress.step} of {progress.steps}" if progress.step and progress.steps else ""
    return f"{progress.phase}, epoch {progress.epoch} of {progress.epochs}{step}"


def _figures(progress: Progress) -> str:
    values = progress.model_dump()
    return ", ".join(form.format(values[name]) for name, form in _FORMS.items() if values[name] is not None)


def _left(progress: Progress) -> str:
    assert progress.phase_left_s is not None
    left = f"about {duration(progress.phase_left_s)} of this phase"
    if progress.training_left_s is None or progress.training_left_s == progress.phase_left_s:
        return left
    return f"{left}; at this pace {duration(progress.training_left_s)} of all training"


def _result(outcome: Outcome) -> str:
    speedup = f", {outcome.speedup:.2f}x as fast" if outcome.speedup else ""
    gate = f", gate {_gate(outcome)}" if outcome.passed is not None else ""
    return f"{_quality(outcome)}, {outcome.macs:.1%} of the MACs{speedup}{gate}"


def _run_row(status: Status, root: Path, *, others: bool) -> tuple[str, ...]:
    name, found = Path(status.run).relative_to(root).as_posix(), status.outcome
    recipe = "" if status.recipe in (None, name) else f"\n{status.recipe}"
    figures = (MISSING,) * 4
    if found:
        speedup = f"{found.speedup:.2f}x" if found.speedup else MISSING
        figures = (_quality(found) if others else _top1(found), f"{found.macs:.1%}", speedup, _gate(found))
    return name + recipe, status.state, *figures, _ago(status)


def _top1(outcome: Outcome) -> str:
    return _change(outcome.top1_dense, outcome.top1_pruned, 100)


def _quality(outcome: Outcome) -> str:
    metric = outcome.metric
    if metric == TOP1:
        return f"top-1 {_top1(outcome)} %"
    change = _change(outcome.score_dense, outcome.score_pruned, 100 if metric.share else 1)
    return f"{metric.label} {change}{' %' if metric.share else ''}"


def _change(dense: float | None, pruned: float | None, scale: int) -> str:
    return MISSING if dense is None or pruned is None else f"{scale * dense:.2f} → {scale * pruned:.2f}"


def _gate(outcome: Outcome) -> str:
    return MISSING if outcome.passed is None else "passed" if outcome.passed else "FAILED"


def _ago(status: Status) -> str:
    return duration(_since(status.when))


def _since(when: datetime) -> float:
    return max(0.0, (datetime.now(UTC) - when).total_seconds())
