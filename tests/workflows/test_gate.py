"""`edcompress gate` as a CI step runs it."""

import json
import os
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from edcompress.core.recipe.gate import Gate
from edcompress.runs.folder import RunFolder

LOOSE = ("--max-top1-drop", "1", "--min-speedup", "0.001")
BESIDE = (*LOOSE, "--max-latency-regression", "0.5")


def rewritten(report: Path, **changes: Any) -> None:
    content = json.loads(report.read_text())
    report.write_text(json.dumps(content | changes))


def graded(report: Path, *, both: int, dense_only: int, other_only: int) -> None:
    """Have both files give so many of the 359 images their class, alone or together."""
    content = json.loads(report.read_text())
    right = {"both": both, "dense_only": dense_only, "other_only": other_only}
    pairs = right | {"neither": 359 - sum(right.values())}
    content["pruned"]["paired"] = {"top1": pairs, "top5": pairs, "same_class": both}
    for name, correct in (("dense", both + dense_only), ("pruned", both + other_only)):
        content[name]["onnx_accuracy"] |= {key: {"correct": correct, "total": 359} for key in ("top1", "top5")}
        content[name]["recalls"] = None
    rewritten(report, dense=content["dense"], pruned=content["pruned"], variants={})


def test_every_key_of_the_gate_has_its_option(cli) -> None:
    text = cli("gate", "--help").out
    assert [key for key in Gate.model_fields if f"--{key.replace('_', '-')}" not in text] == []


def test_all_limits_are_held_on_a_real_run(cli, finished: Path) -> None:
    more = ("--max-top5-drop", "1", "--min-agreement", "0.01", "--max-latency-ms", "1e6", "--max-size-ratio", "1",
            "--max-class-drop", "1", "--min-top1", "0.01")  # fmt: skip
    ended = cli("gate", finished, *LOOSE, *more, "--max-size-bytes", "10000000", "--json")
    assert ended.code == 0, ended.err
    checks = {check["name"]: check for check in json.loads(ended.out)["checks"]}
    report = json.loads((finished / "report.json").read_text())
    top1 = {name: report[name]["onnx_accuracy"]["top1"] for name in ("dense", "pruned")}
    images = top1["dense"]["total"]
    assert list(checks) == [
        "top1",
        "top1_drop",
        "top5_drop",
        "class_drop",
        "agreement",
        "speedup",
        "latency_ms",
        "size_ratio",
        "size_bytes",
        "parity",
    ]
    assert checks["top1_drop"]["value"] == pytest.approx(
        (top1["dense"]["correct"] - top1["pruned"]["correct"]) / images
    )
    assert checks["agreement"]["value"] == pytest.approx(report["pruned"]["paired"]["same_class"] / images)
    assert checks["size_bytes"]["value"] == (finished / "pruned.onnx").stat().st_size


def test_a_limit_by_its_bound_is_harder_to_meet(cli, finished: Path) -> None:
    recipe = (finished / "recipe.yaml").read_text().replace("min_speedup: 1.0", "min_speedup: null")
    (finished / "recipe.yaml").write_text(recipe)  # the times of so short a run decide nothing
    graded(finished / "report.json", both=300, dense_only=10, other_only=5)
    assert cli("gate", finished, "--max-top1-drop", "0.025").code == 0
    failed = cli("gate", finished, "--max-top1-drop", "0.025", "--confidence", "bound")
    assert failed.code == 1
    assert "its worse end is compared" in failed.out
    assert "McNemar's exact p = 0.3" in failed.out
    assert cli("gate", finished, "--max-top1-drop", "0.025", "--confidence", "bound", "--level", "0.5").code == 0


def test_a_dense_network_at_chance_level_fails_unless_it_may_be_weak(cli, finished: Path) -> None:
    dense = json.loads((finished / "report.json").read_text())["dense"]
    assert 0.09 < dense["onnx_accuracy"]["chance"] < 0.11
    assert dense["accuracy"] == dense["onnx_accuracy"]
    graded(finished / "report.json", both=40, dense_only=0, other_only=0)
    failed = cli("gate", finished, *LOOSE)
    assert (failed.code, "dense top-1 above chance" in failed.out) == (1, True)
    assert cli("gate", finished, *LOOSE, "--allow-weak-dense").code == 0
    text = (finished / "recipe.yaml").read_text()
    (finished / "recipe.yaml").write_text(text.replace("allow_weak_dense: false", "allow_weak_dense: true"))
    assert cli("gate", finished, *LOOSE).code == 0


def test_github_gets_annotations_and_a_summary_and_stdout_stays_json(
    cli, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, xml = tmp_path / "summary.md", tmp_path / "gate.xml"
    step.write_text("before\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    ended = cli("gate", finished, "--max-top1-drop", "1", "--min-speedup", "1000", "--junit", xml, "--json")
    assert ended.code == 1
    assert json.loads(ended.out)["passed"] is False
    assert ended.err.splitlines()[0].startswith("::error title=edcompress gate%3A speedup::speedup ")
    assert step.read_text().startswith("before\n### edcompress gate: FAILED\n")
    assert [case.get("name") for case in ElementTree.parse(xml).findall(".//testcase[failure]")] == ["speedup"]
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "nowhere" / "summary.md"))
    ended = cli("gate", finished, *LOOSE)
    assert (ended.code, "GITHUB_STEP_SUMMARY" in ended.err) == (2, True)


def test_elsewhere_nothing_is_annotated(cli, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = cli("gate", finished, "--min-speedup", "1000")
    assert (ended.code, ended.err) == (1, "")
    assert os.listdir(tmp_path) == ["finished"]


def test_a_run_is_compared_with_a_baseline_folder_or_report(cli, finished: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(finished, tmp_path / "base"))
    for baseline in (base, base / "report.json"):
        ended = cli("gate", finished, *BESIDE, "--baseline", baseline)
        assert ended.code == 0, ended.out
        assert "latency regression" in ended.out
    saved = json.loads((finished / "report.json").read_text())["verdict"]["checks"]
    assert [check["value"] for check in saved if check["name"].endswith("_regression")] == [0, 0, 0]
    assert "top-1 regression" in (finished / "report.html").read_text()
    pruned = json.loads((base / "report.json").read_text())["pruned"]
    rewritten(base / "report.json", pruned=pruned | {"size": pruned["size"] | {"onnx_bytes": 1000}}, files={})
    ended = cli("gate", finished, *BESIDE, "--baseline", base, "--json")
    assert ended.code == 1
    assert [c["name"] for c in json.loads(ended.out)["checks"] if not c["passed"]] == ["size_regression"]


def test_a_limit_on_regressions_wants_a_baseline(cli, finished: Path) -> None:
    """No error: the first run of a CI has none yet."""
    ended = cli("gate", finished, "--max-top1-drop", 1, "--max-size-regression", 0.1)
    assert ended.code in (0, 1)
    assert "--max-size-regression compares two runs; without --baseline it checks nothing" in " ".join(
        ended.err.split()
    )


def test_a_baseline_that_cannot_be_used_is_refused_by_name(cli, finished: Path, tmp_path: Path) -> None:
    base = tmp_path / "base.json"
    shutil.copy(finished / "report.json", base)
    images = json.loads(base.read_text())["tested_on"]
    before = (finished / "report.json").read_bytes()
    for changes, words in (
        ({"tested_on": images | {"dataset": "cifar10"}}, "images of cifar10"),
        (
            {"tested_on": images | {"pixels_sha256": "0" * 32}},
            ": pixels differ; compare runs with the same test images",
        ),
        ({"tested_on": None}, "the baseline has no record of its test images; run `edcompress export --onnx`"),
        ({"schema_version": 2}, "base.json has schema_version 2, which this version cannot read"),
    ):
        rewritten(base, **changes)
        ended = cli("gate", finished, *BESIDE, "--baseline", base)
        assert (ended.code, words in ended.err) == (2, True), ended.err
        shutil.copy(finished / "report.json", base)
    assert (finished / "report.json").read_bytes() == before


def test_a_report_of_an_earlier_version_is_to_be_exported_again(cli, finished: Path) -> None:
    report = finished / "report.json"
    content = json.loads(report.read_text())
    for name in ("onnx_accuracy", "paired"):
        for stage in ("dense", "masked", "after_surgery", "pruned"):
            del content[stage][name]
    del content["tested_on"]
    report.write_text(json.dumps(content))
    ended = cli("gate", finished, *LOOSE)
    assert ended.code == 2
    assert "no accuracy of the ONNX files yet, which max_top1_drop needs; run `edcompress export --onnx`" in ended.err
    recipe = (finished / "recipe.yaml").read_text()
    (finished / "recipe.yaml").write_text(recipe.replace("max_top1_drop: 0.03", "max_top1_drop: null"))
    assert cli("gate", finished, "--min-speedup", "0.001").code == 0


def test_a_run_that_cannot_be_written_is_judged_all_the_same(
    cli: Any, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunFolder, "writable", property(lambda _: False))
    before = (finished / "report.json").read_bytes()
    ended = cli("gate", finished, *LOOSE)
    assert (ended.code, "cannot be written; its report does not keep the verdict" in ended.err) == (0, True)
    assert (finished / "report.json").read_bytes() == before
