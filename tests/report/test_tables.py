import io

import pytest
from rich.console import Console
from rich.table import Table

from edcompress.recipe import Gate
from edcompress.report.rows import comparison_rows, human, points, times
from edcompress.report.tables import comparison_table, proofs_table, stages_table, verdict_table
from edcompress.report.verdict import judge
from edcompress.results import Report


def printed(table: Table) -> str:
    """The table as a terminal of 80 columns without colour shows it."""
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
