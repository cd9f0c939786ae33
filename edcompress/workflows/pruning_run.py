"""One pruning run, from its origin to its report: search, surgery, fine-tuning, verification."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from edcompress.core.errors import RunFolderError
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.measures import ModelResult, Proof, Proofs
from edcompress.core.results.report import Report, TargetResult
from edcompress.core.system.context import RunOptions
from edcompress.core.system.devices import oom_as_error
from edcompress.core.system.files import write_text
from edcompress.core.system.machine import processor, versions
from edcompress.core.system.tensor_files import save_tensors
from edcompress.deploy.export.standalone import standalone_files
from edcompress.networks.equality import compare_logits, require_equal
from edcompress.networks.modes import on_cpu
from edcompress.pruning.cost.multiplications import uncounted_warnings
from edcompress.pruning.cost.network_size import measure_size
from edcompress.pruning.surgery.remove import apply_plan
from edcompress.report.gate.sanity import at_chance
from edcompress.runs.file_records import OF_PRUNING, records, require_as_written
from edcompress.runs.folder import RunFolder
from edcompress.runs.progress import recording
from edcompress.runs.tracking import open_trackers, require_trackers
from edcompress.training.optimizers import make_optimizer
from edcompress.workflows.load import load_pruned
from edcompress.workflows.reporting import save_report
from edcompress.workflows.resume import can_resume, hold_folder
from edcompress.workflows.stages.batch_size import sized_for_search
from edcompress.workflows.stages.job import RunContext, open_provable_job
from edcompress.workflows.stages.latency_target import match_latency_target
from edcompress.workflows.stages.plain_training import finetune
from edcompress.workflows.stages.run_state import PruningRun, StageResults, last_snapshot
from edcompress.workflows.stages.search import check_search, search
from edcompress.workflows.stages.starting_point import (
    StartingPoint,
    read_plan,
    read_space,
    resumed_starting_point,
    saved_starting_point,
)
from edcompress.workflows.stages.surgery import remove_and_verify


class OpenStart(Protocol):
    """Opens what a run starts from, and tries removals on real images [N, C, H, W]; an InputError where the recipe does not fit it."""

    def __call__(self, recipe: Recipe, *, images: Tensor) -> StartingPoint: ...


def prune_once(
    recipe: Recipe,
    folder: RunFolder,
    begin: OpenStart,
    checkpoint: str,
    *,
    resume: bool,
    force: bool,
    options: RunOptions,
) -> Report:
    """Prune what `begin` opens, called `checkpoint` in the report, to the recipe's target, into `folder`.

    With `resume` a run goes on from what its folder holds; one that is finished is only read.
    """
    started, ranks = time.monotonic(), options.ranks
    if resuming := ranks.run_on_rank0(lambda: resume and can_resume(folder, recipe)):
        if ranks.run_on_rank0(lambda: folder.finished):
            return ranks.run_on_rank0(folder.read_report)
        begin = partial(resumed_starting_point, folder=folder, options=options)
    require_trackers(options.loggers)
    run = _open_run(open_provable_job(recipe, options), folder, begin, options, started)
    with (
        _kept(run, options, checkpoint, resuming=resuming, force=force) as kept,
        oom_as_error(run.job.recipe, _out_of_memory(run.job.recipe)),
    ):
        if resuming and ranks.run_on_rank0(lambda: folder.finished):  # by another process, while this one waited for it
            return ranks.run_on_rank0(folder.read_report)
        tuned, measured = _through_stages(kept)
        return _conclude(kept, tuned, measured, checkpoint)


@contextmanager
def _kept(
    run: PruningRun, options: RunOptions, checkpoint: str, *, resuming: bool, force: bool
) -> Iterator[PruningRun]:
    """The run in a block in which the first rank keeps its folder, its log and the loggers; the others only compute."""
    if not run.job.ranks.is_main:
        yield run
        return
    folder, recipe = run.folder, run.job.recipe
    with (
        hold_folder(folder, recipe, run.origin, resuming=resuming, force=force),
        recording(folder, options.monitor, recipe, "prune", checkpoint=checkpoint, resuming=resuming) as monitor,
        open_trackers(options.loggers, folder, recipe) as loggers,
    ):
        yield replace(run, job=run.job.watched_by(monitor), loggers=loggers)


def _out_of_memory(recipe: Recipe) -> str:
    """What to do where a run takes too much of it."""
    least = max(2, recipe.data.step_images // 2)
    return (
        f"start over with --force --set data.batch_size={least}, or go on with --resume on a device with more, or once other processes "
        "have left it"
    )


def _open_run(job: RunContext, folder: RunFolder, begin: OpenStart, options: RunOptions, started: float) -> PruningRun:
    """The run that `begin` opens, checked."""
    job.monitor.stage("checking the network, its data and its pruning space")
    origin = begin(job.recipe, images=job.probe_images)
    make_optimizer(job.recipe.finetune, origin.network.parameters())  # else a frozen network costs the first stage
    job = sized_for_search(job, origin)
    _require_kept(job.recipe.search.plan, folder)
    check_search(job, origin)  # else a bad plan costs the first stage
    job.ranks.require_same("the recipe", job.recipe.digest)
    job.ranks.require_same(
        "the checkpoint or its space", origin.space.model_dump_json(), *origin.network.state_dict().values()
    )
    return PruningRun(job, folder, origin, started, options.interrupt)


def _require_kept(plan: Path | None, folder: RunFolder) -> None:
    """Raise RunFolderError for a plan in the run folder itself, which is emptied before the plan is replayed."""
    if plan and plan.resolve().is_relative_to(folder.path.resolve()):
        raise RunFolderError(
            f"search.plan {plan} lies in {folder.path}, which the run begins by emptying; choose another run folder with -o"
        )


def _through_stages(run: PruningRun) -> tuple[nn.Module, StageResults]:
    """From wherever the last snapshot stands to the fine-tuned network."""
    ranks = run.job.ranks
    measured, saved = ranks.run_on_rank0(lambda: last_snapshot(run.folder, run.job.monitor)) or (None, {})
    if measured is None:
        files = ranks.run_on_rank0(lambda: records(saved_starting_point(run.folder)))
        measured = measure_dense(run).model_copy(update={"files": files})
        run.save(measured, {"stage": "search", "epoch": 0})
    ranks.run_on_rank0(partial(require_as_written, run.folder, measured.files))
    if saved.get("stage", "search") == "search":
        network, state, measured = search(run, measured, saved)
        state, share = ranks.run_on_rank0(partial(match_latency_target, run.job, run.origin, network, state))
        measured = measured.model_copy(update={"latency_share": share})
        smaller, measured = remove_and_verify(run, network, state, measured)
        saved = {}
        run.save(measured, {"stage": "finetune", "epoch": 0, "network": smaller.state_dict()})
    else:
        smaller = apply_plan(run.origin.dense, read_plan(run.folder), read_space(run.folder))
        smaller.load_state_dict(saved["network"])
    return finetune(run, smaller, measured, saved), measured


def _conclude(run: PruningRun, tuned: nn.Module, measured: StageResults, checkpoint: str) -> Report:
    job = run.job
    job.monitor.stage("verification: save, reload, prove, accuracy on the test images")
    again, proof = _saved(run, tuned, measured) if job.ranks.is_main else (tuned, None)
    accuracy = job.accuracy(job.precision.place(on_cpu(again)))

    def reported() -> Report:
        assert proof
        pruned = ModelResult(accuracy=accuracy, size=measure_size(again, job.example))
        report = _report(run, run.clock(measured), pruned, proof, checkpoint)
        save_report(run.folder, report)
        run.folder.clear_state()
        return report

    return job.ranks.run_on_rank0(reported)


def _saved(run: PruningRun, tuned: nn.Module, measured: StageResults) -> tuple[nn.Module, Proof]:
    """The fine-tuned network as its file gives it back, proved equal."""
    job, folder = run.job, run.folder
    require_as_written(folder, measured.files)
    save_tensors(folder / "pruned.safetensors", tuned.state_dict(), {"edcompress.recipe": job.recipe.digest})
    again = load_pruned(folder, run.origin.dense)
    for name, text in standalone_files(job.recipe.model, run.origin.dense, job.example.shape[1:]).items():
        write_text(folder / name, text)
    with torch.no_grad():
        images = job.proof_images
        proof = compare_logits(tuned(images), again(images), f"pruned and reloaded network on {len(images)} images")
    return again, require_equal(proof)


def _report(run: PruningRun, measured: StageResults, pruned: ModelResult, reloaded: Proof, checkpoint: str) -> Report:
    recipe = run.job.recipe
    assert measured.dense
    assert measured.masked
    assert measured.after_surgery
    assert measured.masked_vs_pruned
    assert measured.search
    return Report(
        recipe=recipe.name,
        recipe_hash=recipe.digest,
        network=recipe.model.name,
        seed=recipe.seed,
        checkpoint=checkpoint,
        dense=measured.dense,
        masked=measured.masked,
        after_surgery=measured.after_surgery,
        pruned=pruned,
        target=_target(run, measured.latency_share),
        proof=Proofs(masked_vs_pruned=measured.masked_vs_pruned, pruned_vs_reloaded=reloaded),
        search=measured.search,
        seconds=measured.seconds,
        machine=_machine(run.job),
        versions=versions(),
        files=records(run.folder / name for name in OF_PRUNING),
        settings=recipe.pruning_settings,
        untrained_head=recipe.model.reset_head,
        limits=recipe.gate,
        classes=run.job.splits.classes,
    )


def _target(run: PruningRun, measured: float | None) -> TargetResult:
    target, budget = run.origin.budget.target, run.origin.budget
    kept = {group.name: len(group.kept) for group in read_plan(run.folder).groups}
    share = budget.share(torch.tensor([kept[group.name] for group in run.origin.space.free])).item()
    kind, asked = (target.kind, target.fraction) if target else ("none", 1.0)
    achieved, predicted = (share, None) if measured is None else (measured, share)
    return TargetResult(kind=kind, asked=asked, achieved=achieved, predicted=predicted, round_to=budget.round_to)


def _machine(job: RunContext) -> dict[str, Any]:
    device = job.precision.device
    return {
        "platform": platform.platform(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "precision": job.precision.name,
        "batch_size": job.recipe.data.batch_size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def measure_dense(run: PruningRun) -> StageResults:
    """Accuracy and size of the network as it came."""
    run.job.monitor.stage("dense network: accuracy on the test images")
    for warning in [*uncounted_warnings(run.origin.dense, run.job.example), *run.origin.budget.warnings]:
        run.job.monitor.warning(warning)
    network = run.job.precision.place(on_cpu(run.origin.dense))
    dense = ModelResult(accuracy=run.job.accuracy(network), size=measure_size(run.origin.dense, run.job.example))
    untrained = run.job.recipe.model.reset_head
    if run.job.ranks.is_main and not untrained and (text := at_chance(dense.accuracy, "the dense network")):
        run.job.monitor.alarm(f"{text}. What pruning costs cannot be told from it")
    return StageResults(dense=dense, search_began=run.clock(StageResults()).seconds)
