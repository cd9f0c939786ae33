"""Verb: latency of ONNX files. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from edcompress.core.recipe.deployment import Benchmark
from edcompress.core.results.measures import Latency
from edcompress.deploy.latency.benchmark import measure_all
from edcompress.runs.folder import RunOrPath, path_of


def benchmark(models: Sequence[RunOrPath], options: Benchmark) -> dict[str, tuple[Latency, ...]]:
    """Measure the latency of ONNX files in onnxruntime, by interleaved calls in fresh processes.

    Args:
        models: .onnx files, or run folders for their pairs; a file that is given twice is measured twice.
        options: Batch sizes, threads, number of calls and provider.

    Returns:
        The latency at every setting, by path, or "FILE (2)" for a file given twice; speed-ups are over the first file.

    Raises:
        InputError: A file cannot be opened, or its inputs cannot be made up.
    """
    paths = [path_of(model) for model in models]
    pairs = ([path / "dense.onnx", path / "pruned.onnx"] if path.is_dir() else [path] for path in paths)
    files: dict[str, Path] = {}
    for path in chain.from_iterable(pairs):
        times = 1 + list(files.values()).count(path)
        files[str(path) if times == 1 else f"{path} ({times})"] = path
    return measure_all(files, options)
