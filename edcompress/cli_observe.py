"""The commands that look and change nothing: how runs stand, and what they run on. `edcompress.cli` takes them up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edcompress import overview, panels
from edcompress.cli_options import AsJson, TrustCode
from edcompress.display import Display, Terminal
from edcompress.doctor import examine, examine_rates
from edcompress.errors import EdcompressError
from edcompress.recipebook import read_recipe

Folder = Annotated[
    Path | None,
    typer.Argument(metavar="[RUN]", help="A run folder, or a sweep's; default: the run under ./runs begun last."),
]
Root = Annotated[Path, typer.Argument(metavar="[FOLDER]", help="The folder that holds the runs.")]
RecipeName = Annotated[
    str | None,
    typer.Option("--recipe", "-r", help="Measure too whether this recipe's images or its training are slower."),
]


def status(run: Folder = None, as_json: AsJson = False) -> None:
    """How a run stands, from any shell while it runs: stage, epoch, figures, time left, last checkpoint."""
    panels.show_status(overview.status_of(overview.find(run)), as_json=as_json)


def runs(folder: Root = Path("runs"), as_json: AsJson = False) -> None:
    """List the runs in a folder with what they came to, the last sign of life first."""
    panels.show_runs(overview.list_runs(folder), folder, as_json=as_json)


def doctor(recipe: RecipeName = None, trust_code: TrustCode = False, as_json: AsJson = False) -> None:
    """Check versions, devices, providers, threads, memory and disk: exit code 3 when something is at fault."""
    checked = read_recipe(recipe, ()) if recipe else None
    findings = examine()
    if checked:
        with Display(Terminal(stderr=True), quiet=True) as monitor:
            findings += examine_rates(checked, monitor, trust_code=trust_code)
    panels.show_findings(findings, as_json=as_json)
    if faults := [finding.name for finding in findings if finding.level == "fault"]:
        raise EdcompressError(f"at fault: {', '.join(faults)}; see above for the way out")


COMMANDS = (status, runs, doctor)
