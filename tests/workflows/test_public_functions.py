"""The public functions: each takes a path as text where it takes one at all, and says what it takes, returns and raises."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from digits import digits

import edcompress
from edcompress.core.recipe.deployment import Benchmark
from edcompress.core.system.context import RunOptions
from edcompress.runs.folder import RunFolder

VERBS = [name for name in edcompress.__all__ if inspect.isfunction(getattr(edcompress, name))]
ONCE = ("search.method=magnitude", "search.epochs=0", "finetune.epochs=0", "data.limit=200", "constraints.round_to=1")
QUICK = (*ONCE, "benchmark.runs=20", "gate.disturbed=allow", "gate.max_top1_drop=1.0", "gate.min_speedup=null")
CPU = RunOptions("cpu")


def section(doc: str, title: str) -> str:
    """The indented part of a docstring under a title; "" where there is none."""
    return doc.partition(f"{title}:\n")[2].partition("\n\n")[0]


@pytest.mark.parametrize("name", VERBS)
def test_a_public_function_says_what_it_takes_returns_and_raises(name: str) -> None:
    function = getattr(edcompress, name)
    doc = inspect.getdoc(function) or ""
    described = section(doc, "Args")
    assert [one for one in inspect.signature(function).parameters if f"{one}: " not in described] == []
    assert section(doc, "Returns")
    assert section(doc, "Raises")


def test_a_network_is_trained_pruned_and_measured_by_paths_as_text(tmp_path: Path) -> None:
    weights, run = f"{tmp_path}/dense.safetensors", f"{tmp_path}/run"
    accuracy = edcompress.train(digits(*QUICK, "train.epochs=1"), weights, options=CPU)
    assert edcompress.evaluate(weights, digits(*QUICK), CPU) == accuracy
    report = edcompress.prune(weights, digits(*QUICK, "target.macs=0.7"), run, options=CPU)
    assert (report.checkpoint, RunFolder(run).finished) == ("dense.safetensors", True)
    assert edcompress.evaluate(run, digits(*QUICK), CPU) == report.pruned.accuracy
    again = edcompress.prune(run, digits(*QUICK, "target.macs=0.5"), f"{tmp_path}/again", options=CPU)
    assert again.pruned.size.macs < report.pruned.size.macs
    assert edcompress.inspect(run, digits(*QUICK), CPU).size.macs == report.pruned.size.macs
    path, _ = edcompress.convert(run, "pt2", f"{tmp_path}/net.pt2")
    assert path == tmp_path / "net.pt2"
    assert sum(weight.numel() for weight in edcompress.load(run).parameters()) == report.pruned.size.params


@pytest.mark.integration
def test_a_run_is_exported_timed_and_gated_by_its_path_as_text(finished: Path) -> None:
    report = edcompress.export(str(finished), opset=20)
    assert report.pruned.latency_ms is not None
    assert edcompress.gate(str(finished)) == RunFolder(finished).read_report().verdict
    assert edcompress.gate(str(finished / "report.json")).checks == edcompress.gate(finished).checks
    assert edcompress.gate(str(finished), baseline=str(finished)).passed is not None
    assert list(edcompress.benchmark([str(finished)], Benchmark(runs=20))) == [
        str(finished / "dense.onnx"),
        str(finished / "pruned.onnx"),
    ]


@pytest.mark.integration
def test_whole_runs_take_paths_as_text(dense: Path, tmp_path: Path) -> None:
    report = edcompress.run(digits(*QUICK, "target.macs=0.7"), f"{tmp_path}/run", str(dense), options=CPU)
    assert report.pruned.onnx_accuracy is not None
    points = edcompress.sweep({"a": digits(*QUICK, "target.macs=0.7")}, f"{tmp_path}/sweep", str(dense), CPU).points
    assert [point.name for point in points] == ["a"]


@pytest.mark.parametrize("verb", ["export", "convert", "load", "gate"])
def test_a_folder_that_holds_no_run_is_named_whatever_it_is_given_as(verb: str, tmp_path: Path) -> None:
    function: Callable[..., Any] = getattr(edcompress, verb)
    more = ("pt2",) if verb == "convert" else ()
    for given in (tmp_path / "none", str(tmp_path / "none"), RunFolder(tmp_path / "none")):
        with pytest.raises(edcompress.EdcompressError, match=f"no run folder {tmp_path}/none"):
            function(given, *more)
