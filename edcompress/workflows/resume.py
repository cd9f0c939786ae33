"""Begin, claim or go on with a run folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from edcompress.core.errors import RunFolderError
from edcompress.core.recipe.diff import differences
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.recipe.yaml_files import dump
from edcompress.core.system.distributed import ALONE, ProcessGroup
from edcompress.core.system.files import write_text
from edcompress.runs.folder import RunFolder
from edcompress.workflows.stages.batch_size import with_batch_size
from edcompress.workflows.stages.starting_point import StartingPoint, save_starting_point

FREE_ON_RESUME = ("data.root", "data.download", "data.workers", "data.skip_broken", "gate.", "preset", "run.")
"""Keys, or the beginnings of keys, that a resumed run may change: they do not change what `prune` computes.

A run that came so far without `data.skip_broken` has met no broken image, and computed what it computes with it.
"""

OF_FILES = ("export.", "benchmark.")
"""Those by which files are made and measured; a resumed run may change them too, but where the target is a time."""


@contextmanager
def reserve_folder(folder: RunFolder, *, force: bool, ranks: ProcessGroup = ALONE) -> Iterator[None]:
    """A block at whose begin the run folder is made, so that no other command takes it; it is gone again where the block fails."""
    ranks.run_on_rank0(partial(folder.create, force=force))
    try:
        yield
    except BaseException:
        if ranks.is_main and not any(folder.path.iterdir()):
            folder.path.rmdir()
        raise


@contextmanager
def hold_folder(
    folder: RunFolder, recipe: Recipe, origin: StartingPoint, *, resuming: bool, force: bool
) -> Iterator[None]:
    """A block in which the folder is this process's alone, and holds what a run begins with; RunFolderError where it cannot."""
    if not resuming:
        folder.create(force=force)
    with folder.locked():
        if not resuming:
            folder.clear()
            save_starting_point(origin, folder)
        write_text(folder / "recipe.yaml", dump(recipe))
        yield


def can_resume(folder: RunFolder, recipe: Recipe) -> bool:
    """Whether this run was begun in `folder`; RunFolderError where one was whose recipe differs in what `prune` computes."""
    if not folder.exists:
        return False
    free = FREE_ON_RESUME if recipe.targets_latency else (*FREE_ON_RESUME, *OF_FILES)
    changed = [key for key in differences(folder.read_recipe(), recipe) if not key.startswith(free)]
    if changed:
        raise RunFolderError(
            f"--resume: {folder.path} was begun with another {', '.join(changed)}; resume it with its own recipe.yaml"
        )
    folder.require_whole()
    if not folder.finished and not folder.state.is_dir():
        raise RunFolderError(f"{folder.state} is missing, from which the run would go on; start over with --force")
    return True


def update_recipe_file(folder: RunFolder, recipe: Recipe) -> None:
    """Have the recipe.yaml of a finished run say by what it is now exported and gated; `begun` has checked that the rest is the same."""
    text = dump(with_resolved_batch_size(recipe, folder))
    if text != dump(folder.read_recipe()):
        with folder.locked():
            write_text(folder / "recipe.yaml", text)


def with_resolved_batch_size(recipe: Recipe, folder: RunFolder) -> Recipe:
    """The recipe, which takes for `data.batch_size: auto` what the run in `folder` found where one was begun there."""
    if recipe.data.batch_size != "auto" or not folder.exists:
        return recipe
    return with_batch_size(recipe, folder.read_recipe().data.batch_size)
