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
from edcompress.networks.build import plain_network
from edcompress.runs.folder import RunFolder
from edcompress.workflows.export import export
from edcompress.workflows.prune import prune
from edcompress.workflows.resume import reserve_folder, update_recipe_file
from edcompress.workflows.stages.feasibility import find_space, latency_table, open_budget, require_exportable
from edcompress.workflows.stages.job import open_provable_job
from edcompress.workflows.train import train


def run(
    recipe: Recipe,
    folder: RunFolder,
    checkpoint: Path | None = None,
    *,
    resume: bool = False,
    force: bool = False,
    options: RunOptions = DEFAULT,
) -> Report:
    """`prune`, then `export`, which the first rank alone does; without a checkpoint a dense network is trained first, by the recipe's
    `train` section."""
    begins = not (resume and folder.exists)
    require_measurable(recipe.timing)
    if begins:
        network = plain_network(recipe, options)
        require_exportable(recipe, network)
    with tempfile.TemporaryDirectory() as scratch:
        if checkpoint is None:
            checkpoint = Path(scratch) / "dense.safetensors"  # as the run folder calls it
            if begins:
                open_provable_job(recipe, options)
                table = latency_table(recipe, network, options.ranks)
                open_budget(recipe, network, find_space(recipe, network), table)  # else a bad budget costs a training
                with reserve_folder(folder, force=force, ranks=options.ranks):
                    train(recipe, checkpoint, options=options)
                force = True
        report = prune(checkpoint, recipe, folder, resume=resume, force=force, options=options)
    if not options.ranks.is_main:
        return report
    update_recipe_file(folder, recipe)  # a run that was finished before is exported and gated as is said now
    return export(folder, options=replace(options, ranks=ALONE))
