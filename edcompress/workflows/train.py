"""Verb: train a dense network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edcompress.core.errors import InputError
from edcompress.core.recipe.diff import changed_keys
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.measures import Accuracy
from edcompress.core.results.scores import Scores
from edcompress.core.system.context import DEFAULT, RunOptions
from edcompress.core.system.devices import oom_as_error
from edcompress.core.system.files import require_file_place, require_new_file
from edcompress.core.system.tensor_files import load_checkpoint, save_checkpoint, save_tensors
from edcompress.networks.build import new_network
from edcompress.report.gate.sanity import at_chance
from edcompress.runs.locks import sole_writer
from edcompress.training.position import ScheduleSpan
from edcompress.training.state import TrainingState
from edcompress.workflows.stages.batch_size import sized_for_training
from edcompress.workflows.stages.file_metadata import TRAINING
from edcompress.workflows.stages.phases import Phase
from edcompress.workflows.stages.plain_training import train_dense
from edcompress.workflows.stages.run_context import open_context


def train(
    recipe: Recipe, output: str | Path, *, resume: bool = False, force: bool = False, options: RunOptions = DEFAULT
) -> Accuracy | Scores:
    """Train the recipe's network from random weights by its `train` section.

    Until it ends, `unfinished(output)` holds its checkpoint, from which it continues with `resume`, to the same network bit for bit.

    Args:
        recipe: The network, the images and how to train.
        output: The .safetensors file to write.
        resume: Continue an interrupted training.
        force: Replace the file, or the checkpoint of an interrupted training.
        options: Device, trust and monitor.

    Returns:
        The accuracy on the test images; for a metric other than top-1 and top-5 the scores.

    Raises:
        InputError: The recipe, the data or the output cannot be used, or there is nothing to resume.
        EdcompressError: Training diverged, or memory ran out.
    """
    file = Path(output)
    require_file_place(file, "-o", ".safetensors")
    with sole_writer(file, unfinished(file)):
        if not (resume or force):
            _require_untrained(file)
        return _train(recipe, file, resume=resume, options=options)


def unfinished(output: Path) -> Path:
    """Return the file beside `output` that holds the checkpoint of an unfinished training."""
    return output.parent / f"{output.name}.unfinished"


def _require_untrained(output: Path) -> None:
    """Raise InputError if a training would replace a network, or the checkpoint of an interrupted training."""
    checkpoint = unfinished(output)
    if checkpoint.exists():
        raise InputError(
            f"{checkpoint} is from an interrupted training; continue with --resume, or start over with --force"
        )
    require_new_file(output, "-o", ".safetensors", force=False)


@dataclass(frozen=True, eq=False)
class _Checkpoint:
    """The checkpoint of an unfinished training: what it was asked, the number for `data.batch_size`, and its state."""

    asked: dict[str, Any]
    batch_size: int
    state: TrainingState | None

    def save(self, path: Path) -> None:
        state = self.state.to_tree() if self.state else {}
        save_checkpoint(path, {"recipe": self.asked, "batch_size": self.batch_size, **state})

    @classmethod
    def read(cls, path: Path, asked: dict[str, Any]) -> _Checkpoint:
        """Return the checkpoint in a file; raise InputError if there is none, or it is of a different training."""
        if not path.exists():
            raise InputError(f"--resume: there is no {path}; drop --resume to start a training")
        tree = load_checkpoint(path)
        if changed := changed_keys(tree["recipe"], asked):
            raise InputError(
                f"--resume: {path} was started with a different {', '.join(changed)}; continue with what it was started with, or delete "
                "it to start over"
            )
        return cls(asked, tree["batch_size"], TrainingState.from_tree(tree))


def _train(recipe: Recipe, output: Path, *, resume: bool, options: RunOptions) -> Accuracy | Scores:
    checkpoint, asked, state = unfinished(output), {**recipe.training_settings, "compile": recipe.compile}, None
    about = {"edcompress.recipe": recipe.digest, TRAINING: json.dumps(recipe.training_settings)}
    if resume:
        saved = _Checkpoint.read(checkpoint, asked)
        recipe, state = recipe.with_batch_size(saved.batch_size), saved.state
    context, network = open_context(recipe, options), new_network(recipe.network_spec, trust=options.trust)
    with oom_as_error(recipe.data, "lower data.batch_size and data.eval_batch_size, or end other processes on it"):
        context.require_usable(network, context.task.train)
        context = sized_for_training(context, network, recipe.train)
        size, epochs = context.data.step_images, recipe.train.epochs
        phase = Phase(
            name="train",
            span=ScheduleSpan(0, epochs, 0, epochs),
            checkpoints=recipe.run,
            interrupt=options.interrupt,
            save=lambda training: _Checkpoint(asked, size, training).save(checkpoint),
        )
        network = train_dense(context, network, recipe.train, phase, state, compiled=recipe.compile)
        save_tensors(output, network.state_dict(), about)
        scores = context.scores(network.to(context.device))
    if text := at_chance(scores.accuracy, str(output)):
        options.monitor.alarm(text)
    checkpoint.unlink(missing_ok=True)
    return scores.plain
