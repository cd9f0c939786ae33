"""Commands that make a smaller network: prune, run, sweep, train, demo."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import edcompress
from edcompress.cli.console import err, say
from edcompress.cli.interruption import interruptible_run, interruptible_training
from edcompress.cli.options import (
    AsJson,
    Device,
    Force,
    Log,
    OptionalWeights,
    Output,
    Overrides,
    Quiet,
    RecipeName,
    Replace,
    Resume,
    SweepOutput,
    Trained,
    TrustCode,
    TrustPickle,
    Weights,
)
from edcompress.cli.output import score_lines, show_report, show_sweep, show_value
from edcompress.cli.progress_bar import Display
from edcompress.cli.recipe_argument import recipe_and_ranks
from edcompress.cli.run_argument import require_one_choice, run_folder
from edcompress.cli.verdict import finish_with_gate
from edcompress.core.recipe.loading import read_recipe, variants
from edcompress.core.results.measures import Accuracy
from edcompress.core.system.context import RunOptions
from edcompress.core.system.distributed import ProcessGroup
from edcompress.core.system.signals import Interrupt
from edcompress.runs.folder import RunFolder
from edcompress.runs.tracking import require_trackers


def prune(weights: Weights, recipe: RecipeName, output: Output = None, overrides: Overrides = None, device: Device = "auto",
          resume: Resume = False, force: Force = False, trust_code: TrustCode = False, trust_pickle: TrustPickle = False,
          log: Log = None, quiet: Quiet = False, as_json: AsJson = False) -> None:  # fmt: skip
    """Compress a trained network: search, remove channels, fine-tune, prove, report."""
    require_trackers(log or ())
    checked, ranks = recipe_and_ranks(recipe, overrides, weights, device)
    folder = ranks.run_on_rank0(lambda: run_folder(output, checked.name, resume=resume, force=force))
    with _watching(folder, ranks, resume=resume, force=force, quiet=quiet) as (monitor, interrupt):
        options = RunOptions(device, trust_code, trust_pickle, monitor, tuple(log or ()), interrupt, ranks)
        report = edcompress.prune(weights, checked, folder, resume=resume, force=force, options=options)
    if ranks.is_main:
        show_report(report, folder.path, as_json=as_json)


def run(recipe: RecipeName, weights: OptionalWeights = None,
        output: Output = None, overrides: Overrides = None, device: Device = "auto", resume: Resume = False, force: Force = False,
        trust_code: TrustCode = False, trust_pickle: TrustPickle = False, log: Log = None, quiet: Quiet = False) -> None:  # fmt: skip
    """prune, export --onnx and gate in one go."""
    require_trackers(log or ())
    checked, ranks = recipe_and_ranks(recipe, overrides, weights, device)
    folder = ranks.run_on_rank0(lambda: run_folder(output, checked.name, resume=resume, force=force))
    with _watching(folder, ranks, resume=resume, force=force, quiet=quiet) as (monitor, interrupt):
        options = RunOptions(device, trust_code, trust_pickle, monitor, tuple(log or ()), interrupt, ranks)
        edcompress.run(checked, folder, weights, resume=resume, force=force, options=options)
    if ranks.is_main:
        finish_with_gate(folder.path)


def train(recipe: RecipeName, output: Trained, overrides: Overrides = None, device: Device = "auto", resume: Resume = False,
          force: Replace = False, trust_code: TrustCode = False, quiet: Quiet = False, as_json: AsJson = False) -> None:  # fmt: skip
    """Train a dense network from random weights, if you have no weights yet."""
    require_one_choice(resume=resume, force=force)
    checked = read_recipe(recipe, overrides or ())
    from edcompress.workflows.train import unfinished  # imports torch

    with (
        Display(err, quiet=quiet) as monitor,
        interruptible_training(unfinished(output), resume=resume, force=force) as interrupt,
    ):
        options = RunOptions(device, trust_code, monitor=monitor, interrupt=interrupt)
        found = edcompress.train(checked, output, resume=resume, force=force, options=options)
    if isinstance(found, Accuracy):
        top1 = found.top1
        show_value(found, as_json, f"{output}: top-1 {top1.correct} of {top1.total} ({top1.fraction:.2%})")
    else:
        show_value(found, as_json, f"{output}:", *score_lines(found))


def sweep(recipe: RecipeName, weights: OptionalWeights = None, output: SweepOutput = None, overrides: Overrides = None,
          device: Device = "auto", trust_code: TrustCode = False, trust_pickle: TrustPickle = False,
          log: Log = None, quiet: Quiet = False, as_json: AsJson = False) -> None:  # fmt: skip
    """Compare runs, one per value of --set key=value,value,.... Repeat the command to continue."""
    require_trackers(log or ())
    recipes = variants(recipe, overrides or (), weights)
    folder = output or Path("runs") / f"{next(iter(recipes.values())).name}-sweep"
    interrupt = Interrupt()
    with Display(err, quiet=quiet) as monitor, interrupt.listening():
        try:
            options = RunOptions(device, trust_code, trust_pickle, monitor, tuple(log or ()), interrupt)
            found = edcompress.sweep(recipes, folder, weights, options)
        except KeyboardInterrupt:
            say(f"\ninterrupted: continue with the same command; finished runs stay in {folder}", err)
            raise
    show_sweep(found, folder, as_json=as_json)


def demo(output: Output = None, overrides: Overrides = None, force: Force = False, quiet: Quiet = False) -> None:
    """Train, compress, prove, export, measure and gate a small network on digits: no files, no network, about a minute."""
    # A demo ends with its figures even on a busy machine; the gate warns.
    checked = read_recipe("digits", ["gate.disturbed=allow", *(overrides or ())])
    folder = run_folder(output, "demo", resume=False, force=force)
    with Display(err, quiet=quiet) as monitor, Interrupt().listening():
        edcompress.run(checked, folder, force=force, options=RunOptions("cpu", monitor=monitor))
    finish_with_gate(folder.path)


@contextmanager
def _watching(
    folder: RunFolder, ranks: ProcessGroup, *, resume: bool, force: bool, quiet: bool
) -> Iterator[tuple[Display, Interrupt]]:
    """Show the progress of a run that a block computes on rank 0, and how to continue if it is interrupted."""
    with (
        Display(err, quiet=quiet or not ranks.is_main) as monitor,
        interruptible_run(folder, ranks, resume=resume, force=force) as interrupt,
    ):
        yield monitor, interrupt
