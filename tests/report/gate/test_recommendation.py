from typing import Any

import pytest

from edcompress.core.recipe.gate import Gate
from edcompress.core.results.report import Report
from edcompress.report.gate.recommendation import recommend

LIMITS = Gate(max_top1_drop=0.01, min_speedup=1.0, max_parity=1e-4)


def with_int8(content: dict[str, Any], *, correct: int, p50: float) -> Report:
    """Return the report with an int8 file that classifies `correct` of 10000 images correctly in `p50` ms."""
    both = correct - 100  # of the dense network's 9417
    paired = content["pruned"]["paired"] | {
        "top1": {"both": both, "dense_only": 9417 - both, "other_only": 100, "neither": 583 - 100},
        "same_class": both,
    }
    measured = content["pruned"] | {
        "paired": paired,
        "latency_ms": content["pruned"]["latency_ms"] | {"p50": p50},
    }
    parity = {"max_abs_diff": 0.5, "scale": 14.2, "of": "logits of 256 images"}
    variant = {"file": "pruned.int8.onnx", "measured": measured, "parity": parity}
    return Report.model_validate(content | {"variants": {"int8": variant}})


@pytest.mark.parametrize(
    ("correct", "p50", "file", "why"),
    [
        (9333, 2.0, "pruned.int8.onnx", "1.64x as fast as pruned.onnx"),  # 0.84 points below the dense network
        (9317, 2.0, "pruned.int8.onnx", "inside the gate's limits"),  # exactly one point
        (9316, 2.0, "pruned.onnx", "pruned.int8.onnx fails top-1 drop (1.010 pp, limit ≤ 1.000 pp)"),
        (9400, 3.272, "pruned.onnx", "pruned.int8.onnx is not surely faster (1.84x, pruned.onnx up to 1.84x)"),
    ],
)
def test_int8_ships_if_it_is_faster_and_inside_the_gate(
    content: dict[str, Any], correct: int, p50: float, file: str, why: str
) -> None:
    ship = recommend(with_int8(content, correct=correct, p50=p50), LIMITS)
    assert ship.file == file
    assert why in ship.why


@pytest.mark.parametrize(("p50", "file"), [(3.2, "pruned.onnx"), (3.08, "pruned.onnx"), (3.0, "pruned.int8.onnx")])
def test_a_speed_up_within_the_interval_of_pruneds_does_not_ship_a_variant(
    content: dict[str, Any], p50: float, file: str
) -> None:
    content["pruned"]["latency_ms"]["speedup"] = {"estimate": 1.84, "low": 1.72, "high": 1.96, "confidence": 0.95}
    assert recommend(with_int8(content, correct=9400, p50=p50), LIMITS).file == file  # 1.88x, 1.955x, 2.007x


def test_without_a_variant_pruned_ships_if_it_passes(report: Report) -> None:
    assert recommend(report, LIMITS).file == "pruned.onnx"
    failing = recommend(report, Gate(max_top1_drop=0.001))
    assert failing.file is None
    assert "pruned.onnx fails top-1 drop" in failing.why


def test_int8_may_pass_if_pruned_fails(content: dict[str, Any]) -> None:
    slow = Gate(max_top1_drop=0.01, min_speedup=2.5)
    assert recommend(with_int8(content, correct=9333, p50=2.0), slow).file == "pruned.int8.onnx"


def test_a_slower_file_ships_if_pruned_fails(content: dict[str, Any]) -> None:
    ship = recommend(with_int8(content, correct=9400, p50=3.272), Gate(max_parity=1e-9))
    assert ship.file == "pruned.int8.onnx"
    assert "inside the gate's limits; pruned.onnx fails parity" in ship.why


def test_limits_that_cannot_be_checked_are_the_reason_to_ship_nothing(report: Report) -> None:
    ship = recommend(report, Gate(confidence="bound", level=0.9))
    assert ship.file is None
    assert "the gate's limits cannot be checked: " in ship.why
    assert "interval" in ship.why


def test_no_limits_leave_the_speed(content: dict[str, Any]) -> None:
    none = Gate(max_top1_drop=None, min_speedup=None, max_parity=None)
    assert recommend(with_int8(content, correct=5000, p50=2.0), none).file == "pruned.int8.onnx"


def test_times_that_waited_choose_no_file(content: dict[str, Any]) -> None:
    content["pruned"]["latency_ms"] |= {
        "waited": 0.1,
        "speedup": {"estimate": 1.84, "low": 1.2, "high": 2.4, "confidence": 0.95},
    }
    report = with_int8(content, correct=9400, p50=1.0)
    ship = recommend(report, LIMITS)
    assert ship.file == "pruned.onnx"
    assert (
        "the times of the files are not compared, because other processes had the cores for 10% of the measured time"
        in ship.why
    )
    nothing = recommend(report, LIMITS.model_copy(update={"max_parity": 1e-9}))
    assert nothing.file is None
    assert "pruned.onnx fails parity" in nothing.why
    assert recommend(report, LIMITS.model_copy(update={"disturbed": "allow"})).file == "pruned.int8.onnx"


@pytest.mark.parametrize(("int8", "fp16", "file"), [(2.0, 1.5, "pruned.fp16.onnx"), (1.5, 2.0, "pruned.int8.onnx")])
def test_of_two_variants_the_faster_one_ships(content: dict[str, Any], int8: float, fp16: float, file: str) -> None:
    one, other = (with_int8(content, correct=9400, p50=p50).variants["int8"] for p50 in (int8, fp16))
    renamed = other.model_copy(update={"file": "pruned.fp16.onnx"})
    report = with_int8(content, correct=9400, p50=int8)
    both = report.model_copy(update={"variants": {"int8": one, "fp16": renamed}})
    assert recommend(both, LIMITS).file == file
