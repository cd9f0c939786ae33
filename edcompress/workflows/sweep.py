"""Verb: several runs of the same weights, one per combination of settings, side by side."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edcompress.core.errors import InputError, RunFolderError
from edcompress.core.recipe.diff import changed_keys, differences
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.report import Report, Sweep
from edcompress.core.system.context import DEFAULT, RunOptions
from edcompress.core.system.files import write_text
from edcompress.core.system.tensor_files import read_metadata
from edcompress.deploy.latency.benchmark import require_measurable
from edcompress.networks.build import example_images, plain_network
from edcompress.report.gate.noise import waiting
from edcompress.report.pareto import point_of, with_front
from edcompress.report.render.html_page import render_sweep
from edcompress.runs.folder import RunFolder
from edcompress.runs.progress import starting_weights
from edcompress.runs.reading import parse_file
from edcompress.workflows.export import export
from edcompress.workflows.gate import gate
from edcompress.workflows.prune import prune
from edcompress.workflows.resume import OF_FILES, require_same_weights, update_recipe_file, with_resolved_values
from edcompress.workflows.stages.feasibility import require_exportable
from edcompress.workflows.stages.file_metadata import TRAINING
from edcompress.workflows.stages.run_context import open_provable_context
from edcompress.workflows.stages.starting_point import feasible_of, open_starting_point, space_of, time_dense
from edcompress.workflows.train import train, unfinished
from edcompress.workflows.weights import GivenWeights, Weights, open_weights

_DENSE = "dense.safetensors"
"""Name of the trained network's file in the folder of the sweep."""


def sweep(
    recipes: Mapping[str, Recipe],
    folder: str | Path,
    weights: Weights | None = None,
    options: RunOptions = DEFAULT,
) -> Sweep:
    """Prune, export and gate the same weights by each recipe, and compare the results.

    Each point is a run in `folder`. A finished point is only read and an unfinished one continues, so that the same sweep can be called
    again. sweep.json and sweep.html are written after each. Every recipe is checked before the first run.

    Args:
        recipes: The recipe of each point, by the name of its run.
        folder: The folder of the sweep.
        weights: A weights file, a finished run, or the name of weights; None: train one network first, by the `train` section that all
            recipes share.
        options: Device, trust, monitor and trackers.

    Returns:
        The points side by side.

    Raises:
        InputError: A recipe, the weights or the folder cannot be used, or the folder holds a different sweep.
        EdcompressError: A run failed.
    """
    root, given = Path(folder), None if weights is None else open_weights(weights, options.monitor)
    if given and given.offer.values:
        recipes = {name: given.completed(recipe.explicit) for name, recipe in recipes.items()}
    points = [_Point(name, recipe, RunFolder(root / name.replace("/", "_"))) for name, recipe in recipes.items()]
    _require_same_sweep(root, given.name if given else _DENSE, points)
    if given is None:
        _require_one_training(points)
    for point in points:
        _check_point(point, given.path if given else None, options)
    _check_data([point.recipe for point in points if not point.run.finished], options)
    if given is None:
        _require_same_training(points[0].recipe, root)
        given = open_weights(_trained(points[0].recipe, root / _DENSE, options), options.monitor)
    reports: dict[str, Report] = {}
    for number, point in enumerate(points, 1):
        options.monitor.stage(f"point {number} of {len(points)}: {point.name}")
        reports[point.name] = _finish_point(point, given, options)
        found = _side_by_side(reports)
        write_text(root / "sweep.json", found.model_dump_json(indent=1) + "\n")
        write_text(root / "sweep.html", render_sweep(found))
    return found


@dataclass(frozen=True)
class _Point:
    """A point of a sweep: its name, its recipe and its run."""

    name: str
    recipe: Recipe
    run: RunFolder


def _require_same_sweep(folder: Path, weights: str, points: Iterable[_Point]) -> None:
    """Raise RunFolderError if the folder holds a sweep of weights with a different name."""
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file; choose another folder with -o")
    before = [starting_weights(point.run) for point in points]
    if (folder / "sweep.json").exists():
        whole = parse_file(folder / "sweep.json", Sweep.model_validate_json, "choose another folder with -o")
        before.insert(0, whole.checkpoint)
    if others := [name for name in before if name not in (None, weights)]:
        raise RunFolderError(f"{folder} holds a sweep of {others[0]}, not of {weights}; choose another folder with -o")


def _require_one_training(points: Sequence[_Point]) -> None:
    """Raise InputError if the recipes would train different networks."""
    first = points[0].recipe.training_settings
    for point in points:
        if changed := changed_keys(first, point.recipe.training_settings):
            raise InputError(
                f"{point.name}: without weights one network is trained for all points, but {', '.join(changed)} differ"
            )


def _check_point(point: _Point, weights: Path | None, options: RunOptions) -> None:
    """Raise InputError if a point cannot be run, or is already there with different weights or measurements."""
    recipe = point.recipe
    require_measurable(recipe.timing)
    _require_same_files(point)
    if weights and weights.exists():
        network = open_starting_point(recipe, weights, options).dense
        if point.run.exists:
            require_same_weights(point.run, weights, options)
    else:
        network = plain_network(recipe.network_spec, trust=options.trust)
        feasible_of(recipe, network, space_of(recipe, network), time_dense(recipe, network))
    example = example_images(recipe.network_spec.image_shape)
    require_exportable(network, example, recipe.model, recipe.export)


def _check_data(recipes: Iterable[Recipe], options: RunOptions) -> None:
    """Raise DataError if the data of a recipe cannot be used; data that recipes share are opened once."""
    for recipe in {recipe.model_dump_json(include={"data", "model"}): recipe for recipe in recipes}.values():
        open_provable_context(recipe, options)


def _require_same_files(point: _Point) -> None:
    """Raise RunFolderError if a point was not measured as the recipe says: it would stand beside points that are."""
    run = point.run
    if not run.finished or run.read_report().pruned.latency_ms is None:
        return
    if changed := [key for key in differences(run.read_recipe(), point.recipe) if key.startswith(OF_FILES)]:
        raise RunFolderError(
            f"{run.path} was exported and measured with a different {', '.join(changed)}; choose another folder with -o, or use what "
            "it was measured with"
        )


def _require_same_training(recipe: Recipe, folder: Path) -> None:
    """Raise RunFolderError if the folder's network, or that of one of its points, is from a different training."""
    path = folder / _DENSE
    runs = [RunFolder(file.parent) for file in sorted(folder.glob("*/recipe.yaml"))]
    pairs = [(run.read_recipe().training_settings, with_resolved_values(recipe, run).training_settings) for run in runs]
    if path.is_file():
        pairs.append((json.loads(read_metadata(path).get(TRAINING, "{}")), recipe.training_settings))
    for trained, asked in pairs:
        if not trained:
            raise RunFolderError(f"{path} was not trained by `edcompress train`; choose another folder with -o")
        if changed := changed_keys(trained, asked):
            raise RunFolderError(
                f"{path} was trained with a different {', '.join(changed)}; choose another folder with -o"
            )


def _trained(recipe: Recipe, path: Path, options: RunOptions) -> Path:
    """Return the file of the sweep's network, trained now if there is none."""
    if not path.is_file():
        train(recipe, path, resume=unfinished(path).exists(), options=options)
    return path


def _finish_point(point: _Point, weights: GivenWeights, options: RunOptions) -> Report:
    """Do what a point still needs, and return its report."""
    report = prune(weights, point.recipe, point.run, resume=True, force=True, options=options)
    update_recipe_file(point.run, point.recipe)
    if report.pruned.latency_ms is None:
        export(point.run, options=options)
    gate(point.run, point.recipe.gate)
    return point.run.read_report()


def _side_by_side(reports: Mapping[str, Report]) -> Sweep:
    points, first = [], next(iter(reports.values()))
    for name, report in reports.items():
        assert report.dense.latency_ms
        assert report.pruned.latency_ms
        assert report.verdict
        point = point_of(report, name, report.dense.latency_ms.p50, report.pruned.latency_ms.p50)
        points.append(point.with_gate(passed=report.verdict.passed, distrusted=waiting(report.headline_latencies)))
    return Sweep(
        network=first.network,
        checkpoint=first.checkpoint,
        dense=first.dense,
        points=with_front(points),
        metric=first.metric,
    )
