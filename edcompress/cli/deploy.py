"""Commands about a finished run or a file: export, convert, benchmark, evaluate, gate, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import edcompress
from edcompress.cli.console import err, say
from edcompress.cli.options import (
    Agreement,
    AllowWeakDense,
    AsJson,
    Baseline,
    Batch,
    ClassDrop,
    Confidence,
    Converted,
    Device,
    Disturbed,
    Drop,
    Drop5,
    Half,
    IgnoreMetadata,
    Int8,
    JUnit,
    LatencyMs,
    LatencyRegression,
    Level,
    OnnxFlag,
    Opset,
    Overrides,
    Parity,
    Pixels,
    Quiet,
    RecipeName,
    Replace,
    RunOrReport,
    RunPath,
    SizeBytes,
    SizeRatio,
    SizeRegression,
    Speedup,
    Top1,
    Top1Regression,
    TrustCode,
    TrustPickle,
    Unheld,
)
from edcompress.cli.output import show_accuracy, show_latency, show_report, write_junit
from edcompress.cli.progress_bar import Display
from edcompress.cli.run_argument import finished
from edcompress.cli.verdict import exit_with_verdict
from edcompress.core.errors import InputError
from edcompress.core.recipe.deployment import MAX_OPSET, MIN_OPSET, Benchmark, Gate
from edcompress.core.recipe.loading import read_recipe
from edcompress.core.system.context import RunOptions
from edcompress.core.system.signals import Interrupt
from edcompress.report.gate.regressions import REGRESSIONS
from edcompress.runs.file_records import faults
from edcompress.runs.folder import RunFolder
from edcompress.workflows.gate import limits_of
from edcompress.workflows.reporting import render


def export(run: RunPath = None, onnx: OnnxFlag = True, opset: Opset = None, batch: Batch = None, fp16: Half = None, int8: Int8 = None,
           with_preprocessing: Pixels = None, trust_code: TrustCode = False, quiet: Quiet = False,
           as_json: AsJson = False) -> None:  # fmt: skip
    """Write dense.onnx and pruned.onnx of a run, prove them equal to PyTorch, and measure them and what else is made of them."""
    assert onnx
    _check_opset(opset)
    folder = finished(run, "export")
    with Display(err, quiet=quiet) as monitor, Interrupt().listening():
        report = edcompress.export(folder, opset=opset, batch=batch, fp16=fp16, int8=int8, with_preprocessing=with_preprocessing,
                                 options=RunOptions(trust_code=trust_code, monitor=monitor))  # fmt: skip
    show_report(report, folder, as_json=as_json)


def convert(run: RunPath = None, to: Annotated[str, typer.Option("--to", help="pt2, torchscript or safetensors.")] = "pt2",
            output: Converted = None, force: Replace = False, trust_code: TrustCode = False) -> None:  # fmt: skip
    """Write the pruned network of a run as one file for PyTorch, proved equal."""
    folder = finished(run, "convert")
    with Display(err, quiet=True) as monitor, Interrupt().listening():
        options = RunOptions(trust_code=trust_code, monitor=monitor)
        path, proof = edcompress.convert(folder, to, output, force=force, options=options)  # type: ignore[arg-type]
    say(f"{path}: largest difference {proof.max_abs_diff:.1e} at scale {proof.scale:.1e}, {proof.of}")


def gate(run: RunOrReport = None,
         min_top1: Top1 = None, max_class_drop: ClassDrop = None,
         max_top1_drop: Drop = None, max_top5_drop: Drop5 = None, min_agreement: Agreement = None, min_speedup: Speedup = None,
         max_latency_ms: LatencyMs = None, max_size_ratio: SizeRatio = None, max_size_bytes: SizeBytes = None,
         max_parity: Parity = None, confidence: Confidence = None, level: Level = None, disturbed: Disturbed = None,
         allow_weak_dense: AllowWeakDense = None, allow_unheld: Unheld = None,
         baseline: Baseline = None, max_top1_regression: Top1Regression = None, max_latency_regression: LatencyRegression = None,
         max_size_regression: SizeRegression = None, junit: JUnit = None, as_json: AsJson = False) -> None:  # fmt: skip
    """Hold a run to its limits: exit code 0 when all hold, 1 when one fails.

    In GitHub Actions failed limits are annotated, and the step's summary gets a table.
    """
    given = {key: value for key, value in locals().items() if key in Gate.model_fields and value is not None}
    if baseline is None and (beside := sorted(given.keys() & REGRESSIONS)):
        option = f"--{beside[0].replace('_', '-')}"
        say(f"warning: {option} is held beside another run; without --baseline it holds nothing", err)
    with write_junit(junit, str(run or "the newest run")):
        target, earlier = _run_or_report(run), baseline and _run_or_report(baseline)
        if isinstance(target, RunFolder) and not target.writable:
            say(f"warning: {target.path} cannot be written; its report does not keep the verdict", err)
        verdict = edcompress.gate(target, limits_of(target, given), baseline=earlier)
    exit_with_verdict(verdict, target, junit, as_json=as_json)


def evaluate(model: Annotated[Path, typer.Argument(help="A checkpoint, a run folder, or an .onnx file.")], recipe: RecipeName,
             overrides: Overrides = None, device: Device = "auto", trust_code: TrustCode = False, trust_pickle: TrustPickle = False,
             ignore_metadata: IgnoreMetadata = False, as_json: AsJson = False) -> None:  # fmt: skip
    """Top-1 and top-5 accuracy on the recipe's test images."""
    checked = read_recipe(recipe, overrides or ())
    with Display(err, quiet=True) as monitor:
        options = RunOptions(device, trust_code, trust_pickle, monitor)
        accuracy = edcompress.evaluate(model, checked, options, ignore_metadata=ignore_metadata)
    show_accuracy(accuracy, checked.model.num_classes, as_json=as_json)


def benchmark(models: Annotated[list[Path], typer.Argument(help=".onnx files, or a run folder for its pair.")],
              batch_size: Annotated[list[int] | None, typer.Option(min=1, help="Images per call; default: 1. Repeatable.")] = None,
              threads: Annotated[list[int] | None, typer.Option(min=1, help="Each pinned to a core; default: 1. Repeatable.")] = None,
              runs_: Annotated[int | None, typer.Option("--runs", min=20, help="Calls per model; default: 200 and 3 s at least.")] = None,
              as_json: AsJson = False) -> None:  # fmt: skip
    """Latency of ONNX files in onnxruntime, interleaved in fresh processes, and how much faster each is than the first."""
    sizes, counts = (tuple(dict.fromkeys(given or (1,))) for given in (batch_size, threads))
    with Interrupt().listening():
        latency = edcompress.benchmark(models, Benchmark(batch_size=sizes, threads=counts, runs=runs_))
    show_latency(latency, as_json=as_json)


def report(run: RunPath = None, as_json: AsJson = False) -> None:
    """Show what a run found, and write its report.html anew."""
    folder = finished(run, "report")
    if not folder.writable:
        say(f"warning: {folder.path} cannot be written; its report.html stays as it is", err)
    found = render(folder)
    for fault in faults(folder, found):
        say(f"warning: {fault}", err)
    show_report(found, folder, as_json=as_json)


def _run_or_report(path: Path | None) -> RunFolder | Path:
    return path if path is not None and path.is_file() else finished(path, "gate")


def _check_opset(opset: int | None) -> None:
    if opset is not None and not MIN_OPSET <= opset <= MAX_OPSET:
        raise InputError(f"--opset {opset} is not supported; choose {MIN_OPSET} to {MAX_OPSET}")
