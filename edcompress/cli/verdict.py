"""The verdict of the gate as exit code, for people, and for CI servers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

import edcompress
from edcompress.cli.output import show_report, show_verdict
from edcompress.core.errors import InputError
from edcompress.core.results.verdict import Verdict
from edcompress.core.system.files import require_new_file, write_text
from edcompress.report.render.ci_formats import junit, junit_of_failure, summary, workflow_commands
from edcompress.runs.reading import read_report


def finish_with_gate(folder: Path) -> None:
    """Gate a finished run, show its report and the verdict, and exit with the gate's code."""
    verdict = edcompress.gate(folder)
    show_report(read_report(folder / "report.json"), folder, as_json=False)
    exit_with_verdict(verdict, folder)


def exit_with_verdict(verdict: Verdict, target: Path, junit_file: Path | None = None, *, as_json: bool = False) -> None:
    """Show the verdict to people, machines and CI servers, and exit with code 0 if it passed and 1 if not."""
    show_verdict(verdict, as_json=as_json)
    write_ci_outputs(verdict, str(target).encode(errors="replace").decode(), junit_file)
    raise typer.Exit(0 if verdict.passed else 1)


@contextmanager
def recording_failure(junit_file: Path | None, name: str) -> Iterator[None]:
    """Record in the JUnit file that a block failed, because CI servers would read an older file that passed."""
    if junit_file:
        require_new_file(junit_file, "--junit", ".xml", force=True)
    try:
        yield
    except BaseException as error:
        if junit_file:
            write_text(junit_file, junit_of_failure(str(error) or type(error).__name__, name))
        raise


def write_ci_outputs(verdict: Verdict, name: str, junit_file: Path | None) -> None:
    """Write the verdict to a JUnit file, if one is asked for, and in GitHub Actions as annotations (stderr) and to the step's summary."""
    if junit_file:
        write_text(junit_file, junit(verdict, name))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in workflow_commands(verdict):
            sys.stderr.write(line + "\n")
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(summary(verdict, name))
        except OSError as error:
            raise InputError(f"GITHUB_STEP_SUMMARY: {path} cannot be written: {error.strerror}") from error
