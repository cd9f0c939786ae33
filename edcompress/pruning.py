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

from edcompress import stages
from edcompress.bindings import OF_PRUNING, records, require_as_written
from edcompress.confirmation import confirmed
from edcompress.deploy.standalone import standalone_source
from edcompress.epochs import Measured, Run, last_snapshot
from edcompress.errors import RunFolderError
from edcompress.job import Job, memory_told, open_provable_job
from edcompress.loggers import opened, require_loggers
from edcompress.machine import processor, versions
from edcompress.measures import ModelResult, Proof, Proofs
from edcompress.networks.checkpoints import read_state_dict, save_tensors
from edcompress.networks.fitting import load_into
from edcompress.networks.modes import on_cpu
from edcompress.origin import Origin, read_plan, read_space, resumed_origin, save_origin, saved_origin
from edcompress.progress import recording
from edcompress.recipe import Recipe
from edcompress.recipebook import differences, dump
from edcompress.reports import save_report
from edcompress.results import Report, TargetResult, readable
from edcompress.runs import RunFolder, write_text
from edcompress.session import Session
from edcompress.sizing import sized_for_search, with_batch_size
from edcompress.surgery.costs import measure_size
from edcompress.surgery.remove import compare_logits, remove, require_equal
from edcompress.team import ALONE, Team
from edcompress.training.schedule import make_optimizer


class Begin(Protocol):
    """Opens what a run starts from, and tries removals on real images [N, C, H, W]; an InputError where the recipe does not fit it."""

    def __call__(self, recipe: Recipe, *, images: Tensor) -> Origin: ...


FREE_ON_RESUME = ("data.root", "data.download", "data.workers", "data.skip_broken", "gate.", "preset", "run.")
"""Keys, or the beginnings of keys, that a resumed run may change: they do not change what `prune` computes.

A run that came so far without `data.skip_broken` has met no broken image, and computed what it computes with it.
"""

OF_FILES = ("export.", "benchmark.")
"""Those by which files are made and measured; a resumed run may change them too, but where the target is a time."""


def prune_once(
    recipe: Recipe, folder: RunFolder, begin: Begin, checkpoint: str, *, resume: bool, force: bool, session: Session
) -> Report:
    """Prune what `begin` opens, called `checkpoint` in the report, to the recipe's target, into `folder`.

    With `resume` a run goes on from what its folder holds; one that is finished is only read.
    """
    started, team = time.monotonic(), session.team
    if resuming := team.from_first(lambda: resume and begun(folder, recipe)):
        if team.from_first(lambda: folder.finished):
            return team.from_first(folder.read_report)
        begin = partial(resumed_origin, folder=folder, session=session)
    require_loggers(session.loggers)
    run = _open_run(open_provable_job(recipe, session), folder, begin, session, started)
    with (
        _kept(run, session, checkpoint, resuming=resuming, force=force) as kept,
        memory_told(run.job.recipe, _out_of_memory(run.job.recipe)),
    ):
        if resuming and team.from_first(lambda: folder.finished):  # by another process, while this one waited for it
            return team.from_first(folder.read_report)
        tuned, measured = _through_stages(kept)
        return _conclude(kept, tuned, measured, checkpoint)


@contextmanager
def _kept(run: Run, session: Session, checkpoint: str, *, resuming: bool, force: bool) -> Iterator[Run]:
    """The run in a block in which the first rank keeps its folder, its log and the loggers; the others only compute."""
    if not run.job.team.first:
        yield run
        return
    folder, recipe = run.folder, run.job.recipe
    with (
        claimed(folder, recipe, run.origin, resuming=resuming, force=force),
        recording(folder, session.monitor, recipe, "prune", checkpoint=checkpoint, resuming=resuming) as monitor,
        opened(session.loggers, folder, recipe) as loggers,
    ):
        yield replace(run, job=run.job.watched_by(monitor), loggers=loggers)


@contextmanager
def reserved(folder: RunFolder, *, force: bool, team: Team = ALONE) -> Iterator[None]:
    """A block at whose begin the run folder is made, so that no other command takes it; it is gone again where the block fails."""
    team.from_first(partial(folder.create, force=force))
    try:
        yield
    except BaseException:
        if team.first and not any(folder.path.iterdir()):
            folder.path.rmdir()
        raise


@contextmanager
def claimed(folder: RunFolder, recipe: Recipe, origin: Origin, *, resuming: bool, force: bool) -> Iterator[None]:
    """A block in which the folder is this process's alone, and holds what a run begins with; RunFolderError where it cannot."""
    if not resuming:
        folder.create(force=force)
    with folder.locked():
        if not resuming:
            folder.clear()
            save_origin(origin, folder)
        write_text(folder / "recipe.yaml", dump(recipe))
        yield


def _out_of_memory(recipe: Recipe) -> str:
    """What to do where a run takes too much of it."""
    least = max(2, recipe.data.step_images // 2)
    return (
        f"start over with --force --set data.batch_size={least}, or go on with --resume on a device with more, or once other processes "
        "have left it"
    )


def reloaded(run: RunFolder, dense: nn.Module) -> nn.Module:
    """The pruned network of a finished run, in eval mode: its plan is replayed on `dense`, its tensors loaded."""
    network = remove(dense, read_plan(run), read_space(run))
    load_into(network, read_state_dict(run / "pruned.safetensors"), source=str(run / "pruned.safetensors"))
    return network.eval()


def begun(folder: RunFolder, recipe: Recipe) -> bool:
    """Whether this run was begun in `folder`; RunFolderError where one was whose recipe differs in what `prune` computes."""
    if not folder.exists:
        return False
    free = FREE_ON_RESUME if recipe.in_time else (*FREE_ON_RESUME, *OF_FILES)
    changed = [key for key in differences(folder.read_recipe(), recipe) if not key.startswith(free)]
    if changed:
        raise RunFolderError(
            f"--resume: {folder.path} was begun with another {', '.join(changed)}; resume it with its own recipe.yaml"
        )
    folder.require_whole()
    if not folder.finished and not folder.state.is_dir():
        raise RunFolderError(f"{folder.state} is missing, from which the run would go on; start over with --force")
    return True


def restate(folder: RunFolder, recipe: Recipe) -> None:
    """Have the recipe.yaml of a finished run say by what it is now exported and gated; `begun` has checked that the rest is the same."""
    text = dump(as_begun(recipe, folder))
    if text != dump(folder.read_recipe()):
        with folder.locked():
            write_text(folder / "recipe.yaml", text)


def as_begun(recipe: Recipe, folder: RunFolder) -> Recipe:
    """The recipe, which takes for `data.batch_size: auto` what the run in `folder` found where one was begun there."""
    if recipe.data.batch_size != "auto" or not folder.exists:
        return recipe
    return with_batch_size(recipe, folder.read_recipe().data.batch_size)


def _open_run(job: Job, folder: RunFolder, begin: Begin, session: Session, started: float) -> Run:
    """The run that `begin` opens, checked."""
    job.monitor.stage("checking the network, its data and its pruning space")
    origin = begin(job.recipe, images=job.probe_images)
    make_optimizer(job.recipe.finetune, origin.network.parameters())  # else a frozen network costs the first stage
    job = sized_for_search(job, origin)
    if job.recipe.search.method == "plan":
        _require_kept(job.recipe.search.plan, folder)
        stages.given_state(job.recipe, origin.space, origin.budget)  # else a bad plan costs the first stage
    job.team.require_same("the recipe", job.recipe.digest)
    job.team.require_same(
        "the checkpoint or its space", origin.space.model_dump_json(), *origin.network.state_dict().values()
    )
    return Run(job, folder, origin, started, session.interrupt)


def _require_kept(plan: Path | None, folder: RunFolder) -> None:
    """Raise RunFolderError for a plan in the run folder itself, which is emptied before the plan is replayed."""
    if plan and plan.resolve().is_relative_to(folder.path.resolve()):
        raise RunFolderError(
            f"search.plan {plan} lies in {folder.path}, which the run begins by emptying; choose another run folder with -o"
        )


def _through_stages(run: Run) -> tuple[nn.Module, Measured]:
    """From wherever the last snapshot stands to the fine-tuned network."""
    team = run.job.team
    measured, saved = team.from_first(lambda: last_snapshot(run.folder, run.job.monitor)) or (None, {})
    if measured is None:
        files = team.from_first(lambda: records(saved_origin(run.folder)))
        measured = stages.measure_dense(run).model_copy(update={"files": files})
        run.save(measured, {"stage": "search", "epoch": 0})
    team.from_first(partial(require_as_written, run.folder, measured.files))
    if saved.get("stage", "search") == "search":
        network, state, measured = stages.search(run, measured, saved)
        state, share = team.from_first(partial(confirmed, run.job, run.origin, network, state))
        measured = measured.model_copy(update={"latency_share": share})
        smaller, measured = stages.operate(run, network, state, measured)
        saved = {}
        run.save(measured, {"stage": "finetune", "epoch": 0, "network": smaller.state_dict()})
    else:
        smaller = remove(run.origin.dense, read_plan(run.folder), read_space(run.folder))
        smaller.load_state_dict(saved["network"])
    return stages.finetune(run, smaller, measured, saved), measured


def _conclude(run: Run, tuned: nn.Module, measured: Measured, checkpoint: str) -> Report:
    job = run.job
    job.monitor.stage("verification: save, reload, prove, accuracy on the test images")
    again, proof = _saved(run, tuned, measured) if job.team.first else (tuned, None)
    accuracy = job.accuracy(job.precision.place(on_cpu(again)))

    def reported() -> Report:
        assert proof
        pruned = ModelResult(accuracy=accuracy, size=measure_size(again, job.example))
        report = _report(run, run.clock(measured), pruned, proof, checkpoint)
        save_report(run.folder, report)
        run.folder.clear_state()
        return report

    return job.team.from_first(reported)


def _saved(run: Run, tuned: nn.Module, measured: Measured) -> tuple[nn.Module, Proof]:
    """The fine-tuned network as its file gives it back, proved equal."""
    job, folder = run.job, run.folder
    require_as_written(folder, measured.files)
    save_tensors(folder / "pruned.safetensors", tuned.state_dict(), {"edcompress.recipe": job.recipe.digest})
    again = reloaded(folder, run.origin.dense)
    write_text(folder / "load_pruned.py", standalone_source(job.recipe.model, again, job.example.shape[1:]))
    with torch.no_grad():
        images = job.proof_images
        proof = compare_logits(tuned(images), again(images), f"pruned and reloaded network on {len(images)} images")
    return again, require_equal(proof)


def _report(run: Run, measured: Measured, pruned: ModelResult, reloaded: Proof, checkpoint: str) -> Report:
    recipe = run.job.recipe
    assert measured.dense
    assert measured.masked
    assert measured.after_surgery
    assert measured.masked_vs_pruned
    assert measured.search
    return Report(
        recipe=recipe.name,
        recipe_hash=recipe.digest,
        network=recipe.model.called,
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
        settings=recipe.of_pruning,
        untrained_head=recipe.model.reset_head,
        limits=recipe.gate,
        classes=readable(run.job.splits.classes),
    )


def _target(run: Run, measured: float | None) -> TargetResult:
    target, budget = run.origin.budget.target, run.origin.budget
    kept = {group.name: len(group.kept) for group in read_plan(run.folder).groups}
    share = budget.share(torch.tensor([kept[group.name] for group in run.origin.space.free])).item()
    kind, asked = (target.kind, target.fraction) if target else ("none", 1.0)
    achieved, predicted = (share, None) if measured is None else (measured, share)
    return TargetResult(kind=kind, asked=asked, achieved=achieved, predicted=predicted, round_to=budget.round_to)


def _machine(job: Job) -> dict[str, Any]:
    device = job.precision.device
    return {
        "platform": platform.platform(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "precision": job.precision.name,
        "batch_size": job.recipe.data.batch_size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }
