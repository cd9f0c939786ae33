"""The smallest network within a drop of accuracy: bounded trials in MACs, each pruned from the best network before it.

A trial is a run of its own, in trials/ of the run folder. Budgets are halved between the least that the constraints allow and the
smallest network found within the drop, on a logarithmic scale. The held-out images decide; the test images only report.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

from torch import nn

from edcompress.core.errors import EdcompressError, InputError
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.recipe.target import Target
from edcompress.core.results.measures import Accuracy, Count
from edcompress.core.results.report import Point, Report, TargetResult
from edcompress.core.system.context import RunOptions
from edcompress.core.system.files import replacing
from edcompress.deploy.latency.benchmark import measure
from edcompress.report.gate.noise import noise_warning, waiting
from edcompress.report.pareto import point_of, with_front
from edcompress.report.render.formatting import points
from edcompress.runs.folder import FILES, RunFolder
from edcompress.runs.progress import recording
from edcompress.workflows.load import load_pruned
from edcompress.workflows.pruning_run import OpenStart, prune_once
from edcompress.workflows.reporting import save_report
from edcompress.workflows.resume import can_resume, hold_folder, reserve_folder
from edcompress.workflows.stages.batch_size import sized_for_search
from edcompress.workflows.stages.job import RunContext, open_provable_job
from edcompress.workflows.stages.latency_target import exported
from edcompress.workflows.stages.starting_point import StartingPoint, open_starting_point, reopen_starting_point

FINEST = 0.98
"""Two budgets whose ratio is above this are as good as one."""

SURE = 3.0
"""Standard errors by which a network must do better on the held-out images than on the test images to have been trained on them."""


@dataclass(frozen=True)
class Bracket:
    """Shares of the MACs: `most` has been reached within the drop, `least` has not or cannot be reached."""

    least: float
    most: float

    @property
    def share(self) -> float | None:
        """What to try next, the middle on a logarithmic scale; None where both ends are as good as one."""
        return None if self.least / self.most > FINEST else round(math.sqrt(self.least * self.most), 4)

    def after(self, share: float, achieved: float | None) -> Bracket:
        """What is left when `share` was tried, and `achieved` of the MACs were left within the drop (None: it was not within)."""
        return Bracket(share, self.most) if achieved is None else Bracket(self.least, achieved)


@dataclass(frozen=True)
class Trial:
    """A finished trial, and how much top-1 it lost on the held-out images."""

    folder: RunFolder
    report: Report
    drop: float


@dataclass(frozen=True)
class Series:
    """What all trials of a run share; `dense` is the dense network's count of held-out images."""

    recipe: Recipe
    folder: RunFolder
    job: RunContext
    origin: StartingPoint
    dense: Count
    checkpoint: str
    options: RunOptions


def smallest_within(
    recipe: Recipe,
    folder: RunFolder,
    begin: OpenStart,
    checkpoint: str,
    *,
    resume: bool,
    force: bool,
    options: RunOptions,
) -> Report:
    """The report of the smallest network within target.max_top1_drop, whose files `folder` then holds, with all trials as points.

    Raises InputError where the held-out images cannot judge, EdcompressError where no trial stayed within the drop.
    """
    if resuming := resume and can_resume(folder, recipe):
        if folder.finished:
            return folder.read_report()
        begin = partial(reopen_starting_point, folder=folder, options=options)
    job = open_provable_job(recipe, options)
    finest = recipe.constraints.model_copy(update={"round_to": recipe.constraints.round_to or 1})
    origin = begin(recipe.model_copy(update={"constraints": finest}), images=job.probe_images)
    job = sized_for_search(job, origin)
    recipe = job.recipe
    with nullcontext() if resuming else reserve_folder(folder, force=force):
        dense = _judged_dense(job, origin)
    with (
        hold_folder(folder, recipe, origin, resuming=resuming, force=True),
        recording(folder, options.monitor, recipe, "prune", checkpoint=checkpoint, resuming=resuming) as monitor,
    ):
        if folder.finished:  # by another process, while this one waited for it
            return folder.read_report()
        series = Series(recipe, folder, job.watched_by(monitor), origin, dense, checkpoint, options)
        return _conclude(series, _tried(series))


def _tried(series: Series) -> list[Trial]:
    assert series.recipe.target
    budget = series.origin.budget
    bracket, best, trials = Bracket(budget.smallest, budget.largest), None, []
    for number in range(series.recipe.target.trials):
        if (share := bracket.share) is None:
            break
        source = f"the network of {best.folder.path.name}" if best else "the dense network"
        series.job.monitor.stage(f"trial {number + 1}: at most {share:.1%} of the MACs, from {source}")
        trial = _one(series, number, share, best)
        trials.append(trial)
        good = _within(series.recipe, trial)
        best = trial if good else best
        bracket = bracket.after(share, trial.report.target.achieved if good else None)
    return trials


def _one(series: Series, number: int, share: float, best: Trial | None) -> Trial:
    recipe, options = series.recipe.model_copy(update={"target": Target(macs=share)}), series.options
    folder = RunFolder(series.folder.trials / f"{number + 1}-macs={share:g}")
    begin: OpenStart = partial(reopen_starting_point, folder=series.folder, options=options)
    if best:
        begin = partial(open_starting_point, source=best.folder.path, options=options)
    report = prune_once(recipe, folder, begin, series.checkpoint, resume=True, force=True, options=options)
    top1 = check_requirement(series.job, load_pruned(folder, series.origin.dense)).top1
    drop = accuracy_drop(series.dense, top1)
    series.job.monitor.stage(
        f"trial {number + 1}: top-1 {points(-drop)} beside the dense network's on {top1.total} held-out images"
    )
    return Trial(folder, report, drop)


def accuracy_drop(dense: Count, other: Count) -> float:
    """The drop of accuracy, rounded once: as a difference of floats 0.92 - 0.91 would be above a limit of 0.01."""
    return float(Fraction(dense.correct, dense.total) - Fraction(other.correct, other.total))


def _drop(recipe: Recipe) -> float:
    assert recipe.target
    assert recipe.target.max_top1_drop is not None
    return recipe.target.max_top1_drop


def _within(recipe: Recipe, trial: Trial) -> bool:
    return trial.drop <= _drop(recipe)


def check_requirement(job: RunContext, network: nn.Module) -> Accuracy:
    return job.accuracy(network.to(job.precision.device), images=job.splits.search)


def _judged_dense(job: RunContext, origin: StartingPoint) -> Count:
    """The dense network's count of held-out images; InputError where they were among those that it was trained on."""
    job.monitor.stage("dense network: accuracy on the images that judge")
    held = check_requirement(job, origin.dense).top1
    if job.recipe.data.search_from == "train":
        _require_unseen(held, job.accuracy(origin.dense).top1)
    origin.dense.to("cpu")
    return held


def _require_unseen(held: Count, test: Count) -> None:
    """Raise InputError where a network is so much better on held-out training images than on test images that it knows them."""
    p = (held.correct + test.correct) / (held.total + test.total)
    error = math.sqrt(p * (1 - p) * (1 / held.total + 1 / test.total))
    if held.fraction - test.fraction > SURE * error:
        raise InputError(
            f"target.max_top1_drop: the network has {held.fraction:.1%} on the {held.total} held-out training images and "
            f"{test.fraction:.1%} on the test images: it was trained on them, so they cannot tell what pruning costs; let a share of the "
            "test images judge with data.search_from=test (the others report), or give a checkpoint of `edcompress train`"
        )


def _conclude(series: Series, trials: list[Trial]) -> Report:
    recipe, folder = series.recipe, series.folder
    good = [trial for trial in trials if _within(recipe, trial)]
    if not good:
        raise EdcompressError(_none_found(recipe, trials))
    chosen = good[-1]
    points = with_front(_points(series, trials, chosen))
    _adopt(folder, chosen.folder)
    target = TargetResult(kind="max_top1_drop", asked=_drop(recipe), achieved=chosen.drop,
                          round_to=chosen.report.target.round_to)  # fmt: skip
    about = {
        "recipe": recipe.name,
        "recipe_hash": recipe.digest,
        "settings": recipe.pruning_settings,
        "limits": recipe.gate,
        "seconds": sum(trial.report.seconds for trial in trials),
    }
    report = save_report(folder, chosen.report.model_copy(update={**about, "target": target, "points": points}))
    folder.clear_state()
    return report


def _none_found(recipe: Recipe, trials: list[Trial]) -> str:
    nearest = min(trials, key=lambda trial: trial.drop, default=None)
    tried = f"the nearest lost {nearest.drop:.2%}: {nearest.folder.path}" if nearest else "nothing can be removed"
    return (
        f"no network within target.max_top1_drop = {_drop(recipe):g} was found in {len(trials)} trials; {tried}; allow a larger drop, "
        "more target.trials or more finetune.epochs"
    )


def _points(series: Series, trials: list[Trial], chosen: Trial) -> list[Point]:
    """The trials side by side; their files and the dense network's are timed in turn, in the same processes."""
    series.job.monitor.stage("latency in onnxruntime of the dense network and of all trials, interleaved")
    networks = {trial.folder.path.name: load_pruned(trial.folder, series.origin.dense) for trial in trials}
    with tempfile.TemporaryDirectory() as scratch:
        files = {
            name: exported(series.job, network, Path(scratch) / f"{name}.onnx")
            for name, network in {"dense": series.origin.dense, **networks}.items()
        }
        times = measure(files, series.recipe.timing)
    if warning := noise_warning(times.values()):
        series.job.monitor.warning(warning)
    return [
        point_of(
            trial.report, trial.folder.path.name, times["dense"].p50, times[trial.folder.path.name].p50
        ).model_copy(
            update={"judged_drop": trial.drop, "chosen": trial is chosen, "distrusted": waiting(times.values())}
        )
        for trial in trials
    ]


def _adopt(folder: RunFolder, chosen: RunFolder) -> None:
    """Copy the chosen trial's files up, but for those that say what was asked and what happened."""
    own = ("recipe.yaml", "report.json", "report.html", "progress.json", "log.jsonl")
    for name in FILES:
        if name not in own and (chosen / name).is_file():
            with replacing(folder / name) as part:
                shutil.copyfile(chosen / name, part)
