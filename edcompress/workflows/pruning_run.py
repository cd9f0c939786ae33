"""One pruning run, from its starting point to its report: search, surgery, fine-tuning, verification."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edcompress.core.errors import RunFolderError
from edcompress.core.recipe.data import Data
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
from edcompress.workflows.resume import can_resume, hold_folder, read_start, start_files, with_resolved_values
from edcompress.workflows.stages.batch_size import sized_for_search
from edcompress.workflows.stages.kept_objects import keep_images, keep_networks
from edcompress.workflows.stages.latency_target import MOST_TRIALS, NetworkTimer, match_latency_target
from edcompress.workflows.stages.plain_training import finetune
from edcompress.workflows.stages.recovery import resolve_recipe
from edcompress.workflows.stages.run_context import RunContext, open_provable_context
from edcompress.workflows.stages.run_state import Checkpoint, PruningRun, StageResults, last_checkpoint
from edcompress.workflows.stages.search import check_search, search
from edcompress.workflows.stages.start_files import read_plan, read_space
from edcompress.workflows.stages.starting_point import OpenStart, StartingPoint, resumed_starting_point
from edcompress.workflows.stages.surgery import remove_and_verify
from edcompress.workflows.stages.teacher import open_teacher


@dataclass(frozen=True)
class PruneRequest:
    """A call of `prune`: what `open_start` opens, called `weights` in the report, is pruned into `folder`."""

    recipe: Recipe
    folder: RunFolder
    open_start: OpenStart
    weights: str
    options: RunOptions
    resume: bool = False
    force: bool = False

    def with_resolved_values(self) -> PruneRequest:
        """Return the call with the values that the run in its folder, if it continues one, chose for what the recipe leaves open."""
        if not self.resume:
            return self
        recipe = self.options.ranks.run_on_rank0(lambda: with_resolved_values(self.recipe, self.folder))
        return replace(self, recipe=recipe)

    def resumes(self) -> bool:
        """Whether the call continues a run; raise RunFolderError if the folder holds a different one."""
        return self.options.ranks.run_on_rank0(lambda: self.resume and can_resume(self.folder, self.recipe))

    def finished_report(self) -> Report | None:
        """Return the report of the folder's run if it is finished."""
        return self.options.ranks.run_on_rank0(lambda: self.folder.read_report() if self.folder.finished else None)


def prune_once(request: PruneRequest) -> Report:
    """Prune to the recipe's target, and return the report; a run that is finished is only read."""
    began = time.monotonic()
    request = request.with_resolved_values()
    if resuming := request.resumes():
        if report := request.finished_report():
            return report
        kept = read_start(request.folder, in_time=request.recipe.targets_latency)
        request = replace(request, open_start=partial(resumed_starting_point, kept=kept, options=request.options))
    require_trackers(request.options.trackers)
    run = _open_run(request, began, resuming=resuming)
    with (
        _held(run, request, resuming=resuming) as held,
        oom_as_error(run.recipe.data, _oom_fix(run.recipe.data)),
    ):
        if resuming and (report := request.finished_report()):  # by another process, while this one waited for the lock
            return report
        tuned, results = _run_stages(held)
        return _conclude(held, tuned, results)


def _open_run(request: PruneRequest, began: float, *, resuming: bool) -> PruningRun:
    """Open the data and the starting point, and check what would otherwise fail after the first stage."""
    recipe, ranks = request.recipe, request.options.ranks
    context = open_provable_context(recipe, request.options)
    context.monitor.stage("checking the network, its data and its pruning space")
    start = request.open_start(recipe.with_data(context.data), images=context.probe_images)
    trust, trust_pickle = request.options.trust, request.options.trust_pickle
    teacher = open_teacher(recipe.finetune, recipe.network_spec, trust=trust, trust_pickle=trust_pickle)
    start = replace(start, other_teacher=teacher)
    make_optimizer(recipe.finetune.config, start.network.parameters())  # refuses a frozen network
    context.require_usable(start.network, context.task.finetune)
    context = sized_for_search(context, start, recipe.search, recipe.finetune.config)
    if resuming:
        recipe = recipe.with_data(context.data)
    else:
        recipe, context = resolve_recipe(recipe, context, start)
    if recipe.search.plan:
        _require_outside(recipe.search.plan, request.folder.path)
    check_search(recipe.search, context, start)
    ranks.require_same("the recipe", recipe.digest)
    ranks.require_same(
        "the weights or their space", start.space.model_dump_json(), *start.network.state_dict().values()
    )
    return PruningRun(recipe, context, request.folder, start, request.weights, began, request.options.interrupt)


def _require_outside(plan: Path, folder: Path) -> None:
    """Raise RunFolderError for a plan in the run folder itself, which is emptied before the plan is replayed."""
    if plan.resolve().is_relative_to(folder.resolve()):
        raise RunFolderError(
            f"search.plan {plan} lies in {folder}, which is emptied when the run begins; choose another run folder with -o"
        )


@contextmanager
def _held(run: PruningRun, request: PruneRequest, *, resuming: bool) -> Iterator[PruningRun]:
    """Hold the run's folder, log and trackers for a block on the first rank; the others only compute."""
    if not run.context.ranks.is_main:
        yield run
        return
    folder, recipe, options = run.folder, run.recipe, request.options
    with (
        hold_folder(folder, recipe, run.start, resuming=resuming, force=request.force),
        recording(folder, options.monitor, recipe.label, "prune", weights=run.weights, resuming=resuming) as monitor,
        open_trackers(options.trackers, folder.path, recipe.model_dump(mode="json")) as trackers,
    ):
        yield replace(run, context=run.context.watched_by(monitor), trackers=trackers)


def _oom_fix(data: Data) -> str:
    """Return the advice for a run that takes too much memory."""
    smaller = max(2, data.step_images // 2)
    return (
        f"start over with --force --set data.batch_size={smaller}, or continue with --resume on a device with more, or once other "
        "processes have freed it"
    )


def _run_stages(run: PruningRun) -> tuple[nn.Module, StageResults]:
    """Run the stages from wherever the last checkpoint stands; return the fine-tuned network and the results."""
    ranks, folder, start = run.context.ranks, run.folder, run.start
    checkpoint = ranks.run_on_rank0(lambda: last_checkpoint(folder.checkpoints, run.context.monitor))
    if checkpoint is None:
        files = ranks.run_on_rank0(lambda: records(start_files(folder)))
        checkpoint = Checkpoint(measure_dense(run).with_files(files), "search")
        run.save(checkpoint)
    results, training = checkpoint.results, checkpoint.training
    ranks.run_on_rank0(partial(require_as_written, folder, results.files))
    if checkpoint.stage == "search":
        network, state, results = search(run, results, training)
        state, share = ranks.run_on_rank0(partial(match_latency_target, start, network, state, *_timer(run)))
        smaller, results = remove_and_verify(run, network, state, results.with_latency_share(share))
        training = None
        run.save(Checkpoint(results, "finetune", network=smaller.state_dict()))
    else:
        smaller = apply_plan(start.dense, read_plan(folder / "plan.json"), read_space(folder / "space.json"))
        assert checkpoint.network is not None
        smaller.load_state_dict(checkpoint.network)
    return finetune(run, smaller, results, training)


def _timer(run: PruningRun) -> tuple[NetworkTimer, int]:
    """Return how networks are timed, and how often one may be corrected: a plan that was given stays as it is."""
    context, recipe = run.context, run.recipe
    timer = NetworkTimer(context.example, recipe.export, recipe.timing, context.monitor, recipe.model.output)
    return timer, 1 if run.recipe.search.takes_plan else MOST_TRIALS


def measure_dense(run: PruningRun) -> StageResults:
    """Return accuracy and size of the dense network."""
    context, dense = run.context, run.start.dense
    context.monitor.stage(f"dense network: {context.measured} on the test images")
    for warning in [*uncounted_warnings(dense, context.example), *run.start.feasible.warnings]:
        context.monitor.warning(warning)
    scores = context.scores(context.precision.place(on_cpu(dense)))
    untrained = run.recipe.model.reset_head
    if context.ranks.is_main and not untrained and (text := at_chance(scores.accuracy, "the dense network")):
        context.monitor.alarm(f"{text}. What pruning costs cannot be seen from it")
    result = ModelResult.of(scores, measure_size(dense, context.example))
    return StageResults(dense=result, search_began=run.clock(StageResults()).seconds)


def _conclude(run: PruningRun, tuned: nn.Module, results: StageResults) -> Report:
    """Save and verify the fine-tuned network, and write the report."""
    context = run.context
    context.monitor.stage(f"verification: save, reload, prove, {context.measured} on the test images")
    reloaded, proof = _save_and_reload(run, tuned, results) if context.ranks.is_main else (tuned, None)
    scores = context.scores(context.precision.place(on_cpu(reloaded)))

    def report() -> Report:
        assert proof
        pruned = ModelResult.of(scores, measure_size(reloaded, context.example))
        made = save_report(run.folder, _report(run, run.clock(results), pruned, proof))
        run.folder.clear_state()
        return made

    return context.ranks.run_on_rank0(report)


def _save_and_reload(run: PruningRun, tuned: nn.Module, results: StageResults) -> tuple[nn.Module, Proof]:
    """Write the fine-tuned network; return it as its file gives it back, proved equal."""
    context, folder = run.context, run.folder
    require_as_written(folder, results.files)
    save_tensors(folder / "pruned.safetensors", tuned.state_dict(), {"edcompress.recipe": run.recipe.digest})
    again = load_pruned(run.start.dense, folder.path)
    if run.recipe.data.dataset == "memory" and run.recipe.run.keep_images:
        keep_images(folder / "images.safetensors", context.splits, run.recipe.data, context.monitor)
    if run.recipe.model.object:
        keep_networks(folder.path, {"dense": run.start.dense, "pruned": again}, context.example, context.monitor)
    for name, text in standalone_files(run.recipe.model, run.start.dense, context.spec.image_shape).items():
        write_text(folder / name, text)
    with torch.no_grad():
        images = context.proof_images
        proof = compare_logits(tuned(images), again(images), f"pruned and reloaded network on {len(images)} images")
    return again, require_equal(proof)


def _report(run: PruningRun, results: StageResults, pruned: ModelResult, reloaded: Proof) -> Report:
    recipe = run.recipe
    assert results.dense
    assert results.masked
    assert results.after_surgery
    assert results.masked_vs_pruned
    assert results.search
    return Report(
        recipe=recipe.name,
        recipe_hash=recipe.digest,
        network=recipe.model.name,
        seed=recipe.seed,
        checkpoint=run.weights,
        source=run.start.source,
        dense=results.dense,
        masked=results.masked,
        after_surgery=results.after_surgery,
        pruned=pruned,
        target=_target_result(run.start, run.folder / "plan.json", results.latency_share),
        proof=Proofs(masked_vs_pruned=results.masked_vs_pruned, pruned_vs_reloaded=reloaded),
        search=results.search,
        seconds=results.seconds,
        machine=_machine(run.context),
        versions=versions(),
        files=records(run.folder / name for name in OF_PRUNING),
        settings=recipe.pruning_settings,
        untrained_head=recipe.model.reset_head,
        limits=recipe.gate,
        classes=run.context.splits.classes,
        metric=run.context.task.metric.info,
        batch_norm=results.batch_norm,
        chosen=dict(recipe.chosen),
    )


def _target_result(start: StartingPoint, plan: Path, latency_share: float | None) -> TargetResult:
    """Return the share that was asked for and the share that the plan leaves; for a latency target the measured one counts."""
    feasible = start.feasible
    kept = {group.name: len(group.kept) for group in read_plan(plan).groups}
    share = feasible.share(torch.tensor([kept[group.name] for group in start.space.free])).item()
    kind, asked = (feasible.target.kind, feasible.target.fraction) if feasible.target else ("none", 1.0)
    achieved, predicted = (share, None) if latency_share is None else (latency_share, share)
    return TargetResult(kind=kind, asked=asked, achieved=achieved, predicted=predicted, round_to=feasible.round_to)


def _machine(context: RunContext) -> dict[str, Any]:
    """Return what the run computed on."""
    device = context.device
    return {
        "platform": platform.platform(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "precision": context.precision.name,
        "batch_size": context.data.batch_size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }
