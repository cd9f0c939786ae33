"""The gate refuses a report with impossible figures, by the name of the key, and accepts one that was measured."""

import json
from pathlib import Path
from typing import Any

import pytest

import edcompress
from edcompress.core.errors import InputError
from edcompress.core.recipe.gate import Gate
from edcompress.core.results.report import Report
from edcompress.workflows import gate

LIMITS = Gate(max_top1_drop=0.01, min_speedup=None, max_parity=None)
COUNT = "dense.accuracy.top1.correct"
PAIRS = "pruned.paired.top1"


def gated(content: dict[str, Any], folder: Path, changes: dict[str, Any], **limits: Any) -> Any:
    """Return the verdict on a report.json with these values at these dotted keys."""
    for path, value in changes.items():
        *parents, last = path.split(".")
        inner = content
        for key in parents:
            inner = inner[key]
        inner[last] = value
    (folder / "report.json").write_text(json.dumps(content))
    return edcompress.gate(folder / "report.json", LIMITS.model_copy(update=limits))


INTERVAL = {"estimate": 1.84, "low": 1.8, "high": 1.9, "confidence": 0.95}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({COUNT: 10001}, r"dense\.accuracy\.top1: correct is 10001, more than the total of 10000"),
        ({"pruned.accuracy.top1.correct": 9980}, r"pruned\.accuracy: top1 has 9980 of 10000 right and top5 9975"),
        ({"pruned.paired.top5.neither": 15}, r"pruned\.paired: top1 pairs 10000 images and top5 10001"),
        ({"pruned.paired.same_class": 9900}, r"pruned\.paired: same_class is 9900"),
        ({"pruned.size.onnx_bytes": -1}, r"pruned\.size\.onnx_bytes: .*greater than or equal to 0"),
        ({"pruned.latency_ms.p50": -1.0}, r"pruned\.latency_ms\.p50: "),
        ({"pruned.latency_ms.p50": float("nan")}, r"pruned\.latency_ms\.p50: "),
        ({"pruned.latency_ms.p50": 1e-320}, r"pruned\.latency_ms\.p50: "),
        (
            {"pruned.latency_ms.p90": 1.0},
            r"pruned\.latency_ms: p50, p90 and p99 are not in ascending order: 3\.272, 1, 4\.115 ms",
        ),
        ({"pruned.latency_ms.threads": 0}, r"pruned\.latency_ms\.threads: "),
        (
            {"pruned.latency_ms.speedup": INTERVAL | {"low": 1.85}},
            r"speedup: the interval from 1\.85 to 1\.9 excludes its",
        ),
        ({"pruned.latency_ms.speedup": INTERVAL | {"high": float("inf")}}, r"speedup\.high: "),
        ({"proof.pruned_vs_onnx.max_abs_diff": -1.0}, r"proof\.pruned_vs_onnx: max_abs_diff is -1"),
    ],
)
def test_an_impossible_value_is_refused(
    content: dict[str, Any], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(
        InputError, match=rf"report\.json is not a report of edcompress: .*{said}.*; take report\.json as"
    ):
        gated(content, tmp_path, changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tested_on.count": 359}, r"dense\.onnx_accuracy is over 10000 images, but tested_on\.count is 359"),
        ({f"{PAIRS}.both": 9303, f"{PAIRS}.neither": 551}, r"top1 has 9418 of 10000 right, but dense\.onnx_accuracy\.top1 has 9417"),
        ({f"{PAIRS}.both": 9303, f"{PAIRS}.neither": 551}, r"top1 has 9334 of 10000 right, but pruned\.onnx_accuracy\.top1 has 9333"),
        ({"pruned.latency_ms.batch_size": 8}, r"pruned\.latency_ms was not measured beside dense's: batch_size 8, dense 1"),
        ({"pruned.latency_ms.threads": 2}, r"threads 2, dense 1"),
        ({"pruned.latency_ms.provider": "CUDAExecutionProvider"}, r"provider CUDAExecutionProvider, dense CPU"),
        (
            {"pruned.latency_ms.speedup": INTERVAL | {"estimate": 18.4, "high": 19.0}},
            r"speedup\.estimate is 18\.4, but the medians' ratio is 1\.84",
        ),
        ({"proof.masked_vs_pruned.max_abs_diff": 1e9}, r"proof\.masked_vs_pruned: max_abs_diff 1e\+09 at scale 14\.2"),
        ({"proof.pruned_vs_onnx.max_abs_diff": float("nan")}, r"proof\.pruned_vs_onnx: max_abs_diff nan"),
        ({"files": {"pruned.onnx": {"sha256": "0", "bytes": 7}}}, r"size\.onnx_bytes is 1752060, but files\.pruned\.onnx\.bytes is 7"),
    ],
)  # fmt: skip
def test_figures_that_contradict_each_other_are_refused(
    content: dict[str, Any], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(
        InputError, match=rf"report\.json: .*{said}(.|\n)*; take the report\.json that edcompress wrote"
    ):
        gated(content, tmp_path, changes)


def test_a_baseline_is_checked_likewise(content: dict[str, Any], tmp_path: Path) -> None:
    now = tmp_path / "now.json"
    now.write_text(json.dumps(content))
    gated(content, tmp_path, {"tested_on.count": 10000})
    content["tested_on"]["count"] = 359
    (tmp_path / "report.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"report\.json: dense\.onnx_accuracy is over 10000 images"):
        edcompress.gate(now, LIMITS, baseline=tmp_path / "report.json")


def test_a_report_without_its_version_is_refused(content: dict[str, Any], tmp_path: Path) -> None:
    del content["schema_version"]
    with pytest.raises(InputError, match=r"it has no schema_version; take report\.json as edcompress wrote it"):
        gated(content, tmp_path, {})


def test_a_byte_order_mark_is_accepted(content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(content), encoding="utf-8-sig")
    assert edcompress.gate(path, LIMITS).passed


def test_a_copied_report_is_checked_against_the_limits_in_it(content: dict[str, Any], tmp_path: Path) -> None:
    limits = Gate(min_speedup=2.5)
    path = tmp_path / "report.json"
    path.write_text(Report.model_validate(content | {"limits": limits}).model_dump_json())
    verdict = edcompress.gate(path)
    assert [check.limit for check in verdict.checks if check.name == "speedup"] == [2.5]
    assert (verdict.passed, verdict.warnings) == (False, ())
    assert gate.limits_of(path, {"min_speedup": 1.5}).limits["min_speedup"] == 1.5


def test_defaults_replace_unknown_limits_with_a_warning(content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(content))
    (warning,) = edcompress.gate(path).warnings
    assert "has no limits" in warning
    assert "were used for what was not given: max_top1_drop 0.01, min_speedup 1.0, max_parity 0.0001" in warning
