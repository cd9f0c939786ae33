import copy
from typing import Any

import pytest

from edcompress.core.recipe.gate import Gate
from edcompress.core.results.report import Report
from edcompress.core.results.verdict import Verdict
from edcompress.report.gate.verdict import judge
from edcompress.report.render.ci_formats import summary, workflow_commands


@pytest.fixture
def verdict(content: dict[str, Any]) -> Verdict:
    """Return a verdict in which one limit fails, and one is skipped for a reason that would break out of its line."""
    earlier = copy.deepcopy(content)
    earlier["pruned"]["latency_ms"]["environment"]["processor"] = "100%\r\n::error::x | <b>"
    return judge(Report.model_validate(content), Gate(max_top1_drop=0.005), Report.model_validate(earlier))


def test_failed_limits_are_errors_and_skipped_ones_warnings(verdict: Verdict) -> None:
    commands = workflow_commands(verdict)
    assert commands[0] == (
        "::error title=edcompress gate%3A top-1 drop::top-1 drop 0.840 pp, limit ≤ 0.500 pp, margin -0.340 pp: FAIL"
    )
    assert commands[1].startswith(
        "::warning title=edcompress gate%3A latency regression::skipped: the baseline was measured"
    )
    assert len(commands) == 2


def test_a_command_stays_on_its_line_and_per_cent_signs_are_escaped(verdict: Verdict) -> None:
    warning = workflow_commands(verdict)[1]
    assert "100%25%0D%0A::error::x | <b>" in warning
    assert not {"\r", "\n"} & set(warning)


def test_times_measured_beside_other_work_give_a_warning(content: dict[str, Any]) -> None:
    quiet = Report.model_validate(content)
    content["dense"]["latency_ms"]["waited"] = 0.4
    loud = Report.model_validate(content)
    warned = "other processes had the cores for 40% of the measured time: latencies and speed-ups are not to be trusted"
    verdict = judge(loud, Gate())
    error, warning = workflow_commands(verdict)
    assert (
        "speedup 1.840x, limit ≥ 1.000x, margin –: FAIL; not trusted: other processes had the cores for 40%25" in error
    )
    assert warning.startswith(f"::warning title=edcompress gate::{warned.replace('%', '%25')}")
    assert judge(loud, Gate(disturbed="allow")).passed
    assert f"- warning: {warned}" in summary(verdict, "run")
    assert judge(loud, Gate(min_speedup=None)).warnings == ()
    assert judge(quiet, Gate()).warnings == ()
    (beside,) = judge(quiet, Gate(min_speedup=None), loud).warnings
    assert beside.startswith(f"the baseline: {warned}")


def test_a_gate_that_passes_annotates_nothing(report: Report) -> None:
    assert workflow_commands(judge(report, Gate())) == []


def test_the_summary_is_a_table_of_all_checks_with_foreign_text_escaped(verdict: Verdict) -> None:
    text = summary(verdict, "runs/my_net|x")
    assert text.startswith("### edcompress gate: FAILED\n\nruns/my\\_net\\|x\n")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(verdict.checks)
    assert {line.replace("\\|", "").count("|") for line in table} == {6}
    assert "| top-1 drop | 0.840 pp | ≤ 0.500 pp | -0.340 pp | FAIL |" in table
    assert "100% ::error::x \\| \\<b\\>" in text
    assert "- top-1 drop: 95 % interval 0.6" in text
