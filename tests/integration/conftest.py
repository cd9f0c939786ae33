import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Call = Callable[..., Any]


@pytest.fixture(scope="session")
def answer(process: Callable[..., Any], data_folder: Path) -> Call:
    """Runs a command with --json in a process of its own and returns what it printed; the command must succeed."""
    assert data_folder.is_dir(), f"EDCOMPRESS_DATA: no folder {data_folder}"

    def ask(*arguments: object) -> Any:
        ended = process(*arguments, "--json")
        assert ended.code == 0, ended.err
        assert "Warning" not in ended.err
        return json.loads(ended.out)

    return ask


@pytest.fixture(scope="session")
def require(answer: Call) -> Call:
    """Holds a pruned run to what every run promises, through export, gate and the ONNX file; returns the report."""

    def check(run: Path, recipe: tuple[str, ...], target: float) -> Any:
        report = answer("export", run, "--onnx")
        proofs = {name: proof for name, proof in report["proof"].items() if proof is not None}
        assert set(proofs) == {"masked_vs_pruned", "pruned_vs_reloaded", "dense_vs_onnx", "pruned_vs_onnx"}
        assert all(proof["max_abs_diff"] / proof["scale"] < 1e-4 for proof in proofs.values()), proofs
        agreeing = proofs["pruned_vs_onnx"]["agreeing"]
        assert agreeing["total"] == 256
        assert agreeing["correct"] >= 255
        dense, pruned = report["dense"], report["pruned"]
        assert report["target"]["achieved"] <= target
        assert pruned["size"]["macs"] <= target * dense["size"]["macs"]
        assert pruned["size"]["onnx_bytes"] < dense["size"]["onnx_bytes"]
        assert (run / "pruned.onnx").stat().st_size == pruned["size"]["onnx_bytes"]
        of_file = answer("evaluate", run / "pruned.onnx", *recipe)
        assert abs(of_file["top1"]["correct"] - pruned["accuracy"]["top1"]["correct"]) <= 2
        assert abs(of_file["top5"]["correct"] - pruned["accuracy"]["top5"]["correct"]) <= 2
        assert of_file["top1"]["total"] == pruned["accuracy"]["top1"]["total"]
        return report

    return check
