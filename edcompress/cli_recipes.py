"""The commands about recipes: list, check, begin one. `edcompress.cli` takes them up."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer
from rich.table import Table

from edcompress import recipebook, runs, views
from edcompress.cli_options import Overrides, Replace
from edcompress.errors import InputError, NetworkError
from edcompress.files import require_file_place


def recipes(name: Annotated[str | None, typer.Argument(help="Print this recipe.")] = None) -> None:
    """List the shipped recipes, or print one."""
    if name:
        path = recipebook.presets().get(name) or recipebook.locate(name)
        views.say(recipebook.read_text(path).rstrip())
        return
    table = Table("recipe", "what it is", box=None, pad_edge=False)
    presets = {f"{stem} (preset)": path for stem, path in recipebook.presets().items()}
    for stem, path in (recipebook.shipped() | presets).items():
        table.add_row(stem, recipebook.headline(path))
    views.out.print(table)


def check(recipe: Annotated[list[str], typer.Argument(metavar="RECIPE...", help="Files or names of recipes.")],
          overrides: Overrides = None) -> None:  # fmt: skip
    """Check recipes and list every fault at once."""
    from edcompress.networks.registry import require_known  # torch, which no other of these commands needs

    faults = []
    for name in recipe:
        try:
            checked = recipebook.read_recipe(name, overrides or ())
            require_known(checked.model)
        except InputError as error:
            faults.append(f"{name}: {error}" if isinstance(error, NetworkError) else str(error))
        else:
            views.say(f"{name}: fine ({checked.model.called} on {checked.data.dataset})")
    if faults:
        raise InputError("\n".join(faults))


def init(path: Annotated[Path, typer.Argument(help="The recipe file to write.")], force: Replace = False) -> None:
    """Write a recipe with every key, its default and its meaning."""
    require_file_place(path, "init")
    if path.exists() and not force:
        raise InputError(f"{path} exists; choose another path, or overwrite it with --force")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a folder; make it first")
    runs.write_text(path, recipebook.starter(path))
    views.say(f"wrote {path}; next: edcompress check {quote(str(path))}")


COMMANDS = (recipes, check, init)
