"""The smallest network within a drop of accuracy, by trials: each is pruned from the best network before it.

A trial is a run of its own, in trials/ of the run folder. Budgets, in MACs, are halved between the least that the constraints allow and
the smallest network found within the drop, on a logarithmic scale. The held-out images decide; the test images only report.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

from torch import nn

from edcompress.core.errors import EdcompressError, InputError
from edcompress.core.recipe.target import Target
from edcompress.core.results.measures import Count
from edcompress.core.results.report import Point, Report, TargetResult
from edcompress.core.results.scores import Score, Scores, images_of, value_of
from edcompress.core.system.files import replacing
from edcompress.report.gate.figures import decimal
from edcompress.report.gate.noise import waiting
from edcompress.report.pareto import point_of, with_front
from edcompress.report.render.formatting import change_text
from edcompress.runs.folder import FILES, RunFolder
from edcompress.runs.progress import recording
from edcompress.workflows.load import load_pruned
from edcompress.workflows.pruning_run import PruneRequest, prune_once
from edcompress.workflows.reporting import save_report
from edcompress.workflows.resume import hold_folder, read_start, reserve_folder
from edcompress.workflows.stages.batch_size import sized_for_search
from edcompress.workflows.stages.latency_target import NetworkTimer
from edcompress.workflows.stages.run_context import RunContext, open_provable_context
from edcompress.workflows.stages.starting_point import (
    OpenStart,
    StartingPoint,
    open_starting_point,
    reopen_starting_point,
)

FINEST = 0.98
"""Ratio of two budgets above which they count as one."""

SURE = 3.0
"""Standard errors by which a network must do better on the held-out images than on the test images to have been trained on them."""


@dataclass(frozen=True)
class Bracket:
    """Shares of the MACs: `most` was reached within the drop, `least` was not or cannot be reached."""

    least: float
    most: float

    @property
    def share(self) -> float | None:
        """The share to try next, the middle on a logarithmic scale; None when both ends count as one."""
        return None if self.least / self.most > FINEST else round(math.sqrt(self.least * self.most), 4)

    def after(self, share: float, achieved: float | None) -> Bracket:
        """Return the bracket after a trial of `share`, which left `achieved` of the MACs within the drop; None: it was not within."""
        return Bracket(share, self.most) if achieved is None else Bracket(self.least, achieved)


@dataclass(frozen=True)
class Trial:
    """A finished trial, and how much of the metric it lost on the held-out images."""

    folder: RunFolder
    report: Report
    drop: float

    @property
    def name(self) -> str:
        """Name of the trial's folder, which is also that of its point."""
        return self.folder.path.name


@dataclass(frozen=True)
class Series:
    """The setting of all trials of a run: `dense` is the dense network's metric on held-out images, `limit` the drop that `key` allows."""

    request: PruneRequest
    context: RunContext
    start: StartingPoint
    dense: Count | Score
    limit: float
    most_trials: int
    key: str

    def is_within(self, trial: Trial) -> bool:
        """Whether a trial stayed within the drop."""
        return trial.drop <= self.limit


def smallest_within(request: PruneRequest) -> Report:
    """Return the report of the smallest network within the target's drop, with all trials as points; the run folder holds its files.

    Raises InputError if the held-out images cannot decide, EdcompressError if no trial stayed within the drop.
    """
    folder, options = request.folder, request.options
    if resuming := request.resumes():
        if report := request.finished_report():
            return report
        request = replace(
            request, open_start=partial(reopen_starting_point, kept=read_start(folder, in_time=False), options=options)
        )
    series = _open_series(request, reserved=not resuming)
    recipe = series.request.recipe
    with (
        hold_folder(folder, recipe, series.start, resuming=resuming, force=True),
        recording(
            folder, options.monitor, recipe.label, "prune", weights=request.weights, resuming=resuming
        ) as monitor,
    ):
        if report := request.finished_report():  # by another process, while this one waited for the lock
            return report
        series = replace(series, context=series.context.watched_by(monitor))
        return _conclude(series, _run_trials(series))


def _open_series(request: PruneRequest, *, reserved: bool) -> Series:
    """Open data and starting point, and count the dense network's held-out images, with the run folder `reserved` meanwhile."""
    recipe, options = request.recipe, request.options
    context = open_provable_context(recipe, options)
    finest = recipe.with_data(context.data).with_round_to(recipe.constraints.round_to or 1)
    start = request.open_start(finest, images=context.probe_images)
    context = sized_for_search(context, start, recipe.search, recipe.finetune.config)
    recipe = recipe.with_values({"data.batch_size": context.data.batch_size}, {})
    assert recipe.target
    key = f"target.{recipe.target.drop_key}"
    with reserve_folder(request.folder, force=request.force) if reserved else nullcontext():
        dense = _measure_dense(context, start.dense, key)
    assert recipe.target.drop is not None
    return Series(replace(request, recipe=recipe), context, start, dense, recipe.target.drop, recipe.target.trials, key)


def _run_trials(series: Series) -> list[Trial]:
    feasible = series.start.feasible
    bracket, best, trials = Bracket(feasible.smallest, feasible.largest), None, []
    for number in range(1, series.most_trials + 1):
        if (share := bracket.share) is None:
            break
        trial = _run_trial(series, number, share, best)
        trials.append(trial)
        within = series.is_within(trial)
        best = trial if within else best
        bracket = bracket.after(share, trial.report.target.achieved if within else None)
    return trials


def _run_trial(series: Series, number: int, share: float, best: Trial | None) -> Trial:
    """Prune to a share of the MACs, from the best network so far or from the dense network, and count its held-out images."""
    context, options, folder = series.context, series.request.options, series.request.folder
    context.monitor.stage(
        f"trial {number}: at most {share:.1%} of the MACs, from "
        + (f"the network of {best.name}" if best else "the dense network")
    )
    if best:
        open_start: OpenStart = partial(open_starting_point, source=best.folder.path, options=options)
    else:
        kept = read_start(folder, in_time=False)
        open_start = partial(reopen_starting_point, kept=kept, options=options)
    recipe = series.request.recipe.with_target(Target(macs=share))
    trial = RunFolder(folder.trials / f"{number}-macs={share:g}")
    request = PruneRequest(recipe, trial, open_start, series.request.weights, options, resume=True, force=True)
    report = prune_once(request)
    found, metric = measure_held_out(context, load_pruned(series.start.dense, trial.path)), context.task.metric.info
    drop = accuracy_drop(series.dense, found)
    context.monitor.stage(
        f"trial {number}: {metric.label} {change_text(-drop, metric)} beside the dense network's on {images_of(found)} held-out images"
    )
    return Trial(trial, report, drop)


def accuracy_drop(dense: Count | Score, other: Count | Score) -> float:
    """Return the drop of the metric, rounded once: as a difference of floats 0.92 - 0.91 would be above a limit of 0.01."""
    return float(_exact(dense) - _exact(other))


def _exact(found: Count | Score) -> Fraction:
    return Fraction(found.correct, found.total) if isinstance(found, Count) else decimal(found.value)


def measure_held_out(context: RunContext, network: nn.Module) -> Count | Score:
    """Return the metric of a network, which is moved to the device, on the held-out images."""
    return context.scores(network.to(context.device), images=context.splits.search).headline


def _measure_dense(context: RunContext, dense: nn.Module, key: str) -> Count | Score:
    """Return the dense network's metric on held-out images; raise InputError if it was trained on them."""
    context.monitor.stage(f"dense network: {context.measured} on the images that judge")
    held_out = measure_held_out(context, dense)
    if context.data.search_from == "train":
        _require_unseen(held_out, context.scores(dense), key)
    dense.to("cpu")
    return held_out


def _require_unseen(held_out: Count | Score, tested: Scores, key: str) -> None:
    """Raise InputError if a network is so much better on held-out training images than on test images that it has seen them.

    The error is that of a share of images; other metrics vary less from image to image.
    """
    metric, test = tested.metric, tested.headline
    one, other, n, m = value_of(held_out), value_of(test), images_of(held_out), images_of(test)
    p = (one * n + other * m) / (n + m)
    if not metric.share or not 0 <= p <= 1:
        return
    error = math.sqrt(p * (1 - p) * (1 / n + 1 / m))
    if one - other > SURE * error:
        raise InputError(
            f"{key}: the network has {one:.1%} on the {n} held-out training images and {other:.1%} on the test images: it was trained on "
            "them, so they cannot show what pruning costs; let a share of the test images judge with data.search_from=test (the others "
            "report), or give weights of `edcompress train`"
        )


def _conclude(series: Series, trials: list[Trial]) -> Report:
    """Copy the files of the smallest network within the drop into the run folder, and write the report."""
    request, recipe = series.request, series.request.recipe
    good = [trial for trial in trials if series.is_within(trial)]
    if not good:
        raise EdcompressError(_none_found(series, trials))
    chosen = good[-1]
    found = with_front(_points(series, trials, chosen))
    _copy_files(chosen.folder.path, request.folder.path)
    assert recipe.target
    target = TargetResult(kind=recipe.target.drop_key, asked=series.limit, achieved=chosen.drop,
                          round_to=chosen.report.target.round_to)  # fmt: skip
    report = chosen.report.with_recipe(recipe.name, recipe.digest, recipe.pruning_settings, recipe.gate)
    report = report.with_trials(target, found, sum(trial.report.seconds for trial in trials))
    report = save_report(request.folder, report)
    request.folder.clear_state()
    return report


def _none_found(series: Series, trials: list[Trial]) -> str:
    metric, limit = series.context.task.metric.info, series.limit
    nearest = min(trials, key=lambda trial: trial.drop, default=None)
    lost = "" if nearest is None else f"{nearest.drop:.2%}" if metric.share else f"{nearest.drop:.4g}"
    tried = f"the nearest lost {lost}: {nearest.folder.path}" if nearest else "nothing can be removed"
    return (
        f"no network within {series.key} = {limit:g} was found in {len(trials)} trials; {tried}; allow a larger drop, "
        "more target.trials or more finetune.epochs"
    )


def _points(series: Series, trials: list[Trial], chosen: Trial) -> list[Point]:
    """Return the trials side by side; their files and the dense network's are timed in turn, in the same processes."""
    context, recipe, dense = series.context, series.request.recipe, series.start.dense
    context.monitor.stage("latency in onnxruntime of the dense network and of all trials, interleaved")
    timer = NetworkTimer(context.example, recipe.export, recipe.timing, context.monitor, recipe.model.output)
    networks = {"dense": dense} | {trial.name: load_pruned(dense, trial.folder.path) for trial in trials}
    with tempfile.TemporaryDirectory() as scratch:
        times = timer.measure(
            {name: timer.export(network, Path(scratch) / f"{name}.onnx") for name, network in networks.items()}
        )
    doubt = waiting(times.values())
    return [
        point_of(trial.report, trial.name, times["dense"].p50, times[trial.name].p50).with_trial(
            trial.drop, chosen=trial is chosen, distrusted=doubt
        )
        for trial in trials
    ]


def _copy_files(source: Path, folder: Path) -> None:
    """Copy the files of a trial, except those that say what was asked and what happened."""
    own = ("recipe.yaml", "report.json", "report.html", "progress.json", "log.jsonl")
    for name in FILES:
        if name not in own and (source / name).is_file():
            with replacing(folder / name) as part:
                shutil.copyfile(source / name, part)
