"""A verdict for GitHub Actions: annotations of the step, and a Markdown summary of the job."""

from __future__ import annotations

from edcompress.plain_text import harmless
from edcompress.report.checks import check_notes, check_rows, check_sentences, skipped_rows
from edcompress.report.markdown import literal, table_row
from edcompress.results import Verdict


def workflow_commands(verdict: Verdict) -> list[str]:
    """Annotations, one per line of output: an error per limit that failed, warnings of what was skipped or is not to be trusted."""
    told = zip(verdict.checks, check_rows(verdict), check_sentences(verdict), strict=True)
    return [
        *(_command("error", f"edcompress gate: {row.name}", text) for check, row, text in told if not check.passed),
        *(
            _command("warning", f"edcompress gate: {row.name}", f"skipped: {row.reason}")
            for row in skipped_rows(verdict)
        ),
        *(_command("warning", "edcompress gate", text) for text in verdict.warnings),
    ]


def summary(verdict: Verdict, name: str) -> str:
    """A Markdown section with a table of the checks; `name` is what was gated."""
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
    """As the runner reads it back: a raw line end would cut the message, or begin a command of its own."""
    return harmless(text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A"))
