"""Verb: ONNX files proved and measured."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from torch import nn

from edcompress.core.recipe.deployment import Benchmark
from edcompress.core.recipe.faults import check
from edcompress.core.recipe.model import NetworkSpec
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.measures import Latency, ModelResult, Paired
from edcompress.core.results.report import Images, Report, Variant
from edcompress.core.system.context import DEFAULT, RunOptions
from edcompress.core.system.files import require_utf8, write_text
from edcompress.core.system.hashing import TensorDigest
from edcompress.core.user_code import IN_MEMORY, Trust
from edcompress.deploy.latency.benchmark import measure_all
from edcompress.deploy.runtime.parity import run_outputs
from edcompress.deploy.runtime.predictions import Predictions, predict
from edcompress.report.gate.noise import noise_warning
from edcompress.report.gate.outcome import loud_warnings
from edcompress.report.gate.recommendation import recommend
from edcompress.report.render.model_card import CardSubject, render_card
from edcompress.runs.file_records import records
from edcompress.runs.folder import UNFINISHED_EXPORTS, RunFolder, RunOrPath
from edcompress.runs.progress import recording
from edcompress.workflows.load import load_run
from edcompress.workflows.onnx_files import CARD, VARIANTS, OnnxFiles, publish_files, write_onnx
from edcompress.workflows.stages.kept_objects import absent_loss, kept_network, kept_sets, needs_archive
from edcompress.workflows.stages.run_context import RunContext, open_provable_context
from edcompress.workflows.stages.starting_point import load_dense


def export(
    folder: RunOrPath,
    *,
    opset: int | None = None,
    batch: int | str | None = None,
    fp16: bool | None = None,
    int8: bool | None = None,
    with_preprocessing: bool | None = None,
    options: RunOptions = DEFAULT,
) -> Report:
    """Write dense.onnx and pruned.onnx of a finished run, prove them equal to PyTorch, and measure them.

    If a step fails, the run is unchanged but for its log. Arguments that are None are as the recipe's `export` says.

    Args:
        folder: The run folder, or its path.
        opset: ONNX opset.
        batch: Images per call, or "dynamic".
        fp16: Write pruned.fp16.onnx too.
        int8: Write pruned.int8.onnx too.
        with_preprocessing: Write pruned.pixels.onnx too, which takes uint8 pixels.
        options: Trust and monitor; it runs on the CPU.

    Returns:
        The report with what was measured of the files, which is also in the run folder.

    Raises:
        InputError: The run is not finished, or a value is out of range.
        ProofError: A file does not equal its network.
        EdcompressError: A file cannot be made.
    """
    run = RunFolder.of(folder)
    run.require_finished("export")
    require_utf8(run.path)
    asked = {"opset": opset, "batch": batch, "fp16": fp16, "int8": int8, "with_preprocessing": with_preprocessing}
    recipe = _with_export(run.read_recipe(), asked)
    with run.locked(), recording(run, options.monitor, recipe.label, "export") as monitor:
        return _export(run, recipe, replace(options, device="cpu", monitor=monitor))


def _with_export(recipe: Recipe, asked: Mapping[str, Any]) -> Recipe:
    """Return the recipe with what is asked of the export; raise RecipeError for a value out of range."""
    tree = recipe.model_dump(mode="json")
    tree["export"] |= {key: value for key, value in asked.items() if value is not None}
    return check(tree, "export")


def _export(run: RunFolder, recipe: Recipe, options: RunOptions) -> Report:
    report = run.read_report()
    if recipe.data.dataset == "memory" and "data.train" not in options.objects:
        losses = [loss for loss in (recipe.finetune.config.loss, recipe.train.loss) if loss.startswith(IN_MEMORY)]
        kept = kept_sets(run / "images.safetensors", report.classes) | {loss: absent_loss(loss) for loss in losses}
        options = replace(options, objects={**kept, **options.objects})
    networks = _networks(run.path, recipe.network_spec, options.trust)
    context = open_provable_context(recipe, options)
    with tempfile.TemporaryDirectory(dir=run.path, prefix=UNFINISHED_EXPORTS, ignore_cleanup_errors=True) as scratch:
        made = Path(scratch)
        files = write_onnx(context, recipe.export, made, report, networks)
        measured = _measure(context, recipe.timing, files.paths)
        classes = context.splits.classes
        bare = report.without_onnx().with_test_images(measured.images, classes, untrained_head=recipe.model.reset_head)
        completed = _with_onnx(bare, files, measured).with_files(records(sorted(made.glob("*.onnx"))))
        for text in loud_warnings(completed):
            context.monitor.alarm(text)
        completed = completed.with_shipping(recommend(completed, recipe.gate), recipe.gate)
        shapes = {
            name: tuple(value.shape[1:]) for name, value in run_outputs(made / "pruned.onnx", context.example).items()
        }
        subject = CardSubject(context.data.dataset, recipe.model.num_classes, recipe.export.batch, shapes)
        write_text(made / CARD, render_card(completed, subject, context.preprocessing, context.splits.classes))
        return publish_files(made, run, completed, bare.without_onnx())


def _networks(folder: Path, spec: NetworkSpec, trust: Trust) -> dict[str, nn.Module]:
    """Return the dense and the pruned network of a run."""
    name = spec.model.object
    if name is not None and needs_archive(name, trust):
        return {which: kept_network(folder / f"{which}.pt2", name, trust) for which in ("dense", "pruned")}
    return {"dense": load_dense(spec, folder / "dense.safetensors", trust=trust), "pruned": load_run(folder, trust)}


@dataclass(frozen=True)
class _Measured:
    """Measurements of ONNX files by name: latencies at every setting, and answers on the test images."""

    latencies: Mapping[str, tuple[Latency, ...]]
    predictions: Mapping[str, Predictions]
    images: Images


def _measure(context: RunContext, timing: Benchmark, files: Mapping[str, Path]) -> _Measured:
    """Measure latency and accuracy of the files in onnxruntime."""
    monitor = context.monitor
    monitor.stage(f"latency in onnxruntime, {', '.join(files)} interleaved")
    latencies = measure_all(dict(files), timing)
    if warning := noise_warning(chain.from_iterable(latencies.values())):
        monitor.warning(warning)
    names = ", ".join(path.name for path in files.values())
    monitor.stage(f"{context.measured} of {names} on the test images, in onnxruntime")
    pixels = TensorDigest()
    found = predict(
        dict(files), context.test_batches("test images", pixels), context.spec.model.num_classes, context.task.metric
    )
    return _Measured(latencies, found, _tested_images(context, found["dense"], pixels))


def _tested_images(context: RunContext, found: Predictions, pixels: TensorDigest) -> Images:
    return Images(
        dataset=context.data.dataset,
        count=len(found.labels),
        labels_sha256=hashlib.sha256(found.labels.numpy().tobytes()).hexdigest()[:16],
        pixels_sha256=pixels.hex,
        preprocessing=context.preprocessing,
    )


def _paired(found: Mapping[str, Predictions], name: str) -> Paired | None:
    """Return a file's predictions paired with dense.onnx's; None for that itself, and where images have no single class each."""
    return None if name == "dense" or found[name].classes is None else found[name].beside(found["dense"])


def _with_onnx(report: Report, files: OnnxFiles, measured: _Measured) -> Report:
    """Return the report with what was proved and measured of the files."""
    found, proofs = measured.predictions, files.proofs

    def completed(result: ModelResult, name: str) -> ModelResult:
        return result.with_onnx(
            onnx_bytes=files.paths[name].stat().st_size,
            latencies=measured.latencies[name],
            scores=found[name].scores,
            recalls=found[name].recalls(len(report.classes)),
            paired=_paired(found, name),
            drop=None if name == "dense" else found[name].drop_from(found["dense"]),
        )

    variants = {
        name: Variant(file=files.paths[name].name, measured=completed(report.pruned, name), parity=proofs[name])
        for name in VARIANTS
        if name in files.paths
    }
    return report.with_onnx(
        completed(report.dense, "dense"),
        completed(report.pruned, "pruned"),
        variants,
        report.proof.with_onnx(proofs["dense"], proofs["pruned"], proofs.get("pixels")),
    )
