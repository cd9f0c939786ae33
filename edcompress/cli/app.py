"""The typer app: registers the commands.

No command module imports torch at the top, so that `--help`, `recipes`, `status` and `gate` answer at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

import edcompress
from edcompress.cli import compress, deploy, observe, recipes
from edcompress.cli.console import say
from edcompress.core.system.distributed import require_alone

app = typer.Typer(
    name="edcompress",
    help="Turn a trained image classifier into a smaller, faster ONNX file, and prove it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(given: bool) -> None:
    if given:
        say(edcompress.__version__)
        raise typer.Exit


@app.callback()
def _before(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand not in ("prune", "run"):
        require_alone(str(context.invoked_subcommand))


for command in (
    compress.prune, deploy.export, deploy.convert, deploy.gate, deploy.evaluate, deploy.benchmark, observe.inspect, compress.train,
    compress.run, compress.sweep, compress.demo, deploy.report, *recipes.COMMANDS, observe.status, observe.runs, observe.doctor,
):  # fmt: skip
    app.command()(command)
