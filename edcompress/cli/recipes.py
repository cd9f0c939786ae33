"""Commands about recipes: recipes, check, init."""

from __future__ import annotations

from shlex import quote

from rich.table import Table

from edcompress.cli.console import out, say
from edcompress.cli.options import NewRecipe, Overrides, RecipeFiles, RecipeToPrint, Replace
from edcompress.core.errors import InputError, NetworkError
from edcompress.core.recipe.loading import read_recipe
from edcompress.core.recipe.starter import headline, starter
from edcompress.core.recipe.yaml_files import locate, presets, read_text, shipped
from edcompress.core.system.files import require_new_file, write_text


def recipes(name: RecipeToPrint = None) -> None:
    """List the shipped recipes, or print one."""
    if name:
        path = presets().get(name) or locate(name)
        say(read_text(path).rstrip())
        return
    table = Table("recipe", "what it is", box=None, pad_edge=False)
    listed = {f"{stem} (preset)": path for stem, path in presets().items()}
    for stem, path in (shipped() | listed).items():
        table.add_row(stem, headline(path))
    out.print(table)


def check(recipe: RecipeFiles, overrides: Overrides = None) -> None:
    """Check recipes and list every fault at once."""
    from edcompress.networks.registry import require_known  # imports torch

    faults = []
    for name in recipe:
        try:
            checked = read_recipe(name, overrides or ())
            require_known(checked.model)
        except InputError as error:
            faults.append(f"{name}: {error}" if isinstance(error, NetworkError) else str(error))
        else:
            say(f"{name}: fine ({checked.model.name} on {checked.data.dataset})")
    if faults:
        raise InputError("\n".join(faults))


def init(path: NewRecipe, force: Replace = False) -> None:
    """Write a recipe with every key, its default and its meaning."""
    require_new_file(path, "init", force=force)
    write_text(path, starter(path))
    say(f"wrote {path}; next: edcompress check {quote(str(path))}")


COMMANDS = (recipes, check, init)
