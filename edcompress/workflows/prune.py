"""The verbs of edcompress as functions: each reads a run folder or a checkpoint, does one thing, and returns what it measured."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import Tensor

from edcompress.core.errors import InputError, NetworkError, RunFolderError
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.report import Report
from edcompress.core.system.context import DEFAULT, RunOptions
from edcompress.core.system.files import require_utf8
from edcompress.runs.folder import RunFolder
from edcompress.runs.progress import starting_weights
from edcompress.workflows.accuracy_target import smallest_within
from edcompress.workflows.pruning_run import prune_once
from edcompress.workflows.resume import can_resume, with_resolved_batch_size
from edcompress.workflows.stages.feasibility import require_exportable
from edcompress.workflows.stages.file_metadata import unlike_images
from edcompress.workflows.stages.starting_point import StartingPoint, open_starting_point, require_same_weights


def prune(
    checkpoint: Path,
    recipe: Recipe,
    folder: RunFolder,
    *,
    resume: bool = False,
    force: bool = False,
    options: RunOptions = DEFAULT,
) -> Report:
    """Compress the checkpoint's network as the recipe says into `folder`, and return the report.

    The checkpoint may be a finished run, which is then pruned further; ratios and figures stay those of the network it began with.
    Every input is checked before the folder is touched. With `resume` a run goes on from its last snapshot; one that is
    finished is only read. Raises InputError (and its kinds) for what the user gave, ProofError where an equality fails.
    """
    if not (resume and folder.exists) and folder.path.resolve() == checkpoint.resolve():
        raise RunFolderError(f"{folder.path} is the run to be pruned again; choose another run folder with -o")
    require_utf8(checkpoint)
    name = checkpoint.name
    if resume:
        recipe = options.ranks.run_on_rank0(partial(with_resolved_batch_size, recipe, folder))
        name = options.ranks.run_on_rank0(partial(_resumed, checkpoint, recipe, folder, options))
    begin = partial(_opened, checkpoint=checkpoint, options=options)
    if recipe.target and recipe.target.max_top1_drop is not None:
        if options.ranks.size > 1:
            raise InputError(
                "target.max_top1_drop runs in one process; start it without torchrun, or set another target"
            )
        return smallest_within(recipe, folder, begin, name, resume=resume, force=force, options=options)
    return prune_once(recipe, folder, begin, name, resume=resume, force=force, options=options)


def _opened(recipe: Recipe, checkpoint: Path, options: RunOptions, images: Tensor) -> StartingPoint:
    """The run's origin; who wants a file for onnxruntime should not learn after the search that there will be none."""
    origin = open_starting_point(recipe, checkpoint, options, images)
    if options.ranks.is_main:
        if found := list(unlike_images(checkpoint, recipe)):
            options.monitor.alarm(
                f"{checkpoint} was made with other preprocessing than the recipe's: {'; '.join(found)}"
            )
        try:
            require_exportable(recipe, origin.dense)
        except NetworkError as error:
            options.monitor.warning(f"{error}; it is pruned, and `edcompress export` will refuse it")
    return origin


def _resumed(checkpoint: Path, recipe: Recipe, folder: RunFolder, options: RunOptions) -> str:
    """The name of the checkpoint that the run was begun with; the one that is given, where it is there, has to hold the same weights."""
    itself = checkpoint.resolve() == folder.path.resolve()
    if can_resume(folder, recipe) and checkpoint.exists() and not itself:
        require_same_weights(folder, checkpoint, options)
    return starting_weights(folder) or checkpoint.name
