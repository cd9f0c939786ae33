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

from edcompress.errors import BudgetError, InputError, NetworkError, RunFolderError
from edcompress.job import costs_and_target, find_space, latency_table, open_budget, plain_network, read_network
from edcompress.measures import MOST_WAITED
from edcompress.networks.checkpoints import read_state_dict, save_tensors
from edcompress.networks.fitting import load_into
from edcompress.plain_text import few
from edcompress.recipe import Recipe
from edcompress.recipebook import differences
from edcompress.runs import RunFolder, parsed, write_text
from edcompress.search.budget import Budget
from edcompress.session import Session
from edcompress.snapshot import load_snapshot, save_snapshot
from edcompress.surgery.costs import CostModel, RestCosts
from edcompress.surgery.latency import LatencyTable
from edcompress.surgery.narrow import narrowed
from edcompress.surgery.plan import Plan, extended
from edcompress.surgery.remove import remove
from edcompress.surgery.space import Space

_OF_CHECKPOINTS = ("model.ema", "model.reset_head")
"""Keys that say how a checkpoint is read: a run holds the same network whatever they are."""


@dataclass(frozen=True)
class Origin:
    """Two networks on the CPU, which are one where there is no earlier run.

    `dense` is what figures and plans refer to, with its space `whole`; `network` is what the plan `first` and its training left of it,
    and what the search begins with, in its own `space`.
    """

    dense: nn.Module
    whole: Space
    first: Plan
    network: nn.Module
    space: Space
    budget: Budget
    table: LatencyTable | None


def open_origin(recipe: Recipe, source: Path, session: Session, images: Tensor | None = None) -> Origin:
    """The origin of a run that starts from a checkpoint or from a finished run; an InputError where that cannot be.

    Removals are tried on real `images` [N, C, H, W] too, where they are given.
    """
    origin = _opened(recipe, source, session, images)
    if session.team.first and (warning := doubt(origin.table)):
        session.monitor.warning(warning)
    return origin


def doubt(table: LatencyTable | None) -> str | None:
    """The warning about a target in time that goes by a measurement which waited; None where it did not, or where there is none."""
    if table is None or table.lost <= MOST_WAITED:
        return None
    return (
        f"the dense network was timed while its threads waited for their cores for {table.lost:.0%} of the time: a target in time goes by "
        "it, and will be off as well; start over when the cores are free"
    )


def _opened(recipe: Recipe, source: Path, session: Session, images: Tensor | None) -> Origin:
    earlier = RunFolder(source)
    if not earlier.exists:
        dense = read_network(recipe, source, session).eval()
        return _new(recipe, dense, _tried(recipe, dense, session, images), latency_table(recipe, dense, session.team))
    earlier.require_finished("pruning it again")
    require_same_model(earlier, recipe)
    dense = read_saved(recipe, earlier / "dense.safetensors", session)
    found, plan = _tried(recipe, dense, session, images), read_plan(earlier)
    _require_same_groups(read_space(earlier), found, source)
    tensors = read_state_dict(earlier / "pruned.safetensors")
    origin = _continued(recipe, dense, found, plan, tensors, latency_table(recipe, dense, session.team))
    _require_less(origin, source)
    return origin


def reopen_origin(recipe: Recipe, folder: RunFolder, session: Session, images: Tensor | None = None) -> Origin:
    """The origin of a run that was begun in `folder`, from what it saved itself; with the `images` that it was begun with."""
    dense = read_saved(recipe, folder / "dense.safetensors", session)
    table = parsed(folder / "latency.json", LatencyTable.model_validate_json) if recipe.in_time else None
    found = _tried(recipe, dense, session, images)
    if folder.start.is_file():
        saved = load_snapshot(folder.start)
        plan = Plan.model_validate(saved["plan"])
        origin = _continued(recipe, dense, found, plan, saved["network"], table)
    else:
        origin = _new(recipe, dense, found, table)
    _require_same_genes(read_space(folder), origin.whole, folder)
    return origin


def resumed_origin(recipe: Recipe, folder: RunFolder, session: Session, images: Tensor | None = None) -> Origin:
    """`reopen_origin` with the step of widths that the run goes by: a run that kept none began with the widest easy one."""
    origin = reopen_origin(recipe, folder, session, images)
    kept = parsed(folder.step, int) if folder.step.exists() else origin.budget.easy_steps[0]
    step = recipe.constraints.round_to or kept
    if step == origin.budget.round_to:
        return origin
    constraints = recipe.constraints.model_copy(update={"round_to": step})
    return reopen_origin(recipe.model_copy(update={"constraints": constraints}), folder, session, images)


def save_origin(origin: Origin, folder: RunFolder) -> None:
    """Keep what `resumed_origin` needs, and the space."""
    write_text(folder.step, f"{origin.budget.round_to}\n")
    save_tensors(folder / "dense.safetensors", origin.dense.state_dict())
    write_text(folder / "space.json", origin.whole.model_dump_json(indent=1) + "\n")
    if origin.table:
        write_text(folder / "latency.json", origin.table.model_dump_json(indent=1) + "\n")
    if origin.network is not origin.dense:
        plan, network = origin.first.model_dump(mode="json"), origin.network.state_dict()
        save_snapshot(folder.start, {"plan": plan, "network": network})


def saved_origin(folder: RunFolder) -> list[Path]:
    """The files of `save_origin` that are the run's own, and hold no checksum of themselves."""
    return [path for name in ("dense.safetensors", "space.json", "latency.json") if (path := folder / name).is_file()]


def read_saved(recipe: Recipe, path: Path, session: Session) -> nn.Module:
    """The recipe's network with the weights of a run's own file, on the CPU in eval mode."""
    network = plain_network(recipe, session)
    load_into(network, read_state_dict(path), source=str(path))
    return network.eval()


def read_plan(folder: RunFolder) -> Plan:
    """The plan of a run; RunFolderError where plan.json is missing or damaged."""
    return parsed(folder / "plan.json", Plan.model_validate_json)


def read_space(folder: RunFolder) -> Space:
    """The pruning space of a run; RunFolderError where space.json is missing or damaged."""
    return parsed(folder / "space.json", Space.model_validate_json)


def require_same_model(folder: RunFolder, recipe: Recipe) -> None:
    """Raise InputError where the run is of another network than the recipe's."""
    changed = [key for key in differences(folder.read_recipe(), recipe) if key.startswith("model.")]
    changed = [key for key in changed if key not in _OF_CHECKPOINTS]
    if changed:
        raise InputError(f"{folder.path} holds another network than the recipe's: {', '.join(changed)} differ")


def require_same_weights(folder: RunFolder, source: Path, session: Session) -> None:
    """Raise RunFolderError where a run was begun with other weights than `source`, a checkpoint or a run, holds by now."""
    recipe, earlier = folder.read_recipe(), RunFolder(source)
    if earlier.exists:
        earlier.require_finished("pruning it again")
        given = [read_saved(recipe, earlier / "dense.safetensors", session).state_dict()]
    else:
        given = [read_network(recipe, source, session).state_dict()]
    before = [read_saved(recipe, folder / "dense.safetensors", session).state_dict()]
    if not folder.finished:  # a finished one no longer holds what the search began with
        given += [read_state_dict(earlier / "pruned.safetensors")] if earlier.exists else []
        before += [load_snapshot(folder.start)["network"]] if folder.start.is_file() else []
    if len(given) != len(before) or not all(map(_near, before, given)):
        raise RunFolderError(
            f"{folder.path} was begun with other weights than {source} holds; choose another folder with -o"
        )


def _near(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether tensors are the same, but for the rounding of weights that are computed."""
    return one.keys() == other.keys() and all(
        one[key].shape == other[key].shape and torch.allclose(one[key].float(), other[key].float()) for key in one
    )


def _tried(recipe: Recipe, dense: nn.Module, session: Session, images: Tensor | None) -> Space:
    return find_space(recipe, dense, images, session.team.size)


def _new(recipe: Recipe, dense: nn.Module, space: Space, table: LatencyTable | None) -> Origin:
    budget = open_budget(recipe, dense, space, table)
    return Origin(dense, space, extended(Plan(groups=()), space), dense, space, budget, table)


def _continued(
    recipe: Recipe, dense: nn.Module, found: Space, plan: Plan, tensors: dict[str, Tensor], table: LatencyTable | None
) -> Origin:
    """What the recipe `found` locked stays locked to the search, whether or not the earlier plan cut it."""
    whole = _freed(found, plan)
    first = extended(plan, whole)
    network, space = remove(dense, first, whole), narrowed(found, first)
    load_into(network, tensors, source="the earlier run's pruned network")
    costs, target = costs_and_target(recipe, dense, whole, table)
    rest, widths = _rest(costs, whole, first, space)
    budget = Budget(space, rest, target, recipe.constraints, widths)
    return Origin(dense, whole, first, network.eval(), space, budget, table)


def _freed(found: Space, plan: Plan) -> Space:
    cut = {group.name for group in plan.groups}
    groups = (group.model_copy(update={"locked": None}) if group.name in cut else group for group in found.groups)
    return Space(groups=tuple(groups))


def _rest(costs: CostModel, whole: Space, first: Plan, space: Space) -> tuple[RestCosts, Tensor]:
    """What states of the rest `space` cost, and how wide its groups [G] were in the dense network."""
    places = {group.name: place for place, group in enumerate(whole.free)}
    free = torch.tensor([places[group.name] for group in space.free], dtype=torch.int64)
    widths = torch.tensor([len(group.kept) for group in first.groups], dtype=torch.int64)
    return RestCosts(costs, widths, free), torch.tensor(whole.widths, dtype=torch.int64)[free]


def _require_same_groups(before: Space, found: Space, source: Path) -> None:
    now = {group.name: group.members for group in found.groups}
    if other := [group.name for group in before.free if now.get(group.name) != group.members]:
        raise NetworkError(
            f"{source}: its space.json and what is traced here differ in {few(other)}; prune with the versions of its "
            "report.json, or start from the checkpoint again"
        )


def _require_same_genes(before: Space, found: Space, folder: RunFolder) -> None:
    """Raise NetworkError where the interrupted run in `folder` searched other groups than are free here: its states do not fit them."""
    then, now = ({group.name: group.members for group in space.free} for space in (before, found))
    if other := [name for name in {**then, **now} if then.get(name) != now.get(name)]:
        raise NetworkError(
            f"{folder.path}: its space.json and what is traced here differ in {few(other)}; resume with the version of "
            "edcompress that began the run, or start over with --force"
        )


def _require_less(origin: Origin, source: Path) -> None:
    target, left = origin.budget.target, origin.budget.largest
    if target and target.fraction >= left:
        raise BudgetError(
            f"target.{target.kind} = {target.fraction:g} is not below {left:.4f}, which {source} has left of the {target.kind} of the "
            "network it began with; lower the target"
        )
