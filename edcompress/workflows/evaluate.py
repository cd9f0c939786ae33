"""Verb: accuracy, or another metric, of a model on the test images."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.measures import Accuracy
from edcompress.core.results.scores import Scores
from edcompress.core.system.context import DEFAULT, RunOptions
from edcompress.core.system.devices import oom_as_error
from edcompress.deploy.runtime.predictions import describe_onnx, predict
from edcompress.report.gate.sanity import at_chance
from edcompress.runs.folder import RunFolder
from edcompress.workflows.load import load_run
from edcompress.workflows.stages.file_metadata import require_alike
from edcompress.workflows.stages.run_context import open_context
from edcompress.workflows.stages.starting_point import read_weights, require_same_model
from edcompress.workflows.weights import Weights, open_weights


def evaluate(
    model: Weights, recipe: Recipe, options: RunOptions = DEFAULT, *, ignore_metadata: bool = False
) -> Accuracy | Scores:
    """Measure the recipe's metric on its test images, in fp32; a float16 file computes in float16.

    Args:
        model: A weights file, a run folder, an .onnx file, or the name of weights.
        recipe: The network and the images.
        options: Device, trust and monitor.
        ignore_metadata: Continue, with an alarm, if the model says that it is for other classes or preprocessing.

    Returns:
        Top-1 and top-5 counts; for a metric other than these the scores.

    Raises:
        InputError: The model says that it is for other classes or preprocessing, or its number of logits is not that of the classes.
    """
    given = open_weights(model, options.monitor)
    path, recipe = given.path, given.completed(recipe.explicit) if given.offer.values else recipe
    given.warn_of_differences(recipe.data.model_dump(), options.monitor)
    context = open_context(recipe, options)
    classes, channels = context.splits.classes, recipe.model.in_channels
    require_alike(path, recipe.data, channels, classes, options.monitor, ignored=ignore_metadata)
    if path.suffix.lower() == ".onnx":
        batches = context.test_batches(path.name, as_pixels=describe_onnx(path).takes_pixels)
        scores = predict({"": path}, batches, recipe.model.num_classes, context.task.metric)[""].scores
        scores = scores.model_copy(update={"metric": context.task.metric.info})
    else:
        network = network_of(path, recipe, options)
        context.require_measurable(network)
        with oom_as_error(recipe.data, "lower data.eval_batch_size, or take --device cpu"):
            scores = context.scores(network.to(context.device))
    if text := at_chance(scores.accuracy, str(path)):
        options.monitor.alarm(text)
    return scores.plain


def network_of(model: Path, recipe: Recipe, options: RunOptions) -> nn.Module:
    """Return the network with the weights of a file, or what a run has left of a network."""
    if not model.is_dir():
        return read_weights(recipe, model, options)
    network = load_run(model, options.trust)
    require_same_model(model, RunFolder(model).read_recipe().model, recipe.model)
    return network
