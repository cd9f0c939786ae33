import copy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from edcompress.core.recipe.gate import Gate
from edcompress.core.results.report import Report
from edcompress.core.results.verdict import Verdict
from edcompress.report.gate.verdict import judge
from edcompress.report.render.ci_formats import junit

# The schema of Jenkins' xUnit plugin (junit-10.xsd): an element's possible children, its required attributes and its optional ones.
# GitLab reads a part of these.
COUNTS = {"tests", "failures", "errors"}
SCHEMA: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": ({"testsuite"}, set(), {"name", "time", *COUNTS}),
    "testsuite": ({"testcase", "system-out"}, {"name", *COUNTS}, {"skipped", "time", "timestamp", "hostname"}),
    "testcase": ({"failure", "skipped", "error"}, {"name"}, {"classname", "time"}),
    "failure": (set(), set(), {"type", "message"}),
    "skipped": (set(), set(), {"type", "message"}),
    "system-out": (set(), set(), set()),
}


def check_schema(element: ElementTree.Element) -> None:
    children, must, may = SCHEMA[element.tag]
    assert must <= set(element.attrib) <= must | may
    for child in element:
        assert child.tag in children
        check_schema(child)


@pytest.fixture
def verdict(content: dict[str, Any]) -> Verdict:
    """Return a verdict in which five checks pass, one fails and one is skipped."""
    earlier = copy.deepcopy(content)
    earlier["pruned"]["latency_ms"]["environment"]["processor"] = "an <older> one"
    limits = Gate(min_speedup=2.0, max_size_bytes=2_000_000)
    return judge(Report.model_validate(content), limits, Report.model_validate(earlier))


def read(text: str) -> ElementTree.Element:
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n')
    return ElementTree.fromstring(text.encode())


def test_the_document_keeps_to_the_schema_and_counts_right(verdict: Verdict) -> None:
    root = read(junit(verdict, "runs/r20"))
    check_schema(root)
    assert root.tag == "testsuites"
    for element in (root, root[0]):
        assert {key: element.get(key) for key in COUNTS} == {"tests": "7", "failures": "1", "errors": "0"}
    assert root[0].get("skipped") == "1"
    cases = root.findall("testsuite/testcase")
    assert [case.get("name") for case in cases] == [
        "top-1 drop", "speedup", "ONNX size", "parity", "top-1 regression", "size regression", "latency regression",
    ]  # fmt: skip
    assert {case.get("classname") for case in cases} == {"runs/r20"}
    assert [(case.get("name"), case[0].tag) for case in cases if len(case)] == [
        ("speedup", "failure"),
        ("latency regression", "skipped"),
    ]


def test_a_failure_says_value_limit_and_margin(verdict: Verdict) -> None:
    root = read(junit(verdict, "run"))
    failure, skipped = root.find(".//failure"), root.find(".//skipped")
    assert failure is not None
    assert skipped is not None
    assert failure.get("message") == "speedup 1.840x, limit ≥ 2.000x, margin -0.160x: FAIL"
    assert "an <older> one" in str(skipped.get("message"))
    assert "McNemar's exact p" in str(root.findtext(".//system-out"))


@pytest.mark.parametrize("name", ["a<b>&\"'", "line\nend", "bell\x07 and \x00", "\ud800", "runs/äöü 雪"])
def test_any_name_of_a_run_gives_xml_that_can_be_read(verdict: Verdict, name: str) -> None:
    root = read(junit(verdict, name))
    assert len(root.findall(".//testcase")) == 7
    assert str(root.find(".//testcase").get("classname")).isprintable() or "\n" in name  # type: ignore[union-attr]


def test_a_gate_without_an_answer_replaces_the_file_of_one_that_passed(cli, tmp_path: Path) -> None:
    path = tmp_path / "gate.xml"
    (tmp_path / "report.json").write_text("{}")
    for command in (
        (tmp_path / "gone",),
        (tmp_path / "report.json",),
        (tmp_path / "report.json", "--min-speedup", "-1"),
    ):
        path.write_text('<testsuites tests="1" failures="0" errors="0"/>')
        ended = cli("gate", *command, "--junit", path)
        assert ended.code == 2
        root = ElementTree.fromstring(path.read_text())
        case = root.find("testsuite/testcase")
        assert case is not None
        assert (root.get("tests"), root.get("errors"), case.get("name")) == ("1", "1", "gate")
        error = case.find("error")
        assert error is not None
        assert str(error.get("message")) in ended.err.replace("\n", "")
