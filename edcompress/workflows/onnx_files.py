"""The ONNX files of a run: write them, compare them with PyTorch, and publish them in the run folder."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from edcompress.core.errors import ProofError
from edcompress.core.recipe.deployment import Export
from edcompress.core.results.measures import ModelResult, Proof
from edcompress.core.results.report import Report, VariantName
from edcompress.core.system.files import writing
from edcompress.core.system.machine import versions
from edcompress.deploy.export.onnx_export import export_onnx
from edcompress.deploy.export.onnx_variants import halve, quantize, with_normalisation
from edcompress.deploy.runtime.half_ranges import find_out_of_range
from edcompress.deploy.runtime.parity import compare_with_onnx, run_outputs
from edcompress.networks.equality import compare_logits, require_equal
from edcompress.runs.folder import FILES, RunFolder
from edcompress.workflows.reporting import save_report
from edcompress.workflows.stages.file_metadata import CLASSES, PREPROCESSING
from edcompress.workflows.stages.run_context import RunContext

CARD = "model_card.md"

VARIANTS: dict[VariantName, float] = {"fp16": 0.05, "int8": math.inf}
"""Other precisions of pruned.onnx, and how far logits may be off, relative to their scale; the gate judges the cost in accuracy."""

EXPORTED = (*(name for name in FILES if name.endswith(".onnx")), CARD, "report.html", "report.json")
"""The files of a run that an export replaces; the report, which is about the others, comes last."""


@dataclass(frozen=True)
class OnnxFiles:
    """Files to measure, by name, and how far each is from PyTorch in fp32; "pixels", which is not measured, is beside pruned.onnx."""

    paths: dict[str, Path]
    proofs: dict[str, Proof]


def write_onnx(
    context: RunContext, export: Export, folder: Path, report: Report, networks: Mapping[str, nn.Module]
) -> OnnxFiles:
    """Write dense.onnx and pruned.onnx of the `networks` of these names, and the further files that `export` asks for.

    Raises EdcompressError if a file cannot be made, ProofError if one does not equal its network.
    """
    paths, proofs, output = {}, {}, context.spec.model.output
    about = {"dense": metadata(context, report, report.dense), "pruned": metadata(context, report, report.pruned)}
    for name, network in networks.items():
        context.monitor.stage(f"export {name}.onnx (opset {export.opset}), compare it with PyTorch")
        paths[name] = path = folder / f"{name}.onnx"
        opset, batch = export.opset, export.batch
        export_onnx(network, context.example, path, opset=opset, metadata=about[name], batch=batch, output=output)
        proofs[name] = require_equal(compare_with_onnx(network, path, context.parity_images, output))
    for name in (name for name in VARIANTS if getattr(export, name)):
        paths[name] = path = folder / f"pruned.{name}.onnx"
        context.monitor.stage(f"export {path.name}, compare it with PyTorch")
        _write_variant(name, context, paths["pruned"], path, about["pruned"])
        proof = compare_with_onnx(networks["pruned"], path, context.parity_images, output)
        proofs[name] = _require_near(proof, name, path, context.parity_images)
    if export.with_preprocessing:
        path = folder / "pruned.pixels.onnx"
        proofs["pixels"] = _write_pixels(context, paths["pruned"], path, about["pruned"])
    return OnnxFiles(paths, proofs)


def _require_near(proof: Proof, name: VariantName, path: Path, images: Tensor) -> Proof:
    """Return the proof of a variant; if it is not near enough, raise ProofError with what leaves float16's range, and the fix."""
    try:
        return require_equal(proof, VARIANTS[name])
    except ProofError as error:
        parts = [f"{path.name}: {error}", find_out_of_range(path, images) if name == "fp16" else ""]
        fix = f"export without --{name} (export.{name}=false)"
        raise ProofError("; ".join([*filter(None, parts), fix])) from error


def _write_pixels(context: RunContext, plain: Path, path: Path, about: Mapping[str, str]) -> Proof:
    """Write pruned.onnx behind its normalisation; return the proof that it gives the same logits."""
    context.monitor.stage(f"export {path.name}, compare it with {plain.name}")
    with_normalisation(plain, path, context.preprocessing, about)
    pixels = context.parity_pixels
    of = f"logits of {len(pixels)} images of {plain.name} and {path.name}"
    found = run_outputs(path, pixels.permute(0, 2, 3, 1))
    return require_equal(compare_logits(run_outputs(plain, context.parity_images), found, of))


def _write_variant(name: VariantName, context: RunContext, plain: Path, path: Path, about: Mapping[str, str]) -> None:
    if name == "fp16":
        halve(plain, path, about)
    else:
        quantize(plain, path, context.calibration_images, about)


def publish_files(made: Path, run: RunFolder, report: Report, bare: Report) -> Report:
    """Replace all files of an earlier export by those of a new one; if a step fails, restore the run folder.

    The folder `made`, within the run's, holds the ONNX files and the card. `bare` is the report without them. Returns the report as saved.
    """
    report = save_report(run, report, into=made)
    with writing(run.path), _restored_on_failure(run.path, made / "before"):
        save_report(run, bare)  # if this process is killed, no figures are of files that are gone
        for name in EXPORTED:
            if (made / name).exists():
                os.replace(made / name, run / name)
            else:
                (run / name).unlink(missing_ok=True)
    return report


@contextmanager
def _restored_on_failure(folder: Path, kept: Path) -> Iterator[None]:
    """Restore the exported files of `folder` if the block fails; the new folder `kept` holds them meanwhile."""
    kept.mkdir()
    there = [name for name in EXPORTED if (folder / name).exists()]
    for name in there:
        try:
            os.link(folder / name, kept / name)
        except OSError:  # a file system without links
            shutil.copy2(folder / name, kept / name)
    try:
        yield
    except BaseException:
        for name in EXPORTED:
            if name in there:
                os.replace(kept / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        raise


def _quality(report: Report, result: ModelResult) -> dict[str, str]:
    """Return the counts of correct images, and the value of a metric that is none."""
    found = {}
    if accuracy := result.accuracy:
        for name, count in (("top1", accuracy.top1), ("top5", accuracy.top5)):
            found[f"edcompress.{name}"] = f"{count.correct}/{count.total}"
    if score := result.score:
        found |= {"edcompress.metric": report.metric.name, "edcompress.score": repr(score.value)}
    return found


def metadata(context: RunContext, report: Report, result: ModelResult) -> dict[str, str]:
    """Return the metadata of an ONNX file: its origin, its score in PyTorch, how to feed it, and the names of its classes."""
    return {
        "edcompress.recipe": report.recipe,
        "edcompress.recipe_hash": report.recipe_hash,
        "edcompress.network": report.network,
        **_quality(report, result),
        PREPROCESSING: context.preprocessing.model_dump_json(),
        CLASSES: json.dumps(context.splits.classes),
        **{f"edcompress.version.{name}": number for name, number in versions().items()},
    }
