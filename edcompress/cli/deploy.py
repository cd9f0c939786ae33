"""Commands about a finished run or a file: export, convert, benchmark, evaluate, gate, report."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import edcompress
from edcompress.cli.console import err, say
from edcompress.cli.options import (
    AsJson,
    Baseline,
    Batch,
    BatchSizes,
    Calls,
    Converted,
    Device,
    Format,
    Half,
    IgnoreMetadata,
    Int8,
    JUnit,
    OnnxFiles,
    OnnxFlag,
    Opset,
    Overrides,
    Pixels,
    Quiet,
    RecipeName,
    Replace,
    RunOrReport,
    RunPath,
    Threads,
    TrustCode,
    TrustPickle,
    WeightsRunOrOnnx,
    gate_options,
    option_name,
)
from edcompress.cli.output import show_accuracy, show_latency, show_report
from edcompress.cli.progress_bar import Display
from edcompress.cli.run_argument import finished_run, run_or_report, warn_if_read_only
from edcompress.cli.verdict import exit_with_verdict, recording_failure
from edcompress.core.errors import InputError
from edcompress.core.recipe.deployment import MAX_OPSET, MIN_OPSET, Benchmark
from edcompress.core.recipe.loading import read_recipe
from edcompress.core.recipe.weights_name import weights_name
from edcompress.core.system.context import RunOptions
from edcompress.core.system.signals import Interrupt
from edcompress.report.gate.limit_registry import REGRESSION_LIMITS
from edcompress.runs.file_records import faults
from edcompress.runs.folder import RunFolder, path_of
from edcompress.workflows.gate import limits_of
from edcompress.workflows.reporting import render


def export(run: RunPath = None, onnx: OnnxFlag = True, opset: Opset = None, batch: Batch = None,  # noqa: ARG001
           fp16: Half = None, int8: Int8 = None, with_preprocessing: Pixels = None, trust_code: TrustCode = False,
           quiet: Quiet = False, as_json: AsJson = False) -> None:  # fmt: skip
    """Write dense.onnx and pruned.onnx of a run, prove them equal to PyTorch, and measure them and their variants."""
    _check_opset(opset)
    folder = finished_run(run, "export")
    with Display(err, quiet=quiet) as monitor, Interrupt().listening():
        report = edcompress.export(folder, opset=opset, batch=batch, fp16=fp16, int8=int8, with_preprocessing=with_preprocessing,
                                 options=RunOptions(trust_code=trust_code, monitor=monitor))  # fmt: skip
    show_report(report, folder.path, as_json=as_json)


def convert(run: RunPath = None, to: Format = "pt2", output: Converted = None, force: Replace = False,
            trust_code: TrustCode = False) -> None:  # fmt: skip
    """Write the pruned network of a run as one file for PyTorch, proved equal."""
    folder = finished_run(run, "convert")
    with Display(err, quiet=True) as monitor, Interrupt().listening():
        options = RunOptions(trust_code=trust_code, monitor=monitor)
        path, proof = edcompress.convert(folder, to, output, force=force, options=options)  # type: ignore[arg-type]
    say(f"{path}: largest difference {proof.max_abs_diff:.1e} at scale {proof.scale:.1e}, {proof.of}")


@gate_options
def gate(
    run: RunOrReport = None, baseline: Baseline = None, junit: JUnit = None, as_json: AsJson = False, **values: Any
) -> None:
    """Check a run against its limits: exit code 0 if all hold, 1 if one fails.

    In GitHub Actions failed limits are annotated, and the step's summary gets a table.
    """
    given = {key: value for key, value in values.items() if value is not None}
    if baseline is None:
        _warn_of_regressions(given)
    with recording_failure(junit, str(run or "the newest run")):
        target, earlier = run_or_report(run), baseline and run_or_report(baseline)
        if isinstance(target, RunFolder):
            warn_if_read_only(target, "its report does not keep the verdict")
        verdict = edcompress.gate(target, limits_of(target, given), baseline=earlier)
    exit_with_verdict(verdict, path_of(target), junit, as_json=as_json)


def evaluate(model: WeightsRunOrOnnx, recipe: RecipeName, overrides: Overrides = None, device: Device = "auto",
             trust_code: TrustCode = False, trust_pickle: TrustPickle = False,
             ignore_metadata: IgnoreMetadata = False, as_json: AsJson = False) -> None:  # fmt: skip
    """Measure the recipe's metric, by default top-1 and top-5, on its test images."""
    checked = read_recipe(recipe, overrides or (), model)
    with Display(err, quiet=weights_name(model) is None) as monitor:
        options = RunOptions(device, trust_code, trust_pickle, monitor)
        accuracy = edcompress.evaluate(model, checked, options, ignore_metadata=ignore_metadata)
    show_accuracy(accuracy, checked.model.num_classes, as_json=as_json)


def benchmark(models: OnnxFiles, batch_size: BatchSizes = None, threads: Threads = None, calls: Calls = None,
              as_json: AsJson = False) -> None:  # fmt: skip
    """Measure latency of ONNX files in onnxruntime, interleaved in fresh processes, and how much faster each is than the first."""
    sizes, counts = (tuple(dict.fromkeys(given or (1,))) for given in (batch_size, threads))
    with Interrupt().listening():
        latency = edcompress.benchmark(models, Benchmark(batch_size=sizes, threads=counts, runs=calls))
    show_latency(latency, as_json=as_json)


def report(run: RunPath = None, as_json: AsJson = False) -> None:
    """Show what a run found, and rewrite report.html."""
    folder = finished_run(run, "report")
    warn_if_read_only(folder, "its report.html stays as it is")
    found = render(folder)
    for fault in faults(folder, found):
        say(f"warning: {fault}", err)
    show_report(found, folder.path, as_json=as_json)


def _warn_of_regressions(given: Iterable[str]) -> None:
    """Warn of a limit on regressions that is given without a baseline; the first run of a CI server has none yet."""
    if beside := sorted(set(given) & REGRESSION_LIMITS.keys()):
        say(f"warning: {option_name(beside[0])} compares two runs; without --baseline it checks nothing", err)


def _check_opset(opset: int | None) -> None:
    if opset is not None and not MIN_OPSET <= opset <= MAX_OPSET:
        raise InputError(f"--opset {opset} is not supported; choose {MIN_OPSET} to {MAX_OPSET}")
