"""The ONNX files of a run: written, and held against the PyTorch networks."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from edcompress.core.errors import ProofError
from edcompress.core.results.measures import ModelResult, Proof, Proofs
from edcompress.core.results.report import Report
from edcompress.core.system.files import writing
from edcompress.core.system.machine import versions
from edcompress.data.transforms import preprocessing_spec
from edcompress.deploy.export.onnx_export import export_onnx
from edcompress.deploy.export.onnx_variants import halve, quantize, with_normalisation
from edcompress.deploy.runtime.half_ranges import find_out_of_range
from edcompress.deploy.runtime.parity import compare_with_onnx, run_onnx
from edcompress.networks.equality import compare_logits, require_equal
from edcompress.report.render.model_card import render_card
from edcompress.runs.folder import FILES, RunFolder
from edcompress.workflows.reporting import save_report
from edcompress.workflows.stages.file_metadata import CLASSES, PREPROCESSING
from edcompress.workflows.stages.job import RunContext

CARD = "model_card.md"

VARIANTS = {"fp16": 0.05, "int8": math.inf}
"""Other precisions of pruned.onnx, and how far, relative to their scale, logits may be off; what that costs in accuracy the gate judges."""

EXPORTED = (*(name for name in FILES if name.endswith(".onnx")), CARD, "report.html", "report.json")
"""The files of a run that an export replaces, the report last, which speaks of the others."""


def write_onnx(
    job: RunContext, folder: Path, report: Report, networks: Mapping[str, nn.Module]
) -> tuple[dict[str, Path], dict[str, Proof]]:
    """dense.onnx and pruned.onnx of the `networks` of these names, and the variants "fp16" and "int8" that the recipe asks for.

    The files in `folder`, and how far each is from PyTorch in fp32; and where the recipe asks for pruned.pixels.onnx, how far "pixels",
    that file, is from pruned.onnx.
    Raises EdcompressError where a file cannot be made, ProofError where one is not equal to its network.
    """
    options, files, proofs = job.recipe.export, {}, {}
    for name, network in networks.items():
        job.monitor.stage(f"export {name}.onnx (opset {options.opset}), hold it against PyTorch")
        files[name] = folder / f"{name}.onnx"
        told = metadata(job, report, getattr(report, name))
        export_onnx(network, job.example, files[name], opset=options.opset, metadata=told, batch=options.batch)
        proofs[name] = require_equal(compare_with_onnx(network, files[name], job.parity_images))
    for name in VARIANTS:
        path = folder / f"pruned.{name}.onnx"
        if getattr(options, name):
            job.monitor.stage(f"export {path.name}, hold it against PyTorch")
            _write_variant(name, job, files["pruned"], path, metadata(job, report, report.pruned))
            files[name] = path
            proof = compare_with_onnx(networks["pruned"], path, job.parity_images)
            proofs[name] = _require_near(proof, name, path, job.parity_images)
    if options.with_preprocessing:
        path = folder / "pruned.pixels.onnx"
        proofs["pixels"] = _write_pixels(job, files["pruned"], path, metadata(job, report, report.pruned))
    return files, proofs


def _require_near(proof: Proof, name: str, path: Path, images: Tensor) -> Proof:
    """The proof of a variant itself; where it is not near enough a ProofError with what leaves float16's range, and the way out."""
    try:
        return require_equal(proof, VARIANTS[name])
    except ProofError as error:
        parts = [f"{path.name}: {error}", find_out_of_range(path, images) if name == "fp16" else ""]
        way_out = f"export without --{name} (export.{name}=false)"
        raise ProofError("; ".join([*filter(None, parts), way_out])) from error


def _write_pixels(job: RunContext, plain: Path, path: Path, told: Mapping[str, str]) -> Proof:
    """pruned.onnx behind its normalisation, and the proof that it gives the same logits."""
    job.monitor.stage(f"export {path.name}, hold it against {plain.name}")
    with_normalisation(plain, path, preprocessing_spec(job.recipe.data, job.splits.channels), told)
    pixels = job.parity_pixels
    of = f"logits of {len(pixels)} images of {plain.name} and {path.name}"
    found = run_onnx(path, pixels.permute(0, 2, 3, 1))
    return require_equal(compare_logits(run_onnx(plain, job.parity_images), found, of))


def _write_variant(name: str, job: RunContext, plain: Path, path: Path, told: Mapping[str, str]) -> None:
    if name == "fp16":
        halve(plain, path, told)
    else:
        quantize(plain, path, job.calibration_images, told)


def without_onnx(report: Report) -> Report:
    """The report as `prune` left it."""

    def alone(result: ModelResult) -> ModelResult:
        return ModelResult(accuracy=result.accuracy, size=result.size.model_copy(update={"onnx_bytes": None}))

    proof = Proofs(masked_vs_pruned=report.proof.masked_vs_pruned, pruned_vs_reloaded=report.proof.pruned_vs_reloaded)
    changes = {"dense": alone(report.dense), "pruned": alone(report.pruned), "proof": proof, "tested_on": None}
    files = {name: told for name, told in report.files.items() if not name.endswith(".onnx")}
    return report.model_copy(update={**changes, "files": files, "variants": {}, "ship": None, "verdict": None})


def publish_files(made: Path, folder: RunFolder, report: Report, bare: Report) -> None:
    """Have what an export made take the place of all that an earlier one made; where a step fails, the run's folder is as it was.

    The folder `made`, within the run's, holds the ONNX files and the card. `bare` is the report without them.
    """
    save_report(folder, report, into=made)
    with writing(folder.path), _undone_where_it_fails(folder, made / "before"):
        save_report(folder, bare)  # where this process is killed, no figures are of files that are gone
        for name in EXPORTED:
            if (made / name).exists():
                os.replace(made / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)


@contextmanager
def _undone_where_it_fails(folder: RunFolder, kept: Path) -> Iterator[None]:
    """A block that replaces what is exported; where it fails, the files of before come back. A new folder `kept` holds them meanwhile."""
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


def card(job: RunContext, report: Report) -> str:
    """The text of model_card.md, of what the report holds."""
    told = preprocessing_spec(job.recipe.data, job.splits.channels)
    return render_card(report, job.recipe, told, job.splits.classes)


def metadata(job: RunContext, report: Report, result: ModelResult) -> dict[str, str]:
    """What travels in a file: whence it comes, what it scored in PyTorch, how to feed it, and the names of its classes."""
    top1, top5 = result.accuracy.top1, result.accuracy.top5
    return {
        "edcompress.recipe": report.recipe,
        "edcompress.recipe_hash": report.recipe_hash,
        "edcompress.network": report.network,
        "edcompress.top1": f"{top1.correct}/{top1.total}",
        "edcompress.top5": f"{top5.correct}/{top5.total}",
        PREPROCESSING: preprocessing_spec(job.recipe.data, job.splits.channels).model_dump_json(),
        CLASSES: json.dumps(job.splits.classes),
        **{f"edcompress.version.{name}": number for name, number in versions().items()},
    }
