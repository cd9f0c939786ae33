"""Verb: train a dense network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edcompress.core.errors import InputError
from edcompress.core.recipe.diff import changed_keys
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.measures import Accuracy
from edcompress.core.system.context import DEFAULT, RunOptions
from edcompress.core.system.devices import oom_as_error
from edcompress.core.system.files import require_file_place
from edcompress.core.system.tensor_files import load_checkpoint, save_checkpoint, save_tensors
from edcompress.networks.build import new_network
from edcompress.report.gate.sanity import at_chance
from edcompress.runs.locks import sole_writer
from edcompress.workflows.stages.batch_size import sized_for_training, with_batch_size
from edcompress.workflows.stages.file_metadata import TRAINING
from edcompress.workflows.stages.job import open_job
from edcompress.workflows.stages.plain_training import train_dense


def train(
    recipe: Recipe, output: Path, *, resume: bool = False, force: bool = False, options: RunOptions = DEFAULT
) -> Accuracy:
    """Train the recipe's network from random weights, save it to `output` (.safetensors), and return its test accuracy.

    Until it ends, `unfinished(output)` holds what it has trained, from which it goes on with `resume`, to the same network bit for bit.
    Raises InputError (and its kinds) for what the user gave.
    """
    require_file_place(output, "-o", ".safetensors")
    if output.suffix != ".safetensors":
        raise InputError(
            f"-o {output}: the checkpoint is written as safetensors; name it {output.with_suffix('.safetensors')}"
        )
    with sole_writer(output, unfinished(output)):
        if not (resume or force):
            _require_untrained(output)
        return _trained(recipe, output, resume=resume, options=options)


def _trained(recipe: Recipe, output: Path, *, resume: bool, options: RunOptions) -> Accuracy:
    kept = unfinished(output)
    about = {"edcompress.recipe": recipe.digest, TRAINING: json.dumps(recipe.training_settings)}
    asked = {**recipe.training_settings, "compile": recipe.compile}
    saved: dict[str, Any] = {}
    if resume:
        saved = _saved_training(kept, asked)
        recipe = with_batch_size(recipe, saved["batch_size"])
    job, network = open_job(recipe, options), new_network(recipe, options)
    with oom_as_error(recipe, "lower data.batch_size and data.eval_batch_size, or end other processes on it"):
        job = sized_for_training(job, network)
        of = {"recipe": asked, "batch_size": job.recipe.data.batch_size}
        network = train_dense(job, network, saved=saved, save=lambda tree: save_checkpoint(kept, {**of, **tree}),
                                     interrupt=options.interrupt)  # fmt: skip
        save_tensors(output, network.state_dict(), about)
        accuracy = job.accuracy(network.to(job.precision.device))
    if text := at_chance(accuracy, str(output)):
        options.monitor.alarm(text)
    kept.unlink(missing_ok=True)
    return accuracy


def _require_untrained(output: Path) -> None:
    """Raise InputError where a training would replace the file of another, or what it has trained so far."""
    kept = unfinished(output)
    if kept.exists():
        raise InputError(
            f"{kept} is of a training that was interrupted; go on with --resume, or start over with --force"
        )
    if output.exists():
        raise InputError(f"{output} exists; choose another with -o, or overwrite it with --force")


def unfinished(output: Path) -> Path:
    """The file beside `output` that holds what `train` has trained so far."""
    return output.parent / f"{output.name}.unfinished"


def _saved_training(kept: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """What an interrupted training goes on from; an InputError where there is nothing, or something of another training."""
    if not kept.exists():
        raise InputError(f"--resume: there is no {kept}; leave --resume away to begin a training")
    saved = load_checkpoint(kept)
    if changed := changed_keys(saved["recipe"], asked):
        raise InputError(
            f"--resume: {kept} was begun with another {', '.join(changed)}; go on with what it was begun with, or delete it to start over"
        )
    return saved
