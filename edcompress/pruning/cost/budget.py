"""Feasible states, and the repair of a wish: inside the budget, on rounded group widths, above the floors."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from edcompress.core.errors import BudgetError
from edcompress.core.recipe.search import MOST_ANNEALED
from edcompress.core.recipe.target import Constraints, Target
from edcompress.pruning.cost.cost_model import CostModel, Kind, RemainingCosts
from edcompress.pruning.cost.gene_order import GeneOrder
from edcompress.pruning.space.space import PruningSpace

_SECTIONS, _ROUNDS = 16, 10  # 16^-10: finds the factor to 1e-12
_TINY = 1e-6
_STEPS = (32, 16, 8, 4, 2, 1)
_ROOM = 0.7  # most that the floors may cost, of the target: the search distributes the rest
_MOST_NAMED = 3
_USUAL_TARGET = 0.5  # where the recipe has no target
_NEAR, _NEAR_SMALL = 0.03, 0.1  # how far below the target the largest state may be: of the dense cost, of the target
_MOST_COMBINATIONS, _WISHES = 1 << 12, 64


class FeasibleStates:
    """The feasible states of a space, and the feasible state nearest to a wish.

    A wish has two parts. `shares` [S, G], above 0, is the share of its channels that each group would like to keep; one common factor
    per member, found by nested intervals, brings them to the budget, so that groups keep their proportions however tight it becomes.
    `priority` [S, D] in [0, 1) is the order in which a group keeps its channels.
    """

    def __init__(
        self,
        space: PruningSpace,
        costs: CostModel | RemainingCosts,
        target: Target | None,
        constraints: Constraints,
        dense: Tensor | None = None,
    ) -> None:
        """Choose the step of the widths, and check that the target can be reached.

        Args:
            space: the space whose states these are.
            costs: what its states cost, as shares of the dense network.
            target: the share that the recipe asks for; None where the search decides how much is kept.
            constraints: floors and rounding of the widths.
            dense: widths [G] in the dense network, where an earlier plan has made the groups narrower; floors are shares of these.

        Raises:
            BudgetError: no channel can be removed, or the constraints leave more than the target.
        """
        self._space, self._costs, self._target = space, costs, target
        self._order = GeneOrder(space.group_of_gene, space.widths)
        self.channels = torch.tensor(space.widths, dtype=torch.float64)
        """Widths float64[G] of the whole groups."""
        whole = self.channels if dense is None else dense.to(torch.float64)
        self._least = torch.clamp(torch.ceil(whole * constraints.min_ratio), min=constraints.min_channels)
        self._blocks = torch.tensor([group.block for group in space.free], dtype=torch.float64)
        self._given = constraints.round_to
        self.largest = self.share(self.channels).item()
        """The cost of the whole groups, as a share of the dense network."""
        self._set_step(self._given or 1)
        self._check_reachable()
        if not self._given:
            self._set_step(self._widest_step())

    @property
    def target(self) -> Target | None:
        """The target of the recipe, as a share of the dense network; None where it has none."""
        return self._target

    @property
    def round_to(self) -> int:
        """The step of the widths: kept channels of a group are a multiple of it, or all; blocks count with all their channels."""
        return self._round_to

    @property
    def smallest(self) -> float:
        """The smallest share of the dense network that the constraints allow, in the kind of the target."""
        return self.share(self._floor).item()

    def share(self, widths: Tensor) -> Tensor:
        """Return the cost of widths [..., G] as a share of the dense network, in the kind of the target (macs without one)."""
        return self._costs.share(self._target.kind if self._target else "macs", widths)

    def widths(self, state: Tensor) -> Tensor:
        """Return the kept channels per group, float64[..., G], of states bool[..., D]."""
        sums = torch.zeros(*state.shape[:-1], len(self._space.free), dtype=torch.float64)
        return sums.index_add_(-1, self._space.group_of_gene, state.to(torch.float64))

    @property
    def final_budget(self) -> float | None:
        """The budget in force at the end of a search: the target as a share of the dense cost, or None."""
        return self._target.fraction if self._target else None

    def budget(self, progress: float, anneal: float) -> float | None:
        """Return the budget in force when `progress` in [0, 1] of a search is done, as a share of the dense cost; None without a target.

        It falls from `largest` to the target along a cubic (M. Zhu and S. Gupta, "To Prune, or Not to Prune", 2017), over `anneal`
        of the search for each halving, and at most over MOST_ANNEALED of it. The rest of the search is under the target itself.
        """
        if self._target is None:
            return None
        left = self.remaining_anneal(progress, anneal)
        return self._target.fraction + (self.largest - self._target.fraction) * left**3

    def remaining_anneal(self, progress: float, anneal: float) -> float:
        """Return the share in [0, 1] of the tightening (see `budget`) that is still to come; 0 without a target."""
        if self._target is None:
            return 0.0
        span = min(MOST_ANNEALED, anneal * math.log2(self.largest / self._target.fraction))
        return max(0.0, 1.0 - progress / span) if span > 0 else 0.0

    def log_params_per_cost(self) -> Tensor:
        """Return the log of parameters per unit of cost of each group, float64[G], relative to the mean; 0 without a target.

        Both are of half of the group's channels. Under a target in parameters all groups are equal.
        """
        if self._target is None:
            return torch.zeros_like(self.channels)
        halves = self.channels - torch.diag(self.channels / 2)
        parameters = self._costs.share("params", self.channels) - self._costs.share("params", halves)
        saved = self.largest - self.share(halves)
        ratios = (parameters.clamp_min(_TINY) / saved.clamp_min(_TINY)).log()
        return ratios - ratios.mean()

    def repair(self, shares: Tensor, priority: Tensor, budget: float | None) -> Tensor:
        """Return the feasible states bool[S, D] nearest to a wish.

        Args:
            shares: the share of its channels that each group would like to keep, [S, G].
            priority: which channels a group keeps first, [S, D] in [0, 1).
            budget: the budget in force, in (0, 1], which the states fill and do not exceed; None keeps the shares as wished.
        """
        wish = shares.to(torch.float64)
        widths = self.round_widths(wish * self.channels) if budget is None else self._fit(wish, budget)
        return self._choose(widths, priority)

    def _fit(self, wish: Tensor, budget: float) -> Tensor:
        """Return the widths float64[S, G] nearest to the proportions of the wish that cost at most `budget`."""
        wish = wish.clamp_min(_TINY)
        low = -(2 * self.channels.max() * wish.amax(-1, keepdim=True)).log()  # every group at its floor
        step = ((2 / wish.amin(-1, keepdim=True)).log() - low) / _SECTIONS  # to every group whole
        inner = torch.arange(1, _SECTIONS, dtype=torch.float64)
        for _ in range(_ROUNDS):
            trials = self._scaled(wish.unsqueeze(1), (low + step * inner).unsqueeze(-1))  # [S, factors, G]
            # A larger factor costs more, except in measured time, which may fall again: take those before the first that costs too much.
            fitting = self._affordable(trials, budget).cumprod(1).sum(1)
            low, step = low + step * fitting, step / _SECTIONS
        return self._fill(self._scaled(wish, low), wish, budget)

    def _fill(self, widths: Tensor, wish: Tensor, budget: float) -> Tensor:
        """Step groups one width up while the budget allows it, in the order in which a growing factor would round them up.

        At the end no group can step up, so that a repaired state is its own repair.
        """
        while True:
            before = widths
            wider = torch.where(widths >= self._last, self.channels, widths + self._round)
            due = (widths + wider) / 2 / self.channels / wish
            for group in due.argsort(dim=-1, stable=True).unsqueeze(-1).unbind(-2):
                trial = widths.scatter(-1, group, wider.gather(-1, group))
                widths = torch.where(self._affordable(trial, budget), trial, widths)
            if torch.equal(widths, before):
                return widths

    def _scaled(self, wish: Tensor, log_factor: Tensor) -> Tensor:
        return self.round_widths(wish * log_factor.exp() * self.channels)

    def _affordable(self, widths: Tensor, budget: float) -> Tensor:
        return (self.share(widths) <= budget).unsqueeze(-1)

    def round_widths(self, widths: Tensor) -> Tensor:
        """Return the nearest allowed widths float64[..., G]: multiples of `round_to` above the floor, or all channels of the group."""
        multiple = torch.minimum(torch.round(widths / self._round) * self._round, self._last)
        nearest = torch.where(widths > (self._last + self.channels) / 2, self.channels, multiple)
        return torch.maximum(nearest, self._floor)

    def _choose(self, widths: Tensor, priority: Tensor) -> Tensor:
        """Return the states bool[S, D] that keep the `widths` [S, G] channels of highest priority in each group."""
        group = self._space.group_of_gene
        starts = torch.cumsum(self.channels, 0) - self.channels
        rank = torch.arange(len(group)) - starts[group]
        kept = rank < widths[:, group]
        return torch.zeros_like(kept).scatter_(-1, self._order.by_priority(priority), kept)

    def _set_step(self, round_to: int) -> None:
        """Let widths go up and down by this step, from floors that are rounded up to it."""
        self._round_to = round_to
        self._round = self._steps(round_to)
        self._floor = self._floors(round_to)
        self._last = torch.div(self.channels - 1, self._round, rounding_mode="floor") * self._round

    def _steps(self, round_to: int) -> Tensor:
        """Return the step of each group in its own channels, float64[G]."""
        return torch.ceil(round_to / self._blocks)

    def _floors(self, round_to: int) -> Tensor:
        """Return the smallest widths float64[G] at a step."""
        step = self._steps(round_to)
        return torch.minimum(torch.ceil(self._least / step) * step, self.channels)

    def _widest_step(self) -> int:
        """Return the widest easy step whose states come near to the target; where none does, the widest of those that come nearest.

        onnxruntime's convolutions work on 8 (AVX2) or 16 (AVX-512) channels at a time and fetch each input for up to 4 such blocks of
        outputs: 32 full outputs take 1.0, 16 take 0.7 and 8 take 0.6 of the time of 32 (measured, docs/latency.md).
        """
        reached: dict[int, float] = {}
        for step in self.easy_steps:
            self._set_step(step)
            reached[step] = self._largest_within_target()
            if self._is_near(reached[step]):
                return step
        return max(reached, key=lambda step: reached[step])

    @property
    def easy_steps(self) -> list[int]:
        """The steps, widest first, whose floors leave the search some room below the target; 1 where none does."""
        room = _ROOM * (self._target.fraction if self._target else _USUAL_TARGET)
        return [step for step in _STEPS if self.share(self._floors(step)).item() <= room] or [1]

    def _is_near(self, share: float) -> bool:
        if self._target is None:
            return True
        goal = min(self._target.fraction, self.largest)
        return share >= goal - min(_NEAR, _NEAR_SMALL * goal)

    def _largest_within_target(self) -> float:
        """Return the largest share within the target at the present step: of all widths or, where these are many, of some."""
        if self._target is None:
            return self.largest
        every = torch.arange(1, int(self.channels.max()) + 1, dtype=torch.float64).unsqueeze(1).minimum(self.channels)
        levels = [torch.unique(column) for column in self.round_widths(every).unbind(1)]
        if math.prod(len(level) for level in levels) <= _MOST_COMBINATIONS:
            widths = torch.cartesian_prod(*levels).reshape(-1, len(levels))
        else:
            wishes = torch.rand(_WISHES, len(levels), generator=Generator().manual_seed(0), dtype=torch.float64)
            widths = self._fit(wishes, self._target.fraction)
        shares = self.share(widths)
        return shares[shares <= self._target.fraction].max().item()

    @property
    def warnings(self) -> list[str]:
        """One warning, with what to do, where no state comes near to the target at this step; else none."""
        if self._target is None or self._is_near(reach := self._largest_within_target()):
            return []
        advice = "the network has few groups, or their channels go many at a time, so that the next width costs more"
        if self._given and self._given > 1:
            advice = f"lower constraints.round_to from {self._given}, or set it to null"
        kind = self._target.kind
        return [
            f"target.{kind} = {self._target.fraction:g}: the largest network within it has {reach:.1%} of the {kind}; {advice}"
        ]

    def _check_reachable(self) -> None:
        if not self._space.free:
            reasons = "; ".join(f"{group.name}: {group.locked}" for group in self._space.groups[:4])
            raise BudgetError(f"no channel of this network can be removed ({reasons})")
        if self._target and self.smallest > self._target.fraction:
            raise BudgetError(
                f"target.{self._target.kind} = {self._target.fraction:g} is below {self.smallest:.3f}, the least that the constraints "
                "leave; raise the target, or lower constraints.min_ratio, constraints.round_to or shorten constraints.ignore"
                f"{self._what_binds(self._target.kind)}"
            )

    def _what_binds(self, kind: Kind) -> str:
        """Name the layers that cost most when every group is at its floor, and why they cannot cost less."""
        left = sorted(self._costs.by_layer(kind, self._floor).items(), key=lambda item: -item[1])[:_MOST_NAMED]
        named = (f"{name} {share:.1%} ({self._why_not_less(name)})" for name, share in left)
        return f" (most of what is left: {', '.join(named)})" if left else ""

    def _why_not_less(self, layer: str) -> str:
        for group in self._space.groups:
            if group.locked and any(member.layer == layer and member.side == "out" for member in group.members):
                return group.locked
        if any(layer in group.layers for group in self._space.free):
            return "at its floor"
        return "surgery does not cut it"
