"""Commands about recipes: recipes, check, init."""

from __future__ import annotations

import sys
from pathlib import Path
from shlex import quote

import typer
from rich.table import Table

from edcompress.cli.console import out, say
from edcompress.cli.options import (
    AllKeys,
    NewImages,
    NewRecipe,
    NewTarget,
    NewWeights,
    Overrides,
    RecipeFiles,
    RecipeToPrint,
    Replace,
    TrustPickle,
)
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


def init(path: NewRecipe, weights: NewWeights = None, images: NewImages = None, target: NewTarget = None, all_keys: AllKeys = False,
         force: Replace = False, trust_pickle: TrustPickle = False) -> None:  # fmt: skip
    """Write a recipe: a short one for weights and images, which are looked at, or one with every key."""
    require_new_file(path, "init", force=force)
    given = [option for option, value in _options(weights, images, target) if value is not None]
    if all_keys and given:
        raise InputError(
            f"init --all writes every key with its default, and takes no {' and '.join(given)}; drop one of the two"
        )
    if not all_keys and can_ask() and (weights is None or images is None):
        weights, images, target = _ask(weights, images, target)
    if weights and images:
        _write_short(path, weights, images, target or "macs=0.5", trust_pickle=trust_pickle)
        return
    if missing := [option for option, value in _options(weights, images) if value is None and given]:
        raise InputError(
            f"init {' '.join(given)}: {' and '.join(missing)} missing; give both, or neither for a template"
        )
    write_text(path, starter(path))
    say(f"wrote {path}; next: edcompress check {quote(str(path))}")


def can_ask() -> bool:
    """Return whether a person is there to answer questions."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _options(*values: object) -> list[tuple[str, object]]:
    return list(zip(("--weights", "--images", "--target"), values, strict=False))


def _ask(weights: Path | None, images: Path | None, target: str | None) -> tuple[Path | None, Path | None, str | None]:
    """Ask for what was not given; an empty answer to the first question asks for a template."""
    if weights is None and images is None:
        answer = typer.prompt(
            "Weights of your network, a file (empty: write a template)", default="", show_default=False
        )
        if not answer:
            return None, None, None
        weights = Path(answer).expanduser()
    weights = weights or Path(typer.prompt("Weights of your network, a file")).expanduser()
    images = images or Path(typer.prompt("Images, a folder with one folder per class")).expanduser()
    return weights, images, target or typer.prompt("Target, the share to keep", default="macs=0.5")


def _write_short(path: Path, weights: Path, images: Path, target: str, *, trust_pickle: bool) -> None:
    from edcompress.workflows.init import suggest_recipe  # imports torch

    made = suggest_recipe(path, weights, images, target=target, trust_pickle=trust_pickle)
    write_text(path, made.text)
    for note in made.notes:
        say(f"note: {note}")
    recipe, file = quote(str(path)), quote(str(weights))
    say(
        f"wrote {path}; next: edcompress check {recipe} --weights {file}\n  then: edcompress run {file} --recipe {recipe}"
    )


COMMANDS = (recipes, check, init)
