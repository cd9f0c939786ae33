import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from edcompress.cli.output import show_report
from edcompress.cli.tables import (
    comparison_table,
    latency_table,
    points_table,
    proofs_table,
    settings_table,
    stages_table,
    variants_table,
    verdict_table,
)
from edcompress.core.recipe.gate import Gate
from edcompress.core.results.measures import Count
from edcompress.core.results.report import Point, Report
from edcompress.core.results.verdict import Check, Verdict
from edcompress.report.gate.verdict import judge
from edcompress.report.render.formatting import human, points, times
from edcompress.report.render.rows import comparison_rows
from edcompress.report.render.verdict_rows import check_notes, check_rows


def printed(table: Table) -> str:
    """Return the table as a terminal of 80 columns without colour shows it."""
    stream = io.StringIO()
    Console(file=stream, width=80, no_color=True, force_terminal=False).print(table)
    text = stream.getvalue()
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "\x1b" not in text
    assert "…" not in text
    return text


def test_comparison_shows_figures_and_changes(report: Report) -> None:
    text = printed(comparison_table(report))
    for shown in ("94.17 %", "93.33 %", "-0.84 pp", "0.86 M", "126.8 M", "2.01x fewer", "1.99x smaller"):
        assert shown in text
    assert "1.84x faster" in text
    assert "latency p99" in text


@pytest.fixture
def several(content: dict[str, Any]) -> Report:
    """Return the report with an interval and memory, measured at two batch sizes."""
    for name, peak in (("dense", 31_000_000), ("pruned", 20_000_000)):
        content[name]["latency_ms"] |= {"peak_bytes": peak, "processes": 5}
        content[name]["more_latency_ms"] = [
            content[name]["latency_ms"] | {"batch_size": 8, "p50": 40.0, "p90": 41.0, "p99": 42.0}
        ]
    content["pruned"]["latency_ms"]["speedup"] = {"estimate": 1.84, "low": 1.8, "high": 1.885, "confidence": 0.95}
    return Report.model_validate(content)


def test_the_speed_up_is_shown_with_its_interval(several: Report) -> None:
    rows = {row.name: row.change for row in comparison_rows(several)}
    assert rows["latency p50"] == "1.84x (1.80 to 1.89)"
    assert rows["latency p90"] == "1.82x faster"
    assert rows["peak memory"] == "1.55x smaller"
    assert several.speedup is not None
    assert several.speedup.low == 1.8
    printed(comparison_table(several))


def test_every_setting_is_shown(several: Report) -> None:
    lines = printed(settings_table(several)).splitlines()
    assert any(line.split()[:7] == ["batch", "1,", "1", "thread", "6.021", "ms", "3.272"] for line in lines)
    assert any("batch 8, 1 thread" in line and "40.00 ms" in line and line.rstrip().endswith("–") for line in lines)


def test_models_side_by_side_fit_the_terminal(several: Report) -> None:
    models = {"runs/a-run-of-some-name/dense.onnx": several.dense, "pruned.onnx": several.pruned}
    text = printed(latency_table({name: model.latency_ms for name, model in models.items() if model.latency_ms}))
    assert "batch 1, 1 thread: 300 interleaved calls per model in 5 processes" in text
    assert "1.84x (1.80 to 1.89)" in text
    assert "31.0 MB" in text


def test_files_to_ship_fit_the_terminal(several: Report, content: dict[str, Any]) -> None:
    parity = {"max_abs_diff": 0.4, "scale": 10.0, "of": "logits"}
    measured = content["pruned"] | {
        "latency_ms": content["pruned"]["latency_ms"] | dict.fromkeys(("p50", "p90", "p99"), 12.34)
    }
    variant = {"file": "pruned.int8.onnx", "measured": measured, "parity": parity}
    report = Report.model_validate(several.model_dump() | {"variants": {"int8": variant}})
    text = printed(variants_table(report))
    assert "pruned.int8.onnx" in text
    assert "12.34 ms" in text
    assert "4.0e-02" in text


def test_names_of_points_are_shown_as_they_are() -> None:
    """The brackets of `--set constraints.ignore=[layer1.*],[layer2.*]` are not markup."""
    about = {
        "macs": 0.5,
        "params": 0.5,
        "p50_ms": 1.0,
        "speedup": 2.0,
        "top1": Count(correct=1, total=2),
        "top1_drop": 0.1,
    }
    names = [f"constraints.ignore=[layer{n}.*]" for n in (1, 2)]
    text = printed(points_table("Points", [Point.model_validate({"name": name, **about}) for name in names]))
    assert all(name in text for name in names)


def test_what_is_not_measured_is_a_dash(unexported: Report) -> None:
    rows = {row.name: row for row in comparison_rows(unexported)}
    assert rows["latency p50"][1:] == ("–", "–", "–")
    assert rows["ONNX size"][1:] == ("–", "–", "–")
    assert "–" in printed(comparison_table(unexported))
    assert "not exported yet" in printed(proofs_table(unexported))


def test_stages_show_four_accuracies(report: Report) -> None:
    lines = [line for line in printed(stages_table(report)).splitlines() if "/10000" in line]
    assert [line.split("  ")[0].strip() for line in lines] == ["dense", "masked", "after surgery", "after fine-tuning"]
    assert "87.52 %" in lines[1]
    assert "9333/10000" in lines[3]


def test_proofs_show_differences(report: Report) -> None:
    text = printed(proofs_table(report))
    assert "3.4e-06" in text
    assert "pruned = ONNX" in text
    assert "logits of 256 images, of 8 at" in text
    assert "same top-1 on 255 of 256" in " ".join(text.split())


def test_verdict_shows_value_limit_margin_and_answer(report: Report) -> None:
    text = printed(verdict_table(judge(report, Gate(max_top1_drop=0.005, min_speedup=1.3, max_size_ratio=0.6))))
    lines = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    assert "FAIL" in lines["top-1 drop"]
    assert "-0.340 pp" in lines["top-1 drop"]
    assert "pass" in lines["speedup"]
    assert "≥ 1.300x" in lines["speedup"]
    assert "+0.540x" in lines["speedup"]
    assert "+9.66 %" in lines["size ratio"]
    assert "Gate: FAIL" in text


@pytest.mark.parametrize(("margin", "shown"), [(-2e-7, "-0.000 pp"), (0.0, "+0.000 pp"), (2e-7, "+0.000 pp")])
def test_a_margin_that_is_rounded_to_zero_has_the_sign_of_its_answer(margin: float, shown: str) -> None:
    check = Check(name="top1_drop", value=0.01 - margin, limit=0.01, margin=margin, passed=margin >= 0)
    assert check_rows(Verdict(passed=check.passed, checks=(check,)))[0].margin == shown


def test_the_latency_of_a_report_comes_with_its_setting(
    content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content["pruned"]["latency_ms"]["batch_size"] = 8
    show_report(Report.model_validate(content), tmp_path, as_json=False)
    assert "latency: batch 8, 1 thread, 300 interleaved calls per model" in capsys.readouterr().out


def test_every_check_fits_the_terminal_and_is_explained(report: Report, content: dict[str, Any]) -> None:
    limits = Gate(min_agreement=0.9, max_latency_ms=5, max_size_ratio=0.6, max_size_bytes=2_000_000)
    text = printed(verdict_table(judge(report, limits, report)))
    for shown in ("96.88 %", "3.272 ms", "1752060 B", "+247940 B", "latency regression", "≤ 10.00 %"):
        assert shown in text
    content["pruned"]["latency_ms"]["environment"]["processor"] = "another"
    drop, skipped = check_notes(judge(report, limits, Report.model_validate(content)))
    assert drop == (
        "top-1 drop: 95 % interval 0.612 pp to 1.089 pp; right in dense.onnx alone 115, in pruned.onnx alone 31 of 10000 images,"
        " McNemar's exact p = 1.5e-12"
    )
    assert skipped == "latency regression: skipped, the baseline was measured with processor another, here a processor"


def test_by_bound_the_end_that_was_compared_is_shown(report: Report) -> None:
    verdict = judge(
        report, Gate(max_top1_drop=0.01, max_size_bytes=2_000_000, min_speedup=None, confidence="bound"), report
    )
    text = printed(verdict_table(verdict))
    assert "0.840 pp to 1.089 pp" in text
    assert "-0.089 pp" in text
    assert check_notes(verdict)[-1] == "Where there is an interval, its worse end is compared with the limit."


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (270_000, "", "0.27 M"),
        (41_000_000, "", "41.0 M"),
        (4_120_000_000, "", "4.12 G"),
        (650, "", "650"),
        (1_234, "", "1.23 k"),
        (1_080_000, "B", "1.08 MB"),
        (512, "B", "512 B"),
        (0, "", "0"),
    ],
)
def test_sizes_are_readable(value: int, unit: str, text: str) -> None:
    assert human(value, unit) == text


def test_changes_name_their_direction() -> None:
    assert times(2.0, 1.0, "faster", "slower") == "2.00x faster"
    assert times(1.0, 1.1, "faster", "slower") == "1.10x slower"
    assert times(1.0, 1.001, "faster", "slower") == "same"
    assert times(float("nan"), 1.0, "faster", "slower") == "–"
    assert points(-0.0084) == "-0.84 pp"
    assert points(0.001) == "+0.10 pp"
    assert points(-0.00001) == "0.00 pp"
