"""Verb: prune, export and gate."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.report import Report
from edcompress.core.system.context import DEFAULT, RunOptions
from edcompress.core.system.distributed import ALONE
from edcompress.deploy.latency.benchmark import require_measurable
from edcompress.networks.build import example_images, plain_network
from edcompress.runs.folder import RunFolder, RunOrPath
from edcompress.workflows.export import export
from edcompress.workflows.prune import prune
from edcompress.workflows.resume import reserve_folder, update_recipe_file, weights_for
from edcompress.workflows.stages.feasibility import require_exportable
from edcompress.workflows.stages.run_context import open_provable_context
from edcompress.workflows.stages.starting_point import feasible_of, space_of, time_dense
from edcompress.workflows.train import train
from edcompress.workflows.weights import Weights


def run(
    recipe: Recipe,
    folder: RunOrPath,
    weights: Weights | None = None,
    *,
    resume: bool = False,
    force: bool = False,
    options: RunOptions = DEFAULT,
) -> Report:
    """Prune a network and export it; without weights train a dense network first.

    Args:
        recipe: What to do.
        folder: The run folder to write, or its path.
        weights: As for `prune`; None: train from random weights, by the recipe's `train` section.
        resume: Continue an unfinished run in `folder`.
        force: Replace the files of an earlier run in `folder`.
        options: Device, trust, monitor, trackers and ranks; the first rank alone exports.

    Returns:
        The report of the exported run; of the pruned one on other ranks.

    Raises:
        InputError: The weights, the recipe, the data or the folder cannot be used.
        ProofError: A network or an ONNX file does not equal the one it was made from.
        EdcompressError: A stage failed.
    """
    destination = RunFolder.of(folder)
    begins = not (resume and destination.exists)
    if weights is not None:
        weights = weights_for(weights, destination, options, resume=resume)
        recipe = weights.completed(recipe.explicit) if weights.offer.values else recipe
    require_measurable(recipe.timing)
    if begins:
        network = plain_network(recipe.network_spec, trust=options.trust)
        example = example_images(recipe.network_spec.image_shape)
        require_exportable(network, example, recipe.model, recipe.export)
    with tempfile.TemporaryDirectory() as scratch:
        if weights is None:
            weights = Path(scratch) / "dense.safetensors"  # the name in the run folder
            if begins:
                options.monitor.alarm(_untrained(recipe.model.name, recipe.train.epochs))
                context = open_provable_context(recipe, options)
                context.require_usable(network, context.task.finetune)
                table = time_dense(recipe, network, options.ranks)
                # Check the budget before a training is spent on it.
                feasible_of(recipe, network, space_of(recipe, network), table)
                with reserve_folder(destination, force=force, ranks=options.ranks):
                    train(recipe, weights, options=options)
                force = True
        report = prune(weights, recipe, destination, resume=resume, force=force, options=options)
    if not options.ranks.is_main:
        return report
    # A run that was finished before is exported and gated as the recipe says now.
    update_recipe_file(destination, recipe)
    return export(destination, options=replace(options, ranks=ALONE))


def _untrained(network: str, epochs: int) -> str:
    """Return the warning about a run without weights."""
    return (
        f"no weights were given: {network} is trained from random weights first, for {epochs} epochs (recipe section train); to start "
        "from a trained network, give its file, or a name such as torchvision:resnet50@IMAGENET1K_V2"
    )
