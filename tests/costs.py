"""Costs that are written down, so that states and budgets can be checked by hand."""

from __future__ import annotations

import torch
from hypothesis import settings
from hypothesis import strategies as st
from states import space_of
from torch import Tensor

from edcompress.core.recipe.target import Constraints, Target
from edcompress.pruning.cost.budget import FeasibleStates
from edcompress.pruning.cost.cost_model import CostModel


class Scripted(CostModel):
    """Costs written down: a share of each kind linear in the widths, so that a state can be checked by hand."""

    def __init__(self, prices: list[float], widths: tuple[int, ...]) -> None:
        self.prices, self.full = torch.tensor(prices, dtype=torch.float64), torch.tensor(widths, dtype=torch.float64)

    def share(self, kind: str, widths: Tensor) -> Tensor:
        assert kind in ("macs", "params", "channels")
        return (widths.to(torch.float64) @ self.prices) / (self.full @ self.prices)

    def by_layer(self, kind: str, widths: Tensor) -> dict[str, float]:
        assert kind == "macs"
        return {
            str(place): price for place, price in enumerate((widths * self.prices / (self.full @ self.prices)).tolist())
        }


class Chained(CostModel):
    """A chain of convolutions written down: group i costs price_i x its width x the width before it (3 before the first)."""

    def __init__(self, prices: list[int], widths: tuple[int, ...]) -> None:
        self.prices, self.full = torch.tensor(prices, dtype=torch.float64), torch.tensor(widths, dtype=torch.float64)

    def share(self, kind: str, widths: Tensor) -> Tensor:
        assert kind in ("macs", "params", "channels")
        return self._cost(widths.to(torch.float64)) / self._cost(self.full)

    def _cost(self, widths: Tensor) -> Tensor:
        before = torch.cat([torch.full_like(widths[..., :1], 3), widths[..., :-1]], -1)
        return (widths * before) @ self.prices


class Measured(Scripted):
    """Times, which are half as long again at odd widths."""

    def share(self, kind: str, widths: Tensor) -> Tensor:
        widths = widths.to(torch.float64)
        return super().share(kind, widths + 0.5 * (widths % 2) * widths)


Case = tuple[FeasibleStates, Constraints]
PROPERTY = settings(max_examples=30, deadline=None, derandomize=True)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Case, float]:
    """A random chain of one to four groups under random constraints, and a budget that they can meet."""
    widths = tuple(draw(st.lists(st.integers(1, 24), min_size=1, max_size=4)))
    prices = draw(st.lists(st.integers(1, 100), min_size=len(widths), max_size=len(widths)))
    constraints = Constraints(
        round_to=draw(st.integers(1, 8)), min_channels=draw(st.integers(1, 4)), min_ratio=draw(st.floats(0, 0.6))
    )
    feasible = FeasibleStates(space_of(*widths), Chained(prices, widths), Target(macs=1.0), constraints)
    return (feasible, constraints), feasible.smallest + (1 - feasible.smallest) * draw(st.floats(0, 1))


def scripted(
    widths: tuple[int, ...], prices: list[float], target: Target | None, **constraints: float | None
) -> FeasibleStates:
    limits = Constraints.model_validate({"round_to": 1, "min_ratio": 0.0, **constraints})
    return FeasibleStates(space_of(*widths), Scripted(prices, widths), target, limits)


class Priced(Scripted):
    """A channel of the second group has as many parameters as one of the first, and costs a fourth."""

    def share(self, kind: str, widths: Tensor) -> Tensor:
        prices = torch.tensor([1.0, 1.0] if kind == "params" else [4.0, 1.0], dtype=torch.float64)
        return (widths.to(torch.float64) @ prices) / (self.full @ prices)
