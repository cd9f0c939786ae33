import copy
from typing import Any

import pytest

from edcompress.core.errors import InputError
from edcompress.core.recipe.gate import Gate
from edcompress.core.results.report import Report
from edcompress.core.results.verdict import Verdict
from edcompress.report.gate.verdict import judge

LIMITS = Gate(max_top1_drop=None, min_speedup=None, max_parity=None, max_size_ratio=0.6)


@pytest.fixture
def earlier(content: dict[str, Any]) -> dict[str, Any]:
    """Return the baseline's report, for tests to change."""
    return copy.deepcopy(content)


def beside(content: dict[str, Any], earlier: dict[str, Any], **limits: Any) -> Verdict:
    given = LIMITS.model_copy(update=limits)
    return judge(Report.model_validate(content), given, Report.model_validate(earlier))


def test_a_run_beside_itself_has_no_regression(content: dict[str, Any], earlier: dict[str, Any]) -> None:
    verdict = beside(content, earlier)
    assert verdict.passed
    assert [(check.name, check.value, check.margin) for check in verdict.checks[1:]] == [
        ("top1_regression", 0, 0.01),
        ("latency_regression", 0, 0.1),
        ("size_regression", 0, 0.05),
    ]


@pytest.mark.parametrize(
    ("key", "at_the_limit", "beyond"),
    [("top1_regression", 9433, 9434), ("latency_regression", 4.0, 3.999), ("size_regression", 2000, 1999)],
)
def test_a_regression_at_its_limit_passes_and_beyond_it_fails(
    content: dict[str, Any], earlier: dict[str, Any], key: str, at_the_limit: float, beyond: float
) -> None:
    content["pruned"]["onnx_accuracy"]["top1"]["correct"] = 9333
    content["pruned"]["latency_ms"] |= dict.fromkeys(("p50", "p90", "p99"), 4.4)
    content["pruned"]["size"]["onnx_bytes"] = 2100
    for value, passed in ((at_the_limit, True), (beyond, False)):
        if key == "top1_regression":
            earlier["pruned"]["onnx_accuracy"]["top1"]["correct"] = value
        elif key == "latency_regression":
            earlier["pruned"]["latency_ms"] |= dict.fromkeys(("p50", "p90", "p99"), value)
        else:
            earlier["pruned"]["size"]["onnx_bytes"] = value
        off = {f"max_{name}_regression": None for name in ("top1", "latency", "size") if not key.startswith(name)}
        check = beside(content, earlier, **off).checks[-1]
        assert (check.name, check.passed) == (key, passed)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("pruned", "latency_ms", "environment", "processor"), "another", "processor another, here a processor"),
        (("pruned", "latency_ms", "environment", "onnxruntime"), "1.23.0", "onnxruntime 1.23.0, here 1.32.0"),
        (("pruned", "latency_ms", "environment", "governor"), "powersave", "governor powersave, here None"),
        (("pruned", "latency_ms", "threads"), 4, "threads 4, here 1"),
        (("pruned", "latency_ms", "batch_size"), 8, "batch size 8, here 1"),
    ],
)
def test_times_of_a_different_machine_or_setting_are_not_compared(
    content: dict[str, Any], earlier: dict[str, Any], path: tuple[str, ...], value: Any, reason: str
) -> None:
    inner = earlier
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    earlier["pruned"]["latency_ms"]["p50"] = 0.001
    verdict = beside(content, earlier)
    assert verdict.passed
    assert [check.name for check in verdict.checks] == ["size_ratio", "top1_regression", "size_regression"]
    assert [(one.name, one.limit) for one in verdict.skipped] == [("latency_regression", 0.1)]
    assert verdict.skipped[0].reason == f"the baseline was measured with {reason}"
    assert beside(content, earlier, max_latency_regression=None).skipped == ()


@pytest.mark.parametrize(
    ("key", "value"), [("dataset", "digits"), ("count", 359), ("labels_sha256", "f" * 16), ("pixels_sha256", "f" * 32)]
)
def test_a_baseline_of_other_test_images_is_refused(
    content: dict[str, Any], earlier: dict[str, Any], key: str, value: Any
) -> None:
    earlier["tested_on"][key] = value
    with pytest.raises(
        InputError, match=f"the baseline was tested on .*{value}.*, this run on 10000 images of cifar10"
    ):
        beside(content, earlier)


@pytest.mark.parametrize(("key", "value"), [("std", [0.2, 0.2, 0.2]), ("resize", 36), ("image_size", 28)])
def test_a_baseline_of_the_same_images_prepared_differently_is_refused(
    content: dict[str, Any], earlier: dict[str, Any], key: str, value: Any
) -> None:
    earlier["tested_on"]["preprocessing"][key] = value
    with pytest.raises(InputError, match=rf": preprocessing\.{key} differ; compare runs with the same"):
        beside(content, earlier)


def test_images_of_an_earlier_version_are_compared_by_their_labels_with_a_warning(
    content: dict[str, Any], earlier: dict[str, Any]
) -> None:
    earlier["tested_on"] |= {"pixels_sha256": None, "preprocessing": None}
    (said,) = beside(content, earlier).warnings
    assert "compared by their labels alone, because an earlier version exported the baseline; export again" in said
    earlier["tested_on"]["labels_sha256"] = "f" * 16
    with pytest.raises(InputError, match=r": labels differ; compare runs"):
        beside(content, earlier)


def test_a_baseline_of_a_different_network_gives_a_warning(content: dict[str, Any], earlier: dict[str, Any]) -> None:
    assert beside(content, earlier).warnings == ()
    earlier["network"] = "resnet20"
    assert beside(content, earlier).warnings == (
        "the baseline is of a different network: resnet20; this run's is resnet56",
    )


@pytest.mark.parametrize(
    ("path", "what"),
    [
        (("tested_on",), "record of its test images"),
        (("pruned", "onnx_accuracy"), "accuracy of its ONNX file"),
        (("pruned", "latency_ms"), "latency"),
        (("pruned", "latency_ms", "environment"), "record of its machine"),
        (("pruned", "size", "onnx_bytes"), "ONNX file"),
    ],
)
def test_what_one_of_the_two_lacks_is_named(
    content: dict[str, Any], earlier: dict[str, Any], path: tuple[str, ...], what: str
) -> None:
    whole = copy.deepcopy(content)
    inner = earlier
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = None
    off = {"max_size_ratio": None, "max_top1_drop": 0.5}
    with pytest.raises(InputError, match=f"the baseline has no {what}; run `edcompress export --onnx`"):
        beside(whole, earlier, **off)
    with pytest.raises(InputError, match=f"this run has no {what}"):
        beside(earlier, whole, **off)


def test_a_gate_whose_every_limit_is_skipped_passes_only_if_that_is_allowed(
    content: dict[str, Any], earlier: dict[str, Any]
) -> None:
    earlier["pruned"]["latency_ms"]["environment"]["processor"] = "another"
    off = {"max_size_ratio": None, "max_top1_regression": None, "max_size_regression": None}
    with pytest.raises(InputError, match=r"checks nothing.*latency_regression: the baseline was .*--allow-unheld"):
        beside(content, earlier, **off)
    verdict = beside(content, earlier, **off, allow_unheld=True)
    assert (verdict.passed, verdict.checks) == (True, ())
    assert [one.name for one in verdict.skipped] == ["latency_regression"]


def test_without_a_baseline_no_regression_is_judged(report: Report) -> None:
    assert [check.name for check in judge(report, LIMITS).checks] == ["size_ratio"]


def test_regressions_alone_are_limits_enough(content: dict[str, Any], earlier: dict[str, Any]) -> None:
    assert len(beside(content, earlier, max_size_ratio=None).checks) == 3
