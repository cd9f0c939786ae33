"""Commands that look and change nothing: status, runs, doctor, inspect."""

from __future__ import annotations

from pathlib import Path

import edcompress
from edcompress.cli.console import Terminal, err
from edcompress.cli.options import (
    AsJson,
    OnnxLatency,
    Overrides,
    RatesRecipe,
    RecipeName,
    RunOrSweep,
    RunsFolder,
    TrustCode,
    TrustPickle,
    WeightsOrRun,
)
from edcompress.cli.output import show_inspection
from edcompress.cli.progress_bar import Display
from edcompress.cli.status_tables import show_findings, show_runs, show_status
from edcompress.core.errors import EdcompressError
from edcompress.core.recipe.loading import read_recipe
from edcompress.core.recipe.weights_name import weights_name
from edcompress.core.system.context import RunOptions
from edcompress.runs.finding import find
from edcompress.runs.status import list_runs, status_of


def status(run: RunOrSweep = None, as_json: AsJson = False) -> None:
    """Show where a run stands, from any shell while it runs: stage, epoch, figures, time left, last checkpoint."""
    show_status(status_of(find(run)), as_json=as_json)


def runs(folder: RunsFolder = Path("runs"), as_json: AsJson = False) -> None:
    """List the runs in a folder with their results, the last active one first."""
    show_runs(list_runs(folder), folder, as_json=as_json)


def doctor(recipe: RatesRecipe = None, trust_code: TrustCode = False, as_json: AsJson = False) -> None:
    """Check versions, devices, providers, threads, memory and disk: exit code 3 if something is at fault."""
    from edcompress.workflows.doctor import examine, examine_rates  # here, so that other commands start fast

    checked = read_recipe(recipe, ()) if recipe else None
    findings = examine()
    if checked:
        with Display(Terminal(stderr=True), quiet=True) as monitor:
            findings += examine_rates(checked, monitor, trust_code=trust_code)
    show_findings(findings, as_json=as_json)
    if faults := [finding.name for finding in findings if finding.level == "fault"]:
        raise EdcompressError(f"at fault: {', '.join(faults)}; the fixes are listed above")


def inspect(recipe: RecipeName, model: WeightsOrRun = None, overrides: Overrides = None, onnx_latency: OnnxLatency = False,
            trust_code: TrustCode = False, trust_pickle: TrustPickle = False, as_json: AsJson = False) -> None:  # fmt: skip
    """Show what can be pruned, and what is locked and why, before any training."""
    checked = read_recipe(recipe, overrides or (), model)
    with Display(err, quiet=weights_name(model) is None) as monitor:
        options = RunOptions("cpu", trust_code, trust_pickle, monitor)
        found = edcompress.inspect(model, checked, options, onnx_latency=onnx_latency)
    show_inspection(found, as_json=as_json)
