"""Verb: ONNX files proved and measured."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from edcompress.core.recipe.faults import check
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.measures import Latency, ModelResult, Proof
from edcompress.core.results.report import Images, Report, Variant
from edcompress.core.system.context import DEFAULT, RunOptions
from edcompress.core.system.files import require_utf8, write_text
from edcompress.core.system.hashing import TensorDigest
from edcompress.data.transforms import preprocessing_spec
from edcompress.deploy.latency.benchmark import measure_all
from edcompress.deploy.runtime.predictions import Predictions, predict
from edcompress.report.gate.noise import noise_warning
from edcompress.report.gate.recommendation import recommend
from edcompress.report.gate.sanity import alarms
from edcompress.runs.file_records import records
from edcompress.runs.folder import UNFINISHED_EXPORTS, RunFolder
from edcompress.runs.progress import recording
from edcompress.workflows.load import load
from edcompress.workflows.onnx_files import CARD, VARIANTS, card, publish_files, without_onnx, write_onnx
from edcompress.workflows.stages.job import RunContext, open_provable_job
from edcompress.workflows.stages.starting_point import load_dense


def export(
    folder: RunFolder,
    *,
    opset: int | None = None,
    batch: int | str | None = None,
    fp16: bool | None = None,
    int8: bool | None = None,
    with_preprocessing: bool | None = None,
    options: RunOptions = DEFAULT,
) -> Report:
    """Write dense.onnx and pruned.onnx of a finished run, prove pruned == ONNX, measure the files; the completed report.

    What is None is as the recipe's `export` says; fp16, int8 and with_preprocessing make further files of pruned.onnx. Raises
    InputError for values that cannot be, EdcompressError where a file cannot be made, ProofError where one is not equal; the run
    is then as it was, but for its log.
    """
    folder.require_finished("export")
    require_utf8(folder.path)
    asked = {"opset": opset, "batch": batch, "fp16": fp16, "int8": int8, "with_preprocessing": with_preprocessing}
    recipe = _exporting(folder.read_recipe(), asked)
    with folder.locked(), recording(folder, options.monitor, recipe, "export") as monitor:
        return _exported(folder, recipe, replace(options, device="cpu", monitor=monitor))


def _exported(folder: RunFolder, recipe: Recipe, options: RunOptions) -> Report:
    report, job = folder.read_report(), open_provable_job(recipe, options)
    dense = load_dense(recipe, folder / "dense.safetensors", options)
    pruned = load(folder.path, trust_code=options.trust_code)
    with tempfile.TemporaryDirectory(dir=folder.path, prefix=UNFINISHED_EXPORTS, ignore_cleanup_errors=True) as made:
        files, proofs = write_onnx(job, Path(made), report, {"dense": dense, "pruned": pruned})
        job.monitor.stage(f"latency in onnxruntime, {', '.join(files)} interleaved")
        latency = measure_all(files, recipe.timing)
        if warning := noise_warning(chain.from_iterable(latency.values())):
            job.monitor.warning(warning)
        names = ", ".join(path.name for path in files.values())
        job.monitor.stage(f"accuracy of {names} on the test images, in onnxruntime")
        pixels = TensorDigest()
        found = predict(files, job.test_batches("test images", pixels), recipe.model.num_classes)
        about = {"tested_on": _tested_on(job, found["dense"], pixels), "untrained_head": recipe.model.reset_head}
        report = report.model_copy(update={**about, "classes": job.splits.classes})
        completed = _with_onnx(files, report, proofs, latency, found)
        for text in alarms(completed):
            job.monitor.alarm(text)
        bare = without_onnx(report)
        kept = {**bare.files, **records(sorted(Path(made).glob("*.onnx")))}
        completed = completed.model_copy(
            update={"ship": recommend(completed, recipe.gate), "files": kept, "limits": recipe.gate}
        )
        write_text(Path(made) / CARD, card(job, completed))
        publish_files(Path(made), folder, completed, bare)
    return completed


def _exporting(recipe: Recipe, asked: dict[str, Any]) -> Recipe:
    """The recipe with what is asked of the export."""
    tree = recipe.model_dump(mode="json")
    tree["export"] |= {key: value for key, value in asked.items() if value is not None}
    return check(tree, "export")


def _with_onnx(
    files: dict[str, Path],
    report: Report,
    proofs: dict[str, Proof],
    latency: dict[str, tuple[Latency, ...]],
    found: dict[str, Predictions],
) -> Report:
    def completed(result: ModelResult, name: str) -> ModelResult:
        first, *more = latency[name]
        update = {
            "size": result.size.model_copy(update={"onnx_bytes": files[name].stat().st_size}),
            "latency_ms": first,
            "more_latency_ms": tuple(more),
            "onnx_accuracy": found[name].accuracy,
            "recalls": found[name].recalls(len(report.classes)),
            "paired": None if name == "dense" else found[name].beside(found["dense"]),
        }
        return result.model_copy(update=update)

    return report.model_copy(
        update={
            "dense": completed(report.dense, "dense"),
            "pruned": completed(report.pruned, "pruned"),
            "proof": report.proof.model_copy(
                update={
                    "dense_vs_onnx": proofs["dense"],
                    "pruned_vs_onnx": proofs["pruned"],
                    "onnx_vs_pixels": proofs.get("pixels"),
                }
            ),
            "variants": {
                name: Variant(file=files[name].name, measured=completed(report.pruned, name), parity=proofs[name])
                for name in files
                if name in VARIANTS
            },
            "verdict": None,
        }
    )


def _tested_on(job: RunContext, found: Predictions, pixels: TensorDigest) -> Images:
    data = job.recipe.data
    return Images(
        dataset=data.dataset,
        count=len(found.labels),
        labels_sha256=hashlib.sha256(found.labels.numpy().tobytes()).hexdigest()[:16],
        pixels_sha256=pixels.hex,
        preprocessing=preprocessing_spec(data, job.splits.channels),
    )
