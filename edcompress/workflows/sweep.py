"""Several runs of one checkpoint, one per combination of settings, side by side."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from edcompress.core.errors import InputError, RunFolderError
from edcompress.core.recipe.diff import changed_keys, differences
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.report import Report, Sweep
from edcompress.core.system.context import DEFAULT, RunOptions
from edcompress.core.system.files import write_text
from edcompress.core.system.tensor_files import read_metadata
from edcompress.deploy.latency.benchmark import require_measurable
from edcompress.networks.build import plain_network
from edcompress.report.gate.noise import waiting
from edcompress.report.pareto import point_of, with_front
from edcompress.report.render.html_page import render_sweep
from edcompress.runs.folder import RunFolder
from edcompress.runs.progress import starting_weights
from edcompress.runs.reading import parsed
from edcompress.workflows.export import export
from edcompress.workflows.gate import gate
from edcompress.workflows.prune import prune
from edcompress.workflows.resume import OF_FILES, update_recipe_file, with_resolved_batch_size
from edcompress.workflows.stages.feasibility import find_space, open_budget, require_exportable
from edcompress.workflows.stages.file_metadata import TRAINING
from edcompress.workflows.stages.job import open_provable_job
from edcompress.workflows.stages.starting_point import open_starting_point, require_same_weights
from edcompress.workflows.train import train, unfinished

_DENSE = "dense.safetensors"
"""The file of that network, in the folder of the sweep."""


def sweep(
    recipes: Mapping[str, Recipe], folder: Path, checkpoint: Path | None = None, options: RunOptions = DEFAULT
) -> Sweep:
    """Prune, export and gate the checkpoint's network (or one that is trained first) by each recipe; what came of them, side by side.

    Each is a run in `folder`, called as in `recipes`; one that is finished is only read, one that was begun goes on, so the same sweep
    can be called again. sweep.json and sweep.html are written after each. Every recipe is checked before the first run.
    """
    _require_same_sweep(folder, checkpoint, recipes)
    _check(recipes, folder, checkpoint, options)
    if checkpoint is None:
        _require_same_training(next(iter(recipes.values())), folder)
    source = checkpoint or _trained(next(iter(recipes.values())), folder, options)
    reports: dict[str, Report] = {}
    for name, recipe in recipes.items():
        options.monitor.stage(f"point {len(reports) + 1} of {len(recipes)}: {name}")
        reports[name] = _finished(recipe, _point(folder, name), source, options)
        found = _side_by_side(reports)
        write_text(folder / "sweep.json", found.model_dump_json(indent=1) + "\n")
        write_text(folder / "sweep.html", render_sweep(found))
    return found


def _point(folder: Path, name: str) -> RunFolder:
    return RunFolder(folder / name.replace("/", "_"))


def _require_same_sweep(folder: Path, checkpoint: Path | None, names: Iterable[str]) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file; choose another folder with -o")
    before, asked = (
        [starting_weights(_point(folder, name)) for name in names],
        checkpoint.name if checkpoint else _DENSE,
    )
    if (folder / "sweep.json").exists():
        whole = parsed(folder / "sweep.json", Sweep.model_validate_json, "choose another folder with -o")
        before.insert(0, whole.checkpoint)
    if others := [name for name in before if name not in (None, asked)]:
        raise RunFolderError(f"{folder} holds a sweep of {others[0]}, not of {asked}; choose another folder with -o")


def _check(recipes: Mapping[str, Recipe], folder: Path, checkpoint: Path | None, options: RunOptions) -> None:
    first = next(iter(recipes.values()))
    for name, recipe in recipes.items():
        other = changed_keys(first.training_settings, recipe.training_settings)
        if checkpoint is None and other:
            raise InputError(
                f"{name}: without a checkpoint one network is trained for all points, but {', '.join(other)} differ"
            )
        run = _point(folder, name)
        require_measurable(recipe.timing)
        _require_same_files(recipe, run)
        if checkpoint and checkpoint.exists():
            network = open_starting_point(recipe, checkpoint, options).dense
            if run.exists:
                require_same_weights(run, checkpoint, options)
        else:
            network = plain_network(recipe, options)
            open_budget(recipe, network, find_space(recipe, network))
        require_exportable(recipe, network)
    ahead = [recipe for name, recipe in recipes.items() if not _point(folder, name).finished]
    for recipe in {recipe.model_dump_json(include={"data", "model"}): recipe for recipe in ahead}.values():
        open_provable_job(recipe, options)


def _require_same_files(recipe: Recipe, run: RunFolder) -> None:
    """Raise RunFolderError where a point was measured otherwise than the recipe says: it would stand beside points that are not."""
    if not run.finished or run.read_report().pruned.latency_ms is None:
        return
    if changed := [key for key in differences(run.read_recipe(), recipe) if key.startswith(OF_FILES)]:
        raise RunFolderError(
            f"{run.path} was exported and measured with another {', '.join(changed)}; choose another folder with -o, or take what "
            "it was measured with"
        )


def _trained(recipe: Recipe, folder: Path, options: RunOptions) -> Path:
    path = folder / _DENSE
    if not path.is_file():
        train(recipe, path, resume=unfinished(path).exists(), options=options)
    return path


def _require_same_training(recipe: Recipe, folder: Path) -> None:
    """Raise RunFolderError where the folder's network, with which all points begin, or one of its points is by another training."""
    path = folder / _DENSE
    points = [RunFolder(point.parent) for point in sorted(folder.glob("*/recipe.yaml"))]
    pairs = [
        (point.read_recipe().training_settings, with_resolved_batch_size(recipe, point).training_settings)
        for point in points
    ]
    if path.is_file():
        pairs.append((json.loads(read_metadata(path).get(TRAINING, "{}")), recipe.training_settings))
    for trained, asked in pairs:
        if not trained:
            raise RunFolderError(f"{path} was not trained by `edcompress train`; choose another folder with -o")
        if changed := changed_keys(trained, asked):
            raise RunFolderError(f"{path} was trained with another {', '.join(changed)}; choose another folder with -o")


def _finished(recipe: Recipe, folder: RunFolder, source: Path, options: RunOptions) -> Report:
    report = prune(source, recipe, folder, resume=True, force=True, options=options)
    update_recipe_file(folder, recipe)
    if report.pruned.latency_ms is None:
        export(folder, options=options)
    gate(folder, recipe.gate)
    return folder.read_report()


def _side_by_side(reports: Mapping[str, Report]) -> Sweep:
    points, first = [], next(iter(reports.values()))
    for name, report in reports.items():
        assert report.dense.latency_ms
        assert report.pruned.latency_ms
        assert report.verdict
        point = point_of(report, name, report.dense.latency_ms.p50, report.pruned.latency_ms.p50)
        doubt = waiting(report.headline_latencies)
        points.append(point.model_copy(update={"passed": report.verdict.passed, "distrusted": doubt}))
    return Sweep(network=first.network, checkpoint=first.checkpoint, dense=first.dense, points=with_front(points))
