import math
import subprocess
import sys
from typing import Any

import pytest

from edcompress.errors import InputError
from edcompress.recipe import Gate
from edcompress.report.verdict import judge
from edcompress.results import Check, Report, Verdict

OFF: dict[str, Any] = {
    "max_top1_drop": None,
    "max_top5_drop": None,
    "min_speedup": None,
    "max_size_ratio": None,
    "max_parity": None,
}


def only(report: Report, **limit: float) -> Check:
    verdict = judge(report, Gate(**{**OFF, **limit}))
    assert len(verdict.checks) == 1
    assert verdict.passed == verdict.checks[0].passed
    return verdict.checks[0]


def changed(content: dict[str, Any], path: str, value: float) -> Report:
    *parents, last = path.split(".")
    inner = content
    for name in parents:
        inner = inner[name]
    inner[last] = value
    return Report.model_validate(content)


def test_all_limits_make_five_named_checks(report: Report) -> None:
    limits = Gate(max_top1_drop=0.01, max_top5_drop=0.01, min_speedup=1.3, max_size_ratio=0.6, max_parity=1e-4)
    verdict = judge(report, limits)
    assert [check.name for check in verdict.checks] == ["top1_drop", "top5_drop", "speedup", "size_ratio", "parity"]
    assert verdict.passed
    assert verdict.checks[0].value == pytest.approx(0.0084)
    assert verdict.checks[0].margin == pytest.approx(0.0016)
    assert verdict.checks[2].value == pytest.approx(6.021 / 3.272)
    assert verdict.checks[2].margin == pytest.approx(6.021 / 3.272 - 1.3)


def test_one_failed_check_fails_the_verdict(report: Report) -> None:
    verdict = judge(report, Gate(max_top1_drop=0.01, min_speedup=2.0))
    assert [check.passed for check in verdict.checks] == [True, False, True]
    assert not verdict.passed
    assert verdict.checks[1].margin < 0


@pytest.mark.parametrize(("dense", "pruned"), [(9173, 9073), (9417, 9317), (10000, 9900), (101, 1)])
def test_a_drop_equal_to_the_limit_passes(content: dict[str, Any], dense: int, pruned: int) -> None:
    content["dense"]["accuracy"]["top1"]["correct"] = dense
    check = only(changed(content, "pruned.accuracy.top1.correct", pruned), max_top1_drop=0.01)
    assert check.passed
    assert check.margin == 0


def test_one_image_beyond_the_limit_fails(content: dict[str, Any]) -> None:
    content["dense"]["accuracy"]["top1"]["correct"] = 9173
    check = only(changed(content, "pruned.accuracy.top1.correct", 9072), max_top1_drop=0.01)
    assert not check.passed
    assert check.margin == pytest.approx(-0.0001)


def test_drops_over_different_totals_are_exact(content: dict[str, Any]) -> None:
    content["dense"]["accuracy"]["top1"] = {"correct": 1, "total": 3}
    content["pruned"]["accuracy"]["top1"] = {"correct": 1, "total": 3}
    assert only(Report.model_validate(content), max_top1_drop=0.0).passed


def test_an_accuracy_gain_passes_a_limit_of_zero(content: dict[str, Any]) -> None:
    check = only(changed(content, "pruned.accuracy.top1.correct", 9500), max_top1_drop=0.0)
    assert check.passed
    assert check.value == pytest.approx(-0.0083)


@pytest.mark.parametrize(("dense", "pruned", "passed"), [(1.3, 1.0, True), (3.9, 3.0, True), (3.899, 3.0, False)])
def test_speedup_at_its_limit(content: dict[str, Any], dense: float, pruned: float, passed: bool) -> None:
    content["dense"]["latency_ms"]["p50"] = dense
    assert only(changed(content, "pruned.latency_ms.p50", pruned), min_speedup=1.3).passed is passed


def test_size_ratio_at_its_limit(content: dict[str, Any]) -> None:
    content["dense"]["size"]["onnx_bytes"] = 1000
    assert only(changed(content, "pruned.size.onnx_bytes", 700), max_size_ratio=0.7).passed
    assert not only(changed(content, "pruned.size.onnx_bytes", 701), max_size_ratio=0.7).passed


def test_parity_is_relative_to_the_scale_of_the_logits(content: dict[str, Any]) -> None:
    content["proof"]["pruned_vs_onnx"] = {"max_abs_diff": 1e-3, "scale": 10.0, "of": "logits"}
    check = only(Report.model_validate(content), max_parity=1e-4)
    assert check.passed
    assert check.value == 1e-4


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("proof.pruned_vs_onnx.max_abs_diff", {"max_parity": 1e9}),
        ("proof.pruned_vs_onnx.scale", {"max_parity": 1e9}),
        ("dense.latency_ms.p50", {"min_speedup": 0.1}),
        ("pruned.latency_ms.p50", {"min_speedup": 0.1}),
    ],
)
def test_values_that_are_no_numbers_fail(
    content: dict[str, Any], path: str, limit: dict[str, float], wrong: float
) -> None:
    check = only(changed(content, path, wrong), **limit)
    assert not check.passed
    assert math.isnan(check.value)


@pytest.mark.parametrize("limit", [{"min_speedup": 1.3}, {"max_size_ratio": 0.5}, {"max_parity": 1e-4}])
def test_a_limit_without_its_value_says_how_to_measure_it(unexported: Report, limit: dict[str, float]) -> None:
    with pytest.raises(InputError, match="edcompress export --onnx"):
        only(unexported, **limit)


def test_accuracy_limits_work_before_the_export(unexported: Report) -> None:
    assert only(unexported, max_top1_drop=0.01).passed


def test_no_limits_at_all_is_an_error(report: Report) -> None:
    with pytest.raises(InputError, match="no limits"):
        judge(report, Gate(**OFF))


def test_accuracies_over_no_images_are_an_error(content: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="0 images"):
        only(changed(content, "dense.accuracy.top1.total", 0), max_top1_drop=0.01)


def test_a_verdict_survives_its_json(report: Report) -> None:
    verdict = judge(report, Gate())
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


def test_the_report_package_loads_no_framework() -> None:
    code = (
        "import sys, edcompress.report.verdict, edcompress.report.tables, edcompress.report.page;"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'onnx', 'onnxruntime', 'numpy'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
