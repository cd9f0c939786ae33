"""Verbs: evaluate and benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from torch import nn

from edcompress.core.recipe.deployment import Benchmark
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.measures import Accuracy, Latency
from edcompress.core.system.context import DEFAULT, RunOptions
from edcompress.core.system.devices import oom_as_error
from edcompress.deploy.latency.benchmark import measure_all
from edcompress.deploy.runtime.predictions import describe_onnx, predict
from edcompress.networks.build import read_network
from edcompress.report.gate.sanity import at_chance
from edcompress.runs.folder import RunFolder
from edcompress.workflows.load import load
from edcompress.workflows.stages.file_metadata import require_alike
from edcompress.workflows.stages.job import open_job
from edcompress.workflows.stages.starting_point import require_same_model


def evaluate(model: Path, recipe: Recipe, options: RunOptions = DEFAULT, *, ignore_metadata: bool = False) -> Accuracy:
    """Top-1 and top-5 on the recipe's test images of a checkpoint, a run folder, or an .onnx file, in fp32, and float16 in float16.

    Raises InputError where the model says that it is for other classes or other preprocessing, unless `ignore_metadata`, and where it
    gives another number of logits than the recipe has classes.
    """
    job = open_job(recipe, options)
    require_alike(model, recipe, job.splits.classes, options.monitor, ignored=ignore_metadata)
    if model.suffix.lower() == ".onnx":
        batches = job.test_batches(model.name, as_pixels=describe_onnx(model).takes_pixels)
        accuracy = predict({"": model}, batches, recipe.model.num_classes)[""].accuracy
    else:
        network = network_of(model, recipe, options)
        with oom_as_error(recipe, "lower data.eval_batch_size, or take --device cpu"):
            accuracy = job.accuracy(network.to(job.precision.device))
    if text := at_chance(accuracy, str(model)):
        options.monitor.alarm(text)
    return accuracy


def benchmark(models: Sequence[Path], options: Benchmark) -> dict[str, tuple[Latency, ...]]:
    """Latency of .onnx files, or of a run's pair, from interleaved calls: by path, at every setting; speed-ups are over the first file.

    A file that is given twice is measured twice, as "FILE" and "FILE (2)". Raises InputError for a file that cannot be opened, and for
    inputs that cannot be made up.
    """
    pairs = ([model / "dense.onnx", model / "pruned.onnx"] if model.is_dir() else [model] for model in models)
    files: dict[str, Path] = {}
    for path in chain.from_iterable(pairs):
        times = 1 + list(files.values()).count(path)
        files[str(path) if times == 1 else f"{path} ({times})"] = path
    return measure_all(files, options)


def network_of(model: Path, recipe: Recipe, options: RunOptions) -> nn.Module:
    """The network of a checkpoint, or what a run has left of one."""
    if not model.is_dir():
        return read_network(recipe, model, options)
    network = load(model, trust_code=options.trust_code)
    require_same_model(RunFolder(model), recipe)
    return network
