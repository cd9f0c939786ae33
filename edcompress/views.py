"""Results on stdout, as tables for people or as JSON for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edcompress import runs
from edcompress.report import tables
from edcompress.report.rows import human, ship_line
from edcompress.results import Inspection, Latency, Report, Verdict

out = Console()


def say(text: str, console: Console = out) -> None:
    """One line as it is: paths and names may hold brackets, and are never wrapped."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def show_latency(latency: Mapping[str, Latency], *, as_json: bool) -> None:
    """Percentiles per file."""
    if as_json:
        print_json({name: value.model_dump() for name, value in latency.items()})
        return
    table = Table("model", "p50 ms", "p90 ms", "p99 ms", "n", "provider")
    for name, value in latency.items():
        times = (f"{ms:.3f}" for ms in (value.p50, value.p90, value.p99))
        table.add_row(escape(name), *times, str(value.n), value.provider)
    out.print(table)


def show_inspection(found: Inspection, *, as_json: bool) -> None:
    """The groups with their share of the cost, which are locked and why, how far pruning can go, and what to beware of."""
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
        say(f"for the recipe's target channels go in steps of {found.round_to}")
    for warning in found.warnings:
        say(f"warning: {warning}")


def show_report(report: Report, folder: runs.RunFolder, *, as_json: bool) -> None:
    """Dense against pruned, the stages, the proofs, the target, and the files of the run."""
    if as_json:
        print_json(report.model_dump())
        return
    for table in (tables.comparison_table(report), tables.stages_table(report), tables.proofs_table(report)):
        out.print(table)
    if report.variants:
        out.print(tables.variants_table(report))
    target = report.target
    asked = f"{target.kind}: asked for at most {target.asked:.1%}" if target.kind != "none" else "macs: no target"
    predicted = f" ({target.predicted:.1%} predicted)" if target.predicted is not None else ""
    say(f"{asked}, {target.achieved:.1%} left{predicted}; channels by multiples of {target.round_to}")
    if line := ship_line(report):
        say(line)
    for name in runs.FILES:
        if (folder / name).exists():
            say(f"  {folder / name}")


def show_verdict(verdict: Verdict, *, as_json: bool) -> None:
    """Each limit with its margin."""
    if as_json:
        print_json(verdict.model_dump())
        return
    out.print(tables.verdict_table(verdict))


def show_value(value: BaseModel, as_json: bool, *lines: str) -> None:
    """The value as JSON, or the lines that say it."""
    if as_json:
        print_json(value.model_dump())
        return
    for line in lines:
        say(line)


def print_json(value: Any) -> None:
    """A value of plain types, alone on stdout."""
    sys.stdout.write(json.dumps(value, indent=1) + "\n")
