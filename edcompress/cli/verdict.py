"""The verdict as exit code."""

from __future__ import annotations

from pathlib import Path

import typer

import edcompress
from edcompress.cli.output import show_report, show_verdict, write_ci_outputs
from edcompress.core.results.verdict import Verdict
from edcompress.runs.folder import RunFolder


def finish_with_gate(folder: RunFolder) -> None:
    verdict = edcompress.gate(folder)
    show_report(folder.read_report(), folder, as_json=False)
    exit_with_verdict(verdict, folder)


def exit_with_verdict(
    verdict: Verdict, target: RunFolder | Path, junit: Path | None = None, *, as_json: bool = False
) -> None:
    """Show the gate's answer to people, machines and CI servers, and end with its exit code."""
    show_verdict(verdict, as_json=as_json)
    path = target if isinstance(target, Path) else target.path
    write_ci_outputs(verdict, str(path).encode(errors="replace").decode(), junit)
    raise typer.Exit(0 if verdict.passed else 1)
