"""Begin, claim or continue a run folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from edcompress.core.errors import RunFolderError
from edcompress.core.recipe.diff import differences
from edcompress.core.recipe.loading import CHANGED_DEFAULTS
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.recipe.weights_name import FILLED, Offer, WeightsName, weights_name
from edcompress.core.recipe.yaml_files import dump
from edcompress.core.system.context import RunOptions
from edcompress.core.system.distributed import ALONE, ProcessGroup
from edcompress.core.system.files import write_text
from edcompress.core.system.tensor_files import load_checkpoint, save_checkpoint, save_tensors
from edcompress.data.datasets import at_one_place
from edcompress.networks.build import plain_network
from edcompress.networks.weight_files import read_state_dict
from edcompress.pruning.cost.latency_model import LatencyTable
from edcompress.pruning.space.plan import Plan
from edcompress.runs.folder import RunFolder
from edcompress.runs.progress import starting_weights
from edcompress.runs.reading import parse_file
from edcompress.workflows.stages.file_metadata import WEIGHTS
from edcompress.workflows.stages.start_files import EarlierNetwork, KeptStart, read_space
from edcompress.workflows.stages.starting_point import StartingPoint, load_dense, read_weights
from edcompress.workflows.weights import GivenWeights, Weights, open_weights

FREE_ON_RESUME = ("data.root", "data.download", "data.workers", "data.skip_broken", "gate.", "preset", "run.")
"""Keys, or beginnings of keys, that a resumed run may change: they do not change what `prune` computes.

A run that came this far without `data.skip_broken` has met no broken image, and computed what it computes with it.
"""

OF_FILES = ("export.", "benchmark.")
"""Keys of how files are made and measured; a resumed run may change them too, unless the target is a time."""


@contextmanager
def reserve_folder(folder: RunFolder, *, force: bool, ranks: ProcessGroup = ALONE) -> Iterator[None]:
    """Make the run folder for a block, so that no other command takes it; remove it again if the block fails."""
    ranks.run_on_rank0(partial(folder.create, force=force))
    try:
        yield
    except BaseException:
        if ranks.is_main and not any(folder.path.iterdir()):
            folder.path.rmdir()
        raise


@contextmanager
def hold_folder(
    folder: RunFolder, recipe: Recipe, start: StartingPoint, *, resuming: bool, force: bool
) -> Iterator[None]:
    """Lock the folder for a block, holding what the run begins with; raise RunFolderError if that is impossible."""
    if not resuming:
        folder.create(force=force)
    with folder.locked():
        if not resuming:
            folder.clear()
            save_start(start, folder)
        write_text(folder / "recipe.yaml", dump(recipe))
        yield


def save_start(start: StartingPoint, folder: RunFolder) -> None:
    """Write the files from which `read_start` reads the starting point."""
    write_text(folder.step, f"{start.feasible.round_to}\n")
    about = {WEIGHTS: start.source.model_dump_json()} if start.source else None
    save_tensors(folder / "dense.safetensors", start.dense.state_dict(), about)
    write_text(folder / "space.json", start.whole.model_dump_json(indent=1) + "\n")
    if start.table:
        write_text(folder / "latency.json", start.table.model_dump_json(indent=1) + "\n")
    if start.network is not start.dense:
        plan, network = start.first.model_dump(mode="json"), start.network.state_dict()
        save_checkpoint(folder.start, {"plan": plan, "network": network})


def read_start(folder: RunFolder, *, in_time: bool) -> KeptStart:
    """Return the starting point that an unfinished run keeps; raise RunFolderError if a file is missing or damaged."""
    saved = load_checkpoint(folder.start) if folder.start.is_file() else None
    return KeptStart(
        folder=folder.path,
        dense=folder / "dense.safetensors",
        space=read_space(folder / "space.json"),
        table=parse_file(folder / "latency.json", LatencyTable.model_validate_json) if in_time else None,
        earlier=EarlierNetwork(Plan.model_validate(saved["plan"]), saved["network"]) if saved else None,
        step=parse_file(folder.step, int) if folder.step.exists() else None,
    )


def start_files(folder: RunFolder) -> list[Path]:
    """Return the files of `save_start` that stay in the run, and have no checksum of their own."""
    return [path for name in ("dense.safetensors", "space.json", "latency.json") if (path := folder / name).is_file()]


def can_resume(folder: RunFolder, recipe: Recipe) -> bool:
    """Whether `folder` holds this run; raise RunFolderError if it holds one whose recipe differs in what `prune` computes."""
    if not folder.exists:
        return False
    free = FREE_ON_RESUME if recipe.targets_latency else (*FREE_ON_RESUME, *OF_FILES)
    before = folder.read_recipe()
    moved = {f"data.{key}" for key in ("folder", "source") if at_one_place(before.data, recipe.data, key)}
    changed = [key for key in differences(before, recipe) if not key.startswith(free) and key not in moved]
    if changed:
        raise RunFolderError(
            f"--resume: {folder.path} was started with a different {', '.join(changed)}; resume it with its own recipe.yaml"
        )
    folder.require_whole()
    if not folder.finished and not folder.state.is_dir():
        raise RunFolderError(f"{folder.state} is missing, from which the run would continue; start over with --force")
    return True


def weights_for(weights: Weights, folder: RunFolder, options: RunOptions, *, resume: bool) -> GivenWeights:
    """Return the weights of a run in `folder`; those by name that it keeps already are not fetched again to resume it."""
    name, ranks = weights_name(weights), options.ranks
    kept = ranks.run_on_rank0(partial(_kept, folder, name)) if resume and name else None
    return kept or open_weights(weights, options.monitor, ranks)


def _kept(folder: RunFolder, name: WeightsName) -> GivenWeights | None:
    """Return the weights that a run keeps, with the values of its recipe, if it was started with weights of this name."""
    if starting_weights(folder) != name.shown:
        return None
    values = folder.read_recipe().model_dump(include=FILLED)
    return GivenWeights(Path(name.shown), name.shown, offer=Offer(values))


def resumed_name(folder: RunFolder, recipe: Recipe, weights: GivenWeights, options: RunOptions) -> str:
    """Return the name of the weights that a run was started with; those that are given, if they exist, must be the same."""
    is_run_itself = weights.path.resolve() == folder.path.resolve()
    if can_resume(folder, recipe) and weights.path.exists() and not is_run_itself:
        require_same_weights(folder, weights.path, options)
    return starting_weights(folder) or weights.name


def require_same_weights(folder: RunFolder, source: Path, options: RunOptions) -> None:
    """Raise RunFolderError if a run was started with weights other than those now in `source`, a weights file or a run."""
    recipe, earlier = folder.read_recipe(), RunFolder(source)
    spec, trust = recipe.network_spec, options.trust
    if earlier.exists:
        earlier.require_finished("pruning it again")
        given = [load_dense(spec, earlier / "dense.safetensors", trust=trust).state_dict()]
    else:
        given = [read_weights(recipe, source, options).state_dict()]
    before = [load_dense(spec, folder / "dense.safetensors", trust=trust).state_dict()]
    if not folder.finished:  # a finished run no longer holds what its search began with
        given += [read_state_dict(earlier / "pruned.safetensors")] if earlier.exists else []
        before += [load_checkpoint(folder.start)["network"]] if folder.start.is_file() else []
    if len(given) != len(before) or not all(map(_near, before, given)):
        raise RunFolderError(
            f"{folder.path} was started with weights other than those in {source}; choose another folder with -o"
        )


def require_same_object(folder: RunFolder, recipe: Recipe, options: RunOptions) -> None:
    """Raise RunFolderError if a folder has a run that was started with weights other than those of the network in memory."""
    if not can_resume(folder, recipe):
        return
    given = plain_network(folder.read_recipe().network_spec, trust=options.trust).state_dict()
    if not _near(read_state_dict(folder / "dense.safetensors"), given):
        raise RunFolderError(
            f"{folder.path} was started with weights other than those of the network that is given; choose another folder with out"
        )


def _near(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether tensors are the same up to the rounding of computed weights."""
    return one.keys() == other.keys() and all(
        one[key].shape == other[key].shape and torch.allclose(one[key].float(), other[key].float()) for key in one
    )


def update_recipe_file(folder: RunFolder, recipe: Recipe) -> None:
    """Write into the recipe.yaml of a finished run how it is now exported and gated; `can_resume` has checked the rest."""
    text = dump(with_resolved_values(recipe, folder))
    if text != dump(folder.read_recipe()):
        with folder.locked():
            write_text(folder / "recipe.yaml", text)


def with_resolved_values(recipe: Recipe, folder: RunFolder) -> Recipe:
    """Return the recipe with the values that the run in `folder`, if there is one, has for what the recipe leaves open.

    A search that the run replaced by a ranking stays replaced, and defaults that have changed since the run was started stay as they were.
    """
    if not folder.exists:
        return recipe
    theirs = folder.read_recipe()
    unset = [key for key in CHANGED_DEFAULTS if not recipe.sets(key)]
    keys = [*recipe.open_keys, *theirs.chosen.keys() & {"search.method"}, *unset]
    return recipe.with_values({key: theirs.value_of(key) for key in keys}, theirs.chosen)
