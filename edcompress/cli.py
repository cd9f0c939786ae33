"""The command line: each command reads its arguments, calls the function of its name, and shows the value.

Nothing here imports torch at the top, so that `--help`, `check` and `gate` answer at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from edcompress import bindings, cli_observe, cli_recipes, loggers, recipebook, reports, runs, views
from edcompress.cli_options import (
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
    Force,
    Half,
    IgnoreMetadata,
    Int8,
    JUnit,
    LatencyMs,
    LatencyRegression,
    Level,
    Log,
    OnnxFlag,
    Opset,
    OptionalWeights,
    Output,
    Overrides,
    Parity,
    Pixels,
    Quiet,
    RecipeName,
    Replace,
    Resume,
    RunOrReport,
    RunPath,
    SizeBytes,
    SizeRatio,
    SizeRegression,
    Speedup,
    Top1,
    Top1Regression,
    Trained,
    TrustCode,
    TrustPickle,
    Unheld,
    Weights,
)
from edcompress.delivery import MAX_OPSET, MIN_OPSET, Benchmark, Gate
from edcompress.display import Display, Terminal
from edcompress.errors import DataError, InputError, LostError, StorageError
from edcompress.interrupt import Interrupt
from edcompress.report.baseline import REGRESSIONS
from edcompress.results import Verdict
from edcompress.session import Session
from edcompress.team import ALONE, Team, assembled, require_alone

app = typer.Typer(
    name="edcompress",
    help="Turn a trained image classifier into a smaller, faster ONNX file, and prove it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
err = Terminal(stderr=True)


@app.callback()
def _before(context: typer.Context) -> None:
    if context.invoked_subcommand not in ("prune", "run"):
        require_alone(str(context.invoked_subcommand))


@app.command()
def prune(checkpoint: Weights, recipe: RecipeName, output: Output = None, overrides: Overrides = None, device: Device = "auto",
          resume: Resume = False, force: Force = False, trust_code: TrustCode = False, trust_pickle: TrustPickle = False,
          log: Log = None, quiet: Quiet = False, as_json: AsJson = False) -> None:  # fmt: skip
    """Compress a trained network: search, remove channels, fine-tune, prove, report."""
    loggers.require_loggers(log or ())
    checked, team = recipebook.read_recipe(recipe, overrides or ()), assembled(device)
    folder = team.from_first(lambda: _run_folder(output, checked.name, resume=resume, force=force))
    from edcompress import pipeline

    with (
        Display(err, quiet=quiet or not team.first) as monitor,
        _resumable(folder, team, resume=resume, force=force) as interrupt,
    ):
        report = pipeline.prune(checkpoint, checked, folder, resume=resume, force=force,
                                session=Session(device, trust_code, trust_pickle, monitor, tuple(log or ()), interrupt, team))  # fmt: skip
    if team.first:
        views.show_report(report, folder, as_json=as_json)


@app.command()
def export(run: RunPath = None, onnx: OnnxFlag = True, opset: Opset = None, batch: Batch = None, fp16: Half = None, int8: Int8 = None,
           with_preprocessing: Pixels = None, trust_code: TrustCode = False, quiet: Quiet = False,
           as_json: AsJson = False) -> None:  # fmt: skip
    """Write dense.onnx and pruned.onnx of a run, prove them equal to PyTorch, and measure them and what else is made of them."""
    assert onnx
    _check_opset(opset)
    folder = _finished(run, "export")
    from edcompress import pipeline

    with Display(err, quiet=quiet) as monitor, Interrupt().listening():
        report = pipeline.export(folder, opset=opset, batch=batch, fp16=fp16, int8=int8, with_preprocessing=with_preprocessing,
                                 session=Session(trust_code=trust_code, monitor=monitor))  # fmt: skip
    views.show_report(report, folder, as_json=as_json)


@app.command()
def convert(run: RunPath = None, to: Annotated[str, typer.Option("--to", help="pt2, torchscript or safetensors.")] = "pt2",
            output: Converted = None, force: Replace = False, trust_code: TrustCode = False) -> None:  # fmt: skip
    """Write the pruned network of a run as one file for PyTorch, proved equal."""
    folder = _finished(run, "convert")
    from edcompress import pipeline

    with Display(err, quiet=True) as monitor, Interrupt().listening():
        session = Session(trust_code=trust_code, monitor=monitor)
        path, proof = pipeline.convert(folder, to, output, force=force, session=session)  # type: ignore[arg-type]
    views.say(f"{path}: largest difference {proof.max_abs_diff:.1e} at scale {proof.scale:.1e}, {proof.of}")


@app.command()
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
        views.say(f"warning: {option} is held beside another run; without --baseline it holds nothing", err)
    with views.told_by_junit(junit, str(run or "the newest run")):
        target, earlier = _run_or_report(run), baseline and _run_or_report(baseline)
        if isinstance(target, runs.RunFolder) and not target.writable:
            views.say(f"warning: {target.path} cannot be written; its report does not keep the verdict", err)
        verdict = reports.gate(target, reports.limits_of(target, given), baseline=earlier)
    _answer(verdict, target, junit, as_json=as_json)


@app.command()
def evaluate(model: Annotated[Path, typer.Argument(help="A checkpoint, a run folder, or an .onnx file.")], recipe: RecipeName,
             overrides: Overrides = None, device: Device = "auto", trust_code: TrustCode = False, trust_pickle: TrustPickle = False,
             ignore_metadata: IgnoreMetadata = False, as_json: AsJson = False) -> None:  # fmt: skip
    """Top-1 and top-5 accuracy on the recipe's test images."""
    checked = recipebook.read_recipe(recipe, overrides or ())
    from edcompress import pipeline

    with Display(err, quiet=True) as monitor:
        session = Session(device, trust_code, trust_pickle, monitor)
        accuracy = pipeline.evaluate(model, checked, session, ignore_metadata=ignore_metadata)
    views.show_accuracy(accuracy, checked.model.num_classes, as_json=as_json)


@app.command()
def benchmark(models: Annotated[list[Path], typer.Argument(help=".onnx files, or a run folder for its pair.")],
              batch_size: Annotated[list[int] | None, typer.Option(min=1, help="Images per call; default: 1. Repeatable.")] = None,
              threads: Annotated[list[int] | None, typer.Option(min=1, help="Each pinned to a core; default: 1. Repeatable.")] = None,
              runs_: Annotated[int | None, typer.Option("--runs", min=20, help="Calls per model; default: 200 and 3 s at least.")] = None,
              as_json: AsJson = False) -> None:  # fmt: skip
    """Latency of ONNX files in onnxruntime, interleaved in fresh processes, and how much faster each is than the first."""
    from edcompress import pipeline

    sizes, counts = (tuple(dict.fromkeys(given or (1,))) for given in (batch_size, threads))
    with Interrupt().listening():
        latency = pipeline.benchmark(models, Benchmark(batch_size=sizes, threads=counts, runs=runs_))
    views.show_latency(latency, as_json=as_json)


@app.command()
def inspect(recipe: RecipeName, model: Annotated[Path | None, typer.Argument(help="A checkpoint or run; default: random weights.")] = None,
            overrides: Overrides = None,
            onnx_latency: Annotated[bool, typer.Option("--onnx-latency", help="Each layer's share of the time in onnxruntime.")] = False,
            trust_code: TrustCode = False, trust_pickle: TrustPickle = False, as_json: AsJson = False) -> None:  # fmt: skip
    """What can be pruned, and what is locked and why, before any training."""
    checked = recipebook.read_recipe(recipe, overrides or ())
    from edcompress import pipeline

    with Display(err, quiet=True) as monitor:
        session = Session("cpu", trust_code, trust_pickle, monitor)
        found = pipeline.inspect(model, checked, session, onnx_latency=onnx_latency)
    views.show_inspection(found, as_json=as_json)


@app.command()
def train(recipe: RecipeName, output: Trained, overrides: Overrides = None, device: Device = "auto", resume: Resume = False,
          force: Replace = False, trust_code: TrustCode = False, quiet: Quiet = False, as_json: AsJson = False) -> None:  # fmt: skip
    """Train a dense network from random weights, for when there is no checkpoint yet."""
    _require_one_way(resume=resume, force=force)
    checked = recipebook.read_recipe(recipe, overrides or ())
    from edcompress import pipeline

    kept = pipeline.unfinished(output)
    before = None if resume else _written(kept)

    def saved() -> str:
        if _written(kept) != before:
            return _how_to_go_on(force=force)
        return "nothing was saved yet" + (f"; {kept} is as it was" if before else "")

    with Display(err, quiet=quiet) as monitor, _telling(ALONE, kept.exists, saved) as interrupt:
        session = Session(device, trust_code, monitor=monitor, interrupt=interrupt)
        accuracy = pipeline.train(checked, output, resume=resume, force=force, session=session)
    top1 = accuracy.top1
    views.show_value(accuracy, as_json, f"{output}: top-1 {top1.correct} of {top1.total} ({top1.fraction:.2%})")


@app.command()
def run(recipe: RecipeName, checkpoint: OptionalWeights = None,
        output: Output = None, overrides: Overrides = None, device: Device = "auto", resume: Resume = False, force: Force = False,
        trust_code: TrustCode = False, trust_pickle: TrustPickle = False, log: Log = None, quiet: Quiet = False) -> None:  # fmt: skip
    """prune, export --onnx and gate in one go."""
    loggers.require_loggers(log or ())
    checked, team = recipebook.read_recipe(recipe, overrides or ()), assembled(device)
    folder = team.from_first(lambda: _run_folder(output, checked.name, resume=resume, force=force))
    from edcompress import pipeline

    with (
        Display(err, quiet=quiet or not team.first) as monitor,
        _resumable(folder, team, resume=resume, force=force) as interrupt,
    ):
        session = Session(device, trust_code, trust_pickle, monitor, tuple(log or ()), interrupt, team)
        pipeline.run(checked, folder, checkpoint, resume=resume, force=force, session=session)
    if team.first:
        _finish_with_gate(folder)


@app.command()
def sweep(recipe: RecipeName, checkpoint: OptionalWeights = None,
          output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Default: runs/NAME-sweep.")] = None,
          overrides: Overrides = None, device: Device = "auto", trust_code: TrustCode = False, trust_pickle: TrustPickle = False,
          log: Log = None, quiet: Quiet = False, as_json: AsJson = False) -> None:  # fmt: skip
    """A run per value of --set key=value,value,...; side by side. The same command again does what is left to do."""
    loggers.require_loggers(log or ())
    recipes = recipebook.variants(recipe, overrides or ())
    folder = output or Path("runs") / f"{next(iter(recipes.values())).name}-sweep"
    from edcompress import sweeps

    interrupt = Interrupt()
    with Display(err, quiet=quiet) as monitor, interrupt.listening():
        try:
            session = Session(device, trust_code, trust_pickle, monitor, tuple(log or ()), interrupt)
            found = sweeps.sweep(recipes, folder, checkpoint, session)
        except KeyboardInterrupt:
            views.say(f"\ninterrupted: go on with the same command; what is finished stays in {folder}", err)
            raise
    views.show_sweep(found, folder, as_json=as_json)


@app.command()
def demo(output: Output = None, overrides: Overrides = None, force: Force = False, quiet: Quiet = False) -> None:
    """Train, compress, prove, export, measure and gate a small network on digits: no files, no network, about a minute."""
    # Whatever else runs on this machine, what it shows is worth seeing; the gate warns.
    checked = recipebook.read_recipe("digits", ["gate.disturbed=allow", *(overrides or ())])
    folder = _run_folder(output, "demo", resume=False, force=force)
    from edcompress import pipeline

    with Display(err, quiet=quiet) as monitor, Interrupt().listening():
        pipeline.run(checked, folder, force=force, session=Session("cpu", monitor=monitor))
    _finish_with_gate(folder)


@app.command()
def report(run: RunPath = None, as_json: AsJson = False) -> None:
    """Show what a run found, and write its report.html anew."""
    folder = _finished(run, "report")
    if not folder.writable:
        views.say(f"warning: {folder.path} cannot be written; its report.html stays as it is", err)
    found = reports.render(folder)
    for fault in bindings.faults(folder, found):
        views.say(f"warning: {fault}", err)
    views.show_report(found, folder, as_json=as_json)


for command in (*cli_recipes.COMMANDS, *cli_observe.COMMANDS):
    app.command()(command)


def _run_folder(output: Path | None, name: str, *, resume: bool, force: bool) -> runs.RunFolder:
    """The run folder of a command that makes one; one in the way is said before anything is loaded."""
    _require_one_way(resume=resume, force=force)
    if output is None:
        return runs.newest(name=name) if resume else runs.fresh(name)
    folder = runs.RunFolder(output)
    if not resume:
        folder.require_absent(force=force)
    elif not folder.exists:
        raise InputError(f"--resume: no run was begun in {output}; leave --resume away to begin one")
    return folder


def _finished(run: Path | None, need: str) -> runs.RunFolder:
    folder = runs.newest() if run is None else runs.RunFolder(run)
    folder.require_finished(need)
    return folder


def _run_or_report(path: Path | None) -> runs.RunFolder | Path:
    return path if path is not None and path.is_file() else _finished(path, "gate")


def _check_opset(opset: int | None) -> None:
    if opset is not None and not MIN_OPSET <= opset <= MAX_OPSET:
        raise InputError(f"--opset {opset} is not supported; choose {MIN_OPSET} to {MAX_OPSET}")


def _require_one_way(*, resume: bool, force: bool) -> None:
    if resume and force:
        raise InputError("--resume goes on with a run and --force starts it over; choose one of them")


@contextmanager
def _telling(team: Team, resumable: Callable[[], bool], saved: Callable[[], str]) -> Iterator[Interrupt]:
    """A block that Ctrl-C and the signals of schedulers end with what it computed `saved`; the first rank says so, and how to go on."""
    interrupt = Interrupt(team)
    try:
        with interrupt.listening():
            yield interrupt
    except KeyboardInterrupt:
        if team.first:
            views.say(f"\ninterrupted: {saved()}", err)
        raise
    except (StorageError, DataError, LostError):
        if team.first and resumable():
            views.say(saved(), err)
        raise


def _resumable(folder: runs.RunFolder, team: Team, *, resume: bool, force: bool) -> AbstractContextManager[Interrupt]:
    """`_telling` of a run."""
    before = None if resume else folder.began
    return _telling(team, lambda: folder.resumable, lambda: _saved(folder, before, force=force))


def _how_to_go_on(*, force: bool) -> str:
    return (
        f"what was computed is saved; go on with the same command and --resume{' in place of --force' if force else ''}"
    )


def _written(path: Path) -> int | None:
    """When a file was written last, in nanoseconds; None where there is none."""
    return path.stat().st_mtime_ns if path.exists() else None


def _saved(folder: runs.RunFolder, before: int | None, *, force: bool) -> str:
    """What is in the folder of an interrupted run, and how to go on; `before` is when an earlier run in it began, of which --force was to
    make a new one."""
    if before is not None and folder.began == before:
        return f"nothing was saved yet; the earlier run in {folder.path} is as it was"
    if folder.resumable or folder.finished:  # the export of `run` may be what was interrupted
        return f"{_how_to_go_on(force=force)} -o {quote(str(folder.path))}"
    return f"nothing was saved yet in {folder.path}"


def _finish_with_gate(folder: runs.RunFolder) -> None:
    verdict = reports.gate(folder)
    views.show_report(folder.read_report(), folder, as_json=False)
    _answer(verdict, folder)


def _answer(
    verdict: Verdict, target: runs.RunFolder | Path, junit: Path | None = None, *, as_json: bool = False
) -> None:
    """Show the gate's answer to people, machines and CI servers, and end with its exit code."""
    views.show_verdict(verdict, as_json=as_json)
    path = target if isinstance(target, Path) else target.path
    views.tell_ci(verdict, str(path).encode(errors="replace").decode(), junit)
    raise typer.Exit(0 if verdict.passed else 1)
