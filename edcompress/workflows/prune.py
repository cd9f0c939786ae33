"""Verb: prune, to a share of the dense network's cost or within a drop of accuracy."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from edcompress.core.errors import InputError, NetworkError, RunFolderError
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.report import Report
from edcompress.core.system.context import DEFAULT, RunOptions
from edcompress.core.system.files import require_utf8
from edcompress.networks.build import example_images
from edcompress.runs.folder import RunFolder, RunOrPath
from edcompress.workflows.accuracy_target import smallest_within
from edcompress.workflows.pruning_run import PruneRequest, prune_once
from edcompress.workflows.resume import resumed_name, weights_for, with_resolved_values
from edcompress.workflows.stages.feasibility import require_exportable
from edcompress.workflows.stages.file_metadata import unlike_images
from edcompress.workflows.stages.starting_point import StartingPoint, open_starting_point
from edcompress.workflows.weights import GivenWeights, Weights


def prune(
    weights: Weights,
    recipe: Recipe,
    folder: RunOrPath,
    *,
    resume: bool = False,
    force: bool = False,
    options: RunOptions = DEFAULT,
) -> Report:
    """Compress a trained network as the recipe says.

    Every input is checked before the folder is touched. A finished run that is pruned further is measured against the network that it
    began with.

    Args:
        weights: A weights file, or a finished run, which is then pruned further; or the name of weights, such as
            "torchvision:resnet50@IMAGENET1K_V2", which fills the keys that the recipe does not set.
        recipe: What to do.
        folder: The run folder to write, or its path.
        resume: Continue an unfinished run in `folder` from its last checkpoint; a finished one is only read.
        force: Replace the files of an earlier run in `folder`.
        options: Device, trust, monitor, trackers and ranks.

    Returns:
        The report, which is also in the run folder.

    Raises:
        InputError: The weights, the recipe, the data or the folder cannot be used.
        ProofError: The pruned network does not equal the masked one.
        EdcompressError: Training diverged, memory ran out, or no network stays within the target's drop.
    """
    run, ranks = RunFolder.of(folder), options.ranks
    given = weights_for(weights, run, options, resume=resume)
    source, name = given.path, given.name
    recipe = given.completed(recipe.explicit) if given.offer.values else recipe
    if not (resume and run.exists) and run.path.resolve() == source.resolve():
        raise RunFolderError(f"{run.path} is the run to be pruned again; choose another run folder with -o")
    require_utf8(source)
    if resume:
        recipe = ranks.run_on_rank0(partial(with_resolved_values, recipe, run))
        name = ranks.run_on_rank0(partial(resumed_name, run, recipe, given, options))
    open_start = partial(_open_start, weights=given, options=options)
    request = PruneRequest(recipe, run, open_start, name, options, resume=resume, force=force)
    if recipe.target is None or recipe.target.drop is None:
        return prune_once(request)
    if ranks.size > 1:
        raise InputError(
            f"target.{recipe.target.drop_key} runs in one process; start it without torchrun, or use a different target"
        )
    return smallest_within(request)


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
        try:
            example = example_images(recipe.network_spec.image_shape)
            require_exportable(start.dense, example, recipe.model, recipe.export)
        except NetworkError as error:
            options.monitor.warning(f"{error}; it is pruned, and `edcompress export` will refuse it")
    return start
