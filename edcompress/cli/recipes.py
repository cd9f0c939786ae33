"""Commands about recipes: recipes, check, init."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

import typer
from rich.table import Table

from edcompress.cli.console import err, out, say
from edcompress.cli.options import (
    AllKeys,
    AsJson,
    CheckedWeights,
    Device,
    NewImages,
    NewRecipe,
    NewTarget,
    NewWeights,
    NoTiming,
    Overrides,
    RecipeFiles,
    RecipeToPrint,
    Replace,
    TrustCode,
    TrustPickle,
)
from edcompress.cli.output import show_checks
from edcompress.cli.progress_bar import Display
from edcompress.core.errors import InputError, RecipeError
from edcompress.core.recipe.loading import read_recipe
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.recipe.starter import headline, starter
from edcompress.core.recipe.weights_name import weights_name
from edcompress.core.recipe.yaml_files import locate, presets, read_text, shipped
from edcompress.core.results.recipe_check import RecipeCheck
from edcompress.core.system.context import RunOptions
from edcompress.core.system.files import require_new_file, write_text
from edcompress.core.system.monitor import NullMonitor


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


def check(recipe: RecipeFiles, weights: CheckedWeights = None, overrides: Overrides = None, device: Device = "auto",
          no_timing: NoTiming = False, trust_code: TrustCode = False, trust_pickle: TrustPickle = False,
          as_json: AsJson = False) -> None:  # fmt: skip
    """Check recipes before any training: list every fault at once, and show what a run will do."""
    read = [_read(name, overrides or (), weights) for name in recipe]
    found = [one for one in read if isinstance(one, RecipeCheck)]
    if valid := {name: one for name, one in zip(recipe, read, strict=True) if isinstance(one, Recipe)}:
        from edcompress.workflows.check import check_recipe  # imports torch
        from edcompress.workflows.weights import open_weights

        options = RunOptions(device, trust_code, trust_pickle, NullMonitor())  # the warnings are in the result
        with Display(err, quiet=weights_name(weights) is None) as monitor:
            given = None if weights is None else open_weights(weights, monitor)
        found += [check_recipe(one, given, options, name=name, timing=not no_timing) for name, one in valid.items()]
    show_checks(found, as_json=as_json)
    if faults := [_with_recipe(one.recipe, fault) for one in found for fault in one.faults]:
        raise InputError("\n".join(faults))


def _read(name: str, overrides: Sequence[str], weights: str | None) -> Recipe | RecipeCheck:
    """Return a valid recipe, or what is wrong with it."""
    try:
        return read_recipe(name, overrides, weights)
    except RecipeError as error:
        return RecipeCheck(recipe=name, faults=tuple(str(error).splitlines()))


def _with_recipe(name: str, fault: str) -> str:
    """Return the fault with the name of its recipe, which faults of the schema already have."""
    return fault if name in fault else f"{name}: {fault}"


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
    if weights is not None and images is not None:
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


def _ask(weights: str | None, images: Path | None, target: str | None) -> tuple[str | None, Path | None, str | None]:
    """Ask for what was not given; an empty answer to the first question asks for a template."""
    if weights is None and images is None:
        answer = typer.prompt(
            "Weights of your network, a file or a name (empty: write a template)", default="", show_default=False
        )
        if not answer:
            return None, None, None
        weights = answer
    weights = os.path.expanduser(weights or typer.prompt("Weights of your network, a file or a name"))
    images = images or Path(typer.prompt("Images, a folder with one folder per class")).expanduser()
    return weights, images, target or typer.prompt("Target, the share to keep", default="macs=0.5")


def _write_short(path: Path, weights: str, images: Path, target: str, *, trust_pickle: bool) -> None:
    from edcompress.workflows.init import suggest_recipe  # imports torch

    with Display(err, quiet=weights_name(weights) is None) as monitor:
        made = suggest_recipe(path, weights, images, target=target, trust_pickle=trust_pickle, monitor=monitor)
    write_text(path, made.text)
    for note in made.notes:
        say(f"note: {note}")
    recipe, file = quote(str(path)), quote(weights)
    say(
        f"wrote {path}; next: edcompress check {recipe} --weights {file}\n  then: edcompress run {file} --recipe {recipe}"
    )


COMMANDS = (recipes, check, init)
