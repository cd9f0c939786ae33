"""Where a run starts from: weights, or what an earlier run left of a network.

A run that continues another is measured against the network that the first one began with: accuracies, ratios, space.json and
plan.json are of that network, so that nothing compounds, and one plan leads from it to the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from edcompress.core.errors import BudgetError, InputError, NetworkError
from edcompress.core.plain_text import few
from edcompress.core.recipe.diff import changed_keys
from edcompress.core.recipe.model import Model, NetworkSpec
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.report import WeightsSource
from edcompress.core.system.context import RunOptions
from edcompress.core.system.distributed import ALONE, ProcessGroup
from edcompress.core.user_code import NO_TRUST, Trust
from edcompress.networks.build import example_images, plain_network, read_network
from edcompress.networks.load_weights import load_into
from edcompress.networks.weight_files import read_state_dict
from edcompress.pruning.cost.budget import FeasibleStates
from edcompress.pruning.cost.cost_model import CostModel, RemainingCosts
from edcompress.pruning.cost.latency_model import LatencyTable
from edcompress.pruning.space.plan import Plan, extend_plan
from edcompress.pruning.space.remaining_space import narrow_space
from edcompress.pruning.space.space import PruningSpace
from edcompress.pruning.surgery.remove import apply_plan
from edcompress.report.gate.noise import wait_warning
from edcompress.runs.folder import RunFolder
from edcompress.workflows.stages.feasibility import costs_and_target, find_feasible_states, find_space, latency_table
from edcompress.workflows.stages.file_metadata import weights_source
from edcompress.workflows.stages.start_files import EarlierNetwork, KeptStart, read_earlier, read_space

_OF_WEIGHTS = ("ema", "reset_head")
"""Keys of `model` that say how a weights file is read: a run holds the same network whatever they are."""


@dataclass(frozen=True)
class StartingPoint:
    """Two networks on the CPU, which are one network unless there is an earlier run.

    Figures and plans refer to `dense`, with its space `whole`. The search begins with `network`, in its own `space`: what the plan
    `first` and its training left of `dense`. `source` is where weights by name came from.
    """

    dense: nn.Module
    whole: PruningSpace
    first: Plan
    network: nn.Module
    space: PruningSpace
    feasible: FeasibleStates
    table: LatencyTable | None
    source: WeightsSource | None = None

    other_teacher: nn.Module | None = None

    def from_source(self, source: WeightsSource | None) -> StartingPoint:
        """Return the starting point with where the weights of `dense` came from."""
        return replace(self, source=source)

    @property
    def teacher(self) -> nn.Module:
        """The network whose soft labels are learnt: the dense one, unless the recipe names a different one."""
        return self.dense if self.other_teacher is None else self.other_teacher


class OpenStart(Protocol):
    """Opens what a run starts from, and tries removals on real images [N, C, H, W]; raises InputError if the recipe does not fit it."""

    def __call__(self, recipe: Recipe, *, images: Tensor) -> StartingPoint: ...


def open_starting_point(
    recipe: Recipe, source: Path, options: RunOptions, images: Tensor | None = None
) -> StartingPoint:
    """Open the starting point of a run from weights or from a finished run; raise InputError if that cannot be.

    Removals are tried on real `images` [N, C, H, W] too, if given.
    """
    ranks, spec = options.ranks, recipe.network_spec
    if RunFolder(source).exists:
        RunFolder(source).require_finished("pruning it again")
        require_same_model(source, RunFolder(source).read_recipe().model, recipe.model)
        dense = load_dense(spec, source / "dense.safetensors", trust=options.trust)
        found = space_of(recipe, dense, images, ranks)
        _require_same_groups(read_space(source / "space.json"), found, source)
        start = _continued(recipe, dense, found, read_earlier(source), time_dense(recipe, dense, ranks))
        _require_less(start.feasible, source)
        start = start.from_source(weights_source(source / "dense.safetensors"))
    else:
        dense = read_weights(recipe, source, options).eval()
        found = space_of(recipe, dense, images, ranks)
        start = _new(recipe, dense, found, time_dense(recipe, dense, ranks))
    if ranks.is_main and (warning := waiting_warning(start.table)):
        options.monitor.warning(warning)
    return start


def new_starting_point(recipe: Recipe, options: RunOptions, images: Tensor | None = None) -> StartingPoint:
    """Return the starting point of the recipe's network with random weights, as `open_starting_point` does of trained ones."""
    dense = plain_network(recipe.network_spec, trust=options.trust).eval()
    found = space_of(recipe, dense, images, options.ranks)
    return _new(recipe, dense, found, time_dense(recipe, dense, options.ranks))


def reopen_starting_point(
    recipe: Recipe, kept: KeptStart, options: RunOptions, images: Tensor | None = None
) -> StartingPoint:
    """Open the starting point that a run kept in its folder, with the `images` that it began with."""
    dense = load_dense(recipe.network_spec, kept.dense, trust=options.trust)
    found = space_of(recipe, dense, images, options.ranks)
    earlier, table = kept.earlier, kept.table
    start = _continued(recipe, dense, found, earlier, table) if earlier else _new(recipe, dense, found, table)
    _require_same_genes(kept.space, start.whole, kept.folder)
    return start.from_source(weights_source(kept.dense))


def resumed_starting_point(
    recipe: Recipe, kept: KeptStart, options: RunOptions, images: Tensor | None = None
) -> StartingPoint:
    """Return `reopen_starting_point` with the run's step of widths: a run that kept none began with the widest easy one."""
    start = reopen_starting_point(recipe, kept, options, images)
    step = recipe.constraints.round_to or kept.step or start.feasible.easy_steps[0]
    if step == start.feasible.round_to:
        return start
    return reopen_starting_point(recipe.with_round_to(step), kept, options, images)


def time_dense(recipe: Recipe, dense: nn.Module, ranks: ProcessGroup = ALONE) -> LatencyTable | None:
    """Return where the dense network's time goes, measured now by the first rank; None if the target is not a latency."""
    if not recipe.targets_latency:
        return None
    return latency_table(dense, recipe.network_spec, recipe.export, recipe.timing, ranks)


def space_of(
    recipe: Recipe, dense: nn.Module, images: Tensor | None = None, ranks: ProcessGroup = ALONE
) -> PruningSpace:
    """Return the recipe's pruning space of a network; removals are tried on real `images` [N, C, H, W] too, if given."""
    example = example_images(recipe.network_spec.image_shape)
    return find_space(dense, example, recipe.data, recipe.constraints, images, ranks.size)


def feasible_of(recipe: Recipe, dense: nn.Module, space: PruningSpace, table: LatencyTable | None) -> FeasibleStates:
    """Return the feasible states of a space under the recipe; raise BudgetError if it has none, whatever the weights."""
    example = example_images(recipe.network_spec.image_shape)
    return find_feasible_states(dense, example, space, recipe.search_target, recipe.constraints, table)


def waiting_warning(table: LatencyTable | None) -> str | None:
    """Return the warning about a target in time that rests on a disturbed measurement; None if it was not disturbed."""
    consequence = "a target in time rests on this time of the dense network, and is off as well"
    return wait_warning(table.lost if table else 0.0, consequence, "start over")


def read_weights(recipe: Recipe, weights: Path, options: RunOptions) -> nn.Module:
    """Return the recipe's network with the weights of a file; warn of a classifier that begins untrained.

    Raises InputError if the recipe depends on what an untrained classifier answers.
    """

    def on_untrained(names: list[str]) -> None:
        _require_no_teacher(recipe, " and ".join(names))
        options.monitor.warning(
            f"model.reset_head: {' and '.join(names)} begin untrained, so that the dense network's accuracy, and drops from it, say "
            "nothing; if they matter, start from weights that were trained on these classes"
        )

    trust, trust_pickle = options.trust, options.trust_pickle
    return read_network(recipe.network_spec, weights, trust=trust, trust_pickle=trust_pickle, on_untrained=on_untrained)


def _require_no_teacher(recipe: Recipe, untrained: str) -> None:
    """Raise InputError if the recipe uses the answers of the dense network, whose tensors `untrained` begin untrained."""
    begin = f"{untrained} begin untrained (model.reset_head), and"
    if recipe.finetune.distill and not recipe.finetune.teacher:
        raise InputError(f"{begin} a dense network that knows nothing has nothing to teach; set finetune.distill to 0")
    if recipe.target and recipe.target.drop is not None:
        raise InputError(
            f"{begin} there is no accuracy from which to drop; use a target other than target.{recipe.target.drop_key}"
        )


def load_dense(spec: NetworkSpec, path: Path, *, trust: Trust = NO_TRUST) -> nn.Module:
    """Return the network with the weights of a run's own file, on the CPU in eval mode."""
    network = plain_network(spec, trust=trust)
    load_into(network, read_state_dict(path), source=str(path))
    return network.eval()


def require_same_model(run: Path, theirs: Model, ours: Model) -> None:
    """Raise InputError if a run's model differs from the recipe's in more than how weights are read."""
    changed = [f"model.{key}" for key in changed_keys(_described(theirs), _described(ours))]
    if changed:
        raise InputError(f"{run} holds a network other than the recipe's: {', '.join(changed)} differ")


def _described(model: Model) -> dict[str, object]:
    return model.model_dump(mode="json", exclude=set(_OF_WEIGHTS))


def _new(recipe: Recipe, dense: nn.Module, space: PruningSpace, table: LatencyTable | None) -> StartingPoint:
    feasible = feasible_of(recipe, dense, space, table)
    return StartingPoint(dense, space, extend_plan(Plan(groups=()), space), dense, space, feasible, table)


def _continued(
    recipe: Recipe, dense: nn.Module, found: PruningSpace, earlier: EarlierNetwork, table: LatencyTable | None
) -> StartingPoint:
    """Return the starting point at what an earlier run left of `dense`; groups that are locked now stay locked to the search."""
    whole = _unlocked(found, earlier.plan)
    first = extend_plan(earlier.plan, whole)
    network, space = apply_plan(dense, first, whole), narrow_space(found, first)
    load_into(network, dict(earlier.weights), source="the earlier run's pruned network")
    example = example_images(recipe.network_spec.image_shape)
    costs, target = costs_and_target(dense, example, whole, recipe.search_target, table)
    remaining, widths = _remaining(costs, whole, first, space)
    feasible = FeasibleStates(space, remaining, target, recipe.constraints, widths)
    return StartingPoint(dense, whole, first, network.eval(), space, feasible, table)


def _unlocked(found: PruningSpace, plan: Plan) -> PruningSpace:
    """Return the space with the groups free that an earlier plan has cut."""
    cut = {group.name for group in plan.groups}
    groups = (group.model_copy(update={"locked": None}) if group.name in cut else group for group in found.groups)
    return PruningSpace(groups=tuple(groups))


def _remaining(
    costs: CostModel, whole: PruningSpace, first: Plan, space: PruningSpace
) -> tuple[RemainingCosts, Tensor]:
    """Return the costs of states of the remaining `space`, and the widths int64[G] of its groups in the dense network."""
    indices = {group.name: index for index, group in enumerate(whole.free)}
    free = torch.tensor([indices[group.name] for group in space.free], dtype=torch.int64)
    widths = torch.tensor([len(group.kept) for group in first.groups], dtype=torch.int64)
    return RemainingCosts(costs, widths, free), torch.tensor(whole.widths, dtype=torch.int64)[free]


def _require_same_groups(before: PruningSpace, found: PruningSpace, source: Path) -> None:
    """Raise NetworkError if the groups of an earlier run are not those that are traced now."""
    now = {group.name: group.members for group in found.groups}
    if changed := [group.name for group in before.free if now.get(group.name) != group.members]:
        raise NetworkError(
            f"{source}: its space.json and what is traced here differ in {few(changed)}; prune with the versions of its "
            "report.json, or start from the weights again"
        )


def _require_same_genes(before: PruningSpace, found: PruningSpace, folder: Path) -> None:
    """Raise NetworkError if an interrupted run searched other groups than are free now: its states do not fit them."""
    then, now = ({group.name: group.members for group in space.free} for space in (before, found))
    if changed := [name for name in {**then, **now} if then.get(name) != now.get(name)]:
        raise NetworkError(
            f"{folder}: its space.json and what is traced here differ in {few(changed)}; resume with the version of "
            "edcompress that began the run, or start over with --force"
        )


def _require_less(feasible: FeasibleStates, source: Path) -> None:
    """Raise BudgetError if the target is not below what the earlier run left."""
    target, left = feasible.target, feasible.largest
    if target and target.fraction >= left:
        raise BudgetError(
            f"target.{target.kind} = {target.fraction:g} is not below {left:.4f}, which {source} has left of the {target.kind} of the "
            "network it began with; lower the target"
        )
