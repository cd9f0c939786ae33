"""A verdict as JUnit XML, GitHub annotations and a job summary."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from edcompress.core.plain_text import harmless
from edcompress.core.results.verdict import Verdict
from edcompress.report.render.markdown import literal, table_row
from edcompress.report.render.verdict_rows import check_notes, check_rows, check_sentences, skipped_rows

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(verdict: Verdict, name: str) -> str:
    """Return a JUnit document with a test case per limit, of elements that Jenkins, GitLab and others share; `name` is what was gated."""
    failed = sum(not check.passed for check in verdict.checks)
    tests = len(verdict.checks) + len(verdict.skipped)
    counts = {"tests": str(tests), "failures": str(failed), "errors": "0", "time": "0"}
    root = ElementTree.Element("testsuites", {"name": "edcompress gate", **counts})
    named = {"name": _text(f"edcompress gate {name}"), "skipped": str(len(verdict.skipped))}
    suite = ElementTree.SubElement(root, "testsuite", {**named, **counts})
    sentences = check_sentences(verdict)
    for row, check, text in zip(check_rows(verdict), verdict.checks, sentences, strict=True):
        case = _case(suite, row.name, name)
        if not check.passed:
            ElementTree.SubElement(case, "failure", type="limit", message=_text(text))
    for skip in skipped_rows(verdict):
        ElementTree.SubElement(_case(suite, skip.name, name), "skipped", message=_text(skip.reason))
    notes = ElementTree.SubElement(suite, "system-out")
    notes.text = _text("\n".join([*sentences, *check_notes(verdict)]))
    return _document(root)


def junit_of_failure(message: str, name: str) -> str:
    """Return the JUnit document of a gate without an answer: one test case with the error."""
    counts = {"tests": "1", "failures": "0", "errors": "1", "time": "0"}
    root = ElementTree.Element("testsuites", {"name": "edcompress gate", **counts})
    suite = ElementTree.SubElement(
        root, "testsuite", {"name": _text(f"edcompress gate {name}"), "skipped": "0", **counts}
    )
    ElementTree.SubElement(_case(suite, "gate", name), "error", type="input", message=_text(message))
    return _document(root)


def _document(root: ElementTree.Element) -> str:
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, name: str, of: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", name=_text(name), classname=_text(of), time="0")


def _text(text: str) -> str:
    """Return the text without characters that XML forbids, which names of files may contain."""
    return _NO_XML.sub("\ufffd", text)


def workflow_commands(verdict: Verdict) -> list[str]:
    """Return annotations, one per line of output: errors for limits that failed, warnings for what was skipped or is not to be trusted."""
    rows = zip(verdict.checks, check_rows(verdict), check_sentences(verdict), strict=True)
    return [
        *(_command("error", f"edcompress gate: {row.name}", text) for check, row, text in rows if not check.passed),
        *(
            _command("warning", f"edcompress gate: {row.name}", f"skipped: {row.reason}")
            for row in skipped_rows(verdict)
        ),
        *(_command("warning", "edcompress gate", text) for text in verdict.warnings),
    ]


def summary(verdict: Verdict, name: str) -> str:
    """Return a Markdown section with a table of the checks; `name` is what was gated."""
    lines = [
        f"### edcompress gate: {'passed' if verdict.passed else 'FAILED'}",
        "",
        literal(name),
        "",
        "| | value | limit | margin | |",
        "| --- | ---: | ---: | ---: | --- |",
        *map(table_row, check_rows(verdict)),
        "",
        *(f"- {literal(note)}" for note in check_notes(verdict)),
    ]
    return "\n".join(lines) + "\n\n"


def _command(kind: str, title: str, message: str) -> str:
    escaped = _escaped(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={escaped}::{_escaped(message)}"


def _escaped(text: str) -> str:
    """Return text escaped for the runner: a raw line end would cut the message, or start another command."""
    return harmless(text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A"))
