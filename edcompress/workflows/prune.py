"""Verb: prune, to a share of the dense network's cost or within a drop of accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NotRequired, TypedDict, Unpack, overload

from torch import Tensor, nn

from edcompress.core.errors import InputError, NetworkError, RunFolderError
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.report import Report
from edcompress.core.system.context import DEFAULT, RunOptions
from edcompress.core.system.files import require_utf8
from edcompress.core.system.live_progress import shown_progress
from edcompress.core.user_code import kind_of
from edcompress.networks.build import example_images
from edcompress.runs.folder import RunFolder, RunOrPath
from edcompress.workflows.accuracy_target import smallest_within
from edcompress.workflows.in_memory import parts_of_call, recipe_of_objects
from edcompress.workflows.prune_result import PruneResult
from edcompress.workflows.pruning_run import PruneRequest, prune_once
from edcompress.workflows.resume import require_same_object, resumed_name, weights_for, with_resolved_values
from edcompress.workflows.stages.feasibility import require_exportable
from edcompress.workflows.stages.file_metadata import unlike_images
from edcompress.workflows.stages.starting_point import StartingPoint, new_starting_point, open_starting_point
from edcompress.workflows.weights import GivenWeights, Weights

Sections = Mapping[str, object]
"""Keys of a section of a recipe, with their values."""


class Objects(TypedDict):
    """What `prune` takes with a network in memory."""

    train: object
    out: RunOrPath
    val: NotRequired[object]
    test: NotRequired[object]
    target: NotRequired[Sections | None]
    loss: NotRequired[object]
    metric: NotRequired[object]
    output: NotRequired[str | int | None]
    finetune: NotRequired[Sections]
    search: NotRequired[Sections]
    constraints: NotRequired[Sections]
    data: NotRequired[Sections]
    export: NotRequired[Sections]
    benchmark: NotRequired[Sections]
    gate: NotRequired[Sections]
    run: NotRequired[Sections]
    precision: NotRequired[str]
    compile: NotRequired[bool]
    seed: NotRequired[int]


@overload
def prune(
    weights: Weights,
    recipe: Recipe,
    folder: RunOrPath,
    *,
    resume: bool = False,
    force: bool = False,
    options: RunOptions = DEFAULT,
) -> Report: ...


@overload
def prune(
    model: nn.Module,
    /,
    *,
    resume: bool = False,
    force: bool = False,
    options: RunOptions = DEFAULT,
    **objects: Unpack[Objects],
) -> PruneResult: ...


def prune(
    weights: Weights | nn.Module,
    recipe: Recipe | None = None,
    folder: RunOrPath | None = None,
    *,
    resume: bool = False,
    force: bool = False,
    options: RunOptions = DEFAULT,
    **objects: Any,
) -> Report | PruneResult:
    """Compress a trained network, in a file as a recipe says, or in memory.

    With a recipe: `prune("model.pt", read_recipe("my.yaml"), "runs/first")`. With objects: `prune(model, train=train_set, val=val_set,
    test=test_set, target={"macs": 0.5}, out="runs/first")`, with any module and map-style data sets or DataLoaders.

    Every input is checked before the folder is touched. A finished run that is pruned further is measured against the network that it
    began with.

    Args:
        weights: A weights file, or a finished run, which is then pruned further; or the name of weights, such as
            "torchvision:resnet50@IMAGENET1K_V2", which fills the keys that the recipe does not set; or a trained network in memory, which
            stays as it is.
        recipe: What to do, for a file.
        folder: The run folder to write, or its path, for a file.
        resume: Continue an unfinished run in `folder` from its last checkpoint; a finished one is only read.
        force: Replace the files of an earlier run in `folder`.
        options: Device, trust, monitor, trackers and ranks.
        objects: For a network in memory: `train`, and `val` and `test` (None: a share of train, or val), as data sets or DataLoaders of
            image and label; `out`, the run folder; `loss(outputs, labels)` and `metric(outputs, labels)`, or names of shipped ones;
            `output`, which of several outputs counts; and sections of a recipe as dicts (target, finetune, search, data, ...).

    Returns:
        The report, which is also in the run folder; of a network in memory a PruneResult with the pruned network.

    Raises:
        InputError: The weights, the recipe, the data or the folder cannot be used.
        ProofError: The pruned network does not equal the masked one.
        EdcompressError: Training diverged, memory ran out, or no network stays within the target's drop.
    """
    if isinstance(weights, nn.Module):
        if recipe is not None or folder is not None:
            raise TypeError(
                "prune(module, train=..., out=...) takes no recipe and folder; give sections by name, and out"
            )
        return _prune_object(weights, objects, options, resume=resume, force=force)
    if recipe is None or folder is None or objects:
        raise TypeError(
            f"prune(weights, recipe, folder) takes a file; {kind_of(weights)} was given with {', '.join(objects) or 'no recipe or folder'}"
        )
    return _prune_weights(weights, recipe, folder, options, resume=resume, force=force)


def _prune_weights(
    weights: Weights, recipe: Recipe, folder: RunOrPath, options: RunOptions, *, resume: bool, force: bool
) -> Report:
    """Prune a network in a file, or what a finished run left of one."""
    run, ranks = RunFolder.of(folder), options.ranks
    given = weights_for(weights, run, options, resume=resume)
    recipe = given.completed(recipe.explicit) if given.offer.values else recipe
    if not (resume and run.exists) and run.path.resolve() == given.path.resolve():
        raise RunFolderError(f"{run.path} is the run to be pruned again; choose another run folder with -o")
    require_utf8(given.path)
    name = given.name
    if resume:
        recipe = ranks.run_on_rank0(partial(with_resolved_values, recipe, run))
        name = ranks.run_on_rank0(partial(resumed_name, run, recipe, given, options))
    open_start = partial(_open_start, weights=given, options=options)
    return _prune(PruneRequest(recipe, run, open_start, name, options, resume=resume, force=force))


def _prune(request: PruneRequest) -> Report:
    """Prune to a share or a time, or within a drop by trials."""
    target = request.recipe.target
    if target is None or target.drop is None:
        return prune_once(request)
    if request.options.ranks.size > 1:
        raise InputError(
            f"target.{target.drop_key} runs in one process; start it without torchrun, or use a different target"
        )
    return smallest_within(request)


def _prune_object(
    model: nn.Module, objects: Mapping[str, Any], options: RunOptions, *, resume: bool, force: bool
) -> PruneResult:
    """Prune a network in memory."""
    if options is DEFAULT:
        options = replace(options, monitor=shown_progress())
    given, asked, out = parts_of_call(objects)
    run = RunFolder.of(out)
    recipe, named = recipe_of_objects(model, given, asked, run.path, options.monitor)
    options = replace(options, objects={**options.objects, **named})
    if resume:
        recipe = options.ranks.run_on_rank0(partial(with_resolved_values, recipe, run))
        options.ranks.run_on_rank0(partial(require_same_object, run, recipe, options))
    open_start = partial(_open_object, options=options)
    name = f"{recipe.model.name} in memory"
    report = _prune(PruneRequest(recipe, run, open_start, name, options, resume=resume, force=force))
    return PruneResult(run, report, options)


def _open_object(recipe: Recipe, options: RunOptions, images: Tensor) -> StartingPoint:
    """Open the starting point of a network in memory, and warn before the search of what will fail after it."""
    start = new_starting_point(recipe, options, images)
    _warn_unexportable(recipe, start, options)
    return start


def _open_start(recipe: Recipe, weights: GivenWeights, options: RunOptions, images: Tensor) -> StartingPoint:
    """Open the starting point, and warn before the search of what will fail or mislead after it."""
    start = open_starting_point(recipe, weights.path, options, images)
    if weights.source:
        start = start.from_source(weights.source)
    if options.ranks.is_main:
        weights.warn_of_differences(recipe.data.model_dump(), options.monitor)
        if found := list(unlike_images(weights.path, recipe.data, recipe.model.in_channels)):
            options.monitor.alarm(
                f"{weights.path} was made with preprocessing other than the recipe's: {'; '.join(found)}"
            )
    _warn_unexportable(recipe, start, options)
    return start


def _warn_unexportable(recipe: Recipe, start: StartingPoint, options: RunOptions) -> None:
    """Warn of a network that cannot become an ONNX file."""
    if not options.ranks.is_main:
        return
    try:
        require_exportable(start.dense, example_images(recipe.network_spec.image_shape), recipe.model, recipe.export)
    except NetworkError as error:
        options.monitor.warning(f"{error}; it is pruned, and `edcompress export` will refuse it")
