"""Where a run starts from: a checkpoint, or what an earlier run left of one.

A run that goes on from another is measured against the network that the first one began with: accuracies, ratios, space.json and
plan.json are of that network, so that nothing compounds, and one plan leads from it to the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edcompress.core.errors import BudgetError, InputError, NetworkError, RunFolderError
from edcompress.core.plain_text import few
from edcompress.core.recipe.diff import differences
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.system.context import RunOptions
from edcompress.core.system.files import write_text
from edcompress.core.system.tensor_files import load_checkpoint, save_checkpoint, save_tensors
from edcompress.networks.build import plain_network, read_network
from edcompress.networks.load_weights import load_into
from edcompress.networks.weight_files import read_state_dict
from edcompress.pruning.cost.budget import Budget
from edcompress.pruning.cost.cost_model import CostModel, RemainingCosts
from edcompress.pruning.cost.latency_model import LatencyTable
from edcompress.pruning.space.plan import Plan, extend_plan
from edcompress.pruning.space.remaining_space import narrow_space
from edcompress.pruning.space.space import PruningSpace
from edcompress.pruning.surgery.remove import apply_plan
from edcompress.report.gate.noise import wait_warning
from edcompress.runs.folder import RunFolder
from edcompress.runs.reading import parsed
from edcompress.workflows.stages.feasibility import costs_and_target, find_space, latency_table, open_budget

_OF_CHECKPOINTS = ("model.ema", "model.reset_head")
"""Keys that say how a checkpoint is read: a run holds the same network whatever they are."""


@dataclass(frozen=True)
class StartingPoint:
    """Two networks on the CPU, which are one where there is no earlier run.

    `dense` is what figures and plans refer to, with its space `whole`; `network` is what the plan `first` and its training left of it,
    and what the search begins with, in its own `space`.
    """

    dense: nn.Module
    whole: PruningSpace
    first: Plan
    network: nn.Module
    space: PruningSpace
    budget: Budget
    table: LatencyTable | None


def open_starting_point(
    recipe: Recipe, source: Path, options: RunOptions, images: Tensor | None = None
) -> StartingPoint:
    """The origin of a run that starts from a checkpoint or from a finished run; an InputError where that cannot be.

    Removals are tried on real `images` [N, C, H, W] too, where they are given.
    """
    origin = _opened(recipe, source, options, images)
    if options.ranks.is_main and (warning := waiting_warning(origin.table)):
        options.monitor.warning(warning)
    return origin


def waiting_warning(table: LatencyTable | None) -> str | None:
    """Return the warning about a target in time that rests on a measurement which waited, or None."""
    consequence = "a target in time rests on this time of the dense network, and is off as well"
    return wait_warning(table.lost if table else 0.0, consequence, "start over")


def _opened(recipe: Recipe, source: Path, options: RunOptions, images: Tensor | None) -> StartingPoint:
    earlier = RunFolder(source)
    if not earlier.exists:
        dense = read_network(recipe, source, options).eval()
        return _new(recipe, dense, _tried(recipe, dense, options, images), latency_table(recipe, dense, options.ranks))
    earlier.require_finished("pruning it again")
    require_same_model(earlier, recipe)
    dense = load_dense(recipe, earlier / "dense.safetensors", options)
    found, plan = _tried(recipe, dense, options, images), read_plan(earlier)
    _require_same_groups(read_space(earlier), found, source)
    tensors = read_state_dict(earlier / "pruned.safetensors")
    origin = _continued(recipe, dense, found, plan, tensors, latency_table(recipe, dense, options.ranks))
    _require_less(origin, source)
    return origin


def reopen_starting_point(
    recipe: Recipe, folder: RunFolder, options: RunOptions, images: Tensor | None = None
) -> StartingPoint:
    """The origin of a run that was begun in `folder`, from what it saved itself; with the `images` that it was begun with."""
    dense = load_dense(recipe, folder / "dense.safetensors", options)
    table = parsed(folder / "latency.json", LatencyTable.model_validate_json) if recipe.targets_latency else None
    found = _tried(recipe, dense, options, images)
    if folder.start.is_file():
        saved = load_checkpoint(folder.start)
        plan = Plan.model_validate(saved["plan"])
        origin = _continued(recipe, dense, found, plan, saved["network"], table)
    else:
        origin = _new(recipe, dense, found, table)
    _require_same_genes(read_space(folder), origin.whole, folder)
    return origin


def resumed_starting_point(
    recipe: Recipe, folder: RunFolder, options: RunOptions, images: Tensor | None = None
) -> StartingPoint:
    """`reopen_origin` with the step of widths that the run goes by: a run that kept none began with the widest easy one."""
    origin = reopen_starting_point(recipe, folder, options, images)
    kept = parsed(folder.step, int) if folder.step.exists() else origin.budget.easy_steps[0]
    step = recipe.constraints.round_to or kept
    if step == origin.budget.round_to:
        return origin
    constraints = recipe.constraints.model_copy(update={"round_to": step})
    return reopen_starting_point(recipe.model_copy(update={"constraints": constraints}), folder, options, images)


def save_starting_point(origin: StartingPoint, folder: RunFolder) -> None:
    """Keep what `resumed_origin` needs, and the space."""
    write_text(folder.step, f"{origin.budget.round_to}\n")
    save_tensors(folder / "dense.safetensors", origin.dense.state_dict())
    write_text(folder / "space.json", origin.whole.model_dump_json(indent=1) + "\n")
    if origin.table:
        write_text(folder / "latency.json", origin.table.model_dump_json(indent=1) + "\n")
    if origin.network is not origin.dense:
        plan, network = origin.first.model_dump(mode="json"), origin.network.state_dict()
        save_checkpoint(folder.start, {"plan": plan, "network": network})


def saved_starting_point(folder: RunFolder) -> list[Path]:
    """The files of `save_origin` that are the run's own, and hold no checksum of themselves."""
    return [path for name in ("dense.safetensors", "space.json", "latency.json") if (path := folder / name).is_file()]


def load_dense(recipe: Recipe, path: Path, options: RunOptions) -> nn.Module:
    """The recipe's network with the weights of a run's own file, on the CPU in eval mode."""
    network = plain_network(recipe, options)
    load_into(network, read_state_dict(path), source=str(path))
    return network.eval()


def read_plan(folder: RunFolder) -> Plan:
    """The plan of a run; RunFolderError where plan.json is missing or damaged."""
    return parsed(folder / "plan.json", Plan.model_validate_json)


def read_space(folder: RunFolder) -> PruningSpace:
    """The pruning space of a run; RunFolderError where space.json is missing or damaged."""
    return parsed(folder / "space.json", PruningSpace.model_validate_json)


def require_same_model(folder: RunFolder, recipe: Recipe) -> None:
    """Raise InputError where the run is of another network than the recipe's."""
    changed = [key for key in differences(folder.read_recipe(), recipe) if key.startswith("model.")]
    changed = [key for key in changed if key not in _OF_CHECKPOINTS]
    if changed:
        raise InputError(f"{folder.path} holds another network than the recipe's: {', '.join(changed)} differ")


def require_same_weights(folder: RunFolder, source: Path, options: RunOptions) -> None:
    """Raise RunFolderError where a run was begun with other weights than `source`, a checkpoint or a run, holds by now."""
    recipe, earlier = folder.read_recipe(), RunFolder(source)
    if earlier.exists:
        earlier.require_finished("pruning it again")
        given = [load_dense(recipe, earlier / "dense.safetensors", options).state_dict()]
    else:
        given = [read_network(recipe, source, options).state_dict()]
    before = [load_dense(recipe, folder / "dense.safetensors", options).state_dict()]
    if not folder.finished:  # a finished one no longer holds what the search began with
        given += [read_state_dict(earlier / "pruned.safetensors")] if earlier.exists else []
        before += [load_checkpoint(folder.start)["network"]] if folder.start.is_file() else []
    if len(given) != len(before) or not all(map(_near, before, given)):
        raise RunFolderError(
            f"{folder.path} was begun with other weights than {source} holds; choose another folder with -o"
        )


def _near(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether tensors are the same, but for the rounding of weights that are computed."""
    return one.keys() == other.keys() and all(
        one[key].shape == other[key].shape and torch.allclose(one[key].float(), other[key].float()) for key in one
    )


def _tried(recipe: Recipe, dense: nn.Module, options: RunOptions, images: Tensor | None) -> PruningSpace:
    return find_space(recipe, dense, images, options.ranks.size)


def _new(recipe: Recipe, dense: nn.Module, space: PruningSpace, table: LatencyTable | None) -> StartingPoint:
    budget = open_budget(recipe, dense, space, table)
    return StartingPoint(dense, space, extend_plan(Plan(groups=()), space), dense, space, budget, table)


def _continued(
    recipe: Recipe,
    dense: nn.Module,
    found: PruningSpace,
    plan: Plan,
    tensors: dict[str, Tensor],
    table: LatencyTable | None,
) -> StartingPoint:
    """What the recipe `found` locked stays locked to the search, whether or not the earlier plan cut it."""
    whole = _freed(found, plan)
    first = extend_plan(plan, whole)
    network, space = apply_plan(dense, first, whole), narrow_space(found, first)
    load_into(network, tensors, source="the earlier run's pruned network")
    costs, target = costs_and_target(recipe, dense, whole, table)
    rest, widths = _rest(costs, whole, first, space)
    budget = Budget(space, rest, target, recipe.constraints, widths)
    return StartingPoint(dense, whole, first, network.eval(), space, budget, table)


def _freed(found: PruningSpace, plan: Plan) -> PruningSpace:
    cut = {group.name for group in plan.groups}
    groups = (group.model_copy(update={"locked": None}) if group.name in cut else group for group in found.groups)
    return PruningSpace(groups=tuple(groups))


def _rest(costs: CostModel, whole: PruningSpace, first: Plan, space: PruningSpace) -> tuple[RemainingCosts, Tensor]:
    """What states of the rest `space` cost, and how wide its groups [G] were in the dense network."""
    places = {group.name: place for place, group in enumerate(whole.free)}
    free = torch.tensor([places[group.name] for group in space.free], dtype=torch.int64)
    widths = torch.tensor([len(group.kept) for group in first.groups], dtype=torch.int64)
    return RemainingCosts(costs, widths, free), torch.tensor(whole.widths, dtype=torch.int64)[free]


def _require_same_groups(before: PruningSpace, found: PruningSpace, source: Path) -> None:
    now = {group.name: group.members for group in found.groups}
    if other := [group.name for group in before.free if now.get(group.name) != group.members]:
        raise NetworkError(
            f"{source}: its space.json and what is traced here differ in {few(other)}; prune with the versions of its "
            "report.json, or start from the checkpoint again"
        )


def _require_same_genes(before: PruningSpace, found: PruningSpace, folder: RunFolder) -> None:
    """Raise NetworkError where the interrupted run in `folder` searched other groups than are free here: its states do not fit them."""
    then, now = ({group.name: group.members for group in space.free} for space in (before, found))
    if other := [name for name in {**then, **now} if then.get(name) != now.get(name)]:
        raise NetworkError(
            f"{folder.path}: its space.json and what is traced here differ in {few(other)}; resume with the version of "
            "edcompress that began the run, or start over with --force"
        )


def _require_less(origin: StartingPoint, source: Path) -> None:
    target, left = origin.budget.target, origin.budget.largest
    if target and target.fraction >= left:
        raise BudgetError(
            f"target.{target.kind} = {target.fraction:g} is not below {left:.4f}, which {source} has left of the {target.kind} of the "
            "network it began with; lower the target"
        )
