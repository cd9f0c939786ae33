"""The ONNX files of a run: written, and held against the PyTorch networks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from edcompress.data.transforms import as_told
from edcompress.deploy.onnx_export import export_onnx
from edcompress.deploy.parity import compare_with_onnx
from edcompress.job import Job
from edcompress.machine import versions
from edcompress.recipe import Export
from edcompress.report.card import render_card
from edcompress.results import ModelResult, Proof, Report
from edcompress.runs import RunFolder, write_text
from edcompress.surgery.remove import require_equal


def write_onnx(
    job: Job, folder: RunFolder, report: Report, networks: Mapping[str, nn.Module], options: Export
) -> tuple[dict[str, Path], dict[str, Proof]]:
    """dense.onnx and pruned.onnx of the `networks` of these names: the files, and how far each is from PyTorch.

    Raises EdcompressError where a network cannot be exported, ProofError where a file is not equal.
    """
    files, proofs = {}, {}
    for name, network in networks.items():
        job.monitor.stage(f"export {name}.onnx (opset {options.opset}), hold it against PyTorch")
        files[name] = folder / f"{name}.onnx"
        told = metadata(job, report, getattr(report, name))
        export_onnx(network, job.example, files[name], opset=options.opset, metadata=told)
        proofs[name] = require_equal(compare_with_onnx(network, files[name], job.parity_images))
    return files, proofs


def write_card(job: Job, folder: RunFolder, report: Report) -> None:
    """model_card.md, of what the report holds."""
    told = as_told(job.recipe.data, job.splits.channels)
    write_text(folder / "model_card.md", render_card(report, job.recipe, told, job.splits.classes))


def metadata(job: Job, report: Report, result: ModelResult) -> dict[str, str]:
    """What travels in a file: whence it comes, what it scored in PyTorch, how to feed it, and the names of its classes."""
    top1, top5 = result.accuracy.top1, result.accuracy.top5
    return {
        "edcompress.recipe": report.recipe,
        "edcompress.recipe_hash": report.recipe_hash,
        "edcompress.network": report.network,
        "edcompress.top1": f"{top1.correct}/{top1.total}",
        "edcompress.top5": f"{top5.correct}/{top5.total}",
        "edcompress.preprocessing": as_told(job.recipe.data, job.splits.channels).model_dump_json(),
        "edcompress.classes": json.dumps(job.splits.classes),
        **{f"edcompress.version.{name}": number for name, number in versions().items()},
    }
